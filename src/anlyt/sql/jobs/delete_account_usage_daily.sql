-- Delete days that are past their retention. Rows a worker holds are left for the next run.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
WITH doomed AS (
    SELECT day_bucket, account_id
    FROM anlyt.account_usage_daily
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM anlyt.account_usage_daily AS u
USING doomed AS d
WHERE u.day_bucket = d.day_bucket
  AND u.account_id = d.account_id
