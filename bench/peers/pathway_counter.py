"""A peer: Pathway counts the stream; in memory, in Rust, every sum written to PostgreSQL when it changes.

Ids are counted once, and hours and days of the account, the operator and the platform are summed up, as far as that can
be said shortly: buckets are the beginning of the time's text, and costs, which come as texts and as numbers, are left
out. It goes on until it is ended: whoever started it sees in `platform_daily` when all is counted.

    DATABASE_URL=... NATS_URL=... STREAM=... SUBJECT=... python pathway_counter.py
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

import pathway as pw

HOUR, DAY = len("2026-01-31T23"), len("2026-01-31")


class Event(pw.Schema):
    """The members that are counted."""

    event_id: str
    source: str
    type: str
    time: str
    submitted_at: str | None = pw.column_definition(default_value=None)
    account: str | None = pw.column_definition(default_value=None)
    operator: str | None = pw.column_definition(default_value=None)


PATHS = {
    "event_id": "/id",
    "submitted_at": "/data/submittedAt",
    "account": "/data/accountId",
    "operator": "/data/operatorId",
}


def main() -> None:
    """Build the graph and run it."""
    read = pw.io.nats.read(
        os.environ["NATS_URL"],
        os.environ["SUBJECT"],
        schema=Event,
        format="json",
        json_field_paths=PATHS,
        jetstream_stream_name=os.environ["STREAM"],
        autocommit_duration_ms=500,
    )
    rows = read.select(
        identity=pw.this.event_id + " " + pw.this.source,
        at=pw.coalesce(pw.this.submitted_at, pw.this.time),
        account=pw.this.account,
        operator=pw.this.operator,
        total=pw.if_else(pw.this.type == "message.submitted", 1, 0),
        delivered=pw.if_else(pw.this.type == "message.delivered", 1, 0),
        failed=pw.if_else(pw.this.type == "message.failed", 1, 0),
    )
    columns = ("at", "account", "operator", "total", "delivered", "failed")
    once = rows.groupby(pw.this.identity).reduce(**{name: pw.reducers.any(pw.this[name]) for name in columns})
    url = urlsplit(os.environ["DATABASE_URL"])
    postgres = {
        "host": url.hostname,
        "port": str(url.port),
        "user": url.username,
        "password": url.password,
        "dbname": url.path.lstrip("/"),
    }
    for part, length in (("hourly", HOUR), ("daily", DAY)):
        for scope, column in (("account", "account"), ("operator", "operator"), ("platform", None)):
            held = once if column is None else once.filter(pw.this[column].is_not_none())
            keyed = held.select(
                bucket=pw.this.at.str.slice(0, length),
                scope_id="platform" if column is None else pw.unwrap(pw.this[column]),
                total=pw.this.total,
                delivered=pw.this.delivered,
                failed=pw.this.failed,
            )
            sums = keyed.groupby(pw.this.bucket, pw.this.scope_id).reduce(
                pw.this.bucket,
                pw.this.scope_id,
                events=pw.reducers.count(),
                total=pw.reducers.sum(pw.this.total),
                delivered=pw.reducers.sum(pw.this.delivered),
                failed=pw.reducers.sum(pw.this.failed),
            )
            pw.io.postgres.write(
                sums,
                postgres,
                f"{scope}_{part}",
                init_mode="replace",
                output_table_type="snapshot",
                primary_key=[sums.bucket, sums.scope_id],
            )
    pw.run(monitoring_level=pw.MonitoringLevel.NONE)


if __name__ == "__main__":
    main()
