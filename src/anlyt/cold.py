"""The part of a question that the archive answers: rows and sums of buckets before the border. Read only.

In: a checked question, what of it is visible, the border. Out: the rows and sums PostgreSQL would have answered, before
they left it. Scope and ids are bound as values, as they come from access.see (I8). Every bucket is on one side of the
border, so nothing is answered twice and nothing is left out; what cannot be reached is an error, never a gap.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from anlyt.access import PLATFORM_ID, SCOPES
from anlyt.archive import BEGINNING, END, seconds
from anlyt.clickhouse import TABLES, ArchiveTable, statement
from anlyt.errors import ArchiveUnavailable
from anlyt.postgres import sql

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Scope, Visible
    from anlyt.clickhouse import ClickHouse
    from anlyt.queries import Query, ReportName

    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]

Source = Literal["postgres", "clickhouse", "both"]

COUNT_AGE_S: Final = 60.0  # so long the archive is taken to have its rows
BUCKETS_NAMED_MAX: Final = 200  # more are asked as a period, and what was not wanted is left out here
ROWS_MAX: Final = 2**62  # of a period that is read whole
NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"
_STEP: Final[Mapping[str, timedelta]] = {"hour_bucket": timedelta(days=1), "day_bucket": timedelta(days=28)}
_BY_NAME: Final = {table.name: table for table in TABLES}
HOURS: Final = _BY_NAME["metrics_hourly"]
DAYS: Final = _BY_NAME["metrics_daily"]
LISTS: Final[Mapping[str, str]] = {
    "metrics_hourly": "archive/list_metrics_hourly",
    "metrics_daily": "archive/list_metrics_daily",
    "operator_performance": "archive/list_operator_performance",
    "account_usage_daily": "archive/list_account_usage_daily",
}
REPORTED: Final[Mapping[ReportName, ArchiveTable]] = {
    "hourly": HOURS,
    "daily": DAYS,
    "operators": _BY_NAME["operator_performance"],
    "accounts": _BY_NAME["account_usage_daily"],
}


class Cold(Struct, frozen=True):
    """An archive, and from when on the rows of each table are in PostgreSQL, in the snapshot at hand."""

    clickhouse: ClickHouse
    hot_since: Mapping[str, datetime]
    archived_rows: Mapping[str, int]  # from before, as the receipts count them

    def border(self, table: ArchiveTable) -> datetime:
        """From when on all rows of a table are hot."""
        return self.hot_since.get(table.name, BEGINNING)

    async def check(self, table: ArchiveTable) -> None:
        """Raise ArchiveUnavailable when rows have gone from the archive: an answer without them would be short."""
        border = self.border(table)
        asked_s = self.clickhouse.counted_s.get((table.name, border), -math.inf)
        if time.monotonic() - asked_s < COUNT_AGE_S:
            return
        text = statement("archive/count_before", table, cluster=self.clickhouse.cluster)
        (row,) = await self.clickhouse.fetch(text, {"until": seconds(border)})
        wanted = self.archived_rows.get(table.name, 0)
        if row["rows"] < wanted:
            raise ArchiveUnavailable(
                f"the archive {self.clickhouse.address.shown} has {row['rows']:,} rows of {table.name} from before "
                f"{border:%Y-%m-%d}, but was given {wanted:,}; restore it from a backup (docs/archive.md)"
            )
        self.clickhouse.counted_s[table.name, border] = time.monotonic()


async def find_cold(conn: AnyConnection, clickhouse: ClickHouse | None) -> Cold | None:
    """The archive's side of a snapshot, None without one. Comes first in a transaction, because it holds the tables."""
    if clickhouse is None:
        return None
    await conn.execute(sql("archive/hold_tables"))  # the snapshot is taken by the next statement
    rows = await conn.fetch(sql("archive/list_borders"))
    hot_since = {row["table_name"]: row["hot_since"] for row in rows}
    return Cold(clickhouse, hot_since, {row["table_name"]: row["archived_rows"] for row in rows})


def source_of(cold: Cold | None, table: ArchiveTable, start: datetime, end: datetime) -> Source:
    """Who answers a period."""
    if cold is None or start >= cold.border(table):
        return "postgres"
    return "clickhouse" if end <= cold.border(table) else "both"


# ---------------------------------------------------------------------------------------------------------------- rows


def split(cold: Cold | None, query: Query) -> tuple[Query | None, Query | None]:
    """The parts of a question before and from the border; None for a part that is empty."""
    if cold is None:
        return None, query
    border = cold.border(REPORTED[query.name])
    before = replace(query, end=min(query.end, border)) if query.start < border else None
    behind = query if query.start >= border else None
    if query.start < border < query.end:
        after = query.after if query.after is not None and query.after.bucket >= border else None
        behind = replace(query, start=border, after=after)
    if before is not None and before.after is not None and before.after.bucket >= before.end:
        before = None
    return before, behind


