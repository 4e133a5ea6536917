-- Own a partition: true when the locks of all its slots were free. They last as long as the session.
-- $1 lock class INTEGER, $2 slots INTEGER[]
SELECT bool_and(pg_try_advisory_lock($1, slot))
FROM unnest($2::INTEGER[]) AS slot
