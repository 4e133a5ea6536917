-- Which of these ids were counted from a dead letter, however long ago.
-- $1 event_id TEXT[]
SELECT DISTINCT counted.event_id
FROM anlyt.dead_letters
CROSS JOIN unnest(event_ids) AS counted (event_id)
WHERE event_ids && $1::TEXT[]
  AND counted.event_id = ANY($1::TEXT[])
