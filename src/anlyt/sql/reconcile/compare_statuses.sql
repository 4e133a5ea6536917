-- Rows in which total = delivered + failed + pending does not hold.
-- $1 rows INTEGER (at most)
SELECT
    table_name, bucket, scope, scope_id, 'total_messages' AS column_name,
    total_messages::TEXT AS found, (delivered_messages + failed_messages + pending_messages)::TEXT AS expected,
    count(*) OVER () AS differences
FROM (
    SELECT
        'metrics_hourly' AS table_name, hour_bucket AS bucket, scope, scope_id,
        total_messages, delivered_messages, failed_messages, pending_messages
    FROM anlyt.metrics_hourly
    UNION ALL
    SELECT
        'metrics_daily', day_bucket, scope, scope_id,
        total_messages, delivered_messages, failed_messages, pending_messages
    FROM anlyt.metrics_daily
) AS both_tables
WHERE total_messages <> delivered_messages + failed_messages + pending_messages
ORDER BY table_name, bucket, scope, scope_id
LIMIT $1
