-- Add messages per second; answers each touched hour's busiest touched second, and how many seconds came late: first
-- counted more than 6 h after they passed, when an earlier count may have been dropped already.
-- $1 second BIGINT[] (s since 1970 UTC), $2 scope TEXT[], $3 scope_id TEXT[], $4 message_count INTEGER[]
WITH counted AS (
    INSERT INTO anlyt.second_counts AS t (second, scope, scope_id, message_count)
    SELECT to_timestamp(second), scope, scope_id, message_count
    FROM unnest($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::INTEGER[]) AS d (second, scope, scope_id, message_count)
    ORDER BY scope COLLATE "C", scope_id COLLATE "C", second
    ON CONFLICT (second, scope, scope_id) DO UPDATE
    SET message_count = t.message_count + excluded.message_count,
        touched_at = excluded.touched_at
    RETURNING second, scope, scope_id, message_count, xmax = 0 AS is_new
)
SELECT
    extract(EPOCH FROM date_trunc('hour', second, 'UTC'))::BIGINT AS hour,
    scope,
    scope_id,
    max(message_count) AS peak_tps,
    count(*) FILTER (WHERE is_new AND second < now() - INTERVAL '6 hours') AS late
FROM counted
GROUP BY 1, 2, 3
