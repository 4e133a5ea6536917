-- Append one histogram segment for each operator's hour; the percentile job merges them.
-- $1 hour BIGINT[] (s since 1970 UTC), $2 operator_id TEXT[], $3 buckets TEXT[], ascending, $4 samples in each TEXT[];
-- each text is an array as PostgreSQL writes it
INSERT INTO anlyt.latency_histograms (hour_bucket, operator_id, segment, buckets, sample_counts)
SELECT
    to_timestamp(hour),
    operator_id::UUID,
    nextval('anlyt.latency_segments'),
    buckets::SMALLINT[],
    sample_counts::BIGINT[]
FROM unnest($1::BIGINT[], $2::TEXT[], $3::TEXT[], $4::TEXT[]) AS d (hour, operator_id, buckets, sample_counts)
ORDER BY hour, operator_id
