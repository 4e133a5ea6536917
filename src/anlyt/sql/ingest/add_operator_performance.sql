-- Add to operator_performance; latency_p95_ms is the percentile job's.
-- $1 hour BIGINT[] (s since 1970 UTC), $2 operator_id TEXT[], $3 total_messages BIGINT[], $4 delivered_messages BIGINT[],
-- $5 failed_messages BIGINT[], $6 latency_sum_ms BIGINT[], $7 latency_sample_count BIGINT[], $8 peak_tps INTEGER[],
-- $9 error_count BIGINT[]
INSERT INTO anlyt.operator_performance AS t (
    hour_bucket, operator_id, total_messages, delivered_messages, failed_messages, latency_sum_ms,
    latency_sample_count, peak_tps, error_count
)
SELECT to_timestamp(hour), operator_id::UUID, total, delivered, failed, latency, samples, peak, errors
FROM unnest(
    $1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[], $8::INTEGER[],
    $9::BIGINT[]
) AS d (hour, operator_id, total, delivered, failed, latency, samples, peak, errors)
ORDER BY hour, operator_id::UUID
ON CONFLICT (hour_bucket, operator_id) DO UPDATE
SET total_messages = t.total_messages + excluded.total_messages,
    delivered_messages = t.delivered_messages + excluded.delivered_messages,
    failed_messages = t.failed_messages + excluded.failed_messages,
    latency_sum_ms = t.latency_sum_ms + excluded.latency_sum_ms,
    latency_sample_count = t.latency_sample_count + excluded.latency_sample_count,
    peak_tps = GREATEST(t.peak_tps, excluded.peak_tps),
    error_count = t.error_count + excluded.error_count,
    updated_at = excluded.updated_at
