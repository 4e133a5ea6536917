-- How far the slots of a stream have been counted, and of which stream that is true.
-- $1 stream TEXT
SELECT count(*) AS slots, last_seq, last_published_at, stream_created_at
FROM anlyt.stream_positions
WHERE stream = $1
GROUP BY last_seq, last_published_at, stream_created_at
