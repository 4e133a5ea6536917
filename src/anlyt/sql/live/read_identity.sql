-- Which history of which database this is: one number of a transaction means the same in all that answer alike.
SELECT
    system_identifier::TEXT || left(pg_walfile_name(pg_current_wal_lsn()), 8) || oid::TEXT AS identity
FROM pg_control_system()
JOIN pg_database ON datname = current_database()
