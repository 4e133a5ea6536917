-- The first day that has any row, here or in the archive, if there is one: before it nothing was counted, or nothing is
-- kept. NULL while there is none. It is the same for all callers, so it is read before a Grant's sight of the rows is
-- taken on.
-- $1 archived BOOLEAN: whether there is an archive
SELECT least(
    (SELECT min(day_bucket) FROM anlyt.metrics_daily),
    (SELECT min(day) FROM anlyt.archive_receipts WHERE table_name = 'metrics_daily' AND $1::BOOLEAN)
)
