-- Rows of operator_performance, column for column, for COPY as text.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    hour_bucket,
    operator_id,
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
WHERE hour_bucket >= $1
  AND hour_bucket < $2
