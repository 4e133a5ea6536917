-- Forget runs of a job that are older than a week, but never its last success: that one tells how long it has failed.
-- $1 job TEXT
DELETE FROM anlyt.job_runs
WHERE job = $1
  AND started_at < now() - INTERVAL '7 days'
  AND started_at < (
      SELECT max(started_at)
      FROM anlyt.job_runs
      WHERE job = $1
        AND outcome = 'ok'
  )
