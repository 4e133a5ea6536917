-- One migration runner at a time; held until the session ends.
SELECT pg_advisory_lock(hashtext('anlyt.migrate'))
