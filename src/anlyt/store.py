"""One batch, one transaction: position, ids, roll-ups, working tables and dead letters together, or nothing (I3).

In: what was read (Decoded) and where it was read from (Position). Out: the same facts in the `anlyt` schema, and the
new Position. The position's update is the fence: it hits its rows only if nobody else has moved them (I4). Ids already
in processed_events lose here, whoever brought them (I2). Rows are locked in one global order everywhere: position, ids,
seconds, then the tables, ACCOUNT before OPERATOR before PLATFORM, so that workers never deadlock (I5).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Final

import structlog
from asyncpg import UniqueViolationError
from msgspec import Struct
from msgspec.structs import replace

from anlyt.errors import PositionMoved
from anlyt.events import SECOND_US, Decoded, Event, Letter, Message, to_datetime, to_instant
from anlyt.postgres import sql
from anlyt.rollup import Cell, Deltas, Folding, Key, bucket_day, bucket_hour, fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from asyncpg import Connection, Record

    from anlyt.crash import CrashPoints
    from anlyt.jetstream import StreamInfo

log = structlog.get_logger("anlyt.store")

COPY_IDS_MIN: Final = 100  # for fewer the round trips of a savepoint cost more than COPY saves
COPIES_COMPARED_MAX: Final = 1_000  # of a batch, with the types their ids were counted as
RESUME_MARGIN_US: Final = 10 * 60 * SECOND_US  # read again this much when a position no longer fits the stream


class Position(Struct, frozen=True):
    """How far one partition has been counted; instants in microseconds since 1970 UTC."""

    stream: str
    slots: tuple[int, ...]
    last_seq: int
    last_published: int | None  # of message last_seq, when known
    complete_through: int | None
    stream_created: int
    refused: int = 0  # events that were not understood, on balance (breaker.py)


class Expected:
    """What events add up to if none of them is known: worked out while PostgreSQL is busy with the batch before."""

    def __init__(self) -> None:
        self.first: dict[str, Event] = {}  # the first event of each id
        self.taken = 0  # events, copies included
        self._folding = Folding()

    def add(self, events: Sequence[Event]) -> None:
        """Take in some more events of the batch, in order."""
        first = self.first
        self.taken += len(events)
        self._folding.add([event for event in events if first.setdefault(event.key, event) is event])

    def deltas(self) -> Deltas:
        """What the first event of each id adds, all together."""
        return self._folding.deltas()


class Batch(Struct, frozen=True):
    """What was read behind a position, decoded, and where that leaves it."""

    messages: list[Message]
    decoded: Decoded
    last_seq: int
    last_published: int | None
    complete_through: int
    lost: int = 0  # messages of this stretch that the stream dropped before they were read
    expected: Expected | None = None  # of all its events, when they are likely to be new
    refused: int = 0  # the partition's balance behind it (breaker.py)


class Applied(Struct, frozen=True):
    """What became of a batch."""

    position: Position
    counted_types: dict[str, int]
    duplicates: int
    dead_letters: int
    late_seconds: int
    conflicts: int  # copies of another type than the event that was counted under their id


class Resume(Struct, frozen=True):
    """Where reading starts: the position, and an instant instead when its sequence means nothing any more."""

    position: Position
    since: int | None  # read from this instant on; None: from position.last_seq + 1
    lost: int  # messages the stream dropped before they were read


async def open_position(
    conn: Connection, stream: str, slots: tuple[int, ...], info: StreamInfo, *, seen: int | None
) -> Resume:
    """The position of a partition, its slots aligned, checked against the stream.

    `seen` is the JetStream time of the message at the lowest last_seq, None when the stream no longer holds it. Slots
    that differ (the number of partitions changed) all go back to the lowest: what is read twice is counted once.
    """
    async with conn.transaction():
        created = to_datetime(info.created)
        await conn.execute(sql("ingest/add_positions"), stream, slots, info.first_seq - 1, created)
        rows = await conn.fetch(sql("ingest/read_positions"), stream, slots)
        lowest = min(rows, key=lambda row: row["last_seq"])
        known = [to_instant(row["complete_through"]) for row in rows if row["complete_through"] is not None]
        position = Position(
            stream=stream,
            slots=slots,
            last_seq=lowest["last_seq"],
            last_published=to_instant(lowest["last_published_at"]) if lowest["last_published_at"] else None,
            complete_through=min(known) if len(known) == len(rows) else None,
            stream_created=to_instant(rows[0]["stream_created_at"]),
            refused=max(row["refused_events"] for row in rows),
        )
        replaced = any(row["stream_created_at"] != created for row in rows)
        if replaced or not belongs(lowest, info, seen=seen):
            anchor = position.complete_through or position.last_published or 0
            return Resume(position, max(0, anchor - RESUME_MARGIN_US), 0)
        lost = max(0, info.first_seq - position.last_seq - 1)
        if lost or len({row["last_seq"] for row in rows}) > 1:
            position = await _align(conn, position, position.last_seq + lost, info.created, lost)
        return Resume(position, None, lost)


def belongs(row: Record, info: StreamInfo, *, seen: int | None) -> bool:
    """Whether a position is one of this stream, which was neither recreated nor put back to an older state since.

    `seen` as for open_position, at the row's last_seq.
    """
    last_published = row["last_published_at"]
    rewritten = None not in {seen, last_published} and to_datetime(seen or 0) != last_published
    return row["stream_created_at"] == to_datetime(info.created) and row["last_seq"] <= info.last_seq and not rewritten


async def lowest_position(conn: Connection, stream: str, slots: tuple[int, ...]) -> int | None:
    """The sequence a partition will resume behind; None before its first start."""
    last_seq: int | None = await conn.fetchval(sql("ingest/lowest_position"), stream, slots)
    return last_seq


async def reset_position(conn: Connection, position: Position, *, last_seq: int, stream_created: int) -> Position:
    """Put a partition's position where reading resumes in a stream that was recreated or restored."""
    async with conn.transaction():
        await conn.fetch(sql("ingest/read_positions"), position.stream, position.slots)
        return await _align(conn, position, last_seq, stream_created, 0)


