-- Weeks of latency histograms that are not their days added up: samples, and samples times the number of their bucket,
-- so that none is in a wrong one. A missing histogram is zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (the first day that is kept): a week that begins earlier is not whole
WITH days AS (
    SELECT
        date_trunc('week', day_bucket, 'UTC') AS week_bucket,
        operator_id,
        sum(sample_count) AS samples,
        sum(bucket * sample_count) AS weight
    FROM anlyt.latency_days
    CROSS JOIN LATERAL unnest(buckets, sample_counts) AS u (bucket, sample_count)
    WHERE day_bucket >= date_trunc('week', $2::TIMESTAMPTZ + INTERVAL '6 days', 'UTC')
    GROUP BY 1, 2
),
weeks AS (
    SELECT week_bucket, operator_id, sum(sample_count) AS samples, sum(bucket * sample_count) AS weight
    FROM anlyt.latency_weeks
    CROSS JOIN LATERAL unnest(buckets, sample_counts) AS u (bucket, sample_count)
    WHERE week_bucket >= $2
    GROUP BY 1, 2
)
SELECT
    'latency_weeks' AS table_name, week_bucket AS bucket, 'OPERATOR' AS scope, operator_id::TEXT AS scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM weeks AS w
FULL JOIN days AS d USING (week_bucket, operator_id)
CROSS JOIN LATERAL (
    VALUES
        ('sample_counts', coalesce(w.samples, 0), coalesce(d.samples, 0)),
        ('buckets', coalesce(w.weight, 0), coalesce(d.weight, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY bucket, scope_id, column_name
LIMIT $1
