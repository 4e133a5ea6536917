-- Add to the running totals of a stream.
-- $1 stream TEXT, $2 slot SMALLINT, $3 counted_events BIGINT, $4 duplicate_events BIGINT, $5 dead_letter_events BIGINT,
-- $6 ignored_events BIGINT, $7 late_second_counts BIGINT
INSERT INTO anlyt.ingest_totals AS t (
    stream, slot, counted_events, duplicate_events, dead_letter_events, ignored_events, late_second_counts
)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (stream, slot) DO UPDATE
SET counted_events = t.counted_events + excluded.counted_events,
    duplicate_events = t.duplicate_events + excluded.duplicate_events,
    dead_letter_events = t.dead_letter_events + excluded.dead_letter_events,
    ignored_events = t.ignored_events + excluded.ignored_events,
    late_second_counts = t.late_second_counts + excluded.late_second_counts,
    updated_at = excluded.updated_at