async def _align(conn: Connection, position: Position, last_seq: int, stream_created: int, lost: int) -> Position:  # noqa: PLR0917 - a row
    await conn.execute(
        sql("ingest/align_positions"), position.stream, position.slots, last_seq, to_datetime(stream_created), lost
    )
    known = position.last_published if last_seq == position.last_seq else None
    return replace(position, last_seq=last_seq, stream_created=stream_created, last_published=known)


async def apply(conn: Connection, position: Position, batch: Batch, crash: CrashPoints) -> Applied:
    """Count one batch in one transaction. Raises PositionMoved when somebody else has counted from `position` on.

    1. move the position (the fence)  2. claim ids, drop what was counted before  3. fold the rest
    4. add seconds, histograms, roll-ups  5. keep dead letters and totals  6. commit.
    """
    events, expected = batch.decoded.events, batch.expected
    assert expected is None or expected.taken == len(events)  # it is about these very events
    async with conn.transaction():
        moved = await _advance(conn, position, batch)
        crash.reach("after-position")
        first = distinct(events) if expected is None else expected.first
        fresh = await claim(conn, first, expect_new=expected is not None)
        conflicts = await _find_conflicts(conn, events, first, fresh)
        crash.reach("after-claim")
        deltas = fold(fresh) if expected is None or len(fresh) < len(first) else expected.deltas()
        late = await add(conn, deltas, crash)
        letters = await _keep_letters(conn, position.stream, batch.decoded.letters)
        await add_backfills(conn, replace(batch.decoded, letters=letters), fresh)
        crash.reach("after-letters")
        duplicates = len(events) - len(fresh)
        if batch.decoded != _NOTHING:
            totals = (len(fresh), duplicates, len(letters), batch.decoded.ignored, late)
            await conn.execute(sql("ingest/add_ingest_totals"), position.stream, position.slots[0], *totals)
        crash.reach("before-commit")
    crash.reach("after-commit")
    if conflicts:
        log.warning("id-conflicts", stream=position.stream, copies=len(conflicts), event_id=conflicts[0])
    return Applied(moved, Counter(event.type for event in fresh), duplicates, len(letters), late, len(conflicts))


async def _find_conflicts(
    conn: Connection, events: Sequence[Event], first: Mapping[str, Event], fresh: Sequence[Event]
) -> list[str]:
    """Ids that stand for events of two types, of the first COPIES_COMPARED_MAX copies."""
    if len(fresh) == len(events):
        return []
    new = {event.key for event in fresh}
    twice = [event.key for event in events if event.key in new and first[event.key].type != event.type]
    copies = [event for event in events if event.key not in new][:COPIES_COMPARED_MAX]
    if not copies:
        return twice
    ids, types = "\n".join([event.key for event in copies]), "\n".join([event.type for event in copies])
    return twice + [row["event_id"] for row in await conn.fetch(sql("ingest/find_conflicts"), ids, types)]


