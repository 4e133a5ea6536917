"""Count the stream: own partitions, pull, decode, apply; overlap, back-pressure, hand-over.

In: messages of the partitions this worker owns. Out: counted batches, one transaction each (store.apply). A partition
is owned by whoever holds the advisory locks of its slots; the locks only save work, the fence in the position update is
what exactness relies on (I4). While PostgreSQL applies one batch the next is read and decoded. Anything that goes wrong
with a server ends the partition's task; it starts again from the position in PostgreSQL, so an unknown outcome of a
COMMIT needs no guess. Workers share the partitions evenly and hand them over within seconds.
"""

from __future__ import annotations

import asyncio
import math
import random
import zlib
from collections import Counter as Tally
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from msgspec import Struct, field
from msgspec.structs import replace

from anlyt import breaker, jetstream, slots, store
from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX
from anlyt.errors import NothingUnderstood, Retry, StreamUnavailable
from anlyt.events import DAY_US, Decoded, Decoder, Event, Letter, Message, Overflow, rules_of, to_datetime
from anlyt.jetstream import headers_size
from anlyt.patience import backoff, ended_after, wait
from anlyt.postgres import connect, ensure_partitions, sql, unavailable
from anlyt.slots import SLOTS, division_of, slots_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from asyncpg import Connection

    from anlyt.crash import CrashPoints
    from anlyt.frames import Client
    from anlyt.settings import Settings
    from anlyt.slots import Division
    from anlyt.telemetry import Telemetry

BATCH_BYTES_MAX: Final = 8 * 1_048_576
BATCH_LETTERS_MAX: Final = 20_000  # no further message is decoded into a batch with so many letters,
BATCH_LETTERS_BYTES_MAX: Final = 16 * 1_048_576  # or with such large ones: a small body can hold 1,000 of them
DECODE_BYTES: Final = 65_536  # decoded before other tasks get a turn: about 0.5 ms
TAKE_WAIT_S: Final = 0.2
LINGER_S: Final = 0.04  # least time between two batches unless one is full: small commits cost more than they bring
HEAD_PERIOD_S: Final = 1.0  # how often an idle partition moves its position to the stream's head
BALANCE_PERIOD_S: Final = 1.0
BEAT_PERIOD_S: Final = 1.0
IDLE_PERIOD_S: Final = 0.1  # the same while waiting for the end of the stream
HOLE_MAX: Final = 40  # a part misses so many of its expected messages in a row by chance once in e^40
ALL: Final = "all"  # name of the partition that is the whole stream
START_LIMIT_S: Final = 30.0  # how long a worker that starts waits for JetStream to choose a leader
STOP_LIMIT_S: Final = 12.0  # a batch that has not finished this long after the stop is left to be read again
CLOSE_LIMIT_S: Final = 5.0  # to say good-bye to servers that may not listen any more

log = structlog.get_logger("anlyt.worker")


class Context(Struct, frozen=True):
    """What every part of one worker process uses."""

    settings: Settings
    nc: Client
    telemetry: Telemetry
    crash: CrashPoints
    stop: asyncio.Event
    failures: Tally[str] = field(default_factory=Tally)  # of each partition in a row; a committed batch ends the row

    @property
    def database_url(self) -> str:
        """The database address; the worker is not started without one."""
        assert self.settings.database_url is not None  # the command line checks it
        return self.settings.database_url.get_secret_value()

    @property
    def presence_key(self) -> int:
        """Advisory lock that all workers with as many partitions share, to count each other; no slot's number.

        Only they share out: branches of different depths do not fit into each other's places.
        """
        return -self.settings.partitions

    @property
    def lock_class(self) -> int:
        """First key of this stream's advisory locks: a signed 32-bit hash of its name."""
        return zlib.crc32(self.settings.stream.encode()) - 2**31


class Lane:
    """One owned partition: its task, its stop signal and the reader that a lost connection has to break."""

    def __init__(self, branch: str) -> None:
        self.branch = branch
        self.slots = tuple(slots_of(branch))
        self.stop = asyncio.Event()
        self.owned = False
        self.division: Division | None = None  # of the stream, when it was last opened
        self.reader: jetstream.Reader | None = None
        self.task: asyncio.Task[None] | None = None


