-- The largest peak of one scope's rows of the given hours, by span. Each hour is looked up by the beginning of the
-- primary key (OFFSET 0 keeps it so), and by the whole of it when ids are named.
-- $1 hour buckets TIMESTAMPTZ[], $2 the span of each INTEGER[]
-- $3 scope TEXT; $4 ids TEXT[], NULL for all
SELECT place.span, max(hit.peak_tps) AS peak_tps
FROM unnest($1::TIMESTAMPTZ[], $2::INTEGER[]) AS place (bucket, span)
CROSS JOIN LATERAL (
    SELECT peak_tps
    FROM anlyt.metrics_hourly AS roll_up
    WHERE roll_up.hour_bucket = place.bucket
      AND roll_up.scope = $3::TEXT
      AND ($4::TEXT[] IS NULL OR roll_up.scope_id = ANY($4))
    OFFSET 0
) AS hit
GROUP BY place.span
