-- Hold off anlyt.ensure_partition until the end of the transaction: it may bring a detached month back.
SELECT pg_advisory_xact_lock(hashtext('anlyt.ensure_partition'))
