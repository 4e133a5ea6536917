-- One dead letter, whole. More than one row only when a recreated stream used the sequence again.
-- $1 stream TEXT, $2 sequence BIGINT, $3 batch_index INTEGER
SELECT
    stream,
    sequence,
    batch_index,
    published_at,
    coalesce(resolution, 'open') AS state,
    reason,
    detail,
    subject,
    headers,
    body,
    recorded_at,
    attempts,
    attempted_at,
    retry_reason,
    retry_detail,
    resolved_at
FROM anlyt.dead_letters
WHERE stream = $1
  AND sequence = $2
  AND batch_index = $3
ORDER BY published_at
