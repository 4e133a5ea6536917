"""What each step of the worker costs by itself, in CPU time per event, and the least that step can be.

The same events in batches of BATCH, one step after the other for all of them, so that nothing overlaps: the CPU time
of this process and of PostgreSQL's. What reading costs is measured by ingest.py, over a real stream.

| step | what it does | the least it can be |
|---|---|---|
| decode | events.Decoder: parse, check, normalise | msgspec into the same records, nothing checked |
| fold | store.Expected: drop copies, add up | one dictionary entry an event |
| claim | store.claim: the ids by COPY, under a savepoint | the same rows by COPY into a table without an index |
| add | store.add: seconds, histograms and the four tables | nothing: it is shared by a whole batch |
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from anlyt import postgres, store
from anlyt.cloudevents import Envelope
from anlyt.crash import CrashPoints
from anlyt.events import Decoder, Message, Rules, to_datetime, to_instant

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from asyncpg import Connection

    from anlyt.embedded import EmbeddedPostgres
    from anlyt.events import Event

BATCH: Final = 20_000


class Meter:
    """CPU time of this process and of PostgreSQL, per event, by step."""

    def __init__(self, events: int, postmaster: int) -> None:
        self.figures: dict[str, dict[str, float]] = {"Python CPU us": {}, "PostgreSQL CPU us": {}}
        self._events = events
        self._postmaster = postmaster

    async def take(self, step: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work and note what it cost."""
        before = time.process_time(), _tree_cpu_s(self._postmaster)
        await work()
        spent = time.process_time() - before[0], _tree_cpu_s(self._postmaster) - before[1]
        for title, seconds in zip(self.figures, spent, strict=True):
            self.figures[title][step] = seconds / self._events * 1e6


def _tree_cpu_s(pid: int) -> float:
    seconds = 0.0
    for each in [str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        seconds += sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return seconds


async def measure(server: EmbeddedPostgres, bodies: Sequence[bytes]) -> dict[str, dict[str, float]]:
    """CPU time per event of every step, as a table for each of the two processes."""
    now = to_instant(datetime.now(UTC))
    messages = [Message("bench", None, body, n, now) for n, body in enumerate(bodies, 1)]
    runs = [messages[at : at + BATCH] for at in range(0, len(messages), BATCH)]
    decoded: list[list[Event]] = []
    expected = [store.Expected() for _ in runs]
    meter = Meter(len(messages), server.pid)

    async def decode() -> None:
        decoder = Decoder(Rules())
        decoded.extend(decoder.decode(run).events for run in runs)

    async def only_parse() -> None:
        parse = msgspec.json.Decoder(Envelope).decode
        for run in runs:
            for message in run:
                parse(message.body)

    async def fold() -> None:
        for one, events in zip(expected, decoded, strict=True):
            one.add(events)
            one.deltas()

    async def only_count() -> None:
        for events in decoded:
            counts: defaultdict[str | None, int] = defaultdict(int)
            for event in events:
                counts[event.account] += 1

    await meter.take("decode", decode)
    await meter.take("decode, the least", only_parse)
    await meter.take("fold", fold)
    await meter.take("fold, the least", only_count)
    await postgres.migrate(server.url)
    async with postgres.session(server.url, application="bench") as conn:
        days = {to_datetime(event.at) for events in decoded for event in events}
        await postgres.ensure_partitions(conn, days)
        await conn.execute("CREATE TABLE bench_ids (LIKE anlyt.processed_events INCLUDING DEFAULTS)")
        await _measure_database(meter, conn, expected)
        await conn.execute("DROP TABLE bench_ids")
    return meter.figures


async def _measure_database(meter: Meter, conn: Connection, expected: Sequence[store.Expected]) -> None:
    async def claim() -> None:
        for one in expected:
            async with conn.transaction():
                assert len(await store.claim(conn, one.first, expect_new=True)) == len(one.first)

    async def only_copy() -> None:
        for one in expected:
            rows = [(event.key, event.type) for event in one.first.values()]
            async with conn.transaction():
                await conn.copy_records_to_table("bench_ids", records=rows, columns=("event_id", "event_type"))

    async def add() -> None:
        for one in expected:
            async with conn.transaction():
                await store.add(conn, one.deltas(), CrashPoints())

    await meter.take("claim", claim)
    await meter.take("claim, the least", only_copy)
    await meter.take("add", add)
