-- Add to metrics_daily, in the one order every worker takes these rows: ACCOUNT, OPERATOR, PLATFORM; hottest last.
-- $1 bucket BIGINT[] (s since 1970 UTC), $2 scope TEXT[], $3 scope_id TEXT[], $4 total_messages BIGINT[],
-- $5 delivered_messages BIGINT[], $6 failed_messages BIGINT[], $7 cost BIGINT[] (millionths),
-- $8 latency_sum_ms BIGINT[], $9 latency_sample_count BIGINT[], $10 peak_tps INTEGER[]
INSERT INTO anlyt.metrics_daily AS t (
    day_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages, pending_messages,
    total_cost, latency_sum_ms, latency_sample_count, peak_tps
)
SELECT
    to_timestamp(bucket), scope, scope_id, total, delivered, failed, total - delivered - failed,
    cost * 0.000001, latency, samples, peak
FROM unnest(
    $1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[], $8::BIGINT[],
    $9::BIGINT[], $10::INTEGER[]
) AS d (bucket, scope, scope_id, total, delivered, failed, cost, latency, samples, peak)
ORDER BY scope COLLATE "C", scope_id COLLATE "C", bucket
ON CONFLICT (day_bucket, scope, scope_id) DO UPDATE
SET total_messages = t.total_messages + excluded.total_messages,
    delivered_messages = t.delivered_messages + excluded.delivered_messages,
    failed_messages = t.failed_messages + excluded.failed_messages,
    pending_messages = t.pending_messages + excluded.pending_messages,
    total_cost = t.total_cost + excluded.total_cost,
    latency_sum_ms = t.latency_sum_ms + excluded.latency_sum_ms,
    latency_sample_count = t.latency_sample_count + excluded.latency_sample_count,
    peak_tps = GREATEST(t.peak_tps, excluded.peak_tps),
    updated_at = excluded.updated_at
