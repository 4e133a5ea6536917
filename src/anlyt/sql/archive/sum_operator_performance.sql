-- What the rows of each day of operator_performance add up to: how many, and every number. archive/check_operator_performance
-- says the same in ClickHouse.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    date_bin('1 day', hour_bucket, '2000-01-01 00:00:00+00') AS day,
    count(*) AS row_count,
    ARRAY[
        sum(total_messages),
        sum(delivered_messages),
        sum(failed_messages),
        sum(latency_sum_ms),
        sum(latency_sample_count),
        sum(peak_tps),
        sum(error_count)
    ]::NUMERIC[] AS sums
FROM anlyt.operator_performance
WHERE hour_bucket >= $1
  AND hour_bucket < $2
GROUP BY day