async def run(
    settings: Settings,
    *,
    telemetry: Telemetry,
    crash: CrashPoints,
    stop: asyncio.Event,
    until_idle: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Count until `stop` is set, or, with `until_idle`, until the stream's present end has been counted.

    On the way there `on_progress` hears how far along the stream's sequences that is, and which is the last.
    Raises Retry when a server cannot be reached at the start; later on the worker waits for it to come back. And
    NothingUnderstood when next to nothing in a partition can be counted (breaker.py).
    """
    lanes: dict[str, Lane] = {}

    def disconnected() -> None:
        for lane in lanes.values():
            if lane.reader is not None:
                lane.reader.mark_broken("the connection to NATS was lost")

    nc = await jetstream.connect_as(settings, name="anlyt-worker", on_disconnect=disconnected)
    context = Context(settings, nc, telemetry, crash, stop)
    pulse = asyncio.create_task(_beat(telemetry), name="pulse")
    try:
        info, made = await _wait_for_stream(context)
        if made:
            log.info("stream-made", stream=settings.stream, subjects=settings.subjects)
        branches = _branches(settings, info)
        end = End(info.last_seq, on_progress) if until_idle else None
        await _supervise(context, branches, lanes, end=end)
    finally:
        pulse.cancel()
        await _stop_lanes(list(lanes.values()))
        with suppress(Exception):
            await asyncio.wait_for(nc.close(), CLOSE_LIMIT_S)


async def _beat(telemetry: Telemetry) -> None:
    """Show that this process gets its turns."""
    while True:
        telemetry.beat()
        await asyncio.sleep(BEAT_PERIOD_S)


async def _wait_for_stream(context: Context) -> tuple[jetstream.StreamInfo, bool]:
    """The stream, and whether it had to be made; while JetStream chooses a leader, for START_LIMIT_S at most."""
    settings, clock = context.settings, asyncio.get_running_loop().time
    deadline = clock() + START_LIMIT_S
    failures = 0
    while True:
        try:
            return await jetstream.ensure_stream(
                context.nc, settings.stream, settings.subjects, replicas=settings.stream_replicas
            )
        except StreamUnavailable as error:
            if not jetstream.is_passing(error) or clock() > deadline or context.stop.is_set():
                raise
            log.warning("stream-awaited", stream=settings.stream, cause=str(error))
        failures += 1
        await wait(context.stop, backoff(failures))


def _branches(settings: Settings, info: jetstream.StreamInfo) -> list[str]:
    partitions = settings.partitions
    if partitions > 1 and division_of(info.config, settings.subjects) is None:
        how = slots.remedy(info.config, settings.subjects)
        log.warning("stream-without-slots", stream=settings.stream, partitions=1, remedy=how)
        partitions = 1
    return slots.branches_of(partitions)


def _check_division(lane: Lane, settings: Settings, info: jetstream.StreamInfo) -> None:
    """Raises StreamUnavailable when the stream is not divided as this part of it is read: it would miss messages."""
    if lane.branch and (lane.division is None or division_of(info.config, settings.subjects) != lane.division):
        raise StreamUnavailable(f"stream {settings.stream} is divided in another way now: see anlyt doctor")


# -------------------------------------------------------------------------------------------------------- supervision


class End(Struct, frozen=True):
    """Up to where a worker counts that does not go on, and who hears how far it is."""

    last_seq: int
    on_progress: Callable[[int, int], None] | None


async def _supervise(context: Context, branches: list[str], lanes: dict[str, Lane], *, end: End | None) -> None:
    """Keep a fair share of the partitions running. `end`: return when every slot has been counted up to there."""
    conn: Connection | None = None
    failures = 0
    period = BALANCE_PERIOD_S if end is None else IDLE_PERIOD_S
    started = False
    try:
        while not context.stop.is_set():
            try:
                conn = conn or await _join_in(context)
                with unavailable(), ended_after(conn, context.settings.batch_deadline_s):
                    if end is not None and await _all_counted(context, conn, end):
                        break
                    await _balance(context, conn, branches, lanes)
                failures, started = 0, True
                context.telemetry.ready(_trouble(context, lanes))
            except Retry as error:
                if not started:
                    raise
                log.warning("balance-failed", cause=str(error))
                context.telemetry.ready("PostgreSQL cannot be asked which partitions are free")
                failures += 1
                if conn is not None:
                    conn.terminate()
                    conn = None
            await wait(context.stop, period if failures == 0 else backoff(failures))
        await _stop_lanes(list(lanes.values()))
    finally:
        if conn is not None:
            conn.terminate()


def _trouble(context: Context, lanes: dict[str, Lane]) -> str | None:
    """Which of this worker's partitions could not be counted when it was last tried; None when all is well."""
    names = sorted(lane.branch or ALL for lane in lanes.values() if context.failures[lane.branch or ALL])
    return f"it cannot count partition {', '.join(names)} at the moment" if names else None


async def _join_in(context: Context) -> Connection:
    """A session in which this worker is counted as one of those that share the partitions."""
    conn = await connect(context.database_url, application="anlyt-worker")
    try:
        with unavailable(), ended_after(conn, context.settings.batch_deadline_s):
            await conn.execute(sql("ingest/lock_presence"), context.lock_class, context.presence_key)
    except BaseException:
        conn.terminate()
        raise
    return conn


async def _balance(context: Context, conn: Connection, branches: list[str], lanes: dict[str, Lane]) -> None:
    """Start a lane when this worker has less than its share and a partition is free; give one up when it has more."""
    for branch, task in [(branch, lane.task) for branch, lane in lanes.items()]:
        if task is not None and task.done():
            lanes.pop(branch)
            task.result()  # raises what only a mistake of ours can be: servers' failures end in _run_lane
    rows = await conn.fetch(sql("ingest/list_locks"), context.lock_class)
    workers = max(1, sum(1 for row in rows if row["key"] == context.presence_key))
    taken = {row["key"] for row in rows}
    share = math.ceil(len(branches) / workers)
    owned = [lane for lane in lanes.values() if lane.owned]
    if len(owned) > share:
        owned[-1].stop.set()
    free = [branch for branch in branches if branch not in lanes and taken.isdisjoint(slots_of(branch))]
    random.shuffle(free)
    for branch in free[: max(0, share - len(lanes))]:
        lane = lanes[branch] = Lane(branch)
        lane.task = asyncio.create_task(_run_lane(context, lane), name=f"partition {branch or ALL}")


async def _all_counted(context: Context, conn: Connection, end: End) -> bool:
    """Whether every slot has been counted up to `end` of the stream as it is now, not of one before it."""
    nc, stream = context.nc, context.settings.stream
    rows = await conn.fetch(sql("ingest/list_counted"), stream)
    if end.last_seq == 0:
        return True
    if end.on_progress is not None:
        counted = sum(row["slots"] * min(row["last_seq"], end.last_seq) for row in rows)
        end.on_progress(counted // SLOTS, end.last_seq)
    if sum(row["slots"] for row in rows) < SLOTS or any(row["last_seq"] < end.last_seq for row in rows):
        return False
    info = await jetstream.stream_info(nc, stream)
    for row in rows:
        seen = await jetstream.published_at(nc, stream, row["last_seq"])
        if not store.belongs(row, info, seen=seen):
            return False
    return True


async def _stop_lanes(lanes: list[Lane]) -> None:
    """Let every lane finish its batch, then leave; bounded in time."""
    for lane in lanes:
        lane.stop.set()
    tasks = [lane.task for lane in lanes if lane.task is not None]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=STOP_LIMIT_S)
        for task in late:
            task.cancel()
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), CLOSE_LIMIT_S)


