-- Delete weeks that have lost a day to retention, or are about to: each before the first of its days.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
DELETE FROM anlyt.latency_weeks
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.latency_weeks
    WHERE week_bucket < $2
    ORDER BY week_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
