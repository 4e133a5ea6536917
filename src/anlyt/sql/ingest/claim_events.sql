-- Claim event ids. Answers one row: NULL when all were new, else those that were, maybe none; the others have been
-- counted before.
-- $1 event_id TEXT[] (distinct), $2 event_type TEXT[]
WITH claimed AS (
    INSERT INTO anlyt.processed_events (event_id, event_type)
    SELECT event_id, event_type
    FROM unnest($1::TEXT[], $2::TEXT[]) AS offered (event_id, event_type)
    ORDER BY event_id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id
)
SELECT CASE WHEN count(*) < cardinality($1::TEXT[]) THEN coalesce(array_agg(event_id), '{}') END AS claimed
FROM claimed