# --------------------------------------------------------------------------------------------------------- one lane


async def _run_lane(context: Context, lane: Lane) -> None:
    """Own one partition and count it until told to stop or a server fails; then let go of it, and wait for a while."""
    name = lane.branch or ALL
    try:
        await _own_and_count(context, lane)
    except Retry as error:
        context.failures[name] += 1
        log.warning("partition-retry", partition=name, failures=context.failures[name], cause=str(error))
        context.telemetry.retried(type(error).__name__)
        await wait(lane.stop, backoff(context.failures[name]))
    except NothingUnderstood as error:
        log.error("nothing-understood", partition=name, cause=str(error))  # noqa: TRY400 - expected
        raise


async def _own_and_count(context: Context, lane: Lane) -> None:
    """Count one partition, if its locks are free. The connection holds them."""
    conn: Connection | None = None
    try:
        conn = await connect(
            context.database_url, application="anlyt-worker", statement_timeout_s=context.settings.batch_deadline_s
        )
        with unavailable(), ended_after(conn, context.settings.batch_deadline_s):
            lane.owned = await conn.fetchval(sql("ingest/lock_slots"), context.lock_class, lane.slots)
        if lane.owned:
            log.info("partition-owned", partition=lane.branch or ALL)
            context.telemetry.owned(lane.branch or ALL, owned=True)
            await _count(context, lane, conn)
    finally:
        context.telemetry.owned(lane.branch or ALL, owned=False)
        lane.owned = False
        if lane.reader is not None:
            await lane.reader.close()
            lane.reader = None
        if conn is not None:
            conn.terminate()  # ends the session at once, and with it the locks


