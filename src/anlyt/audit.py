"""The range a stream still holds, counted again from its messages and held against the tables, cell by cell.

In: a range of hours. Out: what could be compared, and the cells that differ. The counting is recount.py's, which shares
nothing with what the workers do. 1. One snapshot of PostgreSQL: positions, the rows of the range, letters that a retry
counted. 2. The messages that were counted in that snapshot, and no later one. 3. Copies dropped, by event. 4. Hour by
hour and day by day: count, compare. Whatever is not needed at once waits in files of a temporary directory, so memory
depends on the busiest hour and not on the range.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from anlyt import jetstream, recount
from anlyt.errors import AnlytError, UsageError
from anlyt.postgres import session, sql
from anlyt.reconcile import DIFFERENCES_SHOWN_MAX, Difference
from anlyt.recount import COLUMNS, DAY_US, FUTURE_US, HOUR_US, Count, Fact, Rules
from anlyt.slots import division_of

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Sequence

    from asyncpg import Connection, Record

    from anlyt.events import Message
    from anlyt.jetstream import Client, StreamInfo
    from anlyt.settings import Settings
    from anlyt.terminal import Advance

RANGE_MAX_US: Final = 90 * DAY_US
AHEAD_US: Final = 2 * FUTURE_US  # what is published now was submitted at most this much later
MILLION: Final = 1_000_000
TIMEOUT_S: Final = 900.0
KEY_FILES: Final = 256  # files that events are sorted into by id, to find copies: one of them is in memory at a time
SPILL_BYTES_MAX: Final = 64 * 2**20  # kept in memory before it is written to files
CURSOR_ROWS: Final = 5_000
TAKE_MAX: Final = 10_000
TAKE_BYTES_MAX: Final = 32 * 2**20
TAKE_WAIT_S: Final = 1.0
P95_PERCENT: Final = 95
P95_ERROR: Final = 0.01
HOURLY: Final = ("metrics_hourly", "operator_performance")
DAILY: Final = ("metrics_daily", "account_usage_daily")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_LIST: Final = {
    "metrics_hourly": "audit/list_metrics_hourly",
    "operator_performance": "audit/list_operator_performance",
    "metrics_daily": "audit/list_metrics_daily",
    "account_usage_daily": "audit/list_account_usage_daily",
}

Kind = TypeVar("Kind", bound=Struct)


class Report(Struct, frozen=True, kw_only=True):
    """What an audit found. What lies in the range before `compared_from` is no longer wholly held by the stream."""

    start: datetime
    end: datetime
    compared_from: datetime  # `end` when nothing could be compared
    messages: int  # read
    missing_messages: int  # between the first and the last that were read: the stream counts them, but has them not
    counted_events: int  # of the range, each once
    duplicate_events: int
    dead_letters: dict[str, int]  # by reason, of all messages read
    contradictions: int  # copies of an event that say something else than the one that counted
    late_seconds: int  # ever; where there are any, a peak may be under-reported
    cells: int  # compared
    total: int  # cells that differ
    differences: tuple[Difference, ...]  # the first DIFFERENCES_SHOWN_MAX


class _Row(Struct, array_like=True):
    """A row of a table; money in millionths."""

    table: str
    scope: str
    scope_id: str
    columns: dict[str, int | None]


class _Snapshot(Struct):
    """What PostgreSQL said, all of one moment; the rows and the letters are in the spill. Instants in microseconds."""

    created: set[int]  # of the streams the positions are of
    last_seq: dict[int, int]  # by slot
    through: dict[int, int]  # complete_through, by slot
    read_events: int  # ever, of every stream
    late_seconds: int
    others_until: int  # when a stream other than this was counted last; 0: never
    hot_since: int
    unmerged: set[tuple[int, str]]  # operator hours whose percentile does not know all samples
    letters: Counter[str]  # dead letters of the messages that are read, by reason, without those a retry counted
    retried: dict[tuple[int, int], set[int]]  # sequence and publication: places of letters that a retry counted


class _Tally(Struct):
    """What reading the stream came to."""

    messages: int = 0
    elements: int = 0
    reasons: Counter[str] = msgspec.field(default_factory=Counter[str])
    first_seq: int = 0  # of the first message read; 0: there was none
    first_published: int = 0
    facts: int = 0  # of the range, copies too
    seen: int = 0  # messages read, also those that were not counted in the snapshot
    first_seen: int = 0  # their sequences
    last_seen: int = 0

    def see(self, messages: Sequence[Message]) -> None:
        """Note which messages the stream gave."""
        if messages:
            self.first_seen = self.first_seen or messages[0].sequence
            self.last_seen = messages[-1].sequence
            self.seen += len(messages)

    def missing(self, info: StreamInfo) -> int:
        """How many the stream should have given and did not, at least: some may have been deleted before the first."""
        asked = self.last_seen - self.first_seen + 1 if self.seen else 0
        return max(0, asked - self.seen - info.deleted)


class _Verdict(Struct):
    """What comparing came to."""

    cells: int = 0
    total: int = 0
    differences: list[Difference] = msgspec.field(default_factory=list[Difference])

    def compare(self, place: tuple[str, int, str, str, str], found: object, expected: object, *, equal: bool) -> None:
        """Note a cell: table, bucket, scope, id and column."""
        self.cells += 1
        if equal:
            return
        self.total += 1
        if len(self.differences) < DIFFERENCES_SHOWN_MAX:
            table, bucket, scope, who, column = place
            texts = [_text(column, value) for value in (found, expected)]
            self.differences.append(Difference(table, _moment(bucket), scope, who, column, *texts))


class Spill:
    """Records by name, in files of a directory once they are many."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts: defaultdict[str, list[bytes]] = defaultdict(list)
        self._bytes = 0
        self._encode = msgspec.json.Encoder().encode

    def add(self, name: str, record: Struct) -> None:
        """Keep a record under a name."""
        line = self._encode(record)
        self._parts[name].append(line)
        self._bytes += len(line)
        if self._bytes > SPILL_BYTES_MAX:
            self._write()

    def take(self, name: str, kind: type[Kind]) -> Iterator[Kind]:
        """The records of a name, one by one, in the order they came; then they are gone."""
        path = self._directory / name
        decode = msgspec.json.Decoder(kind).decode
        if path.exists():
            with path.open("rb") as lines:
                yield from map(decode, lines)
            path.unlink()
        yield from map(decode, self._parts.pop(name, ()))

    def _write(self) -> None:
        for name, lines in self._parts.items():
            with (self._directory / name).open("ab") as file:
                file.writelines(line + b"\n" for line in lines)
        self._parts.clear()
        self._bytes = 0


