"""Read the roll-ups for a Grant: rows with their computed fields, and what is known about freshness. Read only.

In: a connection, a Grant, a checked Query. Out: a Page or a Status, ready to be written as JSON. A read takes scope and
ids from the Grant through access.see and from nowhere else, and is made with the sight of the Grant (I8, snapshot.py).
Rows and freshness come from one snapshot, so `final` and `completeThrough` speak about exactly the rows beside them.
"""

from __future__ import annotations

import hashlib
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, assert_never

import msgspec
from msgspec import UNSET, Struct, UnsetType

from anlyt.access import PLATFORM_ID, SCOPES, see
from anlyt.cold import REPORTED, Source, source_of, split
from anlyt.cold import list_rows as list_archived
from anlyt.cold import stream_rows as stream_archived
from anlyt.postgres import sql
from anlyt.queries import REPORTS, Key, Query, ReportName, write_cursor
from anlyt.rows import AccountUsageDaily, MetricsDaily, MetricsHourly, OperatorPerformance
from anlyt.settings import PARTITIONS_MAX
from anlyt.snapshot import STAFF, snapshot
from anlyt.telemetry import OUTCOMES, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Grant, Visible
    from anlyt.clickhouse import ClickHouse
    from anlyt.cold import Cold
    from anlyt.settings import Settings

    Values = tuple[Any, ...]  # of a row, in the order of its table's columns
    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]

STREAM_SLOTS: Final = PARTITIONS_MAX  # the stream is cut into as many slots as it can have partitions
ACCOUNTS_COUNTED_MAX: Final = 100_000  # a day; an alarm needs no more
STATUS_LETTERS_MAX: Final = 100_000  # dead letters looked at for their reasons, the latest
STATUS_BACKFILLS_MAX: Final = 20
ROWS_AT_ONCE: Final = 1_000  # of a stream of rows
VERSION_CHARS: Final = 32  # 128 bits
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_BEFORE_ALL: Final = timedelta(microseconds=1)
_NIL_UUID: Final = "00000000-0000-0000-0000-000000000000"


class Meta(Struct, frozen=True, rename="camel"):
    """What the rows beside it are true of."""

    as_of: datetime  # the database's clock
    complete_through: datetime | None  # everything published before has been counted; null: not known
    lag_seconds: float | None
    currency: str
    source: Source  # where the rows of this period are
    from_: datetime = msgspec.field(name="from")
    to: datetime


class Page(Struct, frozen=True):
    """One page of rows. `next` is the cursor of the page behind it, null at the end."""

    data: Sequence[Any]
    next: str | None
    meta: Meta


class Freshness(Struct, frozen=True):
    """Up to when the stream has been counted, by the database's clock."""

    as_of: datetime
    complete_through: datetime | None

    @property
    def lag_seconds(self) -> float | None:
        """How long ago that was; never negative."""
        if self.complete_through is None:
            return None
        return max(0.0, (self.as_of - self.complete_through).total_seconds())

    def is_final(self, end: datetime, max_message_age: timedelta) -> bool:
        """Whether no accepted event can change a row whose bucket ends then."""
        return self.complete_through is not None and self.complete_through >= end + max_message_age


def answer_row(record: type[Struct]) -> type[Struct]:
    """The JSON form of a table's record: its columns in camelCase, then the computed fields."""
    columns = [(field.name, field.type) for field in msgspec.structs.fields(record)]
    computed = [(name, float | None) for name in ("delivery_rate", "avg_latency_ms", "error_rate")]
    name = f"{record.__name__}Row"
    return msgspec.defstruct(name, [*columns, *computed, ("final", bool)], frozen=True, rename="camel", module=__name__)


ROWS: Final[Mapping[ReportName, type[Struct]]] = {
    "hourly": answer_row(MetricsHourly),
    "daily": answer_row(MetricsDaily),
    "operators": answer_row(OperatorPerformance),
    "accounts": answer_row(AccountUsageDaily),
}


# ---------------------------------------------------------------------------------------------------------------- rows


