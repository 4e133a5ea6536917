-- Be counted as a worker of this stream while the session lasts.
-- $1 lock class INTEGER, $2 presence key INTEGER
SELECT pg_advisory_lock_shared($1, $2)
