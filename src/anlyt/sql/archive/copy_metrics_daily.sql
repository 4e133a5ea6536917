-- Rows of metrics_daily, column for column, for COPY as text.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    day_bucket,
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
FROM anlyt.metrics_daily
WHERE day_bucket >= $1
  AND day_bucket < $2
