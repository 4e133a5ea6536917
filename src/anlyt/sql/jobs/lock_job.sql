-- Be the one runner of a job while the session lasts; false when somebody else is.
-- $1 job TEXT
SELECT pg_try_advisory_lock(hashtext('anlyt.job'), hashtext($1))
