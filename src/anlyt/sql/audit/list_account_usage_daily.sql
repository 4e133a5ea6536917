-- All rows of account_usage_daily in a period.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
SELECT
    day_bucket AS bucket,
    'ACCOUNT' AS scope,
    account_id::TEXT AS scope_id,
    messages_sent,
    messages_delivered,
    messages_failed,
    total_cost,
    total_segments
FROM anlyt.account_usage_daily
WHERE day_bucket >= $1
  AND day_bucket < $2