_NOTHING: Final = Decoded([], [], 0)


def distinct(events: Sequence[Event]) -> dict[str, Event]:
    """The first event of each id, the very object."""
    return {event.key: event for event in reversed(events)}


async def claim(conn: Connection, first: Mapping[str, Event], *, expect_new: bool = False) -> list[Event]:
    """Those of `distinct` events that were never counted before. Inside a transaction.

    What is claimed must be added before the commit. With `expect_new` the ids are copied in first, at half the cost;
    one that is known makes that fail, and be done again.
    """
    fresh = list(first.values())
    if not fresh or (expect_new and len(fresh) >= COPY_IDS_MIN and await _copy_ids(conn, fresh)):
        return fresh
    ids, types = "\n".join(first), "\n".join([event.type for event in fresh])
    claimed: list[str] | None = await conn.fetchval(sql("ingest/claim_events"), ids, types, len(fresh))
    return fresh if claimed is None else [first[key] for key in claimed]


async def _copy_ids(conn: Connection, events: Sequence[Event]) -> bool:
    """Claim all of the ids by COPY, or none of them when one is known already. In the order of claim_events.sql."""
    rows = sorted([(event.key, event.type) for event in events])
    try:
        async with conn.transaction():
            await conn.copy_records_to_table(
                "processed_events", schema_name="anlyt", records=rows, columns=("event_id", "event_type")
            )
    except UniqueViolationError:
        return False
    return True


