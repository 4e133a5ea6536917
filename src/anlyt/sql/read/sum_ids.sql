-- Sums of one scope's rows by id over the given hours and days, the first of them in an order, and how many ids there
-- are. Every bucket is looked up by the beginning of the primary key, and by the whole of it when ids are named.
-- $1 hour buckets TIMESTAMPTZ[], $2 day buckets TIMESTAMPTZ[]
-- $3 scope TEXT; $4 ids TEXT[], NULL for all
-- $5 sort TEXT (the value's name in answers), $6 descending BOOLEAN, $7 row limit INTEGER
-- $8 ids TEXT[] of sums that come from elsewhere, to be added; $9 total NUMERIC[], $10 delivered NUMERIC[],
-- $11 failed NUMERIC[], $12 pending NUMERIC[], $13 cost NUMERIC[], $14 latency NUMERIC[], $15 samples NUMERIC[],
-- $16 peak NUMERIC[]
WITH hot AS (
    SELECT
        scope_id,
        sum(total_messages) AS total_messages,
        sum(delivered_messages) AS delivered_messages,
        sum(failed_messages) AS failed_messages,
        sum(pending_messages) AS pending_messages,
        sum(total_cost) AS total_cost,
        sum(latency_sum_ms) AS latency_sum_ms,
        sum(latency_sample_count) AS latency_sample_count,
        max(peak_tps) AS peak_tps
    FROM (
        SELECT hit.*
        FROM unnest($1::TIMESTAMPTZ[]) AS place (bucket)
        CROSS JOIN LATERAL (
            SELECT
                scope_id,
                total_messages,
                delivered_messages,
                failed_messages,
                pending_messages,
                total_cost,
                latency_sum_ms,
                latency_sample_count,
                peak_tps
            FROM anlyt.metrics_hourly AS roll_up
            WHERE roll_up.hour_bucket = place.bucket
              AND roll_up.scope = $3::TEXT
              AND ($4::TEXT[] IS NULL OR roll_up.scope_id = ANY($4))
            OFFSET 0
        ) AS hit
        UNION ALL
        SELECT hit.*
        FROM unnest($2::TIMESTAMPTZ[]) AS place (bucket)
        CROSS JOIN LATERAL (
            SELECT
                scope_id,
                total_messages,
                delivered_messages,
                failed_messages,
                pending_messages,
                total_cost,
                latency_sum_ms,
                latency_sample_count,
                peak_tps
            FROM anlyt.metrics_daily AS roll_up
            WHERE roll_up.day_bucket = place.bucket
              AND roll_up.scope = $3::TEXT
              AND ($4::TEXT[] IS NULL OR roll_up.scope_id = ANY($4))
            OFFSET 0
        ) AS hit
    ) AS found
    GROUP BY scope_id
),
sums AS (
    SELECT
        scope_id,
        sum(total_messages) AS total_messages,
        sum(delivered_messages) AS delivered_messages,
        sum(failed_messages) AS failed_messages,
        sum(pending_messages) AS pending_messages,
        sum(total_cost) AS total_cost,
        sum(latency_sum_ms) AS latency_sum_ms,
        sum(latency_sample_count) AS latency_sample_count,
        max(peak_tps) AS peak_tps
    FROM (
        SELECT * FROM hot
        UNION ALL
        SELECT *
        FROM unnest(
            $8::TEXT[], $9::NUMERIC[], $10::NUMERIC[], $11::NUMERIC[], $12::NUMERIC[], $13::NUMERIC[], $14::NUMERIC[],
            $15::NUMERIC[], $16::NUMERIC[]
        )
    ) AS both_sides
    GROUP BY scope_id
),
sorted AS (
    SELECT
        sums.*,
        CASE $5::TEXT
            WHEN 'totalMessages' THEN total_messages
            WHEN 'deliveredMessages' THEN delivered_messages
            WHEN 'failedMessages' THEN failed_messages
            WHEN 'pendingMessages' THEN pending_messages
            WHEN 'totalCost' THEN total_cost
            WHEN 'peakTps' THEN peak_tps
            WHEN 'deliveryRate' THEN delivered_messages / nullif(total_messages, 0)
            WHEN 'errorRate' THEN failed_messages / nullif(total_messages, 0)
            WHEN 'avgLatencyMs' THEN latency_sum_ms / nullif(latency_sample_count, 0)
        END AS sort_value
    FROM sums
)
SELECT
    scope_id,
    total_messages,
    delivered_messages,
    failed_messages,
    pending_messages,
    total_cost,
    latency_sum_ms,
    latency_sample_count,
    peak_tps,
    count(*) OVER () AS groups
FROM sorted
ORDER BY CASE WHEN $6::BOOLEAN THEN -sort_value ELSE sort_value END ASC NULLS LAST, scope_id
LIMIT $7
