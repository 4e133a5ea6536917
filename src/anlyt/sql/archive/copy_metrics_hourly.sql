-- Rows of metrics_hourly as ClickHouse reads them, for COPY.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    hour_bucket AT TIME ZONE 'UTC',
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
    updated_at AT TIME ZONE 'UTC'
FROM anlyt.metrics_hourly
WHERE hour_bucket >= $1
  AND hour_bucket < $2
