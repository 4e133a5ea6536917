-- Note what was copied. The sums of all days stand one behind the other, each day's as many as the others'.
-- $1 table_name TEXT; $2 day TIMESTAMPTZ[], $3 row_count BIGINT[], $4 checksum NUMERIC[]
-- $5 sums NUMERIC[], $6 sums of each day INTEGER
INSERT INTO anlyt.archive_receipts (table_name, day, row_count, sums, checksum, copied_at)
SELECT $1, day, row_count, ($5::NUMERIC[])[($6::INTEGER * (place - 1) + 1)::INTEGER:($6 * place)::INTEGER], checksum, now()
FROM unnest($2::TIMESTAMPTZ[], $3::BIGINT[], $4::NUMERIC[]) WITH ORDINALITY AS d (day, row_count, checksum, place)
ON CONFLICT (table_name, day) DO UPDATE
SET row_count = excluded.row_count,
    sums = excluded.sums,
    checksum = excluded.checksum,
    copied_at = excluded.copied_at
