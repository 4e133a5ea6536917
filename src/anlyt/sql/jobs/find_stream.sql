-- When the position of a stream moved last, and until when it has been counted; NULL when the stream is not known.
-- $1 stream TEXT
SELECT max(updated_at) AS updated_at, min(complete_through) AS complete_through
FROM anlyt.stream_positions
WHERE stream = $1
