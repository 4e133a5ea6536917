-- Delete days that are past their retention, as delete_metrics_daily does. Histograms are kept as long as the daily rows.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
DELETE FROM anlyt.latency_days
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.latency_days
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
