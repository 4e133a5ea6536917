-- What the rows of each day in the archive's operator_performance, or in its staging table, add up to: as
-- archive/sum_operator_performance says it in PostgreSQL, and the checksum as anlyt.columns makes it.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
WITH
    toUInt64(toUnixTimestamp(hour_bucket)) * 7007993033596659061 +
    reinterpretAsUInt64(substring(MD5(toLowCardinality(toString(operator_id))), 1, 8)) * 16386177470231024717 +
    toUInt64(total_messages) * 10301703612467924029 +
    toUInt64(delivered_messages) * 7704356762805403159 +
    toUInt64(failed_messages) * 3130844673536001943 +
    toUInt64(latency_sum_ms) * 9858828215057200019 +
    toUInt64(latency_sample_count) * 9512790334523716251 +
    ifNull(toUInt64(latency_p95_ms), 9223372036854775808) * 4609337871110472689 +
    toUInt64(peak_tps) * 13934488488624884623 +
    toUInt64(error_count) * 10416546869525973729 +
    toUInt64(toUnixTimestamp64Micro(updated_at)) * 3624165038658539951 AS mixed,
    bitXor(mixed, bitShiftRight(mixed, 32)) * 11400714819323198485 AS scattered
SELECT
    toUnixTimestamp(toStartOfDay(hour_bucket)) AS day,
    count() AS row_count,
    [
        toString(sum(toInt128(total_messages))),
        toString(sum(toInt128(delivered_messages))),
        toString(sum(toInt128(failed_messages))),
        toString(sum(toInt128(latency_sum_ms))),
        toString(sum(toInt128(latency_sample_count))),
        toString(sum(toInt128(peak_tps))),
        toString(sum(toInt128(error_count)))
    ] AS sums,
    toString(sum(bitXor(scattered, bitShiftRight(scattered, 29)))) AS checksum
FROM {table}
WHERE hour_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND hour_bucket < toDateTime({until:UInt32}, 'UTC')
GROUP BY day
