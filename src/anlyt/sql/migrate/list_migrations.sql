-- The migrations that were applied.
SELECT name, sha256
FROM anlyt.migrations
ORDER BY name
