-- Merge segments that batches appended into segment 0, a bounded number of them; answers the operator hours they were
-- of, with the number of segments in each row. Only the holder of the job's lock touches segment 0; segments that
-- workers commit meanwhile are not seen and wait for the next time.
-- $1 segments INTEGER (at most)
WITH taken AS MATERIALIZED (
    SELECT hour_bucket, operator_id, segment
    FROM anlyt.latency_histograms
    WHERE segment > 0
    ORDER BY hour_bucket, operator_id
    LIMIT $1
),
appended AS (
    DELETE FROM anlyt.latency_histograms AS h
    USING taken AS t
    WHERE h.hour_bucket = t.hour_bucket
      AND h.operator_id = t.operator_id
      AND h.segment = t.segment
    RETURNING h.hour_bucket, h.operator_id, h.buckets, h.sample_counts
),
segments AS (
    SELECT hour_bucket, operator_id, buckets, sample_counts
    FROM appended
    UNION ALL
    SELECT h.hour_bucket, h.operator_id, h.buckets, h.sample_counts
    FROM (SELECT DISTINCT hour_bucket, operator_id FROM taken) AS t
    JOIN anlyt.latency_histograms AS h USING (hour_bucket, operator_id)
    WHERE h.segment = 0
),
summed AS MATERIALIZED (  -- so it is added up in a hash table: sorting a million samples costs twice as much
    SELECT s.hour_bucket, s.operator_id, u.bucket, sum(u.sample_count)::BIGINT AS sample_count
    FROM segments AS s
    CROSS JOIN unnest(s.buckets, s.sample_counts) AS u (bucket, sample_count)
    GROUP BY s.hour_bucket, s.operator_id, u.bucket
)
INSERT INTO anlyt.latency_histograms (hour_bucket, operator_id, segment, buckets, sample_counts)
SELECT hour_bucket, operator_id, 0, array_agg(bucket ORDER BY bucket), array_agg(sample_count ORDER BY bucket)
FROM summed
GROUP BY hour_bucket, operator_id
ORDER BY hour_bucket, operator_id
ON CONFLICT (hour_bucket, operator_id, segment) DO UPDATE
SET buckets = excluded.buckets,
    sample_counts = excluded.sample_counts
RETURNING hour_bucket, operator_id, (SELECT count(*) FROM taken) AS segments
