-- Ids that were counted as an event of another type than the copies that are offered now.
-- $1 event_ids TEXT, $2 event_types TEXT: lines of one text each
SELECT offered.event_id
FROM ROWS FROM (string_to_table($1, E'\n'), string_to_table($2, E'\n')) AS offered (event_id, event_type)
JOIN anlyt.processed_events AS known ON known.event_id = offered.event_id
WHERE known.event_type <> offered.event_type
