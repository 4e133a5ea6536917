"""PostgreSQL -> ClickHouse: every day that is over, copied, checked, replaced in one step, and noted.

In: the four roll-up tables and the archive. Out: the same rows in the archive, and a receipt for each day. Each run
compares what the rows of each day add up to here and there, a checksum of every value included; what differs is
copied from the snapshot the sums were read in, so a change that commits meanwhile is found by the next run.
- Months are built in a staging table, and each replaces the archive's in one step, after the sums agree: killed
  anywhere, the archive has a month as it was or as it is, and the next run finds out which.
- A day without a row here stays in the archive as it is; nothing is ever taken out of the archive.
- From the border on all rows are here. A day before it is the archive's, and is never copied again.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from msgspec import Struct, structs

from anlyt.clickhouse import TABLES, WORK_TIMEOUT_S, ClickHouse, statement
from anlyt.columns import WORD, load_libraries, read_piece
from anlyt.errors import DifferenceFound
from anlyt.postgres import session, sql
from anlyt.terminal import progress

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from asyncpg import Connection, Record

    from anlyt.clickhouse import ArchiveTable
    from anlyt.columns import Piece
    from anlyt.crash import CrashPoints
    from anlyt.terminal import Advance

DAY: Final = timedelta(days=1)
PIECE_BYTES_MAX: Final = 24 * 2**20  # of rows decoded and sent at a time: fewer parts to merge than of less
GATHER_S: Final = 0.001  # so long what COPY writes, 8 KiB at a time, gathers before it is taken
LANES: Final = (TABLES[:1], TABLES[1:])  # worked on at the same time: hours are most of the rows
UNIT_ROWS_MAX: Final = 4_000_000  # staged together, if that is more than one month
UNIT_MONTHS_MAX: Final = 12  # a piece of rows may belong to all of them: a part each
SNAPSHOT_TIMEOUT_S: Final = 3_600.0  # for one statement that reads PostgreSQL
DAYS_NAMED_MAX: Final = 10  # in an error's sentence
EVER: Final = datetime(1, 1, 1, tzinfo=UTC)
BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)  # what a DateTime of ClickHouse can hold
END: Final = datetime(2106, 2, 7, tzinfo=UTC)


Result = TypeVar("Result")
if TYPE_CHECKING:
    Work = Callable[[], Coroutine[None, None, None]]


class Sums(Struct, frozen=True):
    """What the rows of a day add up to. The checksum is None while it is not known."""

    row_count: int
    sums: tuple[Decimal, ...]
    checksum: Decimal | None = None

    @property
    def totals(self) -> tuple[int, tuple[Decimal, ...]]:
        """What PostgreSQL itself adds up."""
        return self.row_count, self.sums

    def is_as(self, noted: Sums | None) -> bool:
        """Whether a receipt says the same; one from before the present checksum has none."""
        if noted is None or noted.checksum is not None:
            return self == noted
        return self.totals == noted.totals


Days = dict[datetime, Sums]
Period = tuple[datetime, datetime]


class Statements(Struct, frozen=True):
    """The files that name a table's columns."""

    create: str
    copy: str
    sum: str
    check: str
    rows: str


STATEMENTS: Final[Mapping[str, Statements]] = {
    "metrics_hourly": Statements(
        "archive/create_metrics_hourly",
        "archive/copy_metrics_hourly",
        "archive/sum_metrics_hourly",
        "archive/check_metrics_hourly",
        "archive/rows_metrics_hourly",
    ),
    "metrics_daily": Statements(
        "archive/create_metrics_daily",
        "archive/copy_metrics_daily",
        "archive/sum_metrics_daily",
        "archive/check_metrics_daily",
        "archive/rows_metrics_daily",
    ),
    "operator_performance": Statements(
        "archive/create_operator_performance",
        "archive/copy_operator_performance",
        "archive/sum_operator_performance",
        "archive/check_operator_performance",
        "archive/rows_operator_performance",
    ),
    "account_usage_daily": Statements(
        "archive/create_account_usage_daily",
        "archive/copy_account_usage_daily",
        "archive/sum_account_usage_daily",
        "archive/check_account_usage_daily",
        "archive/rows_account_usage_daily",
    ),
}