class _Range(Struct, frozen=True):
    """The hours that are looked at, in microseconds, and where their records are."""

    start: int
    end: int
    spill: Spill

    @property
    def since(self) -> int:
        """Nothing that was published before was submitted in the range."""
        return self.start - AHEAD_US


async def audit(settings: Settings, start: datetime, end: datetime, *, advance: Advance) -> Report:
    """Count the hours from `start` to `end` again, and compare.

    Raises Retry, UsageError for a range that is none, AnlytError for a stream that is not the one that was counted.
    """
    first, last = _instant(start) // HOUR_US * HOUR_US, -(-_instant(end) // HOUR_US) * HOUR_US
    if not 0 < last - first <= RANGE_MAX_US:
        raise UsageError(f"the range must have at least one hour and at most {RANGE_MAX_US // DAY_US} days")
    assert settings.nats_url is not None, "the command line checks it"
    directory = Path(tempfile.mkdtemp(prefix="anlyt-audit-"))
    hours = _Range(first, last, Spill(directory))
    try:
        nc = await jetstream.connect_as(settings, name="anlyt-audit")
        try:
            info = await jetstream.stream_info(nc, settings.stream)
            snapshot = await _read_database(settings, hours, info)
            tally = await _read_stream(nc, settings, hours, snapshot=snapshot, info=info, advance=advance)
        finally:
            await nc.close()
        return _judge(hours, snapshot, tally, info)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------------- PostgreSQL


