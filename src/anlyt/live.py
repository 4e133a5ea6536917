"""Live readers: rows of the hourly tables as they change, as server-sent events. One feed for all readers of a process.

In: hours that transactions say they changed, and the rows in them that a snapshot did not see yet. Out: to each reader
the newest state of the rows it may see, once however often they changed meanwhile, and after them the place from which
it may resume. What a read asks of the database is the same for one reader and for thousands. A row of a transaction
that commits late is not missed: places are snapshots, not times. A reader gets only what its Grant lets it see (I8).
"""

from __future__ import annotations

import asyncio
import random
import re
import zlib
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import structlog
from asyncpg import PostgresError
from msgspec import Struct

from anlyt.access import SCOPES, Grant, PresentedKey
from anlyt.errors import DatabaseUnavailable, RequestError
from anlyt.events import to_instant
from anlyt.keys import find_grants
from anlyt.postgres import connect, sql, unavailable
from anlyt.reports import Freshness, make_row, read_freshness
from anlyt.tokens import Bearer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from asyncpg import Connection, Record

    from anlyt.access import Visible
    from anlyt.settings import Settings
    from anlyt.telemetry import Telemetry

PERIOD_S: Final = 0.5  # between two reads, or four times as long as a read takes
READ_LIMIT_S: Final = 10.0
BACKOFF_S: Final = 2.0  # after a read that failed
HEARTBEAT_S: Final = 15.0  # a reader hears something at least this often
RECHECK_PERIOD_S: Final = 15.0  # between two looks at whether the readers' keys are still good
RESUME_MAX: Final = timedelta(minutes=10)  # how old a place may be; jobs.CHANGES_RETENTION is a multiple of it
LISTENERS_MAX: Final = 5_000  # of one process
LISTENERS_OF_KEY_MAX: Final = 2_500
LISTENER_ROWS_MAX: Final = 5_000  # waiting for one reader; more become a `reset`
HOURS_MAX: Final = 48  # looked at in one read, the latest; what changed further back becomes a `reset`
ROWS_MAX: Final = 20_000  # of each table in one read
RESET_PERIOD_S: Final = 10.0  # between two resets because of too many changes
WRITE_LIMIT_S: Final = 30.0  # for a reader to take what is sent; then it is dropped
LIFETIME_S: Final = 3_600.0  # of one answer, less up to a half; the reader resumes, and load spreads anew
RETRY_MS: Final = (1_000, 5_000)  # readers that lost their connection come back after a time of their own in between
HEADERS: Final = {"content-type": "text/event-stream", "x-accel-buffering": "no"}  # no proxy may hold events back

_PLACE: Final = re.compile(r"([0-9a-f]{8})-([0-9]{1,17})-([1-9][0-9]{0,17})")
_TOLD: Final = {
    "too-old": "the place to resume from is older than can be resumed, or unknown; read the rows anew",
    "too-many-changes": "more rows changed than are sent one by one; read the rows anew",
}
_ENDED: Final = {
    "key": "the key is no longer valid, or may see something else now; connect again with a valid one",
    "stopping": "the service stops; connect again",
    "lifetime": "this connection has lasted long enough; connect again, nothing is missed",
}

log = structlog.get_logger("anlyt.live")

Table = Literal["hourly", "operators"]
Reset = Literal["too-old", "too-many-changes"]
End = Literal["key", "stopping", "lifetime"]


class Caller(Struct, frozen=True):
    """Who listens: what it may see, and the key or token that let it, which is looked at again and again."""

    key_id: str
    grant: Grant
    presented: PresentedKey | Bearer


class Place(Struct, frozen=True):
    """From where a reader resumes: behind everything that transactions older than `oldest` wrote."""

    identity: str  # of the database: a number of a transaction means something in one history only
    as_of: int  # microseconds since 1970
    oldest: int


class Change(Struct, frozen=True):
    """A changed row."""

    table: Table
    scope: str
    scope_id: str
    record: Any


class Progress(Struct, frozen=True, rename="camel"):
    """The data of a `progress` event: what has been sent so far is complete through then."""

    as_of: datetime
    complete_through: datetime | None
    lag_seconds: float | None


class Notice(Struct, frozen=True):
    """The data of `reset` and `end` events."""

    reason: str
    detail: str


def write_place(place: Place) -> str:
    """The id of a `progress` event."""
    return f"{place.identity}-{place.as_of}-{place.oldest}"


