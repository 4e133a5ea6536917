"""The identities that hold between the tables at any moment, proven over all rows in one snapshot.

In: the roll-ups and the latency histograms as PostgreSQL has them, and the archive if there is one. Out: for each
identity how many cells break it, and the first of them with what was found and what the other side says. Nothing is
written. Rows past their retention are left out where one side may have gone before the other; a row that is missing on
one side counts as zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from anlyt import archive
from anlyt.access import SCOPES
from anlyt.clickhouse import TABLES, statement
from anlyt.cold import LISTS, NIL_UUID, ROWS_MAX
from anlyt.postgres import session, sql
from anlyt.terminal import nobody

if TYPE_CHECKING:
    from datetime import datetime

    from asyncpg import Connection, Record

    from anlyt.clickhouse import ArchiveTable, ClickHouse
    from anlyt.terminal import Advance

TIMEOUT_S: Final = 900.0
WORK_MEM: Final = "64MB"  # for each hash table and worker of PostgreSQL
DIFFERENCES_SHOWN_MAX: Final = 100  # of each identity; the total is told as well
DAYS_COMPARED_MAX: Final = 31  # days that differ are read row by row, the first of each table


class Identity(Struct, frozen=True):
    """What must hold, the statement that finds what breaks it, and from when on both sides must be there."""

    number: int  # for people: what they read in the output stays what it is
    name: str
    statement: str
    since: Literal["beginning", "hours", "days", "both"]


IDENTITIES: Final = (
    Identity(1, "total = delivered + failed + pending, in every row", "reconcile/compare_statuses", "beginning"),
    Identity(2, "metrics_daily = sum of metrics_hourly (peak: max)", "reconcile/compare_days", "both"),
    Identity(3, "PLATFORM = sum of ACCOUNT, in every hour and day", "reconcile/compare_scopes", "days"),
    Identity(4, "operator_performance = OPERATOR in metrics_hourly", "reconcile/compare_operators", "hours"),
    Identity(5, "account_usage_daily = ACCOUNT in metrics_daily", "reconcile/compare_accounts", "days"),
    Identity(6, "latency_sample_count = samples in the histograms", "reconcile/compare_samples", "hours"),
    Identity(8, "latency_days = merged histograms of the day's hours", "reconcile/compare_latency_days", "both"),
    Identity(9, "latency_weeks = merged histograms of the week's days", "reconcile/compare_latency_weeks", "days"),
)

ARCHIVED: Final = Identity(7, "archive = PostgreSQL, on every day that is as it was copied", "", "beginning")


class Difference(Struct, frozen=True):
    """One cell that does not agree; numbers as PostgreSQL writes them."""

    table_name: str
    bucket: datetime
    scope: str
    scope_id: str
    column_name: str
    found: str
    expected: str  # what the other side of the identity says


class Finding(Struct, frozen=True):
    """What became of one identity."""

    identity: Identity
    total: int  # cells that break it
    differences: tuple[Difference, ...]  # the first DIFFERENCES_SHOWN_MAX of them


async def reconcile(url: str, clickhouse: ClickHouse | None = None, *, advance: Advance = nobody) -> list[Finding]:
    """Check every identity in one snapshot: nothing that is counted meanwhile is half seen. Raises Retry.

    Without an archive the last one, which is about it, is left out. `advance` hears how many are done, of how many.
    """
    total = len(IDENTITIES) + (clickhouse is not None)
    async with (
        session(url, application="anlyt-reconcile", statement_timeout_s=TIMEOUT_S) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        await conn.execute(sql("reconcile/hold_partitions"))  # first: the snapshot is taken by the next statement
        await conn.execute(sql("reconcile/plan_for_all_rows"), WORK_MEM)
        horizons = await conn.fetchrow(sql("reconcile/read_horizons"))
        assert horizons is not None  # an aggregate has one row
        findings: list[Finding] = []
        for identity in IDENTITIES:
            advance(len(findings), total)
            findings.append(await _check(conn, identity, horizons))
        if clickhouse is not None:
            advance(len(findings), total)
            findings.append(await _check_archive(conn, clickhouse))
    return findings


async def _check(conn: Connection[Record], identity: Identity, horizons: Record) -> Finding:
    hours, days = horizons["hours_since"], horizons["days_since"]
    since = {"beginning": (), "hours": (hours,), "days": (days,), "both": (max(hours, days),)}[identity.since]
    rows = await conn.fetch(sql(identity.statement), DIFFERENCES_SHOWN_MAX, *since)
    differences = tuple(Difference(*(row[name] for name in Difference.__struct_fields__)) for row in rows)
    return Finding(identity, rows[0]["differences"] if rows else 0, differences)


# ------------------------------------------------------------------------------------------------------------- archive


async def _check_archive(conn: Connection[Record], clickhouse: ClickHouse) -> Finding:
    """Days that both have and that have not changed since they were copied; those that have wait for the next night."""
    differences: list[Difference] = []
    for table in TABLES:
        for day in (await archive.differing_days(conn, clickhouse, table))[:DAYS_COMPARED_MAX]:
            differences += await _compare_day(conn, clickhouse, table, day)
    return Finding(ARCHIVED, len(differences), tuple(differences[:DIFFERENCES_SHOWN_MAX]))


async def _compare_day(
    conn: Connection[Record], clickhouse: ClickHouse, table: ArchiveTable, day: datetime
) -> list[Difference]:
    """The cells of a day that are not the same; a row that is missing on one side has `no row` in its place."""
    period = (day, day + archive.DAY)
    here = {
        _key(table, row): row for row in map(dict, await conn.fetch(sql(archive.STATEMENTS[table.name].rows), *period))
    }
    names = list(next(iter(here.values())))
    text = statement(LISTS[table.name], table, cluster=clickhouse.cluster)
    rows = await clickhouse.fetch_rows(text, _everything(*period))
    there = {_key(table, row): row for row in (dict(zip(names, values, strict=True)) for values in rows)}
    return [
        Difference(table.name, bucket, scope, scope_id, column, found, expected)
        for bucket, scope, scope_id in sorted(here.keys() | there.keys())
        for column, found, expected in _cells(there.get((bucket, scope, scope_id)), here.get((bucket, scope, scope_id)))
    ]


def _cells(found: dict[str, object] | None, expected: dict[str, object] | None) -> list[tuple[str, str, str]]:
    if found is None or expected is None:
        return [("*", "no row" if found is None else "a row", "no row" if expected is None else "a row")]
    return [(name, str(found[name]), str(expected[name])) for name in expected if found[name] != expected[name]]


def _key(table: ArchiveTable, row: dict[str, Any]) -> tuple[datetime, str, str]:
    scope = row.get("scope") or ("OPERATOR" if table.key == "operator_id" else "ACCOUNT")
    return row[table.bucket], scope, row[table.key]


def _everything(since: datetime, until: datetime) -> dict[str, Any]:
    """Parameters of archive/list_... for all rows of a period."""
    after = {"bucket": 0, "after_scope": "", "after_scope_id": ""}
    after |= {"after_operator_id": NIL_UUID, "after_account_id": NIL_UUID}
    period = {"since": archive.seconds(since), "until": archive.seconds(until)}
    return {**period, **after, "scopes": list(SCOPES), "every": 1, "ids": [], "rows": ROWS_MAX}
