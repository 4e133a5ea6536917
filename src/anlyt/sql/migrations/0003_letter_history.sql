-- Dead letters can be retried and discarded, and keep their history.
ALTER TABLE anlyt.dead_letters
    ADD COLUMN resolution TEXT,
    ADD COLUMN resolved_at TIMESTAMPTZ,
    ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN attempted_at TIMESTAMPTZ,
    ADD COLUMN retry_reason TEXT,
    ADD COLUMN retry_detail TEXT,
    ADD COLUMN event_ids TEXT[];
CREATE INDEX ix_anlyt_dead_letters_open ON anlyt.dead_letters (recorded_at) WHERE resolution IS NULL;
CREATE INDEX ix_anlyt_dead_letters_ids ON anlyt.dead_letters USING gin (event_ids);
