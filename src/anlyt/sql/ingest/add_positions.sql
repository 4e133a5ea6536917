-- Make the position rows of a stream's slots that are missing: nothing read yet.
-- $1 stream TEXT, $2 slots SMALLINT[], $3 last_seq BIGINT (the sequence before the stream's first message),
-- $4 stream_created_at TIMESTAMPTZ
INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at)
SELECT $1, slot, $3, $4
FROM unnest($2::SMALLINT[]) AS slot
ORDER BY slot
ON CONFLICT DO NOTHING
