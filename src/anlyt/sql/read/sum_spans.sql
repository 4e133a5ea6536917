-- Sums of one scope's rows by span; a span's rows are those of the given hours and days, less the hours that are in its
-- days but not in it. Every bucket is looked up by the beginning of the primary key (OFFSET 0 keeps it so), and by the
-- whole of it when ids are named. A largest value cannot be taken from: where the largest of a day is in an hour that is
-- taken away, the others may have less, which `peak_unsure` says; `sure_peak_tps` leaves such days out.
-- $1 hour buckets TIMESTAMPTZ[], $2 the span of each INTEGER[], $3 signs INTEGER[], of each 1, or -1: taken from its day
-- $4 day buckets TIMESTAMPTZ[], $5 the span of each INTEGER[], $6 reduced BOOLEAN[]: whether hours are taken from it
-- $7 scope TEXT; $8 ids TEXT[], NULL for all
-- $9 spans INTEGER[] of sums that come from elsewhere, to be added; $10 total NUMERIC[], $11 delivered NUMERIC[],
-- $12 failed NUMERIC[], $13 pending NUMERIC[], $14 cost NUMERIC[], $15 latency NUMERIC[], $16 samples NUMERIC[],
-- $17 peak NUMERIC[]
WITH hot AS (
    SELECT
        span,
        sign,
        reduced,
        sum(total_messages) AS total_messages,
        sum(delivered_messages) AS delivered_messages,
        sum(failed_messages) AS failed_messages,
        sum(pending_messages) AS pending_messages,
        sum(total_cost) AS total_cost,
        sum(latency_sum_ms) AS latency_sum_ms,
        sum(latency_sample_count) AS latency_sample_count,
        max(peak_tps) AS peak_tps
    FROM (
        SELECT place.span, place.sign, FALSE AS reduced, hit.*
        FROM unnest($1::TIMESTAMPTZ[], $2::INTEGER[], $3::INTEGER[]) AS place (bucket, span, sign)
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
              AND roll_up.scope = $7::TEXT
              AND ($8::TEXT[] IS NULL OR roll_up.scope_id = ANY($8))
            OFFSET 0
        ) AS hit
        UNION ALL
        SELECT place.span, 1 AS sign, place.reduced, hit.*
        FROM unnest($4::TIMESTAMPTZ[], $5::INTEGER[], $6::BOOLEAN[]) AS place (bucket, span, reduced)
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
              AND roll_up.scope = $7::TEXT
              AND ($8::TEXT[] IS NULL OR roll_up.scope_id = ANY($8))
            OFFSET 0
        ) AS hit
    ) AS found
    GROUP BY span, sign, reduced
),
sums AS (
    SELECT
        span,
        sum(sign * total_messages) AS total_messages,
        sum(sign * delivered_messages) AS delivered_messages,
        sum(sign * failed_messages) AS failed_messages,
        sum(sign * pending_messages) AS pending_messages,
        sum(sign * total_cost) AS total_cost,
        sum(sign * latency_sum_ms) AS latency_sum_ms,
        sum(sign * latency_sample_count) AS latency_sample_count,
        max(peak_tps) FILTER (WHERE sign > 0 AND NOT reduced) AS sure_peak_tps,
        max(peak_tps) FILTER (WHERE reduced) AS day_peak_tps,
        max(peak_tps) FILTER (WHERE sign < 0) AS taken_peak_tps
    FROM (
        SELECT * FROM hot
        UNION ALL
        SELECT elsewhere.span, 1, FALSE, total, delivered, failed, pending, cost, latency, samples, peak
        FROM unnest(
            $9::INTEGER[], $10::NUMERIC[], $11::NUMERIC[], $12::NUMERIC[], $13::NUMERIC[], $14::NUMERIC[],
            $15::NUMERIC[], $16::NUMERIC[], $17::NUMERIC[]
        ) AS elsewhere (span, total, delivered, failed, pending, cost, latency, samples, peak)
    ) AS both_sides
    GROUP BY span
)
SELECT
    span,
    total_messages,
    delivered_messages,
    failed_messages,
    pending_messages,
    total_cost,
    latency_sum_ms,
    latency_sample_count,
    GREATEST(sure_peak_tps, day_peak_tps) AS peak_tps,
    sure_peak_tps,
    COALESCE(day_peak_tps <= taken_peak_tps AND day_peak_tps > COALESCE(sure_peak_tps, -1), FALSE) AS peak_unsure
FROM sums
ORDER BY span
