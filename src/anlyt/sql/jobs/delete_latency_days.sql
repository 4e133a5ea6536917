-- Delete days that are past their retention. Histograms are kept as long as the daily rows.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
WITH doomed AS (
    SELECT day_bucket, operator_id
    FROM anlyt.latency_days
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM anlyt.latency_days AS u
USING doomed AS d
WHERE u.day_bucket = d.day_bucket
  AND u.operator_id = d.operator_id
