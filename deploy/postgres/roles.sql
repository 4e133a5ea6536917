-- Least rights for the workers and the API, where they should not connect as the owner of the schema. Run by the owner
-- or a superuser in the database of anlyt after `anlyt migrate`, and again after every upgrade; running it twice is fine:
--
--     psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--     CREATE ROLE anlyt_worker LOGIN PASSWORD '...' IN ROLE anlyt_writer;   -- anlyt worker
--     CREATE ROLE anlyt_web LOGIN PASSWORD '...' IN ROLE anlyt_api;         -- anlyt api
--
-- `anlyt migrate` and `anlyt jobs` go on as the owner: to detach a month one has to own its table.

DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['anlyt_writer', 'anlyt_api'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', name);
        END IF;
    END LOOP;
END
$$;

-- Nothing is anybody's by default.
REVOKE ALL ON SCHEMA anlyt FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA anlyt FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA anlyt FROM PUBLIC;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA anlyt TO anlyt_writer, anlyt_api;

-- Workers: add to the counts, claim ids, keep dead letters, move positions. They delete nothing.
GRANT SELECT, INSERT, UPDATE
    ON anlyt.metrics_hourly, anlyt.metrics_daily, anlyt.operator_performance, anlyt.account_usage_daily,
    anlyt.latency_histograms, anlyt.second_counts, anlyt.stream_positions, anlyt.ingest_totals, anlyt.changed_hours,
    anlyt.backfills, anlyt.dead_letters
    TO anlyt_writer;
GRANT SELECT, INSERT ON anlyt.processed_events TO anlyt_writer;
GRANT SELECT ON anlyt.migrations TO anlyt_writer, anlyt_api;
GRANT USAGE ON SEQUENCE anlyt.latency_segments TO anlyt_writer;

-- An event may be the first of its month. The function makes that one partition as the owner of the tables, whatever the
-- search path of whoever calls it. It is the only one that runs with other rights than its caller's.
ALTER FUNCTION anlyt.ensure_partition(TEXT, TIMESTAMPTZ) SECURITY DEFINER SET search_path = pg_catalog, pg_temp;
GRANT EXECUTE ON FUNCTION anlyt.ensure_partition(TEXT, TIMESTAMPTZ) TO anlyt_writer;
GRANT EXECUTE ON FUNCTION anlyt.latency_value(INTEGER) TO anlyt_writer, anlyt_api, anlyt_staff, anlyt_tenant;
GRANT EXECUTE ON FUNCTION anlyt.written_since(XID, PG_SNAPSHOT, XID8) TO anlyt_api, anlyt_staff, anlyt_tenant;

-- Row-level security holds for everybody but the owner: workers see and write every row.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['metrics_hourly', 'metrics_daily', 'operator_performance', 'account_usage_daily', 'latency_histograms'] LOOP
        EXECUTE format('DROP POLICY IF EXISTS counted ON anlyt.%I', name);
        EXECUTE format('CREATE POLICY counted ON anlyt.%I TO anlyt_writer USING (TRUE) WITH CHECK (TRUE)', name);
    END LOOP;
END
$$;

-- The API: reads as anlyt_staff and anlyt_tenant, looks keys up and notes when they were last used.
GRANT anlyt_staff, anlyt_tenant TO anlyt_api;
GRANT SELECT ON anlyt.api_keys, anlyt.changed_hours, anlyt.dead_letters, anlyt.archive_receipts TO anlyt_api;
GRANT UPDATE (last_used_at) ON anlyt.api_keys TO anlyt_api;
