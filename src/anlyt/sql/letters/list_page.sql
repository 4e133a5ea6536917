-- One page of dead letters in a state, newest first, behind a letter, with the reason that stands now.
-- $1 stream TEXT, $2 reason TEXT (NULL: any), $3 state TEXT (open, all or a resolution), $4 row limit INTEGER
-- $5 recorded_at TIMESTAMPTZ, $6 sequence BIGINT, $7 batch_index INTEGER, $8 published_at TIMESTAMPTZ: the letter
-- before the page, or a place after all letters
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
  AND CASE $3::TEXT WHEN 'all' THEN TRUE WHEN 'open' THEN resolution IS NULL ELSE resolution = $3 END
  AND recorded_at <= $5
  AND (recorded_at, sequence, batch_index, published_at) < ($5, $6::BIGINT, $7::INTEGER, $8::TIMESTAMPTZ)
ORDER BY recorded_at DESC, sequence DESC, batch_index DESC, published_at DESC
LIMIT $4
