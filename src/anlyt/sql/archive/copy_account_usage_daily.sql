-- Rows of account_usage_daily, column for column, for COPY as text.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    day_bucket,
    account_id,
    messages_sent,
    messages_delivered,
    messages_failed,
    total_cost,
    total_segments,
    updated_at
FROM anlyt.account_usage_daily
WHERE day_bucket >= $1
  AND day_bucket < $2
