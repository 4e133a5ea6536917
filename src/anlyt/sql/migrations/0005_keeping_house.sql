-- The last success of a job is looked up by itself, however long it has failed since.
CREATE INDEX ix_anlyt_job_runs_ok ON anlyt.job_runs (job, started_at DESC) WHERE outcome = 'ok';

-- A letter's event is known by its id while the letter is open, so that the purge can tell when it has been counted.
ALTER TABLE anlyt.dead_letters ADD COLUMN event_id TEXT;
CREATE INDEX ix_anlyt_dead_letters_event ON anlyt.dead_letters (event_id) WHERE resolution IS NULL;
