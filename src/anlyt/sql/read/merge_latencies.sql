-- The latency samples of operators by span, and by operator if that is wanted, as one histogram each: their segments
-- added up, bucket by bucket, so that percentiles come from the samples and are never averaged.
-- $1 starts TIMESTAMPTZ[], $2 ends TIMESTAMPTZ[], exclusive: the spans
-- $3 ids UUID[], NULL for all; $4 each operator for itself BOOLEAN
SELECT
    span,
    scope_id,
    array_agg(bucket ORDER BY bucket) AS buckets,
    array_agg(sample_count ORDER BY bucket) AS sample_counts
FROM (
    SELECT
        place.span,
        CASE WHEN $4::BOOLEAN THEN segment.operator_id::TEXT END AS scope_id,
        sample.bucket,
        sum(sample.sample_count)::BIGINT AS sample_count
    FROM unnest($1::TIMESTAMPTZ[], $2::TIMESTAMPTZ[]) WITH ORDINALITY AS place (span_start, span_end, span)
    CROSS JOIN LATERAL (
        SELECT operator_id, buckets, sample_counts
        FROM anlyt.latency_histograms AS histogram
        WHERE histogram.hour_bucket >= place.span_start
          AND histogram.hour_bucket < place.span_end
          AND ($3::UUID[] IS NULL OR histogram.operator_id = ANY($3))
        OFFSET 0
    ) AS segment
    CROSS JOIN unnest(segment.buckets, segment.sample_counts) AS sample (bucket, sample_count)
    GROUP BY place.span, CASE WHEN $4::BOOLEAN THEN segment.operator_id::TEXT END, sample.bucket
) AS merged
GROUP BY span, scope_id
