-- The last run of every job that ever ran. The jobs are few, so each is looked up by the index on (job, started_at).
WITH RECURSIVE jobs AS (
    (SELECT job FROM anlyt.job_runs ORDER BY job LIMIT 1)
    UNION ALL
    SELECT (SELECT later.job FROM anlyt.job_runs AS later WHERE later.job > jobs.job ORDER BY later.job LIMIT 1)
    FROM jobs
    WHERE jobs.job IS NOT NULL
)
SELECT run.job, run.started_at, run.finished_at, run.outcome
FROM jobs
CROSS JOIN LATERAL (
    SELECT job, started_at, finished_at, outcome
    FROM anlyt.job_runs
    WHERE job_runs.job = jobs.job
    ORDER BY started_at DESC
    LIMIT 1
) AS run
ORDER BY run.job
