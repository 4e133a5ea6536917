-- Keep what cannot be counted. A message that is read again (a position put back) leaves its letters as they are.
-- $1 stream TEXT, $2 sequence BIGINT[], $3 batch_index INTEGER[], $4 published_at TIMESTAMPTZ[], $5 reason TEXT[],
-- $6 detail TEXT[], $7 subject TEXT[], $8 headers JSON[] (as text), $9 body BYTEA[], $10 event_id TEXT[]
INSERT INTO anlyt.dead_letters (
    stream, sequence, batch_index, published_at, reason, detail, subject, headers, body, event_id
)
SELECT $1, sequence, batch_index, published_at, reason, detail, subject, headers::JSON, body, event_id
FROM unnest(
    $2::BIGINT[], $3::INTEGER[], $4::TIMESTAMPTZ[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[], $9::BYTEA[],
    $10::TEXT[]
) AS d (sequence, batch_index, published_at, reason, detail, subject, headers, body, event_id)
ORDER BY sequence, batch_index, published_at
ON CONFLICT DO NOTHING
RETURNING sequence, batch_index