async def read_page(
    conn: AnyConnection, grant: Grant, query: Query, *, settings: Settings, clickhouse: ClickHouse | None = None
) -> Page:
    """The rows of a page that `grant` may see. Raises RequestError 404 for an id it may not, ArchiveUnavailable."""
    visible = see(grant, query.scope, query.ids, parameter=query.report.id_parameter)
    async with snapshot(conn, grant, clickhouse) as cold:
        fresh = await read_freshness(conn, settings)
        records = [] if visible is None else await _read_records(conn, cold, visible, query)
    more = len(records) > query.limit
    records = records[: query.limit]
    return Page(
        data=[make_row(query.name, record, fresh, settings.max_message_age) for record in records],
        next=write_cursor(query, _key(query, records[-1])) if more else None,
        meta=Meta(
            as_of=fresh.as_of,
            complete_through=fresh.complete_through,
            lag_seconds=fresh.lag_seconds,
            currency=settings.currency,
            source=source_of(cold, REPORTED[query.name], query.start, query.end),
            from_=query.start,
            to=query.end,
        ),
    )


def version_of(rows: object, meta: Meta, end: datetime, max_message_age: timedelta) -> str | None:
    """What tells one content of an answer from the next; None while events can still change what begins before `end`.

    It comes from the content itself, all but how fresh that is: whatever changes final rows (a backfill, a retried
    letter, a percentile, retention) changes it.
    """
    fresh = Freshness(meta.as_of, meta.complete_through)
    if not fresh.is_final(end, max_message_age):
        return None
    lasting = msgspec.structs.replace(meta, as_of=end, complete_through=None, lag_seconds=None)
    return hashlib.sha256(msgspec.json.encode((rows, lasting))).hexdigest()[:VERSION_CHARS]


