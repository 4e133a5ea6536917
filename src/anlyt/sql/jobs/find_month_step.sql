-- The next step on the way out of the oldest of these months, with its statement as text: a table's name is data here,
-- and DETACH ... CONCURRENTLY refuses to run in a function or a transaction. The name is the catalogue's, quoted by
-- format. Never a plain DETACH, nor a DROP of what is attached: both queue every writer behind the oldest transaction.
-- $1 parent TEXT[], $2 month TIMESTAMPTZ[]
SELECT
    step,
    format(
        CASE step
            WHEN 'detach' THEN 'ALTER TABLE anlyt.%1$I DETACH PARTITION anlyt.%2$I CONCURRENTLY'
            WHEN 'finalize' THEN 'ALTER TABLE anlyt.%1$I DETACH PARTITION anlyt.%2$I FINALIZE'
            WHEN 'drop' THEN 'DROP TABLE anlyt.%2$I'
        END,
        parent,
        relname
    ) AS statement
FROM unnest($1::TEXT[]) WITH ORDINALITY AS p (parent, place)
CROSS JOIN unnest($2::TIMESTAMPTZ[]) AS m (month)
JOIN pg_class ON relname = parent || '_' || to_char(month AT TIME ZONE 'UTC', '"y"YYYY"m"MM')
LEFT JOIN pg_inherits ON inhrelid = oid
CROSS JOIN LATERAL (
    SELECT CASE WHEN inhrelid IS NULL THEN 'drop' WHEN inhdetachpending THEN 'finalize' ELSE 'detach' END AS step
) AS s
WHERE relnamespace = 'anlyt'::REGNAMESPACE
  AND relkind = 'r'
ORDER BY month, place
LIMIT 1
