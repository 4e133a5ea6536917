-- What the rows of each day of account_usage_daily add up to: how many, and every number. archive/check_account_usage_daily
-- says the same in ClickHouse.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    date_bin('1 day', day_bucket, '2000-01-01 00:00:00+00') AS day,
    count(*) AS row_count,
    ARRAY[
        sum(messages_sent),
        sum(messages_delivered),
        sum(messages_failed),
        sum(total_cost),
        sum(total_segments)
    ]::NUMERIC[] AS sums
FROM anlyt.account_usage_daily
WHERE day_bucket >= $1
  AND day_bucket < $2
GROUP BY day
