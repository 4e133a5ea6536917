#!/bin/sh
# The standby of cluster.yaml: copy the primary unless a whole copy is there, then follow it. Promote it with
# SELECT pg_promote(), after the primary has been stopped for good; it waits for no standby of its own then.
set -eu
whole="$PGDATA/.copied"
if [ ! -e "$whole" ]; then
    rm -rf "$PGDATA"
    mkdir -p "$PGDATA"
    chown -R postgres:postgres "$(dirname "$PGDATA")"
    chmod 0700 "$PGDATA"
    PGPASSWORD="$POSTGRES_PASSWORD" gosu postgres pg_basebackup \
        --host=postgres --username="$POSTGRES_USER" --pgdata="$PGDATA" --write-recovery-conf --checkpoint=fast
    echo "synchronous_standby_names = ''" >> "$PGDATA/postgresql.auto.conf"
    gosu postgres touch "$whole"
fi
exec gosu postgres postgres
