-- From when on all rows of each table are here; no row for a table none has left yet.
SELECT table_name, hot_since
FROM anlyt.archive_borders
