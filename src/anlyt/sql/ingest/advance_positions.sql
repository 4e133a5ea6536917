-- Move a partition's position, if it still is where this worker left it: the fence against zombies.
-- $1 stream TEXT, $2 slots SMALLINT[], $3 last_seq BIGINT (expected), $4 stream_created_at TIMESTAMPTZ (expected),
-- $5 last_seq BIGINT (new), $6 last_published_at TIMESTAMPTZ, $7 complete_through TIMESTAMPTZ,
-- $8 lost BIGINT (messages of this stretch that the stream dropped before they were read), $9 refused_events INTEGER
UPDATE anlyt.stream_positions
SET last_seq = $5,
    last_published_at = CASE WHEN last_seq = $5 THEN last_published_at ELSE $6 END,
    complete_through = GREATEST(complete_through, $7),
    lost_messages = lost_messages + $8,
    refused_events = $9,
    updated_at = now()
WHERE stream = $1
  AND slot = ANY($2::SMALLINT[])
  AND last_seq = $3
  AND stream_created_at = $4
RETURNING slot
