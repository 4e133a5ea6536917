-- All API keys without their hashes, the newest first.
-- $1 keys BIGINT (how many at most)
SELECT key_id, name, scope, scope_ids, permissions, created_at, expires_at, revoked_at, last_used_at
FROM anlyt.api_keys
ORDER BY created_at DESC, key_id
LIMIT $1
