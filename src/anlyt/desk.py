"""The desk where platform staff handle dead letters over HTTP: look at them, retry them, discard them.

In: a database address, a checked question or the body of a request. Out: pages, whole letters and what became of those
that were retried or discarded, ready to be written as JSON. Everything is done by letters.py, as the commands do it;
here it is cut into pieces that fit into a request: an answer with `next` says that there is more and where it goes on.
"""

from __future__ import annotations

import base64
import json
import re
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from anlyt import letters
from anlyt.errors import RequestError
from anlyt.events import REASONS, Decoder, rules_of, to_datetime, to_instant
from anlyt.letters import BIGINT_MAX, INT_MAX
from anlyt.postgres import session, sql
from anlyt.reports import read_freshness

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from asyncpg import Connection, Record

    from anlyt.crash import CrashPoints
    from anlyt.letters import PagePlace, RetryPlace, Selection
    from anlyt.queries import LettersQuery
    from anlyt.settings import Settings

WORK_LIMIT_S: Final = 5.0  # of one request that retries or discards; what is left is asked for again
STATEMENT_LIMIT_S: Final = 5.0
CURSOR_CHARS_MAX: Final = 100
_PLACE: Final = re.compile(r"[0-9]{1,19}")

Answer = TypeVar("Answer")


# ------------------------------------------------------------------------------------------------------------- answers


class DeskMeta(Struct, frozen=True, rename="camel"):
    """What an answer is true of."""

    as_of: datetime  # the database's clock
    complete_through: datetime | None
    lag_seconds: float | None
    currency: str
    source: str
    stream: str


class Listed(Struct, frozen=True, rename="camel"):
    """A dead letter as a list shows it, without headers and body."""

    stream: str
    sequence: int
    batch_index: int
    published_at: datetime
    state: str
    reason: str  # the one that stands now: the last retry's, else the first
    detail: str
    subject: str
    body_bytes: int
    recorded_at: datetime
    attempts: int


class Shown(Struct, frozen=True, rename="camel", kw_only=True):
    """A dead letter, whole. `body` is its body as text, null when it is none; `body_base64` has the very bytes."""

    stream: str
    sequence: int
    batch_index: int
    published_at: datetime
    state: str
    reason: str
    detail: str
    subject: str
    headers: dict[str, str]
    body: str | None
    body_base64: str
    recorded_at: datetime
    attempts: int
    attempted_at: datetime | None
    retry_reason: str | None
    retry_detail: str | None
    resolved_at: datetime | None


class ListedPage(Struct, frozen=True):
    """A page of dead letters, the newest first. `next` is the cursor of the page behind it, null at the end."""

    data: list[Listed]
    next: str | None
    meta: DeskMeta


class ShownLetters(Struct, frozen=True):
    """The letters of one place: one, or several when a recreated stream used the sequence again."""

    data: list[Shown]
    next: None
    meta: DeskMeta


class Retried(Struct, frozen=True, rename="camel"):
    """What became of the letters of one request. Those that failed stay open."""

    counted: int
    duplicate: int
    ignored: int
    failed: int
    still_open: int  # of all that were chosen


class RetriedPart(Struct, frozen=True):
    """An answer of a retry. `next` is the `cursor` of the next request, null when each letter was tried."""

    data: Retried
    next: str | None
    meta: DeskMeta


class Discarded(Struct, frozen=True, rename="camel"):
    """How many letters one request discarded, and how many of those that were chosen are still open."""

    discarded: int
    still_open: int


class DiscardedPart(Struct, frozen=True):
    """An answer of a discard. When some are still open, the same request goes on."""

    data: Discarded
    next: None
    meta: DeskMeta


# ------------------------------------------------------------------------------------------------------------- looking


