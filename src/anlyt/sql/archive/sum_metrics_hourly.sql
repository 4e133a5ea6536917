-- What the rows of each day of metrics_hourly add up to: how many, every number, and the first half of each
-- row's MD5, so that days whose sums agree have the same rows. archive/check_metrics_hourly says the same in ClickHouse.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    date_trunc('day', hour_bucket, 'UTC') AS day,
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
    ]::NUMERIC[] AS sums,
    sum(
        ('x' || left(md5(concat_ws(
            '|',
            hour_bucket,
            scope,
            scope_id,
            total_messages,
            delivered_messages,
            failed_messages,
            pending_messages,
            total_cost,
            latency_sum_ms,
            latency_sample_count,
            peak_tps,
            updated_at
        )), 16))::BIT(64)::BIGINT
    ) AS checksum
FROM anlyt.metrics_hourly
WHERE hour_bucket >= $1
  AND hour_bucket < $2
GROUP BY day
