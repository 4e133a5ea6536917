-- One page of account_usage_daily in the order of its primary key: a period's rows that a Grant may see, behind a row.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
-- $3 bucket TIMESTAMPTZ, $4 account_id UUID: the row before the page, or a key before the period
-- $5 row limit INTEGER
SELECT
    day_bucket,
    account_id::TEXT AS account_id,
    messages_sent,
    messages_delivered,
    messages_failed,
    total_cost,
    total_segments,
    updated_at
FROM anlyt.account_usage_daily
WHERE day_bucket >= GREATEST($1::TIMESTAMPTZ, $3)
  AND day_bucket < $2
  AND (day_bucket, account_usage_daily.account_id) > ($3, $4::UUID)
ORDER BY day_bucket, account_usage_daily.account_id
LIMIT $5
