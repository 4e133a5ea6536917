-- Streams that purge and retention wait for although nobody has counted them for a while, the longest first: until when
-- each has been counted, and when its position moved last.
-- $1 idle INTERVAL
SELECT stream, min(complete_through) AS complete_through, max(updated_at) AS updated_at
FROM anlyt.stream_positions
GROUP BY stream
HAVING max(updated_at) < now() - $1::INTERVAL
ORDER BY updated_at, stream
