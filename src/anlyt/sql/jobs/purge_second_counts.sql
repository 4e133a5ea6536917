-- Forget seconds that passed, and were last touched, more than 6 h ago. Rows a worker holds are left for the next run.
-- $1 rows INTEGER (at most)
DELETE FROM anlyt.second_counts
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.second_counts
    WHERE second < now() - INTERVAL '6 hours'
      AND touched_at < now() - INTERVAL '6 hours'
    ORDER BY second
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
