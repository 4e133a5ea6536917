"""Dead letters: what could not be counted, kept whole, to be looked at, retried and discarded.

In: a stream and which of its letters. Out: rows as plain values (a body as text where it is text, else as base64), or
letters in another state. Written by store.apply in the batch's own transaction (I7); here they only change their state,
and a retry does so in the very transaction that counts the event, so it counts once however often and by however many
it is asked for (I3). A letter is never deleted: its reason, its retries and what became of it stay. The running totals
of the stream are left as they are: they say what became of the messages when they were read.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from msgspec import Struct
from msgspec.structs import replace

from anlyt import store
from anlyt.errors import AnlytError, UsageError
from anlyt.events import (
    BACKFILL_HEADER,
    DAY_US,
    HOT_RETENTION_US,
    REASONS,
    Decoded,
    Decoder,
    Letter,
    Message,
    Overflow,
    Rules,
    format_instant,
    to_datetime,
    to_instant,
)
from anlyt.postgres import ensure_partitions, session, sql
from anlyt.queries import LETTER_STATES
from anlyt.rollup import fold
from anlyt.terminal import nobody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from asyncpg import Connection, Record

    from anlyt.crash import CrashPoints
    from anlyt.postgres import AnyConnection
    from anlyt.terminal import Advance

    PagePlace = tuple[datetime, int, int, datetime]  # recorded_at, sequence, index, published_at of a letter
    RetryPlace = tuple[int, int, datetime]  # sequence, index, published_at

OUTCOMES: Final[tuple[str, ...]] = ("counted", "duplicate", "ignored", "failed")  # of a retry
LIST_MAX: Final = 10_000
RETRY_LETTERS_MAX: Final = 50  # in one transaction; a letter may be as large as a message
DISCARD_LETTERS_MAX: Final = 10_000  # in one transaction
BIGINT_MAX: Final = 2**63 - 1
INT_MAX: Final = 2**31 - 1
RETRY_START: Final[RetryPlace] = (0, 0, datetime(1970, 1, 1, tzinfo=UTC))
_AFTER_ALL: Final = datetime(2200, 1, 1, tzinfo=UTC)
_BEFORE_ALL: Final[PagePlace] = (_AFTER_ALL, BIGINT_MAX, INT_MAX, _AFTER_ALL)
STALE_LOAD: Final = "dead-letters"  # the backfill that letters retried with --accept-stale are recorded under


class Selection(Struct, frozen=True):
    """Open letters of a stream: those of one message, of one element of it, with one reason, or (nothing set) all."""

    sequence: int | None = None
    index: int | None = None
    reason: str | None = None

    @property
    def values(self) -> tuple[int | None, int | None, str | None]:
        """As the statements take them."""
        return self.sequence, self.index, self.reason


class Kept(Struct, frozen=True):
    """An open letter as it is kept, with the reason that stands now."""

    message: Message  # its body is the letter's
    index: int
    reason: str
    detail: str

    @property
    def key(self) -> tuple[int, int, datetime]:
        """What tells it from the other letters of its stream."""
        return self.message.sequence, self.index, to_datetime(self.message.published)


class Judged(Struct, frozen=True):
    """An open letter and what today's rules say: events to count, or the letter it would be now."""

    kept: Kept
    decoded: Decoded


# ------------------------------------------------------------------------------------------------------------- looking


async def list_letters(
    url: str, stream: str, *, reason: str | None, limit: int, state: str = "open"
) -> list[dict[str, Any]]:
    """The newest letters first, without their bodies. Raises UsageError for an odd reason, state or limit."""
    _check_reason(reason)
    if state not in LETTER_STATES:
        raise UsageError(f"--state {state!r} is not a state; the states are {', '.join(LETTER_STATES)}")
    if not 1 <= limit <= LIST_MAX:
        raise UsageError(f"--limit must be from 1 to {LIST_MAX}, but is {limit}")
    async with session(url, application="anlyt-dead-letters") as conn:
        return [dict(row) for row in await find_page(conn, stream, (reason, state), limit=limit)]


async def find_page(
    conn: AnyConnection, stream: str, wanted: tuple[str | None, str], *, limit: int, after: PagePlace | None = None
) -> list[Record]:
    """Letters with a reason (None: any) in a state, newest first, behind a place in that order."""
    return await conn.fetch(sql("letters/list_page"), stream, *wanted, limit, *(after or _BEFORE_ALL))


async def read_letter(url: str, stream: str, sequence: int, *, index: int) -> list[dict[str, Any]]:
    """One letter with headers, body and history. Raises AnlytError when there is none."""
    async with session(url, application="anlyt-dead-letters") as conn:
        rows = await conn.fetch(sql("letters/read_letter"), stream, sequence, index)
    if not rows:
        raise AnlytError(
            f"there is no dead letter {stream} {sequence} {index}; list them with: anlyt dead-letters list"
        )
    return [dict(row) | {"headers": json.loads(row["headers"])} | _readable(row["body"]) for row in rows]


