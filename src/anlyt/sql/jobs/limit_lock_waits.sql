-- Give up waiting for a lock after this long, in this session, transaction or not.
-- $1 limit TEXT, like 1000ms
SELECT set_config('lock_timeout', $1, FALSE)
