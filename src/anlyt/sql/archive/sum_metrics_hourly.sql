-- What the rows of each day of metrics_hourly add up to: how many, and every number. archive/check_metrics_hourly
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
        sum(pending_messages),
        sum(total_cost),
        sum(latency_sum_ms),
        sum(latency_sample_count),
        sum(peak_tps)
    ]::NUMERIC[] AS sums
FROM anlyt.metrics_hourly
WHERE hour_bucket >= $1
  AND hour_bucket < $2
GROUP BY day
