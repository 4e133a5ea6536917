-- Forget changes that no live reader may resume behind any more, a bounded number of them.
-- $1 rows INTEGER (at most), $2 age INTERVAL
WITH doomed AS (
    SELECT changed_by, hour_bucket
    FROM anlyt.changed_hours
    WHERE changed_at < now() - $2::INTERVAL
    ORDER BY changed_by, hour_bucket
    LIMIT $1
)
DELETE FROM anlyt.changed_hours AS c
USING doomed AS d
WHERE c.changed_by = d.changed_by
  AND c.hour_bucket = d.hour_bucket
