-- The latency samples of operators by span, and by operator if that is wanted, as one histogram each: whole weeks and days
-- from what the percentile job has merged and the segments it has not, other hours from all their segments; added up bucket
-- by bucket, so that percentiles come from the samples and are never averaged. The arrays are unnested in the select list,
-- which takes half of what a join with unnest() does.
-- $1 hour buckets TIMESTAMPTZ[], $2 the span of each INTEGER[], $3 signs INTEGER[], of each 1, or -1: taken from its day
-- $4 week buckets TIMESTAMPTZ[], $5 the span of each INTEGER[]; $6 day buckets TIMESTAMPTZ[], $7 the span of each INTEGER[]
-- $8 ids UUID[], NULL for all; $9 each operator for itself BOOLEAN
SELECT
    span,
    operator_id::TEXT AS scope_id,
    array_agg(bucket ORDER BY bucket) AS buckets,
    array_agg(sample_count ORDER BY bucket) AS sample_counts
FROM (
    SELECT span, operator_id, bucket, sum(sign * sample_count)::BIGINT AS sample_count
    FROM (
        SELECT span, sign, operator_id, unnest(buckets) AS bucket, unnest(sample_counts) AS sample_count
        FROM (
            SELECT place.span, 1 AS sign, hit.*
            FROM unnest($4::TIMESTAMPTZ[], $5::INTEGER[]) AS place (bucket, span)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN $9::BOOLEAN THEN operator_id END AS operator_id, buckets, sample_counts
                FROM anlyt.latency_weeks AS week
                WHERE week.week_bucket = place.bucket
                  AND ($8::UUID[] IS NULL OR week.operator_id = ANY($8))
                OFFSET 0
            ) AS hit
            UNION ALL
            SELECT place.span, 1 AS sign, hit.*
            FROM unnest($6::TIMESTAMPTZ[], $7::INTEGER[]) AS place (bucket, span)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN $9::BOOLEAN THEN operator_id END AS operator_id, buckets, sample_counts
                FROM anlyt.latency_days AS day
                WHERE day.day_bucket = place.bucket
                  AND ($8::UUID[] IS NULL OR day.operator_id = ANY($8))
                OFFSET 0
            ) AS hit
            UNION ALL
            SELECT place.span, 1 AS sign, hit.*
            FROM (
                SELECT bucket, span, bucket + INTERVAL '7 days' AS behind
                FROM unnest($4::TIMESTAMPTZ[], $5::INTEGER[]) AS week (bucket, span)
                UNION ALL
                SELECT bucket, span, bucket + INTERVAL '1 day' AS behind
                FROM unnest($6::TIMESTAMPTZ[], $7::INTEGER[]) AS day (bucket, span)
            ) AS place
            CROSS JOIN LATERAL (
                SELECT CASE WHEN $9::BOOLEAN THEN operator_id END AS operator_id, buckets, sample_counts
                FROM anlyt.latency_histograms AS histogram
                WHERE histogram.hour_bucket >= place.bucket
                  AND histogram.hour_bucket < place.behind
                  AND histogram.segment > 0
                  AND ($8::UUID[] IS NULL OR histogram.operator_id = ANY($8))
                OFFSET 0
            ) AS hit
            UNION ALL
            SELECT place.span, place.sign, hit.*
            FROM unnest($1::TIMESTAMPTZ[], $2::INTEGER[], $3::INTEGER[]) AS place (bucket, span, sign)
            CROSS JOIN LATERAL (
                SELECT CASE WHEN $9::BOOLEAN THEN operator_id END AS operator_id, buckets, sample_counts
                FROM anlyt.latency_histograms AS histogram
                WHERE histogram.hour_bucket = place.bucket
                  AND ($8::UUID[] IS NULL OR histogram.operator_id = ANY($8))
                OFFSET 0
            ) AS hit
        ) AS part
    ) AS sample
    GROUP BY span, operator_id, bucket
) AS merged
GROUP BY span, operator_id