class Run(Struct, frozen=True):
    """What all lanes of one run work with."""

    notes: Connection[Record]  # the job's own session, for receipts
    noting: asyncio.Lock
    clickhouse: ClickHouse
    made: asyncio.Future[None]  # its tables
    crash: CrashPoints
    tell: Callable[[int, int], None]  # rows that are planned, and rows that have arrived


async def archive(
    conn: Connection[Record], url: str, clickhouse: ClickHouse, *, crash: CrashPoints, quiet: bool = True
) -> dict[str, int]:
    """Copy every day that is over and that the archive does not have as it is here; how much that was.

    Raises ArchiveUnavailable, and DifferenceFound, when all is copied, if the archive has lost days that are nowhere
    else any more.
    """
    made = asyncio.ensure_future(make_tables(clickhouse))  # while PostgreSQL adds up
    try:
        with progress("archiving", unit="rows", quiet=quiet) as advance:
            run = Run(conn, asyncio.Lock(), clickhouse, made, crash, _added_up(advance))
            lanes = await _together(*(_copy_tables(run, url, tables) for tables in LANES))
    finally:
        made.cancel()
        await asyncio.gather(made, return_exceptions=True)
    plans = [plan for lane in lanes for plan in lane]
    lost = [f"{plan.table.name} {day:%Y-%m-%d}" for plan in plans for day in plan.lost]
    if lost:
        named = ", ".join(lost[:DAYS_NAMED_MAX])
        raise DifferenceFound(
            f"the archive {clickhouse.address.shown} does not have {len(lost)} days any more as they were copied, and "
            f"PostgreSQL has them no longer: {named}; restore them from a backup of ClickHouse (docs/archive.md)"
        )
    return {
        "days_copied": sum(len(plan.changed) for plan in plans),
        "rows_copied": sum(plan.rows for plan in plans),
        "months_replaced": sum(len(plan.months) for plan in plans),
    }


async def _copy_tables(run: Run, url: str, tables: Sequence[ArchiveTable]) -> list[Plan]:
    """One lane: its tables one after the other, each in a snapshot of its own; what was done."""
    plans: list[Plan] = []
    for table in tables:
        async with (
            session(url, application="anlyt-archive", statement_timeout_s=SNAPSHOT_TIMEOUT_S) as source,
            source.transaction(isolation="repeatable_read", readonly=True),
        ):
            await source.execute(sql("archive/hold_tables"))  # first: the snapshot is taken by the next statement
            plan = await _compare(source, table, _all_there(run.clickhouse, table, run.made))
            run.tell(plan.rows, 0)
            for months in plan.units:
                await _copy_months(run, source, plan, months)
            await _note(run, table, plan.unnoted)
        plans.append(plan)
    return plans


async def _together(*lanes: Coroutine[None, None, Result]) -> list[Result]:
    """All lanes at the same time; what the first failure raises, when the others have stopped."""
    tasks = [asyncio.ensure_future(lane) for lane in lanes]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _added_up(advance: Advance) -> Callable[[int, int], None]:
    """The bar is told how many rows there are by now, whatever the lane, table or month."""
    planned, done = 0, 0

    def tell(more_planned: int, more_done: int) -> None:
        nonlocal planned, done
        planned += more_planned
        done += more_done
        advance(done, planned or None)

    return tell


async def make_tables(clickhouse: ClickHouse) -> None:
    """The archive's database and tables, where they are missing."""
    cluster = clickhouse.cluster
    database = {"database": clickhouse.address.database}
    await clickhouse.execute(statement("archive/create_database", None, cluster=cluster), database, in_database=False)
    for table in TABLES:
        await _make_table(clickhouse, table, staging=False)


async def _make_table(clickhouse: ClickHouse, table: ArchiveTable, *, staging: bool) -> None:
    name = STATEMENTS[table.name].create
    await clickhouse.execute(statement(name, table, staging=staging, cluster=clickhouse.cluster))
    if clickhouse.cluster:
        spread = statement("archive/distribute_rows", table, staging=staging, cluster=clickhouse.cluster)
        await clickhouse.execute(spread)