def read_place(text: str) -> Place | None:
    """The place an id stands for; None when it is none of ours."""
    match = _PLACE.fullmatch(text)
    return None if match is None else Place(match[1], int(match[2]), int(match[3]))


def encode_event(name: str, data: object, *, place: Place | None = None) -> bytes:
    """One server-sent event. Only `progress` has an id: what came before it need not be sent again."""
    mark = b"" if place is None else b"id: %b\n" % write_place(place).encode()
    return b"event: %b\n%bdata: %b\n\n" % (name.encode(), mark, msgspec.json.encode(data))


# ------------------------------------------------------------------------------------------------------------- readers


class Listener:
    """One reader: what waits to be sent to it, the newest state only.

    It is `settled` once it has everything up to the feed's place; `resume` is the place it came with, if any.
    """

    def __init__(self, feed: Feed, caller: Caller, visible: Visible | None, resume: Place | None) -> None:
        self.caller = caller
        self.resume = resume
        self.settled = False
        scopes = [] if visible is None else SCOPES if visible.scope is None else [visible.scope]
        ids = [None] if visible is None or visible.ids is None else visible.ids
        self.wanted = [(scope, scope_id) for scope in scopes for scope_id in ids]
        self._feed = feed
        self._waiting: dict[tuple[Table, datetime, str, str], bytes] = {}
        self._reset: Reset | None = None
        self._ended: End | None = None
        self._wake = asyncio.Event()

    def offer(self, change: Change, event: bytes) -> None:
        """Put the newest state of a row where older ones wait."""
        grant = self.caller.grant
        assert grant.scope == "PLATFORM" or (change.scope == grant.scope and change.scope_id in grant.scope_ids)
        if self._reset is None:
            self._waiting[change.table, change.record[0], change.scope, change.scope_id] = event
            if len(self._waiting) > LISTENER_ROWS_MAX:
                self.reset("too-many-changes")
        self._wake.set()

    def settle(self) -> None:
        """From now on it gets what the feed reads."""
        self.settled = True
        self.resume = None
        self._wake.set()

    def reset(self, reason: Reset) -> None:
        """Tell the reader to read anew instead of sending what waits."""
        self._waiting.clear()
        self._reset = reason
        self._wake.set()

    def end(self, reason: End) -> None:
        """Send what waits, say why, and end the answer."""
        self._ended = reason
        self._wake.set()

    async def events(self) -> AsyncGenerator[bytes]:
        """Pieces of the answer, until it ends; something at least every HEARTBEAT_S."""
        yield b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311 - spreads reconnections
        ends_at = asyncio.get_running_loop().time() + LIFETIME_S * random.uniform(0.5, 1)  # noqa: S311 - the same
        while self._ended is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wake.wait()
            self._wake.clear()
            if asyncio.get_running_loop().time() >= ends_at:
                self.end("lifetime")
            yield self._take()

    def _take(self) -> bytes:
        parts = [b": heartbeat\n\n"] if not self._waiting else []
        if self._reset is not None:
            parts.append(encode_event("reset", Notice(self._reset, _TOLD[self._reset])))
            self._reset = None
        parts += self._waiting.values()
        self._waiting.clear()
        if self.settled:
            parts.append(self._feed.progress)
        if self._ended is not None:
            parts.append(encode_event("end", Notice(self._ended, _ENDED[self._ended])))
        return b"".join(parts)


class Readers:
    """Readers by what they want to see. None for an id is every id of a scope."""

    def __init__(self, listeners: Iterable[Listener] = ()) -> None:
        self._by_wish: dict[tuple[str, str | None], set[Listener]] = {}
        for listener in listeners:
            self.add(listener)

    def add(self, listener: Listener) -> None:
        """Have it found by all it wants."""
        for wish in listener.wanted:
            self._by_wish.setdefault(wish, set()).add(listener)

    def remove(self, listener: Listener) -> None:
        """Have it found no more."""
        for wish in listener.wanted:
            self._by_wish.get(wish, set()).discard(listener)
            if not self._by_wish.get(wish):
                self._by_wish.pop(wish, None)

    def of(self, scope: str, scope_id: str) -> Iterator[Listener]:
        """Those who want to see this row."""
        yield from self._by_wish.get((scope, scope_id), ())
        yield from self._by_wish.get((scope, None), ())


# ---------------------------------------------------------------------------------------------------------------- feed


