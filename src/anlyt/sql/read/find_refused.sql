-- Events of a stream that nobody understood, on balance, in the partition that has most of them.
-- $1 stream TEXT
SELECT coalesce(max(refused_events), 0)
FROM anlyt.stream_positions
WHERE stream = $1
