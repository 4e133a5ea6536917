"""The verdict on a run: what the stream holds, what was acknowledged, and what the tables say, held against each other.

In: every copy that was published, what was acknowledged, what the broker has lost since. Out: every difference, as a
sentence; none means that each event counts exactly once or is a dead letter. What the broker lost may be missing if no
copy of it is left, or be counted if a worker had read it; nothing else may differ.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import oracle
import pipeline
import publisher
from anlyt import jetstream, reconcile
from anlyt.errors import Retry
from anlyt.events import to_datetime
from anlyt.slots import SLOTS
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from asyncpg import Connection

    from anlyt.frames import Client
    from anlyt.settings import Settings

SHOWN_MAX: Final = 5
RECONCILE_LIMIT_S: Final = 120.0


class Stored(NamedTuple):
    """A message of the stream."""

    sequence: int
    published: int
    mark: str


@dataclass(slots=True)
class Traffic:
    """What was sent, by mark, and what the broker said of it and did to it."""

    copies: dict[str, pipeline.Copy]
    acked: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)  # acknowledged as a duplicate: another message holds it
    attempted: set[str] = field(default_factory=set)  # before the last loss
    lost: set[str] = field(default_factory=set)  # acknowledged before the broker lost something


async def read_stream(nc: Client, stream: str) -> list[Stored]:
    """Every message the stream holds, in order."""
    info = await jetstream.stream_info(nc, stream)
    stored: list[Stored] = []
    if not info.messages:
        return stored
    reader = await jetstream.open_reader(nc, stream, subject=None, after=0)
    while not stored or stored[-1].sequence < info.last_seq:
        for message in await reader.take(5_000, bytes_max=2**24, wait_s=1):
            assert message.headers is not None
            stored.append(Stored(message.sequence, message.published, message.headers[publisher.MARK]))
    await reader.close()
    return stored


async def judge(
    settings: Settings, nc: Client, traffic: Traffic, now: datetime, *, losing: bool, reread: bool
) -> list[str]:
    """Every difference. `losing`: the broker was made to forget. `reread`: some was read twice, so totals are more."""
    stored = await read_stream(nc, settings.stream)
    found = _lost_by_broker(traffic, stored)
    bodies = [traffic.copies[message.mark].told for message in stored]
    async with pipeline.database(settings) as conn:
        extra = await counted_beside(conn, traffic, bodies, found, losing=losing)
        found += await _wrong_letters(conn, settings.stream, traffic, stored)
        found += await _wrong_positions(conn, nc, settings)
    found += await pipeline.differences(settings, bodies + extra, now, totals=not reread, letters=not losing)
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    for finding in await wait_until(lambda: reconciled(url), RECONCILE_LIMIT_S, what="reconcile is done"):
        found += [f"reconcile {finding.identity.name}: {finding.total}"] if finding.total else []
    return found


async def reconciled(url: str) -> list[reconcile.Finding]:
    """What reconcile finds; nothing when PostgreSQL has no time for a session."""
    try:
        return await reconcile.reconcile(url)
    except Retry:
        return []


def _lost_by_broker(traffic: Traffic, stored: Sequence[Stored]) -> list[str]:
    """Acknowledged and not in the stream, though the broker was not made to lose it."""
    there = {message.mark for message in stored}
    gone = traffic.acked - traffic.known - traffic.lost - there
    return [f"{len(gone)} acknowledged messages are not in the stream"] if gone else []


async def counted_beside(
    conn: Connection, traffic: Traffic, bodies: Iterable[bytes], found: list[str], *, losing: bool
) -> list[bytes]:
    """What was counted and is no longer in the stream, as bodies of their own; more than may be goes to `found`."""
    counted = {row[0] for row in await conn.fetch("SELECT event_id FROM anlyt.processed_events")}
    here = {key for body in bodies for key in _keys(body)}
    beside = counted - here
    may_be = {
        key: event
        for mark in (traffic.attempted if losing else ())
        for key, event in _keys(traffic.copies[mark].told).items()
    }
    invented = beside - may_be.keys()
    if invented:
        found.append(f"{len(invented)} events were counted that nobody published, like {sorted(invented)[:SHOWN_MAX]}")
    return [json.dumps(may_be[key]).encode() for key in sorted(beside & may_be.keys())]


def _keys(body: bytes) -> dict[str, dict[str, Any]]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    events = parsed if isinstance(parsed, list) else [parsed]
    return {
        f"{event['id']} {event['source']}": event
        for event in events
        if isinstance(event, dict) and {"id", "source"} <= event.keys()
    }


async def _wrong_letters(conn: Connection, stream: str, traffic: Traffic, stored: Sequence[Stored]) -> list[str]:
    """Messages of the stream whose letters are not those that the oracle writes for them."""
    rows = await conn.fetch("SELECT sequence, published_at, reason FROM anlyt.dead_letters WHERE stream = $1", stream)
    letters: dict[tuple[int, Any], Counter[str]] = {}
    for row in rows:
        letters.setdefault((row["sequence"], row["published_at"]), Counter())[row["reason"]] += 1
    found: list[str] = []
    for message in stored:
        published = to_datetime(message.published)
        expected: Mapping[str, int] = oracle.expect([traffic.copies[message.mark].told], published)["dead_letters"]
        kept = letters.get((message.sequence, published), Counter())
        if kept != expected:
            found.append(f"message {message.sequence}: letters {dict(kept)} instead of {dict(expected)}")
    return found[:SHOWN_MAX]


async def _wrong_positions(conn: Connection, nc: Client, settings: Settings) -> list[str]:
    """Slots that are not at the stream's end, or that speak of messages lost unread, which never happened."""
    info = await jetstream.stream_info(nc, settings.stream)
    rows = await conn.fetch(
        "SELECT slot, last_seq, lost_messages FROM anlyt.stream_positions WHERE stream = $1", settings.stream
    )
    found = [f"{len(rows)} slots instead of {SLOTS}"] if len(rows) != SLOTS else []
    for row in rows:
        if row["last_seq"] != info.last_seq:
            found.append(f"slot {row['slot']} is at {row['last_seq']} of {info.last_seq}")
        if row["lost_messages"]:
            found.append(f"slot {row['slot']} speaks of {row['lost_messages']} lost messages")
    return found[:SHOWN_MAX]
