-- Mark open dead letters of a selection as discarded, a bounded number of them.
-- $1 stream TEXT, $2 sequence BIGINT (NULL: any), $3 batch_index INTEGER (NULL: any), $4 reason TEXT (NULL: any),
-- $5 letters INTEGER (at most)
WITH chosen AS (
    SELECT sequence, batch_index, published_at
    FROM anlyt.dead_letters
    WHERE stream = $1
      AND resolution IS NULL
      AND ($2::BIGINT IS NULL OR sequence = $2)
      AND ($3::INTEGER IS NULL OR batch_index = $3)
      AND ($4::TEXT IS NULL OR coalesce(retry_reason, reason) = $4)
    ORDER BY sequence, batch_index, published_at
    LIMIT $5
    FOR UPDATE
)
UPDATE anlyt.dead_letters AS l
SET resolution = 'discarded',
    resolved_at = now()
FROM chosen AS c
WHERE l.stream = $1
  AND l.sequence = c.sequence
  AND l.batch_index = c.batch_index
  AND l.published_at = c.published_at
