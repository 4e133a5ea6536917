-- Changed rows can be told as they change, and percentiles over many days are merged from days.
CREATE TABLE anlyt.changed_hours (
    changed_by XID8 NOT NULL DEFAULT pg_current_xact_id(),
    hour_bucket TIMESTAMPTZ NOT NULL,
    changed_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (changed_by, hour_bucket)
);
ALTER TABLE anlyt.changed_hours SET (
    autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1
);
REVOKE ALL ON anlyt.changed_hours FROM PUBLIC;
CREATE FUNCTION anlyt.written_since(row_xmin XID, since PG_SNAPSHOT, latest XID8) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN NOT pg_visible_in_snapshot(
    (latest::TEXT::BIGINT - ((latest::TEXT::BIGINT - row_xmin::TEXT::BIGINT) & 4294967295))::TEXT::XID8, since
);
REVOKE ALL ON FUNCTION anlyt.written_since(XID, PG_SNAPSHOT, XID8) FROM PUBLIC;

CREATE TABLE anlyt.latency_days (
    day_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    buckets SMALLINT[] NOT NULL,
    sample_counts BIGINT[] NOT NULL,
    PRIMARY KEY (day_bucket, operator_id)
);
REVOKE ALL ON anlyt.latency_days FROM PUBLIC;
GRANT SELECT ON anlyt.latency_days TO anlyt_staff, anlyt_tenant;
ALTER TABLE anlyt.latency_days ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON anlyt.latency_days FOR SELECT TO anlyt_staff USING (TRUE);
CREATE POLICY own ON anlyt.latency_days FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
INSERT INTO anlyt.latency_days (day_bucket, operator_id, buckets, sample_counts)
SELECT day_bucket, operator_id, array_agg(bucket ORDER BY bucket), array_agg(sample_count ORDER BY bucket)
FROM (
    SELECT
        date_trunc('day', hour_bucket, 'UTC') AS day_bucket,
        operator_id,
        bucket,
        sum(sample_count)::BIGINT AS sample_count
    FROM anlyt.latency_histograms
    CROSS JOIN unnest(buckets, sample_counts) AS sample (bucket, sample_count)
    WHERE segment = 0
    GROUP BY day_bucket, operator_id, bucket
) AS merged
GROUP BY day_bucket, operator_id;