class Feed:
    """Reads what changed while anybody listens, and hands it to whoever may see it. `run` has to be running."""

    def __init__(self, settings: Settings, telemetry: Telemetry, clock: Callable[[], datetime]) -> None:
        self.progress = b""  # the event that tells up to where settled readers have everything
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._running = False
        self._all: set[Listener] = set()
        self._settled = Readers()
        self._came = asyncio.Event()
        self._snapshot: str | None = None  # what settled readers have seen
        self._read_at: datetime | None = None
        self._identity: str | None = None
        self._reset_at = -RESET_PERIOD_S
        self._reset_due = False
        self._recheck_at = 0.0

    def join(self, caller: Caller, visible: Visible | None, *, last_event_id: str | None) -> Listener:
        """A new reader of what is visible to it. Raises RequestError 503 or 429 when there are too many."""
        of_key = sum(each.caller.key_id == caller.key_id for each in self._all)
        if not self._running or len(self._all) >= LISTENERS_MAX:
            raise RequestError(
                f"this process has {len(self._all)} live readers, of at most {LISTENERS_MAX}, or is about to stop; "
                "connect again in a moment",
                status=503,
                code="unavailable",
            )
        if of_key >= LISTENERS_OF_KEY_MAX:
            raise RequestError(
                f"this key has {of_key} live readers in this process, which is as many as it may; close some",
                status=429,
                code="too-fast",
            )
        listener = Listener(self, caller, visible, None if last_event_id is None else read_place(last_event_id))
        if last_event_id is not None and listener.resume is None:
            listener.reset("too-old")
        self._all.add(listener)
        self._telemetry.listening(len(self._all))
        if listener.resume is None and self._snapshot is not None:
            self._settle([listener])
        self._came.set()
        return listener

    def leave(self, listener: Listener) -> None:
        """Forget a reader."""
        self._all.discard(listener)
        self._settled.remove(listener)
        self._telemetry.listening(len(self._all))

    async def run(self, stop: asyncio.Event) -> None:
        """Read and hand out until `stop` is set, then end every answer. Nothing is read while nobody listens."""
        conn: Connection[Record] | None = None
        self._running = True
        try:
            while not stop.is_set():
                wait_s = 0.0
                if not self._all:
                    self._snapshot = None
                    self._came.clear()
                    await _first(stop.wait(), self._came.wait())
                    continue
                started = asyncio.get_running_loop().time()
                try:
                    conn = conn or await self._connect()
                    with unavailable():
                        async with asyncio.timeout(READ_LIMIT_S):
                            await self._read(conn)
                            await self._recheck(conn)
                    wait_s = max(PERIOD_S, 4 * (asyncio.get_running_loop().time() - started))
                except (DatabaseUnavailable, PostgresError) as error:  # the latter: a schema of another version
                    log.warning("live-waits", cause=str(error))
                    if conn is not None:
                        conn.terminate()
                        conn = None
                    wait_s = BACKOFF_S
                await _first(stop.wait(), asyncio.sleep(wait_s))
        finally:
            self._running = False
            for listener in self._all:
                listener.end("stopping")
            if conn is not None:
                conn.terminate()

    async def _connect(self) -> Connection[Record]:
        """A session of the feed's own. In another history than before, what the readers have seen means nothing."""
        assert self._settings.database_url is not None, "the API has a database"
        url = self._settings.database_url.get_secret_value()
        conn = await connect(url, application="anlyt-live", statement_timeout_s=READ_LIMIT_S)
        text = await conn.fetchval(sql("live/read_identity"))
        identity = f"{zlib.crc32(text.encode()):08x}"
        if self._identity not in {None, identity}:
            self._start_anew()
        self._identity = identity
        return conn

    def _start_anew(self) -> None:
        self._snapshot = None
        for listener in self._all:
            listener.reset("too-old")

    async def _read(self, conn: Connection[Record]) -> None:
        """One read, for all: 1. freshness  2. what changed since the last one  3. what those who resume have missed.

        Nothing is awaited between handing out and moving the place, so a reader never has less than its place says.
        """
        fresh = await read_freshness(conn, self._settings)
        if self._read_at is not None and fresh.as_of - self._read_at > RESUME_MAX:
            self._start_anew()
        coming = [listener for listener in self._all if not listener.settled]
        found = await conn.fetchrow(sql("live/find_changes"), self._snapshot, HOURS_MAX + 1)
        assert found is not None, "one row"
        changes, whole = await self._list(conn, self._snapshot, found["hours"])
        missed, missed_whole = await self._list_missed(conn, coming, fresh)
        self._hand_out(self._settled, changes, fresh)
        self._reset_due = self._reset_due or not whole
        self._hand_out(Readers(each for each in coming if each.resume is not None), missed, fresh)
        for listener in coming:
            if listener.resume is not None and not missed_whole:
                listener.reset("too-many-changes")
        self._move(found, fresh)
        self._settle(listener for listener in coming if listener in self._all)
        self._reset_all_in_time()

    def _move(self, found: Record, fresh: Freshness) -> None:
        assert self._identity is not None, "read when the session was opened"
        self._snapshot = found["snapshot"]
        self._read_at = fresh.as_of
        place = Place(self._identity, to_instant(fresh.as_of), found["oldest"])
        told = Progress(fresh.as_of, fresh.complete_through, fresh.lag_seconds)
        self.progress = encode_event("progress", told, place=place)

    async def _list_missed(
        self, conn: Connection[Record], coming: list[Listener], fresh: Freshness
    ) -> tuple[list[Change], bool]:
        """What changed behind the oldest of the places to resume from: enough for all who resume, in one read."""
        for listener in coming:
            if listener.resume is not None and not self._may_resume(listener.resume, fresh):
                listener.resume = None
                listener.reset("too-old")
        places = [listener.resume.oldest for listener in coming if listener.resume is not None]
        if not places:
            return [], True
        since = f"{min(places)}:{min(places)}:"
        found = await conn.fetchrow(sql("live/find_changes"), since, HOURS_MAX + 1)
        assert found is not None, "one row"
        return await self._list(conn, since, found["hours"])

    def _may_resume(self, place: Place, fresh: Freshness) -> bool:
        age_us = to_instant(fresh.as_of) - place.as_of
        return place.identity == self._identity and timedelta() <= timedelta(microseconds=age_us) <= RESUME_MAX

    async def _list(
        self, conn: Connection[Record], since: str | None, hours: Sequence[datetime]
    ) -> tuple[list[Change], bool]:
        """The rows written since a snapshot in some hours, and whether that is all of them."""
        if since is None or not hours:
            return [], True
        asked = since, list(hours[:HOURS_MAX]), ROWS_MAX + 1
        hourly = await conn.fetch(sql("live/list_hourly"), *asked)
        operators = await conn.fetch(sql("live/list_operators"), *asked)
        changes = [Change("hourly", record["scope"], record["scope_id"], record) for record in hourly]
        changes += [Change("operators", "OPERATOR", record["operator_id"], record) for record in operators]
        return changes, len(hours) <= HOURS_MAX and max(len(hourly), len(operators)) <= ROWS_MAX

    def _hand_out(self, readers: Readers, changes: Sequence[Change], fresh: Freshness) -> None:
        for change in changes:
            event = b""
            for listener in readers.of(change.scope, change.scope_id):
                event = event or self._encode(change, fresh)
                listener.offer(change, event)

    def _encode(self, change: Change, fresh: Freshness) -> bytes:
        row = make_row(change.table, change.record, fresh, self._settings.max_message_age)
        return encode_event(change.table, row)

    def _settle(self, listeners: Iterable[Listener]) -> None:
        for listener in listeners:
            listener.settle()
            self._settled.add(listener)

    def _reset_all_in_time(self) -> None:
        """Tell all that more changed than is sent one by one, but not again and again."""
        now = asyncio.get_running_loop().time()
        if self._reset_due and now - self._reset_at >= RESET_PERIOD_S:
            self._reset_due, self._reset_at = False, now
            for listener in self._all:
                listener.reset("too-many-changes")

    async def _recheck(self, conn: Connection[Record]) -> None:
        """End the answers of keys that are no longer good, in one statement for all of them."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._recheck_at:
            return
        self._recheck_at = now_s + RECHECK_PERIOD_S
        shown = {listener.caller.presented for listener in self._all}
        now = self._clock()
        keys = [each for each in shown if isinstance(each, PresentedKey)]
        good: dict[PresentedKey | Bearer, Grant] = {**await find_grants(conn, keys, now=now)}
        good |= {each: each.grant for each in shown if isinstance(each, Bearer) and now.timestamp() < each.expires_s}
        for listener in self._all:
            caller = listener.caller
            if caller.presented in shown and good.get(caller.presented) != caller.grant:
                listener.end("key")


async def _first(*waits: Any) -> None:  # noqa: ANN401 - coroutines of any result
    """Wait until one of several is done."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
