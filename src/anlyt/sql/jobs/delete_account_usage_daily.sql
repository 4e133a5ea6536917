-- Delete days that are past their retention, as delete_metrics_daily does.
-- $1 rows INTEGER (at most), $2 until TIMESTAMPTZ, exclusive
DELETE FROM anlyt.account_usage_daily
WHERE ctid = ANY (ARRAY(
    SELECT ctid
    FROM anlyt.account_usage_daily
    WHERE day_bucket < $2
    ORDER BY day_bucket
    LIMIT $1
    FOR UPDATE SKIP LOCKED
))
