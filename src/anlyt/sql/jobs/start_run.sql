-- Record the start of a job's run.
-- $1 job TEXT
INSERT INTO anlyt.job_runs (job)
VALUES ($1)
RETURNING run_id
