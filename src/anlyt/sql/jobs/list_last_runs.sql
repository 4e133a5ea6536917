-- The last run of each job.
SELECT DISTINCT ON (job) job, started_at, finished_at, outcome, detail::TEXT AS detail
FROM anlyt.job_runs
ORDER BY job, started_at DESC