async def _drop_staging(clickhouse: ClickHouse, table: ArchiveTable) -> None:
    await clickhouse.execute(statement("archive/drop_rows", table, staging=True, cluster=clickhouse.cluster))
    if clickhouse.cluster:
        await clickhouse.execute(statement("archive/drop_stored", table, staging=True, cluster=clickhouse.cluster))


# ------------------------------------------------------------------------------------------------------------- compare


class Plan(Struct, frozen=True):
    """What is here of a table, what the archive has, and what follows from that."""

    table: ArchiveTable
    here: Days
    there: Days
    noted: Days
    changed: tuple[datetime, ...]  # to be copied
    unnoted: Days  # as they should be, but without their receipt
    lost: tuple[datetime, ...]  # noted, but neither here nor there

    @property
    def rows(self) -> int:
        """How many are to be copied."""
        return sum(self.here[day].row_count for day in self.changed)

    @property
    def months(self) -> list[datetime]:
        """The months that hold changed days, oldest first."""
        return sorted({day.replace(day=1) for day in self.changed})

    @property
    def units(self) -> list[list[datetime]]:
        """These months, in lots that are staged together: what a lot costs is the same for few rows as for many."""
        rows: dict[datetime, int] = dict.fromkeys(self.months, 0)
        for day in self.changed:
            rows[day.replace(day=1)] += self.here[day].row_count
        units: list[list[datetime]] = []
        room = 0
        for month, count in rows.items():
            if count > room or len(units[-1]) == UNIT_MONTHS_MAX:
                units.append([])
                room = UNIT_ROWS_MAX
            units[-1].append(month)
            room -= count
        return units

    def expected(self, months: Sequence[datetime], copied: Days) -> Days:
        """What these months must add up to before they replace the archive's."""
        return {day: sums for day, sums in self.there.items() if day.replace(day=1) in months} | copied


async def _all_there(clickhouse: ClickHouse, table: ArchiveTable, made: Awaitable[None]) -> Days:
    await made
    return await sums_there(clickhouse, table, BEGINNING, END)


async def _compare(source: Connection[Record], table: ArchiveTable, all_there: Awaitable[Days]) -> Plan:
    found = await source.fetchrow(sql("archive/read_border"), table.name)
    assert found is not None, "a row without a table"
    since, today = found["hot_since"] or EVER, found["today"]
    noted = _read_days(await source.fetch(sql("archive/list_receipts"), table.name))
    here, there, _ = await asyncio.gather(
        _totals_here(source, table, since, today),
        all_there,
        asyncio.to_thread(load_libraries),  # while the others add up
    )
    # What adds up to something else is copied, and its checksum made on the way.
    doubtful = [day for day, sums in sorted(here.items()) if day in there and there[day].totals == sums.totals]
    here |= await _with_checksums(source, table, {day: here[day] for day in doubtful})
    return Plan(
        table=table,
        here=here,
        there=there,
        noted=noted,
        changed=tuple(day for day, sums in sorted(here.items()) if there.get(day) != sums),
        unnoted={day: sums for day, sums in here.items() if there.get(day) == sums and noted.get(day) != sums},
        lost=tuple(
            day for day, sums in noted.items() if day not in here and not (day in there and there[day].is_as(sums))
        ),
    )


async def sums_here(source: Connection[Record], table: ArchiveTable, since: datetime, until: datetime) -> Days:
    """What each day adds up to in PostgreSQL, every value read. Two statements: in a snapshot, both see the same."""
    return await _with_checksums(source, table, await _totals_here(source, table, since, until))


async def _totals_here(source: Connection[Record], table: ArchiveTable, since: datetime, until: datetime) -> Days:
    rows = await source.fetch(sql(STATEMENTS[table.name].sum), since, until)
    return {row["day"]: Sums(row["row_count"], tuple(row["sums"])) for row in rows}


async def _with_checksums(source: Connection[Record], table: ArchiveTable, days: Days) -> Days:
    """These days with the checksums of their rows."""
    checksums: dict[datetime, int] = {}

    async def add(data: bytearray) -> None:
        _add(checksums, await asyncio.to_thread(read_piece, table.name, data, stream=False))

    for period in _spans(sorted(days)):
        await _read_pieces(source, table, period, add)
    return _checked(days, checksums)


