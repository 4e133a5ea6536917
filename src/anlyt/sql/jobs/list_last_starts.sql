-- Seconds since the last start of each job that has ever run.
SELECT job, extract(EPOCH FROM clock_timestamp() - max(started_at))::FLOAT8 AS age_s
FROM anlyt.job_runs
GROUP BY job
