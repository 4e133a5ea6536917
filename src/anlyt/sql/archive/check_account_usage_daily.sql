-- What the rows of each day in the archive's account_usage_daily, or in its staging table, add up to: as
-- archive/sum_account_usage_daily says it in PostgreSQL, and the checksum as anlyt.columns makes it.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
WITH
    toUInt64(toUnixTimestamp(day_bucket)) * 13691220128727814341 +
    reinterpretAsUInt64(substring(MD5(toLowCardinality(toString(account_id))), 1, 8)) * 13724557678571423883 +
    toUInt64(messages_sent) * 11943073955763215327 +
    toUInt64(messages_delivered) * 3791256877325524899 +
    toUInt64(messages_failed) * 6739028750622306905 +
    toUInt64(reinterpretAsInt64(total_cost)) * 829742725537951905 +
    toUInt64(total_segments) * 6150479418435262753 +
    toUInt64(toUnixTimestamp64Micro(updated_at)) * 3624165038658539951 AS mixed,
    bitXor(mixed, bitShiftRight(mixed, 32)) * 11400714819323198485 AS scattered
SELECT
    toUnixTimestamp(toStartOfDay(day_bucket)) AS day,
    count() AS row_count,
    [
        toString(sum(toInt128(messages_sent))),
        toString(sum(toInt128(messages_delivered))),
        toString(sum(toInt128(messages_failed))),
        toString(sum(toDecimal128(total_cost, 6))),
        toString(sum(toInt128(total_segments)))
    ] AS sums,
    toString(sum(bitXor(scattered, bitShiftRight(scattered, 29)))) AS checksum
FROM {table}
WHERE day_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND day_bucket < toDateTime({until:UInt32}, 'UTC')
GROUP BY day
