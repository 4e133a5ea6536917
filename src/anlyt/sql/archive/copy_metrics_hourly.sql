-- Rows of metrics_hourly, column for column, for COPY as text.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    hour_bucket,
    scope,
    scope_id,
    total_messages,
    delivered_messages,
    failed_messages,
    pending_messages,
    total_cost,
    latency_sum_ms,
    latency_sample_count,
    peak_tps,
    updated_at
FROM anlyt.metrics_hourly
WHERE hour_bucket >= $1
  AND hour_bucket < $2
