-- Dead letters that a retry counted, with the ids it counted.
SELECT stream, sequence, batch_index, published_at, headers, body, event_ids, resolved_at
FROM anlyt.dead_letters
WHERE event_ids IS NOT NULL
  AND resolution = 'counted'
