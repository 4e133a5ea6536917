-- Forget ids that no accepted copy of an event can meet any more: counted 48 h before everything published until then
-- had been read, and 48 h ago. A backlog of any age keeps the ids it needs. Nothing while a position is unknown.
-- $1 rows INTEGER (at most)
WITH horizon AS (
    SELECT LEAST(now(), min(complete_through)) - INTERVAL '48 hours' AS before
    FROM anlyt.stream_positions
    HAVING count(*) > 0
       AND count(*) = count(complete_through)
),
doomed AS (
    SELECT event_id
    FROM anlyt.processed_events
    WHERE processed_at < (SELECT before FROM horizon)
    ORDER BY processed_at
    LIMIT $1
    FOR UPDATE SKIP LOCKED
)
DELETE FROM anlyt.processed_events AS e
USING doomed AS d
WHERE e.event_id = d.event_id
