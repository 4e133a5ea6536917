-- How far each slot of a stream has been counted, for staff.
-- $1 stream TEXT
SELECT slot, last_seq, last_published_at, complete_through, lost_messages, updated_at
FROM anlyt.stream_positions
WHERE stream = $1
ORDER BY slot
