-- The name of a backfill whose name matches a pattern; NULL when there is none.
-- $1 pattern TEXT
SELECT max(name)
FROM anlyt.backfills
WHERE name LIKE $1
