-- Wait until nobody else migrates; the lock ends with the session.
-- $1 lock BIGINT
SELECT pg_advisory_lock($1)