async def list_page(settings: Settings, query: LettersQuery) -> ListedPage:
    """The letters of a page. Raises RequestError 400 for a cursor that is none."""
    after = None if query.cursor is None else _read_page_cursor(query.cursor)
    async with _session(settings) as conn:
        meta = await _read_meta(conn, settings)
        wanted = query.reason, query.state
        records = await letters.find_page(conn, settings.stream, wanted, limit=query.limit + 1, after=after)
    found = [Listed(*record.values()) for record in records]
    page = found[: query.limit]
    return ListedPage(page, _write_page_cursor(page[-1]) if len(found) > query.limit else None, meta)


async def show(settings: Settings, sequence: str, index: str) -> ShownLetters:
    """One letter, whole. Raises RequestError 404 when there is none."""
    place = _read_places([sequence, index], [BIGINT_MAX, INT_MAX])
    async with _session(settings) as conn:
        meta = await _read_meta(conn, settings)
        records = [] if place is None else await conn.fetch(sql("letters/read_letter"), settings.stream, *place)
    if not records:
        raise _no_letter(settings.stream, "at this place")
    return ShownLetters([_show(dict(record)) for record in records], None, meta)


def _show(row: dict[str, object]) -> Shown:
    body, headers = row.pop("body"), row.pop("headers")
    assert isinstance(body, bytes), "BYTEA"
    assert isinstance(headers, str), "JSON"
    named = {"headers": json.loads(headers), "body": letters.read_text(body)}
    return Shown(**row, **named, body_base64=base64.b64encode(body).decode())  # pyright: ignore[reportArgumentType] - the columns of read_letter.sql


# ------------------------------------------------------------------------------------------------------------ changing


