-- Dead letters in a state, newest first, with the reason that stands now: the last retry's, else the first.
-- $1 stream TEXT, $2 reason TEXT (NULL: any), $3 limit INTEGER, $4 state TEXT (open, all or a resolution)
SELECT
    stream,
    sequence,
    batch_index,
    published_at,
    coalesce(resolution, 'open') AS state,
    coalesce(retry_reason, reason) AS reason,
    coalesce(retry_detail, detail) AS detail,
    subject,
    length(body) AS body_bytes,
    recorded_at,
    attempts
FROM anlyt.dead_letters
WHERE stream = $1
  AND ($2::TEXT IS NULL OR coalesce(retry_reason, reason) = $2)
  AND CASE $4::TEXT WHEN 'all' THEN TRUE WHEN 'open' THEN resolution IS NULL ELSE resolution = $4 END
ORDER BY recorded_at DESC, sequence DESC, batch_index DESC
LIMIT $3
