-- What was copied of a table, day by day.
-- $1 table_name TEXT
SELECT day, row_count, sums, checksum
FROM anlyt.archive_receipts
WHERE table_name = $1
ORDER BY day
