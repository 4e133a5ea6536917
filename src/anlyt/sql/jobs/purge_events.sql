-- Forget ids that no accepted copy of an event can meet any more: counted 48 h before everything published until then
-- had been read, and 48 h ago. A backlog of any age keeps the ids it needs. Nothing while a position is unknown. With
-- an id goes the last that tells an open dead letter's event was counted from another copy, so such a letter is closed
-- as a duplicate: first of all, because who retries it holds the letter and then asks for the id. Answers how many.
-- $1 rows INTEGER (at most)
WITH horizon AS (
    SELECT LEAST(now(), min(complete_through)) - INTERVAL '48 hours' AS before
    FROM anlyt.stream_positions
    HAVING count(*) > 0
       AND count(*) = count(complete_through)
),
doomed AS MATERIALIZED (
    SELECT ctid AS place, event_id
    FROM anlyt.processed_events
    WHERE processed_at < (SELECT before FROM horizon)
    ORDER BY processed_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
),
settled AS (
    UPDATE anlyt.dead_letters AS l
    SET resolution = 'duplicate',
        resolved_at = now()
    FROM doomed AS d
    WHERE l.event_id = d.event_id
      AND l.resolution IS NULL
    RETURNING 1
),
deleted AS (
    DELETE FROM anlyt.processed_events
    WHERE ctid = ANY (ARRAY(SELECT place FROM doomed))
      AND (SELECT count(*) FROM settled) IS NOT NULL
    RETURNING 1
)
SELECT count(*)
FROM deleted
