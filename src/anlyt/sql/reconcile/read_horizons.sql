-- From when on rows must be there: hours since the first month that all hourly tables hold, days since a year ago. What
-- is older is past its retention and may be leaving, one table after the other.
SELECT
    LEAST(max(first_month), date_trunc('month', now() - INTERVAL '90 days', 'UTC')) AS hours_since,
    date_trunc('day', now() - INTERVAL '365 days', 'UTC') AS days_since
FROM (
    SELECT coalesce(min(to_date(right(child.relname, 7), 'YYYY"m"MM')::TIMESTAMP AT TIME ZONE 'UTC'), 'infinity')
        AS first_month
    FROM pg_class AS parent
    LEFT JOIN pg_inherits ON inhparent = parent.oid AND NOT inhdetachpending
    LEFT JOIN pg_class AS child ON child.oid = inhrelid
    WHERE parent.relnamespace = 'anlyt'::REGNAMESPACE
      AND parent.relkind = 'p'
    GROUP BY parent.oid
) AS hourly_tables
