-- What is stored of several API keys, whatever their state, as find_key.sql says it of one.
-- $1 key_id TEXT[]
SELECT key_id, key_sha256, scope, scope_ids, permissions, expires_at, revoked_at
FROM anlyt.api_keys
WHERE key_id = ANY($1::TEXT[])
