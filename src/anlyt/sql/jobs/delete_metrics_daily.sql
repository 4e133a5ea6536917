-- Delete days that are past their retention. Rows a worker holds are left for the next run. What is deleted is locked and
-- then found by its place in the table, so that a batch costs the same however many rows stay.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
DELETE FROM anlyt.metrics_daily
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.metrics_daily
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
