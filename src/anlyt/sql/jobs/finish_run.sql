-- Record the end of a job's run.
-- $1 run_id BIGINT, $2 outcome TEXT, $3 detail JSON (as text)
UPDATE anlyt.job_runs
SET finished_at = clock_timestamp(),
    outcome = $2,
    detail = $3::TEXT::JSON
WHERE run_id = $1
