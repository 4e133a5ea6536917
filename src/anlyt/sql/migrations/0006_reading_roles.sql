-- The API reads as one of two roles, and PostgreSQL decides again what each of them sees. Roles belong to the cluster:
-- another database, or an administrator, may have made them already.
DO $$
DECLARE
    reading_role TEXT;
    -- Before PostgreSQL 16 every member of a role may become it.
    needed TEXT := CASE WHEN current_setting('server_version_num')::INTEGER >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    FOREACH reading_role IN ARRAY ARRAY['anlyt_staff', 'anlyt_tenant'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = reading_role) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', reading_role);
            END IF;
        EXCEPTION
            WHEN duplicate_object OR unique_violation THEN
                NULL;
        END;
        IF NOT pg_has_role(current_user, reading_role, needed) THEN
            EXECUTE format('GRANT %I TO %I', reading_role, current_user);
        END IF;
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA anlyt TO anlyt_staff, anlyt_tenant;
GRANT SELECT ON anlyt.metrics_hourly, anlyt.metrics_daily, anlyt.operator_performance, anlyt.account_usage_daily,
    anlyt.latency_histograms TO anlyt_staff, anlyt_tenant;
GRANT SELECT (stream, complete_through) ON anlyt.stream_positions TO anlyt_tenant;
GRANT SELECT ON anlyt.archive_borders TO anlyt_staff, anlyt_tenant;
GRANT SELECT ON anlyt.stream_positions, anlyt.ingest_totals, anlyt.backfills, anlyt.job_runs TO anlyt_staff;
GRANT SELECT (stream, reason, recorded_at, resolution, retry_reason) ON anlyt.dead_letters TO anlyt_staff;

ALTER TABLE anlyt.metrics_hourly ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.metrics_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.operator_performance ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.account_usage_daily ENABLE ROW LEVEL SECURITY;
ALTER TABLE anlyt.latency_histograms ENABLE ROW LEVEL SECURITY;

CREATE POLICY everything ON anlyt.metrics_hourly FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.metrics_daily FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.operator_performance FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.account_usage_daily FOR SELECT TO anlyt_reader, anlyt_staff USING (TRUE);
CREATE POLICY everything ON anlyt.latency_histograms FOR SELECT TO anlyt_staff USING (TRUE);

-- A tenant's scope and ids are settings of its transaction (read/see_as); without them nothing is visible. They
-- stand in sub-selects, so that they are read once a statement and not once a row.
CREATE POLICY own ON anlyt.metrics_hourly FOR SELECT TO anlyt_tenant USING (
    scope = (SELECT current_setting('anlyt.scope', TRUE))
    AND scope_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::TEXT[])
);
CREATE POLICY own ON anlyt.metrics_daily FOR SELECT TO anlyt_tenant USING (
    scope = (SELECT current_setting('anlyt.scope', TRUE))
    AND scope_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::TEXT[])
);
CREATE POLICY own ON anlyt.operator_performance FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.account_usage_daily FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'ACCOUNT'
    AND account_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
CREATE POLICY own ON anlyt.latency_histograms FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
