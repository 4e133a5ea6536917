-- Operator hours whose latency_sample_count is not the number of samples in all segments of their histogram. A missing
-- row or histogram is zero.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (the first hour that both tables must hold)
WITH histograms AS (
    SELECT hour_bucket, operator_id, sum(sample_count) AS samples
    FROM anlyt.latency_histograms
    CROSS JOIN LATERAL unnest(sample_counts) AS sample_count
    WHERE hour_bucket >= $2
    GROUP BY hour_bucket, operator_id
),
performance AS (
    SELECT hour_bucket, operator_id, latency_sample_count
    FROM anlyt.operator_performance
    WHERE hour_bucket >= $2
)
SELECT
    'operator_performance' AS table_name, hour_bucket AS bucket, 'OPERATOR' AS scope, operator_id::TEXT AS scope_id,
    'latency_sample_count' AS column_name, coalesce(latency_sample_count, 0)::TEXT AS found,
    coalesce(samples, 0)::TEXT AS expected, count(*) OVER () AS differences
FROM performance
FULL JOIN histograms USING (hour_bucket, operator_id)
WHERE coalesce(latency_sample_count, 0) <> coalesce(samples, 0)
ORDER BY bucket, scope_id
LIMIT $1
