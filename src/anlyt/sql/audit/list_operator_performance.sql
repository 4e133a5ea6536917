-- All rows of operator_performance in a period.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
SELECT
    hour_bucket AS bucket,
    'OPERATOR' AS scope,
    operator_id::TEXT AS scope_id,
    total_messages,
    delivered_messages,
    failed_messages,
    latency_sum_ms,
    latency_sample_count,
    latency_p95_ms,
    peak_tps,
    error_count
FROM anlyt.operator_performance
WHERE hour_bucket >= $1
  AND hour_bucket < $2
