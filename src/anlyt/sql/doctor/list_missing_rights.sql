-- What the session's role may not do that the service has to: use the schema, read and write its tables, own those whose
-- partitions it makes and detaches.
-- $1 partitioned tables TEXT[]
SELECT
    has_schema_privilege('anlyt', 'USAGE') AS may_enter,
    ARRAY(
        SELECT relname::TEXT
        FROM pg_class
        WHERE relnamespace = 'anlyt'::REGNAMESPACE
          AND relkind IN ('r', 'p')
          AND NOT relispartition
          AND NOT (
              has_table_privilege(oid, 'SELECT')
              AND has_table_privilege(oid, 'INSERT')
              AND has_table_privilege(oid, 'UPDATE')
              AND has_table_privilege(oid, 'DELETE')
          )
        ORDER BY relname
    ) AS not_writable,
    ARRAY(
        SELECT relname::TEXT
        FROM pg_class
        WHERE relnamespace = 'anlyt'::REGNAMESPACE
          AND relname = ANY($1::TEXT[])
          AND NOT pg_has_role(relowner, 'USAGE')
        ORDER BY relname
    ) AS not_owned
FROM pg_namespace
WHERE nspname = 'anlyt'
