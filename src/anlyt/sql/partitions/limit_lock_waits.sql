-- Give up waiting for a lock after this long, in this transaction: DDL that waits makes every writer wait behind it.
-- $1 limit TEXT, like 1000ms
SELECT set_config('lock_timeout', $1, TRUE)
