-- Keep what cannot be counted. A message that is read again (a position put back) leaves its letters as they are.
-- $1 stream TEXT, $2 sequence BIGINT[], $3 batch_index INTEGER[], $4 published_at TIMESTAMPTZ[], $5 reason TEXT[],
-- $6 detail TEXT[], $7 subject TEXT[], $8 headers JSON[] (as text), $9 body BYTEA[]
INSERT INTO anlyt.dead_letters (
    stream, sequence, batch_index, published_at, reason, detail, subject, headers, body
)
SELECT $1, sequence, batch_index, published_at, reason, detail, subject, headers::JSON, body
FROM unnest(
    $2::BIGINT[], $3::INTEGER[], $4::TIMESTAMPTZ[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[], $9::BYTEA[]
) AS d (sequence, batch_index, published_at, reason, detail, subject, headers, body)
ORDER BY sequence, batch_index, published_at
ON CONFLICT DO NOTHING
RETURNING sequence, batch_index
