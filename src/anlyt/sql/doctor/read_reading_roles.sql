-- What stands between a tenant and everybody's rows: the role reads are made as, and row-level security on the tables.
-- $1 role TEXT, $2 tables TEXT[]
SELECT
    EXISTS (
        SELECT FROM pg_roles WHERE rolname = $1 AND pg_has_role(oid, CASE
            WHEN current_setting('server_version_num')::INTEGER >= 160000 THEN 'SET'
            ELSE 'MEMBER'
        END)
    ) AS allowed,
    EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND (rolsuper OR rolbypassrls)) AS unbounded,
    ARRAY(
        SELECT relname::TEXT
        FROM pg_class
        WHERE relnamespace = 'anlyt'::REGNAMESPACE
          AND relname = ANY($2::TEXT[])
          AND NOT relrowsecurity
        ORDER BY relname
    ) AS unguarded
