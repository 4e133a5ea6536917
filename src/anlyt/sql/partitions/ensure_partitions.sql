-- Make the missing monthly partitions of these tables for these moments; how many were made. Months that are there
-- already are not even looked at again, so that this is cheap to ask.
-- $1 parent TEXT[], $2 moment TIMESTAMPTZ[]
SELECT count(*) FILTER (WHERE anlyt.ensure_partition(parent, month AT TIME ZONE 'UTC'))
FROM unnest($1::TEXT[]) AS p (parent)
CROSS JOIN (
    SELECT DISTINCT date_trunc('month', moment AT TIME ZONE 'UTC') AS month
    FROM unnest($2::TIMESTAMPTZ[]) AS m (moment)
) AS months
WHERE NOT EXISTS (
    SELECT
    FROM pg_class
    JOIN pg_inherits ON inhrelid = oid
    WHERE NOT inhdetachpending
      AND relnamespace = 'anlyt'::REGNAMESPACE
      AND relname = parent || '_' || to_char(month, '"y"YYYY"m"MM')
)
