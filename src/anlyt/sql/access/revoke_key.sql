-- Revoke an API key from now on; revoking twice keeps the first time. Returns no row when there is no such key.
-- $1 key_id TEXT
UPDATE anlyt.api_keys
SET revoked_at = COALESCE(revoked_at, now())
WHERE key_id = $1
RETURNING revoked_at
