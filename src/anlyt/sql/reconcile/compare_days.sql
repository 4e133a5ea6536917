-- Cells of metrics_daily that are not the sum of their day's hours (peak: not the highest). A missing row is zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (the first day whose hours are all hot)
WITH hours AS (
    SELECT
        date_bin('1 day', hour_bucket, '2000-01-01 00:00:00+00') AS day_bucket,
        scope,
        scope_id,
        sum(total_messages) AS total,
        sum(delivered_messages) AS delivered,
        sum(failed_messages) AS failed,
        sum(pending_messages) AS pending,
        sum(total_cost) AS cost,
        sum(latency_sum_ms) AS latency,
        sum(latency_sample_count) AS samples,
        max(peak_tps) AS peak
    FROM anlyt.metrics_hourly
    WHERE hour_bucket >= $2
    GROUP BY 1, 2, 3
),
days AS (
    SELECT *
    FROM anlyt.metrics_daily
    WHERE day_bucket >= $2
)
SELECT
    'metrics_daily' AS table_name, day_bucket AS bucket, scope, scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM days
FULL JOIN hours USING (day_bucket, scope, scope_id)
CROSS JOIN LATERAL (
    VALUES
        ('total_messages', coalesce(total_messages, 0), coalesce(total, 0)),
        ('delivered_messages', coalesce(delivered_messages, 0), coalesce(delivered, 0)),
        ('failed_messages', coalesce(failed_messages, 0), coalesce(failed, 0)),
        ('pending_messages', coalesce(pending_messages, 0), coalesce(pending, 0)),
        ('total_cost', coalesce(total_cost, 0), coalesce(cost, 0)),
        ('latency_sum_ms', coalesce(latency_sum_ms, 0), coalesce(latency, 0)),
        ('latency_sample_count', coalesce(latency_sample_count, 0), coalesce(samples, 0)),
        ('peak_tps', coalesce(peak_tps, 0), coalesce(peak, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY bucket, scope, scope_id, column_name
LIMIT $1
