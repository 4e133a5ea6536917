-- The sequence up to which every slot of a stream has been counted; 0 before the first.
-- $1 stream TEXT
SELECT coalesce(min(last_seq), 0)
FROM anlyt.stream_positions
WHERE stream = $1
