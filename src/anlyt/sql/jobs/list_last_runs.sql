-- The last run of each of these jobs that ever ran, and how long ago it started. Each is one look into the index on
-- (job, started_at).
-- $1 job TEXT[]
SELECT
    last.job,
    last.started_at,
    last.finished_at,
    last.outcome,
    last.detail::TEXT AS detail,
    extract(EPOCH FROM clock_timestamp() - last.started_at)::FLOAT8 AS age_s
FROM unnest($1::TEXT[]) AS asked (job)
CROSS JOIN LATERAL (
    SELECT job, started_at, finished_at, outcome, detail
    FROM anlyt.job_runs
    WHERE job_runs.job = asked.job
    ORDER BY started_at DESC
    LIMIT 1
) AS last
