-- The version of the archive's ClickHouse, and how many of anlyt's tables it has.
SELECT
    version() AS version,
    (SELECT count() FROM system.tables WHERE database = currentDatabase() AND name IN {tables:Array(String)}) AS found
