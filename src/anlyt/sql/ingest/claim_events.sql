-- Claim event ids. Answers one row: NULL when all were new, else those that were, maybe none; the others have been
-- counted before. Ids and types come as lines of one text each, which is a tenth of the work of two arrays.
-- $1 event_ids TEXT (distinct), $2 event_types TEXT, $3 how many BIGINT
WITH claimed AS (
    INSERT INTO anlyt.processed_events (event_id, event_type)
    SELECT event_id, event_type
    FROM ROWS FROM (string_to_table($1, E'\n'), string_to_table($2, E'\n')) AS offered (event_id, event_type)
    ORDER BY event_id COLLATE "C"
    ON CONFLICT DO NOTHING
    RETURNING event_id
)
SELECT CASE WHEN count(*) < $3 THEN coalesce(array_agg(event_id), '{}') END AS claimed
FROM claimed
