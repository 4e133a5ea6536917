-- One page of metrics_hourly in the order of its primary key: a period's rows of every id, behind a row. For staff.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
-- $3 bucket TIMESTAMPTZ, $4 scope TEXT, $5 scope_id TEXT: the row before the page, or a key before the period
-- $6 scopes TEXT[]; $7 row limit INTEGER
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
FROM anlyt.metrics_hourly
WHERE hour_bucket >= GREATEST($1::TIMESTAMPTZ, $3)
  AND hour_bucket < $2
  AND (hour_bucket, scope, scope_id) > ($3, $4::TEXT, $5::TEXT)
  AND scope = ANY($6::TEXT[])
ORDER BY hour_bucket, scope, scope_id
LIMIT $7