class Choice(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """Which open letters a request is about: one message or one element of it, one reason, or all."""

    sequence: Annotated[int, Meta(ge=1, le=BIGINT_MAX)] | None = None
    index: Annotated[int, Meta(ge=0, le=INT_MAX)] | None = None
    reason: str | None = None
    all: bool = False


class RetryChoice(Choice, frozen=True, rename="camel", forbid_unknown_fields=True):
    """The same, and how to retry: `accept_stale` counts stale and too_late ones inside hot retention, as a backfill."""

    accept_stale: bool = False
    cursor: Annotated[str, Meta(max_length=CURSOR_CHARS_MAX)] | None = None


async def retry(settings: Settings, body: bytes, *, crash: CrashPoints) -> RetriedPart:
    """Retry chosen letters, each once, for at most WORK_LIMIT_S. Raises RequestError 422, 404, 400."""
    choice = _decode(body, RetryChoice)
    selection = _select(choice)
    after: RetryPlace | None = letters.RETRY_START if choice.cursor is None else _read_retry_cursor(choice.cursor)
    outcomes: Counter[str] = Counter()
    deadline_s = time.monotonic() + WORK_LIMIT_S
    async with _session(settings) as conn:
        await _find_open(conn, settings.stream, selection)
        work = letters.Retrying(conn, settings.stream, Decoder(rules_of(settings)), choice.accept_stale, crash)
        while after is not None and time.monotonic() < deadline_s:
            settled, after = await letters.retry_some(work, selection, after)
            outcomes += settled
        left = await letters.count_chosen(conn, settings.stream, selection)
        meta = await _read_meta(conn, settings)
    done = Retried(*(outcomes[name] for name in letters.OUTCOMES), still_open=left)
    return RetriedPart(done, None if after is None else _write_places(after), meta)


async def discard(settings: Settings, body: bytes) -> DiscardedPart:
    """Discard chosen letters for at most WORK_LIMIT_S. Raises RequestError 422, 404."""
    selection = _select(_decode(body, Choice))
    deadline_s = time.monotonic() + WORK_LIMIT_S
    total = 0
    async with _session(settings) as conn:
        await _find_open(conn, settings.stream, selection)
        while discarded := await letters.discard_some(conn, settings.stream, selection):
            total += discarded
            if time.monotonic() >= deadline_s:
                break
        left = await letters.count_chosen(conn, settings.stream, selection)
        meta = await _read_meta(conn, settings)
    return DiscardedPart(Discarded(total, left), None, meta)


def _decode(body: bytes, kind: type[Answer]) -> Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RequestError(
            f'the body is no choice of letters: {error}; send JSON like {{"sequence": 4711}} or {{"all": true}}',
            status=422,
            code="invalid-request",
        ) from None


def _select(choice: Choice) -> Selection:
    """The letters a request is about. Raises RequestError 422 unless they are named in exactly one way."""
    ways = (choice.sequence is not None, choice.reason is not None, choice.all)
    if sum(ways) != 1 or (choice.index is not None and choice.sequence is None):
        raise _invalid("say which letters in one way: `sequence` (with `index` or without), `reason`, or `all`: true")
    if choice.reason is not None and choice.reason not in REASONS:
        raise _invalid(f"reason is {choice.reason[:60]!r}, but must be one of {', '.join(REASONS)}", "reason")
    return letters.Selection(choice.sequence, choice.index, choice.reason)


async def _find_open(conn: Connection[Record], stream: str, selection: Selection) -> None:
    """Raise the 404 when a letter that was named is not there, or not open."""
    if selection.sequence is not None and not await letters.count_chosen(conn, stream, selection):
        raise _no_letter(stream, "that is open at this place")


# ------------------------------------------------------------------------------------------------------------- helpers


def _session(settings: Settings) -> AbstractAsyncContextManager[Connection[Record]]:
    """A session of its own, of the role that owns the letters: who reads for tenants has no right to them."""
    assert settings.database_url is not None, "the API has a database"
    return session(
        settings.database_url.get_secret_value(),
        application="anlyt-desk",
        statement_timeout_s=STATEMENT_LIMIT_S,
    )


async def _read_meta(conn: Connection[Record], settings: Settings) -> DeskMeta:
    fresh = await read_freshness(conn, settings)
    known = fresh.as_of, fresh.complete_through, fresh.lag_seconds
    return DeskMeta(*known, currency=settings.currency, source="postgres", stream=settings.stream)


def _write_page_cursor(last: Listed) -> str:
    return _write_places((last.recorded_at, last.sequence, last.batch_index, last.published_at))


def _write_places(places: Sequence[datetime | int]) -> str:
    return ".".join(str(to_instant(each) if isinstance(each, datetime) else each) for each in places)


def _read_page_cursor(text: str) -> PagePlace:
    """The place behind which a page begins; staff see every letter, so there is nothing in it to protect."""
    places = _read_places(text.split("."), [BIGINT_MAX, BIGINT_MAX, INT_MAX, BIGINT_MAX])
    if places is None:
        raise _unfit()
    recorded, sequence, index, published = places
    return _read_moment(recorded), sequence, index, _read_moment(published)


def _read_retry_cursor(text: str) -> RetryPlace:
    places = _read_places(text.split("."), [BIGINT_MAX, INT_MAX, BIGINT_MAX])
    if places is None:
        raise _unfit()
    sequence, index, published = places
    return sequence, index, _read_moment(published)


def _read_places(texts: list[str], limits: list[int]) -> list[int] | None:
    """Whole numbers up to their limits; None for anything else."""
    if len(texts) != len(limits) or not all(map(_PLACE.fullmatch, texts)):
        return None
    places = [int(text) for text in texts]
    return places if all(place <= limit for place, limit in zip(places, limits, strict=True)) else None


def _read_moment(instant: int) -> datetime:
    try:
        return to_datetime(instant)
    except OverflowError:
        raise _unfit() from None


def _unfit() -> RequestError:
    return RequestError(
        "this is no cursor of dead letters: send `next` of the answer before",
        status=400,
        code="invalid-cursor",
        parameter="cursor",
    )


def _invalid(detail: str, parameter: str | None = None) -> RequestError:
    return RequestError(detail, status=422, code="invalid-parameter", parameter=parameter)


def _no_letter(stream: str, where: str) -> RequestError:
    return RequestError(
        f"there is no dead letter {where} of stream {stream}; GET /v1/dead-letters lists them",
        status=404,
        code="not-found",
    )
