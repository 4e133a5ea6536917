-- What became of all events of a stream since the beginning.
-- $1 stream TEXT
SELECT
    COALESCE(sum(counted_events), 0)::BIGINT AS counted_events,
    COALESCE(sum(duplicate_events), 0)::BIGINT AS duplicate_events,
    COALESCE(sum(dead_letter_events), 0)::BIGINT AS dead_letter_events,
    COALESCE(sum(ignored_events), 0)::BIGINT AS ignored_events,
    COALESCE(sum(late_second_counts), 0)::BIGINT AS late_second_counts
FROM anlyt.ingest_totals
WHERE stream = $1
