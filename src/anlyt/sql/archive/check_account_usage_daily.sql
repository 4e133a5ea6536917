-- What the rows of each day in the archive's account_usage_daily, or in its staging table, add up to; as
-- archive/sum_account_usage_daily says it in PostgreSQL.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
SELECT
    toUnixTimestamp(toStartOfDay(day_bucket)) AS day,
    count() AS row_count,
    [
        toString(sum(toInt256(messages_sent))),
        toString(sum(toInt256(messages_delivered))),
        toString(sum(toInt256(messages_failed))),
        toString(sum(toDecimal256(total_cost, 6))),
        toString(sum(toInt256(total_segments)))
    ] AS sums,
    toString(sum(toInt128(reinterpretAsInt64(reverse(substring(MD5(concatWithSeparator(
            '|',
            concat(toString(day_bucket), '+00'),
            toString(account_id),
            toString(messages_sent),
            toString(messages_delivered),
            toString(messages_failed),
            toDecimalString(total_cost, 6),
            toString(total_segments),
            concat(replaceRegexpOne(toString(updated_at), '\\.?0*$', ''), '+00')
        )), 1, 8)))))) AS checksum
FROM {table}
WHERE day_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND day_bucket < toDateTime({until:UInt32}, 'UTC')
GROUP BY day
