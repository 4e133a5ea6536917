-- Take a staging table away, or on a cluster what spreads its rows.
DROP TABLE IF EXISTS {table} ON CLUSTER '{cluster}' SYNC
