-- Cells of account_usage_daily that are not those of the account's day in metrics_daily. A missing row is zeros.
-- $1 rows INTEGER (at most), $2 since TIMESTAMPTZ (days before may be leaving)
WITH usage AS (
    SELECT account_id::TEXT AS scope_id, *
    FROM anlyt.account_usage_daily
    WHERE day_bucket >= $2
),
days AS (
    SELECT *
    FROM anlyt.metrics_daily
    WHERE scope = 'ACCOUNT'
      AND day_bucket >= $2
)
SELECT
    'account_usage_daily' AS table_name, day_bucket AS bucket, 'ACCOUNT' AS scope, scope_id, column_name,
    found::TEXT, expected::TEXT, count(*) OVER () AS differences
FROM usage AS u
FULL JOIN days AS d USING (day_bucket, scope_id)
CROSS JOIN LATERAL (
    VALUES
        ('messages_sent', coalesce(u.messages_sent, 0), coalesce(d.total_messages, 0)),
        ('messages_delivered', coalesce(u.messages_delivered, 0), coalesce(d.delivered_messages, 0)),
        ('messages_failed', coalesce(u.messages_failed, 0), coalesce(d.failed_messages, 0)),
        ('total_cost', coalesce(u.total_cost, 0), coalesce(d.total_cost, 0))
) AS cell (column_name, found, expected)
WHERE found <> expected
ORDER BY bucket, scope_id, column_name
LIMIT $1
