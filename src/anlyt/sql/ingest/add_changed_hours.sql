-- Tell live readers which hours this transaction changed; near its end, so that changed_at is near the commit.
-- $1 hour BIGINT[] (s since 1970 UTC)
INSERT INTO anlyt.changed_hours (hour_bucket)
SELECT DISTINCT to_timestamp(hour)
FROM unnest($1::BIGINT[]) AS hour
ON CONFLICT (changed_by, hour_bucket) DO NOTHING
