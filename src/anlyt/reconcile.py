"""The identities that hold between the tables at any moment, proven over all rows in one snapshot.

In: the roll-ups and the latency histograms as PostgreSQL has them. Out: for each identity how many cells break it, and
the first of them with what was found and what the other side says. Nothing is written. Rows past their retention are
left out where one side may have gone before the other; a row that is missing on one side counts as zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from anlyt.postgres import session, sql

if TYPE_CHECKING:
    from datetime import datetime

    from asyncpg import Connection, Record

TIMEOUT_S: Final = 900.0
DIFFERENCES_SHOWN_MAX: Final = 100  # of each identity; the total is told as well


class Identity(Struct, frozen=True):
    """What must hold, the statement that finds what breaks it, and from when on both sides must be there."""

    number: int  # as the contract counts them
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
)


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


async def reconcile(url: str) -> list[Finding]:
    """Check every identity in one snapshot: nothing that is counted meanwhile is half seen. Raises Retry."""
    async with (
        session(url, application="anlyt-reconcile", statement_timeout_s=TIMEOUT_S) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        await conn.execute(sql("reconcile/hold_partitions"))  # first: the snapshot is taken by the next statement
        horizons = await conn.fetchrow(sql("reconcile/read_horizons"))
        assert horizons is not None  # an aggregate has one row
        return [await _check(conn, identity, horizons) for identity in IDENTITIES]


async def _check(conn: Connection[Record], identity: Identity, horizons: Record) -> Finding:
    hours, days = horizons["hours_since"], horizons["days_since"]
    since = {"beginning": (), "hours": (hours,), "days": (days,), "both": (max(hours, days),)}[identity.since]
    rows = await conn.fetch(sql(identity.statement), DIFFERENCES_SHOWN_MAX, *since)
    differences = tuple(Difference(*(row[name] for name in Difference.__struct_fields__)) for row in rows)
    return Finding(identity, rows[0]["differences"] if rows else 0, differences)
