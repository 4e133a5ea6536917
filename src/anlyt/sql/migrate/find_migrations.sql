-- Whether this database has ever been migrated.
SELECT to_regclass('anlyt.migrations') IS NOT NULL