def _add(checksums: dict[datetime, int], piece: Piece) -> None:
    for day, checksum in piece.checksums.items():
        checksums[day] = (checksums.get(day, 0) + checksum) % WORD


def _checked(days: Days, checksums: Mapping[datetime, int]) -> Days:
    return {day: structs.replace(sums, checksum=Decimal(checksums.get(day, 0))) for day, sums in days.items()}


async def sums_there(
    clickhouse: ClickHouse, table: ArchiveTable, since: datetime, until: datetime, *, staging: bool = False
) -> Days:
    """What each day adds up to in the archive, or in its staging table."""
    text = statement(STATEMENTS[table.name].check, table, staging=staging, cluster=clickhouse.cluster)
    period = {"since": seconds(since), "until": seconds(until)}
    return {
        datetime.fromtimestamp(row["day"], UTC): Sums(
            row["row_count"], tuple(map(Decimal, row["sums"])), Decimal(row["checksum"])
        )
        for row in await clickhouse.fetch(text, period, timeout_s=WORK_TIMEOUT_S)
    }


def seconds(moment: datetime) -> int:
    """Whole seconds since 1970, as ClickHouse's DateTime counts; within what it can hold."""
    return int(min(max(moment, BEGINNING), END).timestamp())


def _read_days(rows: Sequence[Record]) -> Days:
    return {row["day"]: Sums(row["row_count"], tuple(row["sums"]), row["checksum"]) for row in rows}


# ---------------------------------------------------------------------------------------------------------------- copy


async def _copy_months(run: Run, source: Connection[Record], plan: Plan, months: Sequence[datetime]) -> None:
    """1. an empty staging table  2. what stays  3. what changed  4. check  5. replace, each in one step  6. note."""
    table, clickhouse, cluster = plan.table, run.clickhouse, run.clickhouse.cluster
    days = [day for day in plan.changed if day.replace(day=1) in months]
    names = [f"{month:%Y%m}" for month in months]
    await _drop_staging(clickhouse, table)
    await _make_table(clickhouse, table, staging=True)
    run.crash.reach("job-archive-staged")
    keep = statement("archive/keep_days", table, staging=True, cluster=cluster)
    await clickhouse.execute(keep, {"months": [int(name) for name in names], "days": [seconds(day) for day in days]})
    run.crash.reach("job-archive-kept")
    copied = await _copy_days(run, source, table, {day: plan.here[day] for day in days})
    run.crash.reach("job-archive-copied")
    staged = await sums_there(clickhouse, table, BEGINNING, END, staging=True)
    _check(table, staged, plan.expected(months, copied))
    run.crash.reach("job-archive-checked")
    replace = statement("archive/replace_month", table, cluster=cluster)
    for name in names:
        await clickhouse.execute(replace, {"month": name})
        run.crash.reach("job-archive-replaced")
    await _note(run, table, copied)
    run.crash.reach("job-archive-noted")
    await _drop_staging(clickhouse, table)


def _spans(days: Iterable[datetime]) -> list[Period]:
    """Days that follow each other, as periods."""
    spans: list[Period] = []
    for day in days:
        if spans and spans[-1][1] == day:
            spans[-1] = (spans[-1][0], day + DAY)
        else:
            spans.append((day, day + DAY))
    return spans


def _check(table: ArchiveTable, staged: Days, expected: Days) -> None:
    wrong = sorted(day for day in staged.keys() | expected.keys() if staged.get(day) != expected.get(day))
    if wrong:
        day = wrong[0]
        raise DifferenceFound(
            f"the archive's copy of {table.name} adds up to something else on {len(wrong)} days, the first "
            f"{day:%Y-%m-%d}: {staged.get(day)} instead of {expected.get(day)}; the archive was left as it was"
        )


