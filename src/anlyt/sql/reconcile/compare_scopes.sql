-- Cells of PLATFORM rows, hourly and daily, that are not the sum of the ACCOUNT rows of their bucket. A missing row is
-- zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (days before may be leaving)
WITH sums AS (
    SELECT
        'metrics_hourly' AS table_name, hour_bucket AS bucket, scope,
        sum(total_messages) AS total, sum(delivered_messages) AS delivered, sum(failed_messages) AS failed,
        sum(pending_messages) AS pending, sum(total_cost) AS cost, sum(latency_sum_ms) AS latency,
        sum(latency_sample_count) AS samples
    FROM anlyt.metrics_hourly
    WHERE scope IN ('ACCOUNT', 'PLATFORM')
    GROUP BY hour_bucket, scope
    UNION ALL
    SELECT
        'metrics_daily', day_bucket, scope,
        sum(total_messages), sum(delivered_messages), sum(failed_messages),
        sum(pending_messages), sum(total_cost), sum(latency_sum_ms),
        sum(latency_sample_count)
    FROM anlyt.metrics_daily
    WHERE scope IN ('ACCOUNT', 'PLATFORM')
      AND day_bucket >= $2
    GROUP BY day_bucket, scope
)
SELECT
    table_name, bucket, 'PLATFORM' AS scope, 'platform' AS scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM (SELECT * FROM sums WHERE scope = 'PLATFORM') AS p
FULL JOIN (SELECT * FROM sums WHERE scope = 'ACCOUNT') AS a USING (table_name, bucket)
CROSS JOIN LATERAL (
    VALUES
        ('total_messages', coalesce(p.total, 0), coalesce(a.total, 0)),
        ('delivered_messages', coalesce(p.delivered, 0), coalesce(a.delivered, 0)),
        ('failed_messages', coalesce(p.failed, 0), coalesce(a.failed, 0)),
        ('pending_messages', coalesce(p.pending, 0), coalesce(a.pending, 0)),
        ('total_cost', coalesce(p.cost, 0), coalesce(a.cost, 0)),
        ('latency_sum_ms', coalesce(p.latency, 0), coalesce(a.latency, 0)),
        ('latency_sample_count', coalesce(p.samples, 0), coalesce(a.samples, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY table_name, bucket, column_name
LIMIT $1
