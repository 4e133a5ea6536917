-- On a cluster: the table that is read and written, whose rows are spread over the tables that store them.
CREATE TABLE IF NOT EXISTS {table} ON CLUSTER '{cluster}' AS {stored}
ENGINE = Distributed('{cluster}', currentDatabase(), '{stored}', cityHash64({key}))
