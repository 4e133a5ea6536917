-- Until when each partitioned table has partitions: the highest upper bound, read from the catalogue.
SELECT
    parent.relname AS table_name,
    max(substring(pg_get_expr(child.relpartbound, child.oid) FROM 'TO \(''([^'']+)''\)')::TIMESTAMPTZ) AS covered_until
FROM pg_inherits
JOIN pg_class AS parent ON parent.oid = pg_inherits.inhparent
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
JOIN pg_namespace ON pg_namespace.oid = parent.relnamespace
WHERE pg_namespace.nspname = 'anlyt'
  AND parent.relkind = 'p'
GROUP BY parent.relname
ORDER BY parent.relname
