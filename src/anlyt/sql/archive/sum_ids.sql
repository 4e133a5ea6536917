-- Sums of one scope's rows in the archive, id by id.
-- {since:UInt32}, {until:UInt32} seconds since 1970, exclusive; {buckets:Array(UInt32)} only these, empty for all
-- {scope:String}; {every:UInt8} 1 for all ids, {ids:Array(String)}
SELECT
    scope_id,
    toString(sum(toInt256(total_messages))) AS total,
    toString(sum(toInt256(delivered_messages))) AS delivered,
    toString(sum(toInt256(failed_messages))) AS failed,
    toString(sum(toInt256(pending_messages))) AS pending,
    toDecimalString(sum(toDecimal256(total_cost, 6)), 6) AS cost,
    toString(sum(toInt256(latency_sum_ms))) AS latency,
    toString(sum(toInt256(latency_sample_count))) AS samples,
    toString(max(peak_tps)) AS peak
FROM {table}
WHERE {bucket} >= toDateTime({since:UInt32}, 'UTC')
  AND {bucket} < toDateTime({until:UInt32}, 'UTC')
  AND (empty({buckets:Array(UInt32)}) OR toUnixTimestamp({bucket}) IN {buckets:Array(UInt32)})
  AND scope = {scope:String}
  AND ({every:UInt8} OR scope_id IN {ids:Array(String)})
GROUP BY scope_id
