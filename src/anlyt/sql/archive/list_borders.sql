-- From when on all rows of each table are here, and how many the archive was given from before; no row for a table that
-- none has left yet.
SELECT
    table_name,
    hot_since,
    (
        SELECT coalesce(sum(row_count), 0)::BIGINT
        FROM anlyt.archive_receipts AS r
        WHERE r.table_name = b.table_name
          AND r.day < b.hot_since
    ) AS archived_rows
FROM anlyt.archive_borders AS b
