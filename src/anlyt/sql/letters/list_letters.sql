-- Dead letters, newest first.
-- $1 stream TEXT, $2 reason TEXT (NULL: any), $3 limit INTEGER
SELECT stream, sequence, batch_index, published_at, reason, detail, subject, length(body) AS body_bytes, recorded_at
FROM anlyt.dead_letters
WHERE stream = $1
  AND ($2::TEXT IS NULL OR reason = $2)
ORDER BY recorded_at DESC, sequence DESC, batch_index DESC
LIMIT $3