async def _note(run: Run, table: ArchiveTable, days: Days) -> None:
    """Write the receipts of days the archive has."""
    if not days:
        return
    sums = list(days.values())
    flat = [number for each in sums for number in each.sums]
    counts, checksums = [each.row_count for each in sums], [each.checksum for each in sums]
    text = sql("archive/write_receipts")
    async with run.noting:
        await run.notes.execute(text, table.name, list(days), counts, checksums, flat, len(sums[0].sums))


async def _copy_days(run: Run, source: Connection[Record], table: ArchiveTable, days: Days) -> Days:
    """Put the rows of these days into the staging table; the days with the checksums of what was read."""
    checksums: dict[datetime, int] = {}
    target = f"{table.name}_staging"

    async def insert(piece: Piece) -> None:
        await run.clickhouse.insert(target, piece.stream)
        run.tell(0, piece.row_count)
        run.crash.reach("job-archive-piece")

    async with _behind() as start:

        async def decode(data: bytearray) -> None:
            piece = await asyncio.to_thread(read_piece, table.name, data, stream=True)
            _add(checksums, piece)
            await start(partial(insert, piece))

        for period in _spans(days):
            await _read_pieces(source, table, period, decode)
    return _checked(days, checksums)


async def _read_pieces(
    source: Connection[Record],
    table: ArchiveTable,
    period: Period,
    work: Callable[[bytearray], Coroutine[None, None, None]],
) -> None:
    """Rows of a period, a piece at a time as COPY brings them: while one is read, the one before it is worked on."""
    piece = bytearray()
    async with _behind() as start:

        async def take(data: bytes) -> None:
            nonlocal piece
            piece += data
            if len(piece) >= PIECE_BYTES_MAX:
                await start(partial(work, piece))
                piece = bytearray()
            await asyncio.sleep(GATHER_S)

        await source.copy_from_query(sql(STATEMENTS[table.name].copy), *period, output=take, format="text")
        if piece:
            await start(partial(work, piece))


@asynccontextmanager
async def _behind() -> AsyncGenerator[Callable[[Work], Awaitable[None]]]:
    """Start works that go on while the caller does, one at a time and in order; at the end all are done."""
    working: asyncio.Task[None] | None = None

    async def start(work: Work) -> None:
        nonlocal working
        if working is not None:
            await working
        working = asyncio.ensure_future(work())

    try:
        yield start
        if working is not None:
            await working
    finally:
        if working is not None:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


# ------------------------------------------------------------------------------------------------------------- confirm


async def confirmed_until(
    conn: Connection[Record], clickhouse: ClickHouse, table: ArchiveTable, *, until: datetime
) -> datetime:
    """Up to when, at most `until`, every row that is here may leave: the archive has its day now, and as it was noted.

    Days before the border were the same on both sides when the border was moved; some of their rows may have left.
    """
    found = await conn.fetchrow(sql("archive/read_border"), table.name)
    assert found is not None, "a row without a table"
    border = found["hot_since"] or EVER
    noted = _read_days(await conn.fetch(sql("archive/list_receipts"), table.name))
    here, there = await asyncio.gather(sums_here(conn, table, EVER, until), sums_there(clickhouse, table, EVER, until))
    return min(
        (
            day
            for day, sums in here.items()
            if day not in there or not there[day].is_as(noted.get(day)) or (day >= border and there[day] != sums)
        ),
        default=until,
    )


async def differing_days(conn: Connection[Record], clickhouse: ClickHouse, table: ArchiveTable) -> list[datetime]:
    """Days from the border on that are here as they were copied, but not in the archive."""
    plan = await _compare(conn, table, sums_there(clickhouse, table, BEGINNING, END))
    as_noted = {day: plan.here[day] for day in plan.changed if _may_be(plan.here[day], plan.noted.get(day))}
    known = await _with_checksums(conn, table, as_noted)
    return [day for day, sums in known.items() if sums.is_as(plan.noted[day])]


def _may_be(sums: Sums, noted: Sums | None) -> bool:
    return noted is not None and noted.totals == sums.totals


async def move_border(conn: Connection[Record], tables: Sequence[ArchiveTable], hot_since: datetime) -> None:
    """Say that rows before `hot_since` are the archive's, before the first of them leaves."""
    await conn.execute(sql("archive/move_border"), [table.name for table in tables], hot_since)
