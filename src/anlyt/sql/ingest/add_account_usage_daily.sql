-- Add to account_usage_daily.
-- $1 day BIGINT[] (s since 1970 UTC), $2 account_id TEXT[], $3 messages_sent BIGINT[], $4 messages_delivered BIGINT[],
-- $5 messages_failed BIGINT[], $6 cost BIGINT[] (millionths), $7 total_segments BIGINT[]
INSERT INTO anlyt.account_usage_daily AS t (
    day_bucket, account_id, messages_sent, messages_delivered, messages_failed, total_cost, total_segments
)
SELECT to_timestamp(day), account_id::UUID, sent, delivered, failed, cost * 0.000001, segments
FROM unnest(
    $1::BIGINT[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[], $7::BIGINT[]
) AS d (day, account_id, sent, delivered, failed, cost, segments)
ORDER BY day, account_id::UUID
ON CONFLICT (day_bucket, account_id) DO UPDATE
SET messages_sent = t.messages_sent + excluded.messages_sent,
    messages_delivered = t.messages_delivered + excluded.messages_delivered,
    messages_failed = t.messages_failed + excluded.messages_failed,
    total_cost = t.total_cost + excluded.total_cost,
    total_segments = t.total_segments + excluded.total_segments,
    updated_at = excluded.updated_at
