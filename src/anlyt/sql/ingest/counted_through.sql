-- How far every slot of a stream has been counted.
-- $1 stream TEXT
SELECT count(*) AS slots, min(last_seq) AS last_seq
FROM anlyt.stream_positions
WHERE stream = $1
