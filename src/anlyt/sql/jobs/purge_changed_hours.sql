-- Forget changes that no live reader may resume behind any more, a bounded number of them.
-- $1 rows INTEGER (at most), $2 age INTERVAL
DELETE FROM anlyt.changed_hours
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.changed_hours
    WHERE changed_at < now() - $2::INTERVAL
    ORDER BY changed_by, hour_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
