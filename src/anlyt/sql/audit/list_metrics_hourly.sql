-- All rows of metrics_hourly in a period.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
SELECT
    hour_bucket AS bucket,
    scope AS scope,
    scope_id AS scope_id,
    total_messages,
    delivered_messages,
    failed_messages,
    pending_messages,
    total_cost,
    latency_sum_ms,
    latency_sample_count,
    peak_tps
FROM anlyt.metrics_hourly
WHERE hour_bucket >= $1
  AND hour_bucket < $2
