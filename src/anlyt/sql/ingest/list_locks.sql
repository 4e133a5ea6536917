-- Who is there: one row for each slot lock and each worker's presence lock of this stream.
-- $1 lock class INTEGER
SELECT objid::BIGINT::BIT(32)::INTEGER AS key
FROM pg_locks
WHERE locktype = 'advisory'
  AND objsubid = 2
  AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::BIGINT::BIT(32)::INTEGER = $1::INTEGER
