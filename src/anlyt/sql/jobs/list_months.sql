-- The months that some table holds, or that have been detached from one and not been dropped yet, oldest first.
-- $1 parent TEXT[]
SELECT DISTINCT to_date(right(relname, 7), 'YYYY"m"MM')::TIMESTAMP AT TIME ZONE 'UTC' AS month
FROM pg_class
JOIN unnest($1::TEXT[]) AS p (parent) ON relname ~ ('^' || parent || '_y\d{4}m\d\d$')
WHERE relnamespace = 'anlyt'::REGNAMESPACE
  AND relkind = 'r'
ORDER BY month
