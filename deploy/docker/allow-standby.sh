#!/bin/sh
# Run once by the image of PostgreSQL when the primary of cluster.yaml is made: the standby may copy and follow it.
set -eu
echo "host replication $POSTGRES_USER all scram-sha-256" >> "$PGDATA/pg_hba.conf"