async def _read_database(settings: Settings, hours: _Range, info: StreamInfo) -> _Snapshot:
    """One snapshot; rows and letters go to the spill, so that the transaction is short."""
    assert settings.database_url is not None, "the command line checks it"
    url = settings.database_url.get_secret_value()
    async with (
        session(url, application="anlyt-audit", statement_timeout_s=TIMEOUT_S) as conn,
        conn.transaction(isolation="repeatable_read", readonly=True),
    ):
        await conn.execute(sql("reconcile/hold_partitions"))  # first: the snapshot is taken by the next statement
        period = _moment(hours.start), _moment(hours.end)
        positions = await conn.fetch(sql("audit/list_positions"), settings.stream)
        totals = await conn.fetchrow(sql("audit/sum_totals"), settings.stream)
        horizons = await conn.fetchrow(sql("reconcile/read_horizons"))
        unmerged = await conn.fetch(sql("audit/list_unmerged"), *period)
        letters = await conn.fetch(
            sql("audit/count_letters"), settings.stream, info.first_seq, _moment(max(0, hours.since))
        )
        assert totals is not None, "a sum has one row"
        assert horizons is not None, "an aggregate has one row"
        await _keep_rows(conn, hours, period)
        retried = await _keep_retried(conn, settings, hours)
    snapshot = _Snapshot(
        created={_instant(row["stream_created_at"]) for row in positions},
        last_seq={row["slot"]: row["last_seq"] for row in positions},
        through={row["slot"]: _instant(row["complete_through"] or _EPOCH) for row in positions},
        read_events=totals["read_events"],
        late_seconds=totals["late_seconds"],
        others_until=_instant(totals["others_until"] or _EPOCH),
        hot_since=_instant(horizons["hours_since"]),
        unmerged={(_instant(row["hour_bucket"]), row["operator_id"]) for row in unmerged},
        letters=Counter({row["reason"]: row["letters"] for row in letters}),
        retried=retried,
    )
    if not snapshot.last_seq:
        raise AnlytError(f"nothing of stream {settings.stream} has been counted yet; run: anlyt worker --until-idle")
    if snapshot.created != {info.created}:
        raise AnlytError(
            f"stream {settings.stream} was made anew and not been counted since; run: anlyt worker --until-idle"
        )
    return snapshot


async def _keep_rows(conn: Connection[Record], hours: _Range, period: tuple[datetime, datetime]) -> None:
    for table in (*HOURLY, *DAILY):
        async for row in conn.cursor(sql(_LIST[table]), *period, prefetch=CURSOR_ROWS):
            columns = {
                name: _whole(value) for name, value in row.items() if name not in {"bucket", "scope", "scope_id"}
            }
            kept = _Row(table, row["scope"], row["scope_id"], columns)
            hours.spill.add(f"{'hour' if table in HOURLY else 'day'}-{_instant(row['bucket'])}", kept)


