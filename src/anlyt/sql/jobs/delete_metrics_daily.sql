-- Delete days that are past their retention. Rows a worker holds are left for the next run.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
WITH doomed AS (
    SELECT day_bucket, scope, scope_id
    FROM anlyt.metrics_daily
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM anlyt.metrics_daily AS m
USING doomed AS d
WHERE m.day_bucket = d.day_bucket
  AND m.scope = d.scope
  AND m.scope_id = d.scope_id
