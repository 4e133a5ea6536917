-- Put all slots of a partition at one position: after a change of the number of partitions, a recreated or restored
-- stream, or messages that the stream dropped before they were read.
-- $1 stream TEXT, $2 slots SMALLINT[], $3 last_seq BIGINT, $4 stream_created_at TIMESTAMPTZ, $5 lost BIGINT
UPDATE anlyt.stream_positions
SET last_seq = $3,
    stream_created_at = $4,
    lost_messages = lost_messages + $5,
    last_published_at = CASE WHEN last_seq = $3 AND stream_created_at = $4 THEN last_published_at END,
    updated_at = now()
WHERE stream = $1
  AND slot = ANY($2::SMALLINT[])
