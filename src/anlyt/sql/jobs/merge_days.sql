-- Merge the hours of operators' days anew from segment 0 of each, which the same transaction may just have written.
-- Each hour is looked up by its key (OFFSET 0 keeps it so), in the one partition that can have it.
-- $1 hour_bucket TIMESTAMPTZ[], $2 operator_id UUID[]: any hours of the days
INSERT INTO anlyt.latency_days (day_bucket, operator_id, buckets, sample_counts)
SELECT day_bucket, operator_id, array_agg(bucket ORDER BY bucket), array_agg(sample_count ORDER BY bucket)
FROM (
    SELECT day.day_bucket, day.operator_id, sample.bucket, sum(sample.sample_count)::BIGINT AS sample_count
    FROM (
        SELECT DISTINCT date_trunc('day', hour_bucket, 'UTC') AS day_bucket, operator_id
        FROM unnest($1::TIMESTAMPTZ[], $2::UUID[]) AS t (hour_bucket, operator_id)
    ) AS day
    CROSS JOIN generate_series(0, 23) AS hour
    CROSS JOIN LATERAL (
        SELECT buckets, sample_counts
        FROM anlyt.latency_histograms AS histogram
        WHERE histogram.hour_bucket = day.day_bucket + make_interval(hours => hour)
          AND histogram.operator_id = day.operator_id
          AND histogram.segment = 0
        OFFSET 0
    ) AS h
    CROSS JOIN unnest(h.buckets, h.sample_counts) AS sample (bucket, sample_count)
    GROUP BY day.day_bucket, day.operator_id, sample.bucket
) AS merged
GROUP BY day_bucket, operator_id
ORDER BY day_bucket, operator_id
ON CONFLICT (day_bucket, operator_id) DO UPDATE
SET buckets = excluded.buckets,
    sample_counts = excluded.sample_counts
