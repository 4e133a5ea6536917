-- From when on all rows of these tables are here: committed before the first row before it is taken away.
-- $1 table_name TEXT[]; $2 hot_since TIMESTAMPTZ
INSERT INTO anlyt.archive_borders (table_name, hot_since)
SELECT table_name, $2
FROM unnest($1::TEXT[]) AS t (table_name)
ON CONFLICT (table_name) DO UPDATE
SET hot_since = GREATEST(archive_borders.hot_since, excluded.hot_since),
    updated_at = now()
