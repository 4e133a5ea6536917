-- How far each slot of a stream has been counted, and of which stream that is true.
-- $1 stream TEXT
SELECT slot, last_seq, complete_through, stream_created_at
FROM anlyt.stream_positions
WHERE stream = $1
