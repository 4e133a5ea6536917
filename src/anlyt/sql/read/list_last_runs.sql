-- The last run of every job that ever ran, how long ago it started, and when the job last ended well. The jobs are few,
-- so each is looked up by the indexes on (job, started_at).
WITH RECURSIVE jobs AS (
    (SELECT job FROM anlyt.job_runs ORDER BY job LIMIT 1)
    UNION ALL
    SELECT (SELECT later.job FROM anlyt.job_runs AS later WHERE later.job > jobs.job ORDER BY later.job LIMIT 1)
    FROM jobs
    WHERE jobs.job IS NOT NULL
)
SELECT
    run.job,
    run.started_at,
    run.finished_at,
    run.outcome,
    run.detail::TEXT AS detail,
    success.finished_at AS succeeded_at,
    extract(EPOCH FROM clock_timestamp() - run.started_at)::FLOAT8 AS age_s
FROM jobs
CROSS JOIN LATERAL (
    SELECT job, started_at, finished_at, outcome, detail
    FROM anlyt.job_runs
    WHERE job_runs.job = jobs.job
    ORDER BY started_at DESC
    LIMIT 1
) AS run
LEFT JOIN LATERAL (
    SELECT finished_at
    FROM anlyt.job_runs
    WHERE job_runs.job = jobs.job
      AND outcome = 'ok'
    ORDER BY started_at DESC
    LIMIT 1
) AS success ON TRUE
ORDER BY run.job
