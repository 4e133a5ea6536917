-- Forget seconds that passed, and were last touched, more than 6 h ago. Rows a worker holds are left for the next run.
-- $1 rows INTEGER (at most)
WITH doomed AS (
    SELECT second, scope, scope_id
    FROM anlyt.second_counts
    WHERE second < now() - INTERVAL '6 hours'
      AND touched_at < now() - INTERVAL '6 hours'
    ORDER BY second
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM anlyt.second_counts AS s
USING doomed AS d
WHERE s.second = d.second
  AND s.scope = d.scope
  AND s.scope_id = d.scope_id
