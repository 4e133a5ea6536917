-- Store a new API key: its hash, never the key.
-- $1 key_id TEXT, $2 key_sha256 BYTEA, $3 name TEXT, $4 scope TEXT, $5 scope_ids TEXT[], $6 permissions TEXT[],
-- $7 expires_at TIMESTAMPTZ, NULL for never
INSERT INTO anlyt.api_keys (key_id, key_sha256, name, scope, scope_ids, permissions, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
