-- The archive's account_usage_daily of a period that a Grant may see, behind a row, in the order of the key.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive
-- {bucket:UInt32}, {after_account_id:String}: the row before, or a key before the period
-- {every:UInt8} 1 for all ids, {ids:Array(UUID)}; {rows:UInt64} at most
-- Generated from schema.sql by make gen.
SELECT
    day_bucket,
    toString(account_id),
    messages_sent,
    messages_delivered,
    messages_failed,
    total_cost,
    total_segments,
    updated_at
FROM {table}
WHERE day_bucket >= toDateTime({since:UInt32}, 'UTC')
  AND day_bucket < toDateTime({until:UInt32}, 'UTC')
  AND (day_bucket, toString(account_id)) > (toDateTime({bucket:UInt32}, 'UTC'), {after_account_id:String})
  AND ({every:UInt8} OR account_id IN {ids:Array(UUID)})
ORDER BY day_bucket, toString(account_id)
LIMIT {rows:UInt64}
