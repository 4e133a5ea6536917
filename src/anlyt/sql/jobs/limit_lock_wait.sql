-- Do not let writers queue behind DDL that waits for an old transaction.
SET LOCAL lock_timeout = '1s'
