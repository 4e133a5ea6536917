-- The archive's metrics_hourly of a period that a Grant may see, behind a row, in the order of the key.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- {bucket:UInt32}, {after_scope:String}, {after_scope_id:String}: the row before, or a key before the period
-- {every:UInt8} 1 for all ids, {ids:Array(String)}, {scopes:Array(String)}; {rows:UInt64} at most
-- Generated from schema.sql by make gen.
SELECT
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
FROM {table}
WHERE hour_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND hour_bucket < toDateTime({until:UInt32}, 'UTC')
  AND (hour_bucket, toString(scope), toString(scope_id)) > (toDateTime({bucket:UInt32}, 'UTC'), {after_scope:String}, {after_scope_id:String})
  AND scope IN {scopes:Array(String)}
  AND ({every:UInt8} OR scope_id IN {ids:Array(String)})
ORDER BY hour_bucket, toString(scope), toString(scope_id)
LIMIT {rows:UInt64}
