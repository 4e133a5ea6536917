-- What the rows of each day in the archive's metrics_hourly, or in its staging table, add up to: as
-- archive/sum_metrics_hourly says it in PostgreSQL, and the checksum as anlyt.columns makes it.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
WITH
    toUInt64(toUnixTimestamp(hour_bucket)) * 7007993033596659061 +
    reinterpretAsUInt64(substring(MD5(toLowCardinality(toString(scope))), 1, 8)) * 17491668739001524529 +
    reinterpretAsUInt64(substring(MD5(toLowCardinality(toString(scope_id))), 1, 8)) * 1020991545194992277 +
    toUInt64(total_messages) * 10301703612467924029 +
    toUInt64(delivered_messages) * 7704356762805403159 +
    toUInt64(failed_messages) * 3130844673536001943 +
    toUInt64(pending_messages) * 7799231002458615831 +
    toUInt64(reinterpretAsInt64(total_cost)) * 829742725537951905 +
    toUInt64(latency_sum_ms) * 9858828215057200019 +
    toUInt64(latency_sample_count) * 9512790334523716251 +
    toUInt64(peak_tps) * 13934488488624884623 +
    toUInt64(toUnixTimestamp64Micro(updated_at)) * 3624165038658539951 AS mixed,
    bitXor(mixed, bitShiftRight(mixed, 32)) * 11400714819323198485 AS scattered
SELECT
    toUnixTimestamp(toStartOfDay(hour_bucket)) AS day,
    count() AS row_count,
    [
        toString(sum(toInt128(total_messages))),
        toString(sum(toInt128(delivered_messages))),
        toString(sum(toInt128(failed_messages))),
        toString(sum(toInt128(pending_messages))),
        toString(sum(toDecimal128(total_cost, 6))),
        toString(sum(toInt128(latency_sum_ms))),
        toString(sum(toInt128(latency_sample_count))),
        toString(sum(toInt128(peak_tps)))
    ] AS sums,
    toString(sum(bitXor(scattered, bitShiftRight(scattered, 29)))) AS checksum
FROM {table}
WHERE hour_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND hour_bucket < toDateTime({until:UInt32}, 'UTC')
GROUP BY day
