-- What a backfill counted, beside the sums that have to agree.
-- $1 name TEXT
SELECT
    b.counted_events,
    b.duplicate_events,
    b.dead_letter_events,
    (SELECT coalesce(sum(total_messages), 0)::BIGINT FROM anlyt.metrics_daily WHERE scope = 'ACCOUNT') AS account_total,
    (SELECT coalesce(sum(total_messages), 0)::BIGINT FROM anlyt.metrics_daily WHERE scope = 'PLATFORM')
        AS platform_total
FROM anlyt.backfills AS b
WHERE b.name = $1
