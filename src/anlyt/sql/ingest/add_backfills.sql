-- Record what a batch counted for each named backfill.
-- $1 name TEXT[], $2 counted_events BIGINT[], $3 duplicate_events BIGINT[], $4 dead_letter_events BIGINT[],
-- $5 first_hour BIGINT[] (s since 1970 UTC, NULL when nothing was counted), $6 last_hour BIGINT[]
INSERT INTO anlyt.backfills AS t (
    name, counted_events, duplicate_events, dead_letter_events, first_hour, last_hour
)
SELECT name, counted, duplicates, letters, to_timestamp(first_hour), to_timestamp(last_hour)
FROM unnest($1::TEXT[], $2::BIGINT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::BIGINT[])
    AS d (name, counted, duplicates, letters, first_hour, last_hour)
ORDER BY name COLLATE "C"
ON CONFLICT (name) DO UPDATE
SET counted_events = t.counted_events + excluded.counted_events,
    duplicate_events = t.duplicate_events + excluded.duplicate_events,
    dead_letter_events = t.dead_letter_events + excluded.dead_letter_events,
    first_hour = LEAST(t.first_hour, excluded.first_hour),
    last_hour = GREATEST(t.last_hour, excluded.last_hour),
    updated_at = excluded.updated_at
