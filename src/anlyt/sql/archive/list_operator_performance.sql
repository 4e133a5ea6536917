-- The archive's operator_performance of a period that a Grant may see, behind a row, in the order of the key.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- {bucket:UInt32}, {after_operator_id:String}: the row before, or a key before the period
-- {every:UInt8} 1 for all ids, {ids:Array(UUID)}; {rows:UInt64} at most
-- Generated from schema.sql by make gen.
SELECT
    hour_bucket,
    toString(operator_id),
    total_messages,
    delivered_messages,
    failed_messages,
    latency_sum_ms,
    latency_sample_count,
    latency_p95_ms,
    peak_tps,
    error_count,
    updated_at
FROM {table}
WHERE hour_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND hour_bucket < toDateTime({until:UInt32}, 'UTC')
  AND (hour_bucket, toString(operator_id)) > (toDateTime({bucket:UInt32}, 'UTC'), {after_operator_id:String})
  AND ({every:UInt8} OR operator_id IN {ids:Array(UUID)})
ORDER BY hour_bucket, toString(operator_id)
LIMIT {rows:UInt64}
