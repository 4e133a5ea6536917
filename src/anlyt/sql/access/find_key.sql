-- What is stored of an API key, whatever its state: the decision is made in one place, access.admit.
-- $1 key_id TEXT
SELECT key_sha256, scope, scope_ids, permissions, expires_at, revoked_at, last_used_at
FROM anlyt.api_keys
WHERE key_id = $1
