-- Append one histogram segment for each operator's hour; the percentile job merges them.
-- $1 hour BIGINT[] (s since 1970 UTC), $2 operator_id TEXT[], $3 bucket SMALLINT[], $4 sample_count BIGINT[]; one
-- element a bucket
INSERT INTO anlyt.latency_histograms (hour_bucket, operator_id, segment, buckets, sample_counts)
SELECT
    to_timestamp(hour),
    operator_id::UUID,
    nextval('anlyt.latency_segments'),
    array_agg(bucket ORDER BY bucket),
    array_agg(sample_count ORDER BY bucket)
FROM unnest($1::BIGINT[], $2::TEXT[], $3::SMALLINT[], $4::BIGINT[]) AS d (hour, operator_id, bucket, sample_count)
GROUP BY hour, operator_id
ORDER BY hour, operator_id
