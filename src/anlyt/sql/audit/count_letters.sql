-- How many events of a stream became dead letters and were not counted by a retry, by the first reason, from a
-- publication on.
-- $1 stream TEXT, $2 sequence BIGINT (first), $3 published_at TIMESTAMPTZ (first)
SELECT reason, count(*) AS letters
FROM anlyt.dead_letters
WHERE stream = $1
  AND sequence >= $2
  AND published_at >= $3
  AND resolution IS DISTINCT FROM 'counted'
GROUP BY reason
