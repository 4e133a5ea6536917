-- The position rows of some slots, locked, so that they can be aligned.
-- $1 stream TEXT, $2 slots SMALLINT[]
SELECT slot, last_seq, last_published_at, complete_through, stream_created_at, refused_events
FROM anlyt.stream_positions
WHERE stream = $1
  AND slot = ANY($2::SMALLINT[])
ORDER BY slot
FOR UPDATE
