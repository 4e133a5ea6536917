-- One page of account_usage_daily in the order of its primary key: a period's rows of some ids, behind a row.
-- Every bucket is looked up by the whole key (OFFSET 0 keeps it so), in order, until the page is full: a few ids out of
-- a thousand would otherwise cost a scan of the period.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
-- $3 bucket TIMESTAMPTZ, $4 account_id UUID: the row before the page, or a key before the period
-- $5 ids UUID[]; $6 row limit INTEGER
SELECT
    hit.day_bucket,
    hit.account_id::TEXT AS account_id,
    hit.messages_sent,
    hit.messages_delivered,
    hit.messages_failed,
    hit.total_cost,
    hit.total_segments,
    hit.updated_at
FROM (
    SELECT bucket
    FROM generate_series(
        date_trunc('day', GREATEST($1::TIMESTAMPTZ, $3::TIMESTAMPTZ), 'UTC'),
        $2::TIMESTAMPTZ,
        INTERVAL '1 day',
        'UTC'
    ) AS bucket
    ORDER BY bucket
) AS buckets
CROSS JOIN LATERAL (
    SELECT *
    FROM anlyt.account_usage_daily AS usage
    WHERE usage.day_bucket = buckets.bucket
      AND usage.day_bucket >= $1
      AND usage.day_bucket < $2
      AND (usage.day_bucket, usage.account_id) > ($3, $4::UUID)
      AND usage.account_id = ANY($5::UUID[])
    OFFSET 0
) AS hit
ORDER BY buckets.bucket, hit.account_id
LIMIT $6
