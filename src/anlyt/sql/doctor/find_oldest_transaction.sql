-- The transaction that has been open longest here, and how long. Of other roles' sessions only a role that may read all
-- statistics sees when they began. What was deleted since then stays on disk, and so the tables of ids and seconds grow.
SELECT
    pid,
    usename::TEXT AS role,
    application_name::TEXT AS application,
    now() - xact_start AS age
FROM pg_stat_activity
WHERE datname = current_database()
  AND pid <> pg_backend_pid()
  AND xact_start IS NOT NULL
ORDER BY xact_start
LIMIT 1
