-- Today, and from when on all rows of a table are here; NULL when none has left yet.
-- $1 table_name TEXT
SELECT
    date_trunc('day', now(), 'UTC') AS today,
    (SELECT hot_since FROM anlyt.archive_borders WHERE table_name = $1) AS hot_since
