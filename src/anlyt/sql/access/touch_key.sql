-- Remember that an API key was used, at most once in a while, so that requests do not wait for each other's row.
-- $1 key_id TEXT, $2 period INTERVAL
UPDATE anlyt.api_keys
SET last_used_at = now()
WHERE key_id = $1
  AND (last_used_at IS NULL OR last_used_at < now() - $2::INTERVAL)
