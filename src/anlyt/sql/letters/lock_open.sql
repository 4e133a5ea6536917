-- Lock those of these dead letters that are still open: whoever comes second waits here and finds them resolved.
-- $1 stream TEXT, $2 sequence BIGINT[], $3 batch_index INTEGER[], $4 published_at TIMESTAMPTZ[]
SELECT sequence, batch_index, published_at
FROM anlyt.dead_letters
JOIN unnest($2::BIGINT[], $3::INTEGER[], $4::TIMESTAMPTZ[]) AS k (sequence, batch_index, published_at)
    USING (sequence, batch_index, published_at)
WHERE stream = $1
  AND resolution IS NULL
ORDER BY sequence, batch_index, published_at
FOR UPDATE OF dead_letters
