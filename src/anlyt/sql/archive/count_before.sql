-- How many rows the archive has from before the border.
-- {until:UInt32} seconds since 1970, exclusive
SELECT count() AS rows
FROM {table}
WHERE {bucket} < toDateTime({until:UInt32}, 'UTC')