def end_of_buckets(query: Query) -> datetime:
    """When the last bucket ends whose rows a question is about."""
    bucket = query.report.bucket
    return _EPOCH + -((_EPOCH - query.end) // bucket) * bucket


async def stream_rows(
    conn: AnyConnection, grant: Grant, query: Query, *, settings: Settings, clickhouse: ClickHouse | None = None
) -> AsyncGenerator[tuple[Freshness, list[Struct]]]:
    """All rows of a question, ROWS_AT_ONCE at a time, from one snapshot and in constant memory; first of all none.

    The first item says how fresh the rows behind it are. Raises RequestError 404 for an id `grant` may not see.
    """
    visible = see(grant, query.scope, query.ids, parameter=query.report.id_parameter)
    async with snapshot(conn, grant, clickhouse) as cold:
        fresh = await read_freshness(conn, settings)
        before, behind = split(cold, query)
        if visible is not None and cold is not None and before is not None:
            async with aclosing(stream_archived(cold, visible, before)) as stream:
                first = await anext(stream, ())  # before anything is answered: the archive may be away
                yield fresh, []
                yield fresh, [make_row(query.name, row, fresh, settings.max_message_age) for row in first]
                async for rows in stream:
                    yield fresh, [make_row(query.name, row, fresh, settings.max_message_age) for row in rows]
        else:
            yield fresh, []
        if visible is None or behind is None:
            return
        name, values = _statement(visible, behind, limit=None)
        cursor = await conn.cursor(sql(name), *values)
        while records := await cursor.fetch(ROWS_AT_ONCE):
            yield fresh, [make_row(query.name, tuple(row), fresh, settings.max_message_age) for row in records]


async def _read_records(conn: AnyConnection, cold: Cold | None, visible: Visible, query: Query) -> list[Values]:
    """One row more than the page holds, so that its end is known; from before the border, then from behind it."""
    before, behind = split(cold, query)
    wanted = query.limit + 1
    rows: list[Values] = []
    if cold is not None and before is not None:
        rows = await list_archived(cold, visible, before, limit=wanted)
    if behind is not None and len(rows) < wanted:
        name, values = _statement(visible, behind, limit=wanted - len(rows))
        rows += map(tuple, await conn.fetch(sql(name), *values))
    return rows


def _statement(visible: Visible, query: Query, *, limit: int | None) -> tuple[str, tuple[object, ...]]:
    """The statement that reads what is visible of a question, and its values. A limit of None is none."""
    after = query.after or Key(query.start - _BEFORE_ALL, "", _NIL_UUID)
    period = (query.start, query.end, after.bucket)
    ids = None if visible.ids is None else list(visible.ids)
    match query.name:
        case "hourly" | "daily":
            place = (*period, after.scope, after.scope_id, SCOPES if visible.scope is None else [visible.scope])
            if visible.scope == "PLATFORM":
                ids = ids or [PLATFORM_ID]
            if ids is None:
                return "read/list_hourly" if query.name == "hourly" else "read/list_daily", (*place, limit)
            name = "read/list_hourly_of_ids" if query.name == "hourly" else "read/list_daily_of_ids"
            return name, (*place, ids, limit)
        case "operators":
            return "read/list_operators", (*period, after.scope_id, ids, limit)
        case "accounts" if ids is None:
            return "read/list_accounts", (*period, after.scope_id, limit)
        case "accounts":
            return "read/list_accounts_of_ids", (*period, after.scope_id, ids, limit)
        case _:
            assert_never(query.name)


def _key(query: Query, row: Values) -> Key:
    if query.report.scope is None:
        return Key(row[0], row[1], row[2])
    return Key(row[0], query.report.scope, row[1])


def make_row(name: ReportName, row: Values | Record, fresh: Freshness, max_message_age: timedelta) -> Struct:
    """A record of a table, whose first column is its bucket, as the row that is answered."""
    total, delivered, failed, latency_sum, samples = (0 if at is None else row[at] for at in _DIVIDED[name])
    end = row[0] + REPORTS[name].bucket
    return ROWS[name](
        *row,
        quotient(delivered, total),
        quotient(latency_sum, samples),
        quotient(failed, total),
        fresh.is_final(end, max_message_age),
    )


def quotient(dividend: int, divisor: int) -> float | None:
    """The true quotient, correctly rounded to a double; None when there is nothing to divide by."""
    return None if divisor == 0 else dividend / divisor


_ROLL_UP: Final = (
    "total_messages",
    "delivered_messages",
    "failed_messages",
    "latency_sum_ms",
    "latency_sample_count",
)
_USAGE: Final = ("messages_sent", "messages_delivered", "messages_failed", "", "")  # this table keeps no latency


def _places(record: type[Struct], columns: Sequence[str]) -> tuple[int | None, ...]:
    """Where columns stand in a row."""
    names = list(record.__struct_fields__)
    return tuple(names.index(column) if column else None for column in columns)


_DIVIDED: Final[Mapping[ReportName, tuple[int | None, ...]]] = {
    "hourly": _places(MetricsHourly, _ROLL_UP),
    "daily": _places(MetricsDaily, _ROLL_UP),
    "operators": _places(OperatorPerformance, _ROLL_UP),
    "accounts": _places(AccountUsageDaily, _USAGE),
}


# -------------------------------------------------------------------------------------------------------------- status


class Slot(Struct, frozen=True, rename="camel"):
    """How far one slot of the stream has been counted."""

    slot: int
    last_sequence: int
    last_published_at: datetime | None
    complete_through: datetime | None
    lost_messages: int
    updated_at: datetime


class JobRun(Struct, frozen=True, rename="camel"):
    """The last run of a job. No outcome: it runs, or it was killed."""

    job: str
    started_at: datetime
    finished_at: datetime | None
    outcome: str | None
    succeeded_at: datetime | None  # end of the last run that was ok


class Runway(Struct, frozen=True, rename="camel"):
    """Until when a partitioned table has partitions."""

    table: str
    covered_until: datetime
    runway_seconds: float


class Backfill(Struct, frozen=True, rename="camel"):
    """A named load, which may have changed buckets that were final."""

    name: str
    counted: int
    duplicates: int
    dead_letters: int
    first_hour: datetime | None
    last_hour: datetime | None
    updated_at: datetime


class Status(Struct, frozen=True, rename="camel", kw_only=True):
    """The state of the service. Everybody learns how fresh the numbers are; the rest is for platform staff."""

    as_of: datetime
    complete_through: datetime | None
    lag_seconds: float | None
    stream: str | UnsetType = UNSET
    counted: int | UnsetType = UNSET
    duplicates: int | UnsetType = UNSET
    ignored: int | UnsetType = UNSET
    dead_letters: int | UnsetType = UNSET  # since the beginning
    dead_letters_kept: dict[str, int] | UnsetType = UNSET  # by reason, now
    lost_messages: int | UnsetType = UNSET
    late_second_counts: int | UnsetType = UNSET
    slots: list[Slot] | UnsetType = UNSET
    jobs: list[JobRun] | UnsetType = UNSET
    partitions: list[Runway] | UnsetType = UNSET
    backfills: list[Backfill] | UnsetType = UNSET
    requests_by_key: dict[str, int] | UnsetType = UNSET  # answered by this process


async def read_status(conn: AnyConnection, grant: Grant, *, settings: Settings) -> Status:
    """The state of the service as `grant` may know it."""
    async with snapshot(conn, grant):
        fresh = await read_freshness(conn, settings)
        known = {} if grant.scope != "PLATFORM" else await _read_staff_status(conn, fresh, settings.stream)
    return Status(as_of=fresh.as_of, complete_through=fresh.complete_through, lag_seconds=fresh.lag_seconds, **known)


class Totals(Struct, frozen=True):
    """What the metrics tell about all processes together: no ids, no names."""

    complete_through_s: float | None  # since 1970
    runways_s: dict[str, float]
    refused: int  # events nobody understood, on balance, in the worst partition
    accounts: dict[str, int]  # with numbers of today and of yesterday
    events: dict[Outcome, int]
    jobs: dict[str, JobRun]  # by name


NO_TOTALS: Final = Totals(None, {}, 0, {}, {}, {})


async def read_totals(conn: AnyConnection, *, settings: Settings) -> Totals:
    """The state of the service in numbers that belong to nobody, for monitoring."""
    async with snapshot(conn, STAFF):
        fresh = await read_freshness(conn, settings)
        totals = await conn.fetchrow(sql("read/sum_ingest_totals"), settings.stream)
        runways = await conn.fetch(sql("read/list_runways"))
        refused: int = await conn.fetchval(sql("read/find_refused"), settings.stream)
        accounts = await conn.fetchrow(sql("read/count_accounts"), ACCOUNTS_COUNTED_MAX)
        runs = await _read_runs(conn)
    assert accounts is not None, "two counts are one row"
    assert totals is not None, "a sum has one row"
    return Totals(
        None if fresh.complete_through is None else fresh.complete_through.timestamp(),
        {table: (until - fresh.as_of).total_seconds() for table, until in map(tuple, runways)},
        refused,
        dict(accounts),
        {outcome: totals[f"{outcome}_events"] for outcome in OUTCOMES},
        {run.job: run for run in runs},
    )


async def _read_staff_status(conn: AnyConnection, fresh: Freshness, stream: str) -> dict[str, Any]:
    totals = await conn.fetchrow(sql("read/sum_ingest_totals"), stream)
    assert totals is not None, "a sum has one row"
    letters = await conn.fetch(sql("read/count_dead_letters"), stream, STATUS_LETTERS_MAX)
    slots = [Slot(*record.values()) for record in await conn.fetch(sql("read/list_positions"), stream)]
    runs = await _read_runs(conn)
    runways = await conn.fetch(sql("read/list_runways"))
    backfills = await conn.fetch(sql("read/list_backfills"), STATUS_BACKFILLS_MAX)
    return {
        "stream": stream,
        "counted": totals["counted_events"],
        "duplicates": totals["duplicate_events"],
        "ignored": totals["ignored_events"],
        "dead_letters": totals["dead_letter_events"],
        "dead_letters_kept": {record["reason"]: record["letters"] for record in letters},
        # Each slot remembers what the whole stream dropped behind its back, so they are not added up.
        "lost_messages": max((slot.lost_messages for slot in slots), default=0),
        "late_second_counts": totals["late_second_counts"],
        "slots": slots,
        "jobs": runs,
        "partitions": [
            Runway(table, until, (until - fresh.as_of).total_seconds()) for table, until in map(tuple, runways)
        ],
        "backfills": [Backfill(*record.values()) for record in backfills],
    }


async def _read_runs(conn: AnyConnection) -> list[JobRun]:
    records = await conn.fetch(sql("read/list_last_runs"))
    return [JobRun(*(record[name] for name in JobRun.__struct_fields__)) for record in records]


async def read_freshness(conn: AnyConnection, settings: Settings) -> Freshness:
    """Up to when the stream has been counted, in the transaction's snapshot."""
    record = await conn.fetchrow(sql("read/find_freshness"), settings.stream, STREAM_SLOTS)
    assert record is not None, "an aggregate has one row"
    return Freshness(*record.values())