async def list_rows(cold: Cold, visible: Visible, query: Query, *, limit: int = ROWS_MAX) -> list[tuple[Any, ...]]:
    """The rows of a part before the border, in order; each with the columns of its table."""
    table = REPORTED[query.name]
    await cold.check(table)
    text = statement(LISTS[table.name], table, cluster=cold.clickhouse.cluster)
    return await cold.clickhouse.fetch_rows(text, _values(visible, query, limit))


async def stream_rows(cold: Cold, visible: Visible, query: Query) -> AsyncGenerator[list[tuple[Any, ...]]]:
    """All rows of a part before the border, some at a time, so that neither side ever sorts or holds them all."""
    table = REPORTED[query.name]
    await cold.check(table)
    text = statement(LISTS[table.name], table, cluster=cold.clickhouse.cluster)
    start = query.start
    while start < query.end:
        end = min(start + _STEP[table.bucket], query.end)
        part = replace(query, start=start, end=end, after=None)
        async for rows in cold.clickhouse.stream_rows(text, _values(visible, part, ROWS_MAX)):
            yield rows
        start = end


def _values(visible: Visible, query: Query, limit: int) -> dict[str, Any]:
    """What the parameters of archive/list_... are bound to."""
    after = query.after
    ids = visible.ids
    if visible.scope == "PLATFORM" and query.report.scope is None:
        ids = ids or (PLATFORM_ID,)
    place = ("", NIL_UUID) if after is None else (after.scope, after.scope_id)
    key = {"after_scope": place[0], "after_scope_id": place[1]}
    return {
        "since": ceil_seconds(query.start),
        "until": ceil_seconds(query.end),
        "bucket": 0 if after is None else seconds(after.bucket),
        **(key if query.report.scope is None else {f"after_{query.report.scope.lower()}_id": place[1]}),
        "scopes": list(SCOPES if visible.scope is None else [visible.scope]),
        "every": int(ids is None),
        "ids": list(ids or ()),
        "rows": limit,
    }


def ceil_seconds(moment: datetime) -> int:
    """The first whole second that is not before a moment: buckets begin at whole seconds."""
    return math.ceil(min(max(moment, BEGINNING), END).timestamp())


# ---------------------------------------------------------------------------------------------------------------- sums


class ColdSums(Struct, frozen=True):
    """Sums of buckets before the border, as columns: what a statement that adds the hot ones is bound to."""

    places: tuple[Any, ...]  # numbers of spans, or ids
    columns: tuple[tuple[Decimal, ...], ...]  # total, delivered, failed, pending, cost, latency, samples, peak

    @property
    def values(self) -> tuple[list[Any], ...]:
        """For unnest."""
        return (list(self.places), *map(list, self.columns))


_SUMS: Final = ("total", "delivered", "failed", "pending", "cost", "latency", "samples", "peak")
NO_SUMS: Final = ColdSums((), ((),) * len(_SUMS))


class Wanted(Struct, frozen=True):
    """Buckets before the border, of one table."""

    table: ArchiveTable
    buckets: Sequence[datetime]


async def sum_buckets(
    cold: Cold, wanted: Wanted, spans: Sequence[int], *, scope: Scope, ids: Sequence[str] | None
) -> ColdSums:
    """Sums of each bucket, with the number of its span."""
    if not wanted.buckets:
        return NO_SUMS
    await cold.check(wanted.table)
    text = statement("archive/sum_buckets", wanted.table, cluster=cold.clickhouse.cluster)
    rows = await cold.clickhouse.fetch(text, _bounds(wanted, scope, ids))
    number = {seconds(bucket): span for bucket, span in zip(wanted.buckets, spans, strict=True)}
    found = [row for row in rows if row["bucket"] in number]
    return _as_columns([number[row["bucket"]] for row in found], found)


async def sum_ids(cold: Cold, wanted: Wanted, *, scope: Scope, ids: Sequence[str] | None) -> ColdSums:
    """Sums of each id over all the buckets, which follow each other or are few."""
    if not wanted.buckets:
        return NO_SUMS
    await cold.check(wanted.table)
    text = statement("archive/sum_ids", wanted.table, cluster=cold.clickhouse.cluster)
    rows = await cold.clickhouse.fetch(text, _bounds(wanted, scope, ids))
    return _as_columns([row["scope_id"] for row in rows], rows)


def joined(*sums: ColdSums) -> ColdSums:
    """Several, one behind the other."""
    places = tuple(place for each in sums for place in each.places)
    columns = tuple(
        tuple(value for part in parts for value in part) for parts in zip(*(each.columns for each in sums), strict=True)
    )
    return ColdSums(places, columns)


def _bounds(wanted: Wanted, scope: Scope, ids: Sequence[str] | None) -> dict[str, Any]:
    starts = [seconds(bucket) for bucket in wanted.buckets]
    return {
        "since": min(starts),
        "until": max(starts) + 1,
        "buckets": starts if len(starts) <= BUCKETS_NAMED_MAX else [],
        "scope": scope,
        "every": int(ids is None),
        "ids": list(ids or ()),
    }


def _as_columns(places: Sequence[Any], rows: Sequence[Mapping[str, Any]]) -> ColdSums:
    return ColdSums(tuple(places), tuple(tuple(Decimal(row[name]) for row in rows) for name in _SUMS))
