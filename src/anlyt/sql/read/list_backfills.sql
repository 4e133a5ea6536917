-- The backfills that were worked on last: they may have changed buckets that were final.
-- $1 loads BIGINT (how many)
SELECT name, counted_events, duplicate_events, dead_letter_events, first_hour, last_hour, updated_at
FROM anlyt.backfills
ORDER BY updated_at DESC, name
LIMIT $1