async def _count(context: Context, lane: Lane, conn: Connection) -> None:
    """Read, decode and apply; the next batch is decoded while PostgreSQL applies the last one."""
    position = await _resume(context, lane, conn)
    counter = Counter(context, lane, conn, position)
    applying: asyncio.Task[None] | None = None
    try:
        while not lane.stop.is_set():
            batch = await counter.next_batch()
            if applying is not None:
                await applying
            applying = None if batch is None else asyncio.create_task(counter.apply(batch))
        if applying is not None:
            await applying
            applying = None
    finally:
        if applying is not None:
            conn.terminate()  # first, so that nothing waits for an answer that may never come
            applying.cancel()
            await asyncio.gather(applying, return_exceptions=True)


async def _resume(context: Context, lane: Lane, conn: Connection) -> store.Position:
    """Open the lane's reader at its position. Says loudly when the stream is not the one the position belongs to."""
    settings, nc = context.settings, context.nc
    info = await jetstream.stream_info(nc, settings.stream)
    lane.division = division_of(info.config, settings.subjects)
    _check_division(lane, settings, info)
    with unavailable(), ended_after(conn, settings.batch_deadline_s):
        lowest = await store.lowest_position(conn, settings.stream, lane.slots)
        seen = None
        if lowest is not None and info.first_seq <= lowest <= info.last_seq:
            seen = await jetstream.published_at(nc, settings.stream, lowest)
        resume = await store.open_position(conn, settings.stream, lane.slots, info, seen=seen)
        if resume.since is None:
            await _open_reader(context, lane, after=resume.position.last_seq)
            if resume.lost:
                log.error("messages-lost", partition=lane.branch or ALL, lost=resume.lost, first_seq=info.first_seq)
                context.telemetry.lost(resume.lost)
            return resume.position
        reader = await _open_reader(context, lane, since=resume.since)
        log.error(
            "stream-changed",
            partition=lane.branch or ALL,
            was_at=resume.position.last_seq,
            resumes_after=reader.resume_after,
            since=to_datetime(resume.since).isoformat(),
            reason="the stream was recreated or restored: read again by time, ids decide what counts",
        )
        return await store.reset_position(
            conn, resume.position, last_seq=reader.resume_after, stream_created=info.created
        )


async def _open_reader(context: Context, lane: Lane, *, after: int | None = None, since: int = 0) -> jetstream.Reader:
    nc, stream, division = context.nc, context.settings.stream, lane.division
    subject = None if division is None else division.filter(lane.branch)
    lane.reader = await jetstream.open_reader(nc, stream, subject=subject, after=after, since=since)
    if lane.branch and division is not None:
        await jetstream.check_slots(nc, stream, division, after=lane.reader.resume_after)
    return lane.reader


