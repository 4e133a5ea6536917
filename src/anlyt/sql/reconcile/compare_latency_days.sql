-- Days of latency histograms that are not their hours added up (segment 0 of each, which the percentile job merges in
-- the transaction that writes the day): samples, and samples times the number of their bucket, so that none is in a
-- wrong one. A missing histogram is zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (the first day whose hours are all hot)
WITH hours AS (
    SELECT
        date_bin('1 day', hour_bucket, '2000-01-01 00:00:00+00') AS day_bucket,
        operator_id,
        sum(sample_count) AS samples,
        sum(bucket * sample_count) AS weight
    FROM anlyt.latency_histograms
    CROSS JOIN LATERAL unnest(buckets, sample_counts) AS u (bucket, sample_count)
    WHERE hour_bucket >= $2
      AND segment = 0
    GROUP BY 1, 2
),
days AS (
    SELECT day_bucket, operator_id, sum(sample_count) AS samples, sum(bucket * sample_count) AS weight
    FROM anlyt.latency_days
    CROSS JOIN LATERAL unnest(buckets, sample_counts) AS u (bucket, sample_count)
    WHERE day_bucket >= $2
    GROUP BY 1, 2
)
SELECT
    'latency_days' AS table_name, day_bucket AS bucket, 'OPERATOR' AS scope, operator_id::TEXT AS scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM days AS d
FULL JOIN hours AS h USING (day_bucket, operator_id)
CROSS JOIN LATERAL (
    VALUES
        ('sample_counts', coalesce(d.samples, 0), coalesce(h.samples, 0)),
        ('buckets', coalesce(d.weight, 0), coalesce(h.weight, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY bucket, scope_id, column_name
LIMIT $1
