-- How many open dead letters a selection has.
-- $1 stream TEXT, $2 sequence BIGINT (NULL: any), $3 batch_index INTEGER (NULL: any), $4 reason TEXT (NULL: any)
SELECT count(*)
FROM anlyt.dead_letters
WHERE stream = $1
  AND resolution IS NULL
  AND ($2::BIGINT IS NULL OR sequence = $2)
  AND ($3::INTEGER IS NULL OR batch_index = $3)
  AND ($4::TEXT IS NULL OR coalesce(retry_reason, reason) = $4)
