-- Sums of one scope's rows by span; a span's rows are those of the given hours and days. Every bucket is looked up by
-- the beginning of the primary key (OFFSET 0 keeps it so), and by the whole of it when ids are named.
-- $1 hour buckets TIMESTAMPTZ[], $2 the span of each INTEGER[]
-- $3 day buckets TIMESTAMPTZ[], $4 the span of each INTEGER[]
-- $5 scope TEXT; $6 ids TEXT[], NULL for all
-- $7 spans INTEGER[] of sums that come from elsewhere, to be added; $8 total NUMERIC[], $9 delivered NUMERIC[],
-- $10 failed NUMERIC[], $11 pending NUMERIC[], $12 cost NUMERIC[], $13 latency NUMERIC[], $14 samples NUMERIC[],
-- $15 peak NUMERIC[]
WITH hot AS (
    SELECT
        span,
        sum(total_messages) AS total_messages,
        sum(delivered_messages) AS delivered_messages,
        sum(failed_messages) AS failed_messages,
        sum(pending_messages) AS pending_messages,
        sum(total_cost) AS total_cost,
        sum(latency_sum_ms) AS latency_sum_ms,
        sum(latency_sample_count) AS latency_sample_count,
        max(peak_tps) AS peak_tps
    FROM (
        SELECT place.span, hit.*
        FROM unnest($1::TIMESTAMPTZ[], $2::INTEGER[]) AS place (bucket, span)
        CROSS JOIN LATERAL (
            SELECT
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
              AND roll_up.scope = $5::TEXT
              AND ($6::TEXT[] IS NULL OR roll_up.scope_id = ANY($6))
            OFFSET 0
        ) AS hit
        UNION ALL
        SELECT place.span, hit.*
        FROM unnest($3::TIMESTAMPTZ[], $4::INTEGER[]) AS place (bucket, span)
        CROSS JOIN LATERAL (
            SELECT
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
              AND roll_up.scope = $5::TEXT
              AND ($6::TEXT[] IS NULL OR roll_up.scope_id = ANY($6))
            OFFSET 0
        ) AS hit
    ) AS found
    GROUP BY span
)
SELECT
    span,
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
        $7::INTEGER[], $8::NUMERIC[], $9::NUMERIC[], $10::NUMERIC[], $11::NUMERIC[], $12::NUMERIC[], $13::NUMERIC[],
        $14::NUMERIC[], $15::NUMERIC[]
    )
) AS both_sides
GROUP BY span
ORDER BY span
