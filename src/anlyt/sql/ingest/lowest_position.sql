-- The lowest position among some slots; NULL when there is none yet.
-- $1 stream TEXT, $2 slots SMALLINT[]
SELECT min(last_seq)
FROM anlyt.stream_positions
WHERE stream = $1
  AND slot = ANY($2::SMALLINT[])
