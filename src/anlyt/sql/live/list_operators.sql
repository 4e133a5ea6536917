-- Rows of operator_performance that were written since a snapshot, in some hours, the latest hours first.
-- $1 since TEXT (a snapshot), $2 hours TIMESTAMPTZ[], $3 rows INTEGER (at most)
SELECT
    hour_bucket,
    operator_id::TEXT AS operator_id,
    total_messages,
    delivered_messages,
    failed_messages,
    latency_sum_ms,
    latency_sample_count,
    latency_p95_ms,
    peak_tps,
    error_count,
    updated_at
FROM anlyt.operator_performance AS roll_up
WHERE roll_up.hour_bucket = ANY($2::TIMESTAMPTZ[])
  AND anlyt.written_since(
      roll_up.xmin, $1::TEXT::PG_SNAPSHOT, (SELECT pg_snapshot_xmax(pg_current_snapshot()))
  )
ORDER BY hour_bucket DESC
LIMIT $3
