-- Record that a migration was applied, in its own transaction.
-- $1 name TEXT, $2 sha256 TEXT
INSERT INTO anlyt.migrations (name, sha256)
VALUES ($1, $2)
