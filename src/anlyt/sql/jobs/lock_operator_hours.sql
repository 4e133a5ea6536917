-- Lock operator hours in the order the workers take them.
-- $1 hour_bucket TIMESTAMPTZ[], $2 operator_id UUID[]
SELECT 1
FROM anlyt.operator_performance
JOIN unnest($1::TIMESTAMPTZ[], $2::UUID[]) AS t (hour_bucket, operator_id) USING (hour_bucket, operator_id)
ORDER BY hour_bucket, operator_id
FOR UPDATE OF operator_performance
