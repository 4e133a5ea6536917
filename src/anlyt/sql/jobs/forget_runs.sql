-- Forget runs of a job that are older than a week.
-- $1 job TEXT
DELETE FROM anlyt.job_runs
WHERE job = $1
  AND started_at < now() - INTERVAL '7 days'
