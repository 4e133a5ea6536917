-- Operator hours whose percentile does not know all samples yet.
-- $1 start TIMESTAMPTZ, $2 end TIMESTAMPTZ, exclusive
SELECT DISTINCT hour_bucket, operator_id::TEXT AS operator_id
FROM anlyt.latency_histograms
WHERE segment > 0
  AND hour_bucket >= $1
  AND hour_bucket < $2