async def _keep_retried(conn: Connection[Record], settings: Settings, hours: _Range) -> dict[tuple[int, int], set[int]]:
    """What was counted from dead letters, as the retry recorded it: a letter tells what it brought; which they are."""
    rules = replace(_rules_of(settings), retried=True)
    places: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    async for row in conn.cursor(sql("audit/list_counted_letters"), prefetch=CURSOR_ROWS // 100):
        read = recount.read_message(
            row["body"],
            json.loads(row["headers"]),
            published=_instant(row["resolved_at"]),
            sequence=row["sequence"],
            rules=rules,
        )
        _keep_facts(hours, (fact for fact in read.facts if fact.key in row["event_ids"]))
        if row["stream"] == settings.stream:
            places[row["sequence"], _instant(row["published_at"])].add(row["batch_index"])
    return dict(places)


# ----------------------------------------------------------------------------------------------------------- the stream


async def _read_stream(
    nc: Client, settings: Settings, hours: _Range, *, snapshot: _Snapshot, info: StreamInfo, advance: Advance
) -> _Tally:
    """Every message of the range that was counted in the snapshot, as facts in the spill."""
    tally = _Tally()
    last_seq, last_through = max(snapshot.last_seq.values()), max(snapshot.through.values())
    reader = await jetstream.open_reader(nc, settings.stream, subject=None, since=max(0, hours.since))
    rules = _rules_of(settings)
    slot_of = _slots(settings, info)
    try:
        while True:
            messages = await reader.take(TAKE_MAX, bytes_max=TAKE_BYTES_MAX, wait_s=TAKE_WAIT_S)
            tally.see(messages)
            for message in messages:
                slot = slot_of(message)
                counted = message.published < snapshot.through.get(slot, 0)  # also when a position was put back since
                if counted or message.sequence <= snapshot.last_seq.get(slot, 0):
                    skip = snapshot.retried.get((message.sequence, message.published), ())
                    _read_one(message, hours, tally, rules, skip=skip)
            advance(tally.messages, tally.messages + reader.server_pending)
            if not messages and await reader.caught_up() is not None:
                return tally
            if messages and messages[-1].sequence >= last_seq and messages[-1].published >= last_through:
                return tally
    finally:
        await reader.close()


def _read_one(message: Message, hours: _Range, tally: _Tally, rules: Rules, *, skip: Container[int]) -> None:
    read = recount.read_message(
        message.body, message.headers, published=message.published, sequence=message.sequence, rules=rules, skip=skip
    )
    if not tally.messages:
        tally.first_seq, tally.first_published = message.sequence, message.published
    tally.messages += 1
    tally.elements += read.elements
    tally.reasons += read.reasons
    tally.facts += _keep_facts(hours, read.facts)


def _keep_facts(hours: _Range, facts: Iterable[Fact]) -> int:
    kept = 0
    for fact in facts:
        if hours.start <= fact.at < hours.end:
            hours.spill.add(f"key-{zlib.crc32(fact.key.encode()) % KEY_FILES}", fact)
            kept += 1
    return kept


def _slots(settings: Settings, info: StreamInfo) -> Callable[[Message], int]:
    """Which slot a message is of, by the tokens the stream puts into its subject; 0 where it puts none."""
    division = division_of(info.config, settings.subjects)
    if division is None:
        return lambda _message: 0
    return lambda message: division.slot(message.subject) or 0


# ------------------------------------------------------------------------------------------------------------ comparing


def _judge(hours: _Range, snapshot: _Snapshot, tally: _Tally, info: StreamInfo) -> Report:
    """Drop the copies, count, compare."""
    held = max(_held_from(snapshot, tally, info), snapshot.hot_since, hours.start)
    compared_from = min(-(-held // HOUR_US) * HOUR_US, hours.end)
    counted = contradictions = 0
    for n in range(KEY_FILES):
        facts, odd = recount.drop_copies(list(hours.spill.take(f"key-{n}", Fact)))
        contradictions += odd
        counted += len(facts)
        for fact in facts:
            hours.spill.add(f"fact-{fact.at // HOUR_US * HOUR_US}", fact)
    verdict = _Verdict()
    for reason in sorted(tally.reasons | snapshot.letters):
        place = "dead_letters", hours.start, "", "", reason
        found, expected = snapshot.letters[reason], tally.reasons[reason]
        verdict.compare(place, found, expected, equal=found == expected)
    _compare_hours(hours, compared_from, snapshot, verdict)
    return Report(
        start=_moment(hours.start),
        end=_moment(hours.end),
        compared_from=_moment(compared_from),
        messages=tally.messages,
        missing_messages=tally.missing(info),
        counted_events=counted,
        duplicate_events=tally.facts - counted,
        dead_letters=dict(tally.reasons),
        contradictions=contradictions,
        late_seconds=snapshot.late_seconds,
        cells=verdict.cells,
        total=verdict.total,
        differences=tuple(verdict.differences),
    )


def _held_from(snapshot: _Snapshot, tally: _Tally, info: StreamInfo) -> int:
    """From when on the stream holds everything that was ever counted into an hour."""
    held = 0
    if info.first_seq > 1 and not tally.messages and info.messages == 0:
        held = info.now
    elif info.first_seq > 1 and tally.first_seq == info.first_seq:
        held = tally.first_published + AHEAD_US
    elif info.first_seq <= 1 and tally.elements != snapshot.read_events:
        held = info.created + AHEAD_US  # earlier hours may have been counted from a stream before this one
    return max(held, snapshot.others_until + AHEAD_US if snapshot.others_until else 0)


def _compare_hours(hours: _Range, compared_from: int, snapshot: _Snapshot, verdict: _Verdict) -> None:
    day = Count()
    for start in range(compared_from, hours.end, HOUR_US):
        hour = Count()
        for fact in hours.spill.take(f"fact-{start}", Fact):
            hour.add_closely(fact)
            day.add(fact)
        hour.close_hour()
        day.take_peaks(hour)
        rows = list(hours.spill.take(f"hour-{start}", _Row))
        _compare_rows(hour, rows, start, tables=HOURLY, snapshot=snapshot, verdict=verdict)
        _compare_percentiles(hour, rows, start, snapshot=snapshot, verdict=verdict)
        if (start + HOUR_US) % DAY_US == 0:
            midnight = start + HOUR_US - DAY_US
            if midnight >= compared_from:
                days = list(hours.spill.take(f"day-{midnight}", _Row))
                _compare_rows(day, days, midnight, tables=DAILY, snapshot=snapshot, verdict=verdict)
            day = Count()


def _compare_rows(
    count: Count,
    rows: Iterable[_Row],
    bucket: int,
    *,
    tables: tuple[str, ...],
    snapshot: _Snapshot,
    verdict: _Verdict,
) -> None:
    found = {(row.table, row.scope, row.scope_id): row.columns for row in rows}
    expected = {(table, scope, who): row for table in tables for scope, who, row in recount.rows_of(count, table)}
    for key in sorted(found.keys() | expected.keys()):
        table, scope, who = key
        have, want = found.get(key, {}), expected.get(key, {})
        for column in COLUMNS[table]:
            left, right = have.get(column) or 0, want.get(column, 0)
            equal = left == right
            if column == "peak_tps" and snapshot.late_seconds:
                equal = count.least_peaks.get((scope, who), 0) <= left <= right
            verdict.compare((table, bucket, scope, who, column), left, right, equal=equal)


def _compare_percentiles(
    count: Count, rows: Iterable[_Row], bucket: int, *, snapshot: _Snapshot, verdict: _Verdict
) -> None:
    found = {row.scope_id: row.columns["latency_p95_ms"] for row in rows if row.table == "operator_performance"}
    for who in sorted(found.keys() | count.samples.keys()):
        if (bucket, who) in snapshot.unmerged:
            continue  # the percentile job has not come to it yet
        samples = count.samples.get(who, [])
        have, want = found.get(who), recount.nearest_rank(samples, P95_PERCENT) if samples else None
        equal = have == want
        if have is not None and want is not None:
            equal = abs(have - want) <= max(1, want * P95_ERROR)
        place = "operator_performance", bucket, "OPERATOR", who, "latency_p95_ms"
        verdict.compare(place, have, want, equal=equal)


# -------------------------------------------------------------------------------------------------------------- helpers


def _rules_of(settings: Settings) -> Rules:
    age_us = int(settings.max_message_age.total_seconds()) * 1_000_000
    return Rules(settings.currency, age_us, settings.ignored_types)


def _instant(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(instant: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant)


def _whole(value: int | Decimal | None) -> int | None:
    return int(value * MILLION) if isinstance(value, Decimal) else value


def _text(column: str, value: object) -> str:
    return f"{Decimal(value).scaleb(-6):f}" if column == "total_cost" and isinstance(value, int) else str(value)
