-- One page of metrics_hourly in the order of its primary key: a period's rows of some ids, behind a row.
-- Every bucket is looked up by the whole key (OFFSET 0 keeps it so), in order, until the page is full: a few ids out of
-- a thousand would otherwise cost a scan of the period.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
-- $3 bucket TIMESTAMPTZ, $4 scope TEXT, $5 scope_id TEXT: the row before the page, or a key before the period
-- $6 scopes TEXT[], $7 ids TEXT[]; $8 row limit INTEGER
SELECT
    hit.hour_bucket,
    hit.scope,
    hit.scope_id,
    hit.total_messages,
    hit.delivered_messages,
    hit.failed_messages,
    hit.pending_messages,
    hit.total_cost,
    hit.latency_sum_ms,
    hit.latency_sample_count,
    hit.peak_tps,
    hit.updated_at
FROM (
    SELECT bucket
    FROM generate_series(
        date_trunc('hour', GREATEST($1::TIMESTAMPTZ, $3::TIMESTAMPTZ), 'UTC'),
        $2::TIMESTAMPTZ,
        INTERVAL '1 hour',
        'UTC'
    ) AS bucket
    ORDER BY bucket
) AS buckets
CROSS JOIN LATERAL (
    SELECT *
    FROM anlyt.metrics_hourly AS roll_up
    WHERE roll_up.hour_bucket = buckets.bucket
      AND roll_up.hour_bucket >= $1
      AND roll_up.hour_bucket < $2
      AND (roll_up.hour_bucket, roll_up.scope, roll_up.scope_id) > ($3, $4::TEXT, $5::TEXT)
      AND roll_up.scope = ANY($6::TEXT[])
      AND roll_up.scope_id = ANY($7::TEXT[])
    OFFSET 0
) AS hit
ORDER BY buckets.bucket, hit.scope, hit.scope_id
LIMIT $8
