-- What the rows of each day in the archive's metrics_hourly, or in its staging table, add up to; as
-- archive/sum_metrics_hourly says it in PostgreSQL.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
SELECT
    toUnixTimestamp(toStartOfDay(hour_bucket)) AS day,
    count() AS row_count,
    [
        toString(sum(toInt256(total_messages))),
        toString(sum(toInt256(delivered_messages))),
        toString(sum(toInt256(failed_messages))),
        toString(sum(toInt256(pending_messages))),
        toString(sum(toDecimal256(total_cost, 6))),
        toString(sum(toInt256(latency_sum_ms))),
        toString(sum(toInt256(latency_sample_count))),
        toString(sum(toInt256(peak_tps)))
    ] AS sums,
    toString(sum(toInt128(reinterpretAsInt64(reverse(substring(MD5(concatWithSeparator(
            '|',
            concat(toString(hour_bucket), '+00'),
            toString(scope),
            toString(scope_id),
            toString(total_messages),
            toString(delivered_messages),
            toString(failed_messages),
            toString(pending_messages),
            toDecimalString(total_cost, 6),
            toString(latency_sum_ms),
            toString(latency_sample_count),
            toString(peak_tps),
            concat(replaceRegexpOne(toString(updated_at), '\\.?0*$', ''), '+00')
        )), 1, 8)))))) AS checksum
FROM {table}
WHERE hour_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND hour_bucket < toDateTime({until:UInt32}, 'UTC')
GROUP BY day
