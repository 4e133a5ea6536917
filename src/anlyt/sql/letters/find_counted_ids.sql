-- Which of these ids were counted from a dead letter, however long ago.
-- $1 event_id TEXT[]
SELECT DISTINCT event_id
FROM anlyt.dead_letters
CROSS JOIN unnest(event_ids) AS event_id
WHERE event_ids && $1::TEXT[]
  AND event_id = ANY($1::TEXT[])
