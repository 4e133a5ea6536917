-- Take the part of a staging table away that stores.
DROP TABLE IF EXISTS {stored} ON CLUSTER '{cluster}' SYNC
