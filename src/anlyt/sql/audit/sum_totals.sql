-- What was ever read of this stream and of others, how many seconds came late, and when others were counted last.
-- $1 stream TEXT
SELECT
    coalesce(sum(counted_events + duplicate_events + dead_letter_events + ignored_events), 0)::BIGINT AS read_events,
    coalesce(sum(late_second_counts), 0)::BIGINT AS late_seconds,
    max(updated_at) FILTER (WHERE stream <> $1) AS others_until
FROM anlyt.ingest_totals