class Counter:
    """The batches of one lane, in order, and the position they have moved to."""

    def __init__(self, context: Context, lane: Lane, conn: Connection, position: store.Position) -> None:
        assert lane.reader is not None  # _resume opened it
        self._context = context
        self._reader = lane.reader
        self._conn = conn
        self._position = position
        self._lane = lane
        self._partition = lane.branch or ALL
        self._decoder = Decoder(rules_of(context.settings))
        self._clock = asyncio.get_running_loop().time
        self._read_seq = position.last_seq
        self._days: set[int] = set()  # with partitions known to be there
        self._linger_until = 0.0
        self._head_at = 0.0
        self._step_max = HOLE_MAX * SLOTS // len(lane.slots)
        self._expect_new = True  # the last batch met no duplicates
        self._held: list[Message] = []  # taken, but too much for the batch before

    async def next_batch(self) -> store.Batch | None:
        """The next messages, decoded; the stream's head when nothing is left to read; None to ask again."""
        messages = await self._take()
        if not messages:
            return await self._head()
        self._context.crash.reach("after-fetch")
        self._head_at = 0.0
        now = self._clock()
        if self._reader.server_pending == 0 and now < self._linger_until:
            await asyncio.sleep(self._linger_until - now)
            self._linger_until = 0.0
        self._linger_until = self._clock() + LINGER_S
        expected = store.Expected() if self._expect_new else None
        decoded, count = await self._decode(messages, expected)
        self._held = messages[count:]
        batch = replace(_batch(messages[:count], decoded), expected=expected)
        lost = await self._missing(batch.last_seq, [message.sequence for message in batch.messages])
        self._read_seq = batch.last_seq
        return replace(batch, lost=lost)

    async def _take(self) -> list[Message]:
        """What was held, and what there is behind it; a batch of no more than what was held would hardly pay."""
        held = self._held
        held_bytes = sum(len(message.body) + headers_size(message.headers) for message in held)
        messages_max = self._context.settings.batch_events_max - len(held)
        if messages_max <= 0 or held_bytes >= BATCH_BYTES_MAX:
            return held
        wait_s = 0 if held else TAKE_WAIT_S
        return held + await self._reader.take(messages_max, bytes_max=BATCH_BYTES_MAX - held_bytes, wait_s=wait_s)

    async def _head(self) -> store.Batch | None:
        """An empty batch that moves the position of an idle partition to the stream's head, once a second."""
        now = self._clock()
        if now < self._head_at + HEAD_PERIOD_S:
            return None
        self._head_at = now
        head = await self._reader.caught_up()
        if head is None:
            return None
        if head.created != self._position.stream_created:
            raise StreamUnavailable(f"reading {self._position.stream} has to start anew: the stream was recreated")
        _check_division(self._lane, self._context.settings, head)
        nothing = Decoded([], [], 0)
        if head.last_seq <= self._read_seq:
            return store.Batch([], nothing, self._read_seq, None, head.now)
        lost = await self._missing(head.last_seq, [])
        self._read_seq = head.last_seq
        return store.Batch([], nothing, head.last_seq, head.last_published, head.now, lost)

    async def _missing(self, last_seq: int, sequences: list[int]) -> int:
        """Messages up to `last_seq` that the stream dropped unread.

        A part of the stream has holes by nature, where others' messages are. Those too wide to be chance count, whole;
        where subjects decide who reads a message, nothing is chance, and only what the stream begins behind is gone.
        """
        if self._partition == ALL:
            return last_seq - self._read_seq - len(sequences)
        steps = pairwise([self._read_seq, *sequences, last_seq + 1])
        wide = [(before, after) for before, after in steps if after - before > self._step_max]
        if wide and self._lane.division is not None and self._lane.division.hashed:
            first = (await jetstream.stream_info(self._context.nc, self._position.stream)).first_seq
            wide = [(before, min(after, first)) for before, after in wide if before + 1 < first]
        return sum(after - before - 1 for before, after in wide)

    async def _decode(self, messages: list[Message], expected: store.Expected | None) -> tuple[Decoded, int]:
        """What became of the messages, and how many of them are in it: fewer than all when they hold too much.

        Their events are `expected`, too, if that is wanted.
        """
        events: list[Event] = []
        letters: list[Letter] = []
        count = ignored = letters_bytes = 0
        for chunk in _chunks(messages):
            part = self._decode_chunk(chunk)
            if expected is not None:
                expected.add(part.events)
            events += part.events
            letters += part.letters
            ignored += part.ignored
            count += len(chunk)
            letters_bytes += sum(len(letter.body) + headers_size(letter.message.headers) for letter in part.letters)
            if (
                len(letters) >= BATCH_LETTERS_MAX
                or letters_bytes >= BATCH_LETTERS_BYTES_MAX
                or len(events) >= self._context.settings.batch_events_max
            ):
                break
            await asyncio.sleep(0)
        return Decoded(events, letters, ignored), count

    def _decode_chunk(self, messages: list[Message], *, overflow: Overflow | None = None) -> Decoded:
        decoded = self._decoder.decode(messages, overflow=overflow)
        return replace(decoded, letters=[self._as_published(letter) for letter in decoded.letters])

    def _as_published(self, letter: Letter) -> Letter:
        division, message = self._lane.division, letter.message
        subject = message.subject if division is None else division.published(message.subject)
        return replace(letter, message=replace(message, subject=subject))

    async def apply(self, batch: store.Batch) -> None:
        """Count one batch within its deadline. Raises Retry when it has to be read again."""
        where = f"partition {self._partition} of {self._position.stream}"
        share_max = self._context.settings.dead_letter_share_max
        balance = breaker.weigh(self._position.refused, batch.decoded, share_max=share_max, where=where)
        batch = replace(batch, refused=balance)
        started = self._clock()
        with unavailable(), ended_after(self._conn, self._context.settings.batch_deadline_s):
            await self._ensure_partitions(batch.decoded.events)
            applied = await self._apply_or_isolate(batch)
        self._position = applied.position
        self._context.failures.pop(self._partition, None)
        if batch.lost > 0:
            log.error("messages-lost", partition=self._partition, lost=batch.lost)
            self._context.telemetry.lost(batch.lost)
        _tell_letters(self._partition, batch.decoded.letters)
        self._context.telemetry.applied(self._partition, batch.decoded, applied, seconds=self._clock() - started)

    async def _apply_or_isolate(self, batch: store.Batch) -> store.Applied:
        """Apply; when a sum no longer fits its column, halve until the message is found, and refuse what overflows."""
        try:
            applied = await store.apply(self._conn, self._position, batch, self._context.crash)
        except asyncpg.DataError as error:  # out of range of NUMERIC(18,6), or already of the driver's 64 bits
            count = len(batch.messages)
            log.error("sum-overflow", partition=self._partition, messages=count, cause=str(error))  # noqa: TRY400 - expected
        else:
            self._expect_new = not applied.duplicates
            return applied
        half = len(batch.messages) // 2
        if half == 0:
            return await self._apply_refused(batch)
        for part in batch.messages[:half], batch.messages[half:]:
            applied = await self._apply_or_isolate(
                replace(_batch(part, self._decode_chunk(part)), refused=batch.refused)
            )
            self._position = applied.position
        return applied  # of the second half

    async def _apply_refused(self, batch: store.Batch) -> store.Applied:
        """Apply one message without its costs, and where that is not enough without all it adds."""
        without_costs = replace(batch, decoded=self._decode_chunk(batch.messages, overflow="costs"), expected=None)
        try:
            return await store.apply(self._conn, self._position, without_costs, self._context.crash)
        except asyncpg.DataError:
            without_sums = replace(without_costs, decoded=self._decode_chunk(batch.messages, overflow="sums"))
        return await store.apply(self._conn, self._position, without_sums, self._context.crash)

    async def _ensure_partitions(self, events: list[Event]) -> None:
        days = {event.at // DAY_US for event in events} - self._days
        if days:
            await ensure_partitions(self._conn, {to_datetime(day * DAY_US) for day in days})
            self._days |= days


def _tell_letters(partition: str, letters: list[Letter]) -> None:
    """One line a batch, however many letters: how many of each reason, and where to look. Never what they hold."""
    if letters:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Tally(each.reason for each in letters).items())
        log.info("dead-letters-kept", partition=partition, reasons=reasons, sequence=letters[0].message.sequence)


def _chunks(messages: list[Message]) -> Iterator[list[Message]]:
    """The messages in runs of about DECODE_BYTES; the headers of a batch count for each letter it may come to."""
    begin = size = 0
    for index, message in enumerate(messages):
        size += len(message.body)
        if message.headers:
            size += headers_size(message.headers) * (BATCH_BODY_EVENTS_MAX if message.body[:1] == b"[" else 1)
        if size >= DECODE_BYTES:
            yield messages[begin : index + 1]
            begin, size = index + 1, 0
    if begin < len(messages):
        yield messages[begin:]


def _batch(messages: list[Message], decoded: Decoded) -> store.Batch:
    last = messages[-1]
    return store.Batch(messages, decoded, last.sequence, last.published, last.published)