def _readable(body: bytes) -> dict[str, str]:
    text = read_text(body)
    return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"} if text is None else {"body": text}


def read_text(body: bytes) -> str | None:
    """The body as text that can be shown; None when it is none."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c in "\r\n\t" for c in text) else None


# ------------------------------------------------------------------------------------------------------------ choosing


def select_letters(sequence: int | None, index: int | None, *, reason: str | None, everything: bool) -> Selection:
    """The open letters a command is about. Raises UsageError unless they are named in exactly one way."""
    if (sequence is not None) + (reason is not None) + everything != 1:
        raise UsageError("say which letters: SEQUENCE [INDEX], or --reason REASON, or --all")
    _check_reason(reason)
    return Selection(sequence, index, reason)


async def count_open(url: str, stream: str, selection: Selection) -> int:
    """How many letters are chosen. Raises AnlytError when those that were named are not there, or not open."""
    async with session(url, application="anlyt-dead-letters") as conn:
        count = await count_chosen(conn, stream, selection)
    if count == 0 and selection.sequence is not None:
        which = f"{selection.sequence}" if selection.index is None else f"{selection.sequence} {selection.index}"
        raise AnlytError(
            f"there is no open dead letter {stream} {which}; list all with: anlyt dead-letters list --state all"
        )
    return count


async def count_chosen(conn: AnyConnection, stream: str, selection: Selection) -> int:
    """How many open letters a selection has."""
    return int(await conn.fetchval(sql("letters/count_open"), stream, *selection.values))


def _check_reason(reason: str | None) -> None:
    if reason is not None and reason not in REASONS:
        raise UsageError(f"--reason {reason!r} is not a reason; the reasons are {', '.join(REASONS)}")


# ---------------------------------------------------------------------------------------------------------- discarding


async def discard_letters(url: str, stream: str, selection: Selection, *, advance: Advance = nobody) -> int:
    """Mark the chosen open letters as discarded; how many they were."""
    total = 0
    marked = DISCARD_LETTERS_MAX
    async with session(url, application="anlyt-dead-letters") as conn:
        while marked == DISCARD_LETTERS_MAX:
            marked = await discard_some(conn, stream, selection)
            total += marked
            advance(total)
    return total


async def discard_some(conn: AnyConnection, stream: str, selection: Selection) -> int:
    """Mark at most DISCARD_LETTERS_MAX of the chosen open letters as discarded; how many they were."""
    status = await conn.execute(sql("letters/discard_open"), stream, *selection.values, DISCARD_LETTERS_MAX)
    return int(status.split()[-1])


# ------------------------------------------------------------------------------------------------------------ retrying


class Retrying(Struct, frozen=True):
    """What a retry of many letters uses."""

    conn: Connection
    stream: str
    decoder: Decoder
    accept_stale: bool
    crash: CrashPoints


async def retry_letters(  # noqa: PLR0913 - what is retried, how, and who hears of it
    url: str,
    stream: str,
    selection: Selection,
    *,
    rules: Rules,
    accept_stale: bool,
    crash: CrashPoints,
    advance: Advance = nobody,
) -> dict[str, int]:
    """Judge the chosen open letters by today's rules, at their own publication, and count what passes.

    Each letter is tried once. How many of them were counted, turned out to be duplicates, are of a type that is ignored
    now, or failed again and stay open.
    """
    outcomes: dict[str, int] = dict.fromkeys(OUTCOMES, 0)
    after: RetryPlace | None = RETRY_START
    async with session(url, application="anlyt-dead-letters") as conn:
        retry = Retrying(conn, stream, Decoder(rules), accept_stale, crash)
        while after is not None:
            settled, after = await retry_some(retry, selection, after)
            outcomes = {name: count + settled[name] for name, count in outcomes.items()}
            advance(sum(outcomes.values()))
    return outcomes


async def retry_some(
    retry: Retrying, selection: Selection, after: RetryPlace
) -> tuple[Counter[str], RetryPlace | None]:
    """Retry the first RETRY_LETTERS_MAX of the chosen letters behind a place; the place reached, None at the end."""
    rows = await retry.conn.fetch(sql("letters/find_open"), retry.stream, *selection.values, *after, RETRY_LETTERS_MAX)
    if not rows:
        return Counter(), None
    now = to_instant(rows[0]["read_at"])
    page = [judge(_read_kept(row), retry.decoder, now=now, accept_stale=retry.accept_stale) for row in rows]
    settled = await _settle_or_isolate(retry, page, now=now)
    return settled, page[-1].kept.key if len(rows) == RETRY_LETTERS_MAX else None


def judge(
    kept: Kept, decoder: Decoder, *, now: int, accept_stale: bool = False, overflow: Overflow | None = None
) -> Judged:
    """What today's rules say about a letter; a letter of several events passes only whole.

    `accept_stale` makes it a backfill: exempt from the window while inside hot retention, and recorded by name.
    """
    message = kept.message
    if kept.reason != "too_large" and message.body.lstrip(b" \t\r\n").startswith(b"["):
        # An array inside a batch, or no JSON. Only a body that was too large can be a batch of its own.
        return Judged(kept, Decoded([], [Letter(message, kept.index, kept.reason, kept.detail, message.body)], 0))
    headers = message.headers or {}
    if accept_stale and BACKFILL_HEADER not in map(str.lower, headers):
        message = replace(message, headers={**headers, BACKFILL_HEADER: STALE_LOAD})
    decoded = decoder.decode([message], overflow=overflow)
    no = decoded.letters[:1] or [
        Letter(message, kept.index, "too_late", _too_old(event.at), message.body)
        for event in decoded.events
        if now - event.at > HOT_RETENTION_US
    ]
    return Judged(kept, Decoded([], no[:1], 0) if no else decoded)


def _too_old(at: int) -> str:
    return f"submitted at {format_instant(at)}, more than 90 days ago: its hours are no longer kept."


def _read_kept(row: Record) -> Kept:
    published = to_instant(row["published_at"])
    message = Message(row["subject"], json.loads(row["headers"]), row["body"], row["sequence"], published)
    return Kept(message, row["batch_index"], row["reason"], row["detail"])


async def _settle_or_isolate(retry: Retrying, page: Sequence[Judged], *, now: int) -> Counter[str]:
    """Settle; when a sum no longer fits its column, halve until the letter is found, and refuse what overflows."""
    try:
        return await _settle(retry, page)
    except asyncpg.NumericValueOutOfRangeError:
        half = len(page) // 2
    if half == 0:
        return await _settle_refused(retry, page[0].kept, now=now)
    first = await _settle_or_isolate(retry, page[:half], now=now)
    return first + await _settle_or_isolate(retry, page[half:], now=now)


async def _settle_refused(retry: Retrying, kept: Kept, *, now: int) -> Counter[str]:
    """Settle a letter without its costs, and where that is not enough without all it adds."""
    without_costs = judge(kept, retry.decoder, now=now, accept_stale=retry.accept_stale, overflow="costs")
    try:
        return await _settle(retry, [without_costs])
    except asyncpg.NumericValueOutOfRangeError:
        without_sums = judge(kept, retry.decoder, now=now, accept_stale=retry.accept_stale, overflow="sums")
    return await _settle(retry, [without_sums])


async def _settle(retry: Retrying, page: Sequence[Judged]) -> Counter[str]:
    """Count what passed and record what became of each letter, in one transaction; rows locked as by a worker (I5).

    1. lock the letters that are still open  2. claim ids, drop what a letter has brought before  3. add
    4. record the attempts  5. commit.
    """
    conn, crash = retry.conn, retry.crash
    days = {event.at // DAY_US for judged in page for event in judged.decoded.events}
    await ensure_partitions(conn, {to_datetime(day * DAY_US) for day in days})
    async with conn.transaction():
        rows = await conn.fetch(sql("letters/lock_open"), retry.stream, *_columns([judged.kept.key for judged in page]))
        still = {tuple(row) for row in rows}
        taken = [judged for judged in page if judged.kept.key in still]
        events = [event for judged in taken for event in judged.decoded.events]
        fresh = await store.claim(conn, store.distinct(events))
        crash.reach("after-claim")
        known = await conn.fetch(sql("letters/find_counted_ids"), [event.key for event in fresh])
        before = {row["event_id"] for row in known}
        fresh = [event for event in fresh if event.key not in before]
        await store.add(conn, fold(fresh), crash)
        attempts = _describe_attempts(taken, {id(event) for event in fresh})
        await conn.executemany(sql("letters/record_attempt"), [(retry.stream, *attempt) for attempt in attempts])
        await store.add_backfills(conn, Decoded(events, [], 0), fresh)
        crash.reach("after-letters")
        crash.reach("before-commit")
    crash.reach("after-commit")
    return Counter(attempt[3] or "failed" for attempt in attempts)


def _describe_attempts(taken: Sequence[Judged], fresh: set[int]) -> list[tuple[Any, ...]]:
    """For each letter its key, resolution, reason and detail of a failure, and the ids that were counted from it.

    `fresh` are the identities of the event objects that were claimed: of several copies one letter has the event.
    """
    attempts: list[tuple[Any, ...]] = []
    for judged in taken:
        key, decoded = judged.kept.key, judged.decoded
        ids = [event.key for event in decoded.events if id(event) in fresh]
        if decoded.letters:
            attempts.append((*key, None, decoded.letters[0].reason, decoded.letters[0].detail, None))
        elif ids:
            attempts.append((*key, "counted", None, None, ids))
        else:
            attempts.append((*key, "duplicate" if decoded.events else "ignored", None, None, None))
    return attempts


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """Rows turned into one list a column, as unnest takes them."""
    return [list(column) for column in zip(*rows, strict=True)]
