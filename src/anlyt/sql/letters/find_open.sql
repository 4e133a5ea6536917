-- The next open dead letters of a selection, in order, with the present instant.
-- $1 stream TEXT, $2 sequence BIGINT (NULL: any), $3 batch_index INTEGER (NULL: any), $4 reason TEXT (NULL: any),
-- $5 sequence BIGINT, $6 batch_index INTEGER, $7 published_at TIMESTAMPTZ (of the last one seen), $8 letters INTEGER
SELECT
    sequence,
    batch_index,
    published_at,
    coalesce(retry_reason, reason) AS reason,
    coalesce(retry_detail, detail) AS detail,
    subject,
    headers,
    body,
    now() AS read_at
FROM anlyt.dead_letters
WHERE stream = $1
  AND resolution IS NULL
  AND ($2::BIGINT IS NULL OR sequence = $2)
  AND ($3::INTEGER IS NULL OR batch_index = $3)
  AND ($4::TEXT IS NULL OR coalesce(retry_reason, reason) = $4)
  AND (sequence, batch_index, published_at) > ($5::BIGINT, $6::INTEGER, $7::TIMESTAMPTZ)
ORDER BY sequence, batch_index, published_at
LIMIT $8
