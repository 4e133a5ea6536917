-- Write the nearest-rank 95th percentile of operator hours whose histogram was just merged; a row for each that changed.
-- $1 hour_bucket TIMESTAMPTZ[], $2 operator_id UUID[]
WITH percentiles AS (
    SELECT h.hour_bucket, h.operator_id, anlyt.latency_value(p.bucket) AS latency_p95_ms
    FROM unnest($1::TIMESTAMPTZ[], $2::UUID[]) AS t (hour_bucket, operator_id)
    JOIN anlyt.latency_histograms AS h USING (hour_bucket, operator_id)
    CROSS JOIN LATERAL (
        SELECT c.bucket
        FROM (
            SELECT
                u.bucket::INTEGER AS bucket,
                sum(u.sample_count) OVER (ORDER BY u.bucket) AS up_to_here,
                sum(u.sample_count) OVER () AS total
            FROM unnest(h.buckets, h.sample_counts) AS u (bucket, sample_count)
        ) AS c
        WHERE c.up_to_here * 100 >= c.total * 95
        ORDER BY c.bucket
        LIMIT 1
    ) AS p
    WHERE h.segment = 0
)
UPDATE anlyt.operator_performance AS o
SET latency_p95_ms = p.latency_p95_ms,
    updated_at = now()
FROM percentiles AS p
WHERE o.hour_bucket = p.hour_bucket
  AND o.operator_id = p.operator_id
  AND o.latency_p95_ms IS DISTINCT FROM p.latency_p95_ms
RETURNING o.hour_bucket, o.operator_id
