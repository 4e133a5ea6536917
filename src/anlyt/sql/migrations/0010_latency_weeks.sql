-- Percentiles over months are merged from weeks.
CREATE TABLE anlyt.latency_weeks (
    week_bucket TIMESTAMPTZ NOT NULL,
    operator_id UUID NOT NULL,
    buckets SMALLINT[] NOT NULL,
    sample_counts BIGINT[] NOT NULL,
    PRIMARY KEY (week_bucket, operator_id)
);
REVOKE ALL ON anlyt.latency_weeks FROM PUBLIC;
GRANT SELECT ON anlyt.latency_weeks TO anlyt_staff, anlyt_tenant;
ALTER TABLE anlyt.latency_weeks ENABLE ROW LEVEL SECURITY;
CREATE POLICY everything ON anlyt.latency_weeks FOR SELECT TO anlyt_staff USING (TRUE);
CREATE POLICY own ON anlyt.latency_weeks FOR SELECT TO anlyt_tenant USING (
    (SELECT current_setting('anlyt.scope', TRUE)) = 'OPERATOR'
    AND operator_id = ANY ((SELECT string_to_array(current_setting('anlyt.ids', TRUE), ','))::UUID[])
);
INSERT INTO anlyt.latency_weeks (week_bucket, operator_id, buckets, sample_counts)
SELECT week_bucket, operator_id, array_agg(bucket ORDER BY bucket), array_agg(sample_count ORDER BY bucket)
FROM (
    SELECT
        date_trunc('week', day_bucket, 'UTC') AS week_bucket,
        operator_id,
        bucket,
        sum(sample_count)::BIGINT AS sample_count
    FROM anlyt.latency_days
    CROSS JOIN unnest(buckets, sample_counts) AS sample (bucket, sample_count)
    GROUP BY week_bucket, operator_id, bucket
) AS merged
GROUP BY week_bucket, operator_id;
