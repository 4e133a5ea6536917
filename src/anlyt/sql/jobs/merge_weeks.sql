-- Merge the days of operators' weeks anew from latency_days, which the same transaction may just have written.
-- $1 hour_bucket TIMESTAMPTZ[], $2 operator_id UUID[]: any hours of the weeks
INSERT INTO anlyt.latency_weeks (week_bucket, operator_id, buckets, sample_counts)
SELECT week_bucket, operator_id, array_agg(bucket ORDER BY bucket), array_agg(sample_count ORDER BY bucket)
FROM (
    SELECT week.week_bucket, week.operator_id, sample.bucket, sum(sample.sample_count)::BIGINT AS sample_count
    FROM (
        SELECT DISTINCT date_trunc('week', hour_bucket, 'UTC') AS week_bucket, operator_id
        FROM unnest($1::TIMESTAMPTZ[], $2::UUID[]) AS t (hour_bucket, operator_id)
    ) AS week
    CROSS JOIN generate_series(0, 6) AS day
    CROSS JOIN LATERAL (
        SELECT buckets, sample_counts
        FROM anlyt.latency_days
        WHERE day_bucket = week.week_bucket + make_interval(days => day)
          AND operator_id = week.operator_id
        OFFSET 0
    ) AS d
    CROSS JOIN unnest(d.buckets, d.sample_counts) AS sample (bucket, sample_count)
    GROUP BY week.week_bucket, week.operator_id, sample.bucket
) AS merged
GROUP BY week_bucket, operator_id
ORDER BY week_bucket, operator_id
ON CONFLICT (week_bucket, operator_id) DO UPDATE
SET buckets = excluded.buckets,
    sample_counts = excluded.sample_counts
