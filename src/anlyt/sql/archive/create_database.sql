-- The database of the archive, where it is missing.
-- {database:Identifier}
CREATE DATABASE IF NOT EXISTS {database:Identifier} ON CLUSTER '{cluster}'
