-- One page of operator_performance in the order of its primary key: a period's rows that a Grant may see, behind a row.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
-- $3 bucket TIMESTAMPTZ, $4 operator_id UUID: the row before the page, or a key before the period
-- $5 ids UUID[], NULL for all; $6 row limit INTEGER
SELECT
    hour_bucket,
    operator_id::TEXT AS operator_id,
    total_messages,
    delivered_messages,
    failed_messages,
    latency_sum_ms,
    latency_sample_count,
    latency_p95_ms,
    peak_tps,
    error_count,
    updated_at
FROM anlyt.operator_performance
WHERE hour_bucket >= GREATEST($1::TIMESTAMPTZ, $3)
  AND hour_bucket < $2
  AND (hour_bucket, operator_performance.operator_id) > ($3, $4::UUID)
  AND ($5::UUID[] IS NULL OR operator_performance.operator_id = ANY($5))
ORDER BY hour_bucket, operator_performance.operator_id
LIMIT $6
