-- Cells of operator_performance that are not those of the operator's hour in metrics_hourly. A missing row is zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (the first hour that both tables must hold)
WITH performance AS (
    SELECT operator_id::TEXT AS scope_id, *
    FROM anlyt.operator_performance
    WHERE hour_bucket >= $2
),
hours AS (
    SELECT *
    FROM anlyt.metrics_hourly
    WHERE scope = 'OPERATOR'
      AND hour_bucket >= $2
)
SELECT
    'operator_performance' AS table_name, hour_bucket AS bucket, 'OPERATOR' AS scope, scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM performance AS o
FULL JOIN hours AS h USING (hour_bucket, scope_id)
CROSS JOIN LATERAL (
    VALUES
        ('total_messages', coalesce(o.total_messages, 0), coalesce(h.total_messages, 0)),
        ('delivered_messages', coalesce(o.delivered_messages, 0), coalesce(h.delivered_messages, 0)),
        ('failed_messages', coalesce(o.failed_messages, 0), coalesce(h.failed_messages, 0)),
        ('latency_sum_ms', coalesce(o.latency_sum_ms, 0), coalesce(h.latency_sum_ms, 0)),
        ('latency_sample_count', coalesce(o.latency_sample_count, 0), coalesce(h.latency_sample_count, 0)),
        ('peak_tps', coalesce(o.peak_tps, 0), coalesce(h.peak_tps, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY bucket, scope_id, column_name
LIMIT $1
