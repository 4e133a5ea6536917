#!/bin/sh
# The standby of cluster.yaml: copy the primary when there is nothing yet, then follow it. Promote it with
# SELECT pg_promote(), after the primary has been stopped for good.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$(dirname "$PGDATA")"
    chmod 0700 "$PGDATA"
    PGPASSWORD="$POSTGRES_PASSWORD" gosu postgres pg_basebackup \
        --host=postgres --username="$POSTGRES_USER" --pgdata="$PGDATA" --write-recovery-conf --checkpoint=fast
fi
exec gosu postgres postgres
