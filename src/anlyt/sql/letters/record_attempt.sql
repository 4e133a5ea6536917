-- Record a retry of a dead letter: what became of it, or why it failed again. Its first reason stays.
-- $1 stream TEXT, $2 sequence BIGINT, $3 batch_index INTEGER, $4 published_at TIMESTAMPTZ, $5 resolution TEXT (NULL:
-- failed), $6 retry_reason TEXT, $7 retry_detail TEXT, $8 event_ids TEXT[]
UPDATE anlyt.dead_letters
SET attempts = attempts + 1,
    attempted_at = now(),
    resolution = $5::TEXT,
    resolved_at = CASE WHEN $5::TEXT IS NOT NULL THEN now() END,
    retry_reason = coalesce($6, retry_reason),
    retry_detail = coalesce($7, retry_detail),
    event_ids = $8
WHERE stream = $1
  AND sequence = $2
  AND batch_index = $3
  AND published_at = $4