async def add(conn: Connection, deltas: Deltas, crash: CrashPoints) -> int:
    """Add what claimed events add up to, to the working tables and the roll-ups; how many seconds came late.

    Inside a transaction.
    """
    peaks, late = await _add_seconds(conn, deltas.seconds)
    crash.reach("after-seconds")
    await _add_latencies(conn, deltas.latencies)
    crash.reach("after-histograms")
    await _add_hourly(conn, deltas, peaks)
    crash.reach("after-hourly")
    await _add_daily(conn, deltas, peaks)
    crash.reach("after-daily")
    await add_changed_hours(conn, {key.bucket // SECOND_US for key in deltas.hourly})
    return late


async def add_changed_hours(conn: Connection, hours: Iterable[int]) -> None:
    """Tell live readers which hours (seconds since 1970 UTC) this transaction changes."""
    if found := sorted(hours):
        await conn.execute(sql("ingest/add_changed_hours"), found)


async def _advance(conn: Connection, position: Position, batch: Batch) -> Position:
    moved = await conn.fetch(
        sql("ingest/advance_positions"),
        position.stream,
        position.slots,
        position.last_seq,
        to_datetime(position.stream_created),
        batch.last_seq,
        None if batch.last_published is None else to_datetime(batch.last_published),
        to_datetime(batch.complete_through),
        batch.lost,
        batch.refused,
    )
    if len(moved) != len(position.slots):
        raise PositionMoved(
            f"slots {position.slots} of {position.stream} are no longer at {position.last_seq}: another worker has them"
        )
    return replace(
        position,
        last_seq=batch.last_seq,
        last_published=position.last_published if batch.last_seq == position.last_seq else batch.last_published,
        complete_through=max(position.complete_through or 0, batch.complete_through),
        refused=batch.refused,
    )


async def _add_seconds(conn: Connection, seconds: Mapping[Key, int]) -> tuple[dict[Key, int], int]:
    """The touched hours' busiest touched second, and the number of seconds that came late."""
    if not seconds:
        return {}, 0
    rows = await conn.fetch(
        sql("ingest/add_second_counts"),
        [key.bucket // SECOND_US for key in seconds],
        [key.scope for key in seconds],
        [key.scope_id for key in seconds],
        list(seconds.values()),
    )
    peaks = {Key(row["hour"] * SECOND_US, row["scope"], row["scope_id"]): row["peak_tps"] for row in rows}
    return peaks, sum(row["late"] for row in rows)


async def _add_latencies(conn: Connection, latencies: Mapping[tuple[int, str], Mapping[int, int]]) -> None:
    rows = [
        (hour // SECOND_US, who, _array(sorted(counts)), _array([counts[bucket] for bucket in sorted(counts)]))
        for (hour, who), counts in latencies.items()
    ]
    if rows:
        await conn.execute(sql("ingest/add_latency_histograms"), *_columns(rows))


def _array(numbers: list[int]) -> str:
    """An array as PostgreSQL writes it: unnest takes no arrays of different lengths."""
    return f"{{{','.join(map(str, numbers))}}}"


async def _add_hourly(conn: Connection, deltas: Deltas, peaks: Mapping[Key, int]) -> None:
    """metrics_hourly, and operator_performance from the same cells."""
    await _add_metrics(conn, "ingest/add_metrics_hourly", deltas.hourly, peaks)
    operators = [
        (key.bucket // SECOND_US, key.scope_id, *_operator_values(cell), peaks.get(key, 0), cell.errors)
        for key, cell in deltas.hourly.items()
        if key.scope == "OPERATOR"
    ]
    if operators:
        await conn.execute(sql("ingest/add_operator_performance"), *_columns(operators))


def _operator_values(cell: Cell) -> tuple[int, ...]:
    return cell.total, cell.delivered, cell.failed, cell.latency, cell.samples


async def _add_daily(conn: Connection, deltas: Deltas, peaks: Mapping[Key, int]) -> None:
    """metrics_daily, and account_usage_daily from the same cells."""
    daily_peaks: defaultdict[Key, int] = defaultdict(int)
    for (hour, scope, who), peak in peaks.items():
        day = Key(bucket_day(hour), scope, who)
        daily_peaks[day] = max(daily_peaks[day], peak)
    await _add_metrics(conn, "ingest/add_metrics_daily", deltas.daily, daily_peaks)
    accounts = [
        (day // SECOND_US, who, c.total, c.delivered, c.failed, c.cost, c.segments)
        for (day, scope, who), c in deltas.daily.items()
        if scope == "ACCOUNT"
    ]
    if accounts:
        await conn.execute(sql("ingest/add_account_usage_daily"), *_columns(accounts))


async def _add_metrics(conn: Connection, name: str, cells: Mapping[Key, Cell], peaks: Mapping[Key, int]) -> None:
    rows = [
        (
            key[0] // SECOND_US,
            key[1],
            key[2],
            c.total,
            c.delivered,
            c.failed,
            c.cost,
            c.latency,
            c.samples,
            peaks.get(key, 0),
        )
        for key, c in cells.items()
        if c.counts_messages() or key in peaks
    ]
    if rows:
        await conn.execute(sql(name), *_columns(rows))


async def _keep_letters(conn: Connection, stream: str, letters: Sequence[Letter]) -> list[Letter]:
    """The letters that are new; the others were kept when their message was read before."""
    if not letters:
        return []
    rows = [
        (
            letter.message.sequence,
            letter.batch_index,
            to_datetime(letter.message.published),
            letter.reason,
            letter.detail,
            letter.message.subject,
            json.dumps(letter.message.headers or {}),
            letter.body,
            letter.key,
        )
        for letter in letters
    ]
    kept = {tuple(row) for row in await conn.fetch(sql("ingest/keep_dead_letters"), stream, *_columns(rows))}
    return [letter for letter in letters if (letter.message.sequence, letter.batch_index) in kept]


async def add_backfills(conn: Connection, decoded: Decoded, fresh: Iterable[Event]) -> None:
    """Counts by name of load, for the messages that carry one."""
    hours: defaultdict[str, list[int]] = defaultdict(list)
    for event in fresh:
        if event.backfill is not None:
            hours[event.backfill].append(bucket_hour(event.at))
    offered: defaultdict[str, int] = defaultdict(int)
    for event in decoded.events:
        if event.backfill is not None:
            offered[event.backfill] += 1
    letters: defaultdict[str, int] = defaultdict(int)
    for letter in decoded.letters:
        if letter.backfill is not None:
            letters[letter.backfill] += 1
    rows = [
        (
            name,
            len(hours[name]),
            offered[name] - len(hours[name]),
            letters[name],
            min(hours[name]) // SECOND_US if hours[name] else None,
            max(hours[name]) // SECOND_US if hours[name] else None,
        )
        for name in sorted(offered.keys() | letters.keys())
    ]
    if rows:
        await conn.execute(sql("ingest/add_backfills"), *_columns(rows))


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows turned into one list a column, as unnest takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
