-- Rows of metrics_hourly that were written since a snapshot, in some hours, the latest hours first.
-- $1 since TEXT (a snapshot), $2 hours TIMESTAMPTZ[], $3 rows INTEGER (at most)
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
FROM anlyt.metrics_hourly AS roll_up
WHERE roll_up.hour_bucket = ANY($2::TIMESTAMPTZ[])
  AND anlyt.written_since(
      roll_up.xmin, $1::TEXT::PG_SNAPSHOT, (SELECT pg_snapshot_xmax(pg_current_snapshot()))
  )
ORDER BY hour_bucket DESC
LIMIT $3
