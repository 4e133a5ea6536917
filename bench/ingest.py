"""Counting: a preloaded stream is counted, beside only reading it, on servers with durable settings.

For each of several runs: publish EVENTS single events (plain simulated traffic, UUIDv7-like ids) into a new stream,
read it once with the worker's own reader and do nothing else, then count it with `anlyt worker --until-idle` as a
process of its own. States events/s, the CPU time of each process per event (from /proc), WAL and table bytes per event,
and the ratio of counting to only reading. Machines are noisy: the medians and the ratios are what counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from anlyt import jetstream, publishing, simulate, up
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.jetstream import Outgoing
from anlyt.postgres import session
from anlyt.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

TICK = os.sysconf("SC_CLK_TCK")
TAKE_MAX = 10_000
TAKE_BYTES_MAX = 64 * 2**20


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and of the children it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tree_cpu_s(pid: int) -> float:
    """The same, with its living children: PostgreSQL's sessions are children of the postmaster."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return cpu_s(pid) + sum(cpu_s(int(child)) for child in children if Path(f"/proc/{child}").exists())


def bodies(events: int, batch: int) -> list[bytes]:
    """Single events, or CloudEvents batches of `batch`, that happened in the last hours."""
    hours = timedelta(seconds=events / 400)  # some more than needed: outcomes of the last ones are cut
    traffic = simulate.Traffic(
        start=datetime.now(UTC) - hours - timedelta(minutes=1),
        rate=500,
        duration=hours,
        duplicates=0,
        bad=0,
        operators=20,
        accounts=200,
    )
    single = simulate.bodies(simulate.plain(traffic))[:events]
    if not batch:
        return single
    return [b"[" + b",".join(single[n : n + batch]) + b"]" for n in range(0, len(single), batch)]


async def only_read(settings: Settings, messages: int) -> dict[str, float]:
    """Read the whole stream with the worker's reader; events are not even decoded."""
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="bench")
    reader = await jetstream.open_reader(nc, settings.stream, subject=None, after=0)
    begun, cpu, seen = time.perf_counter(), time.process_time(), 0
    while seen < messages:
        seen += len(await reader.take(TAKE_MAX, bytes_max=TAKE_BYTES_MAX, wait_s=1))
    spent = {"seconds": time.perf_counter() - begun, "python_cpu_s": time.process_time() - cpu}
    await reader.close()
    await nc.close()
    return spent


async def one_run(  # the servers and where the second one lives
    events: int, batch: int, postgres: EmbeddedPostgres, nats: EmbeddedNats, *, directory: Path
) -> dict[str, float]:
    """One measurement on a fresh database and stream."""
    name = f"bench_{time.time_ns()}"
    async with session(postgres.admin_url, application="bench") as admin:
        await admin.execute(f"CREATE DATABASE {name} OWNER anlyt")  # a name of digits and letters made here
    url = postgres.url.removesuffix("/anlyt") + f"/{name}"
    settings = load(
        {"database_url": url, "nats_url": nats.url, "stream": name.upper(), "subjects": f"{name}.events.>"}, {}
    )
    await up.prepare(settings)
    made = bodies(events, batch)
    await nats.stop()  # loading must not take all day: one by one, as producers do, but with a lazy disk
    async with EmbeddedNats(directory / "nats", sync_interval="1m") as lazy:
        nc = await jetstream.connect(lazy.url, name="bench")
        await publishing.publish_each(nc, _each(Outgoing(f"{name}.events.x", body, {}) for body in made))
        await nc.close()
    await nats.start()
    nc = await jetstream.connect(nats.url, name="bench")
    read = await only_read(settings, len(made))
    async with session(url, application="bench") as conn:
        wal = await conn.fetchval("SELECT pg_current_wal_lsn()")
        before = tree_cpu_s(postgres.pid), cpu_s(nats.pid)
        begun = time.perf_counter()
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "anlyt", "worker", "--until-idle"),
            env=os.environ
            | {f"ANLYT_{key.upper()}": value for key, value in _set(settings).items()}
            | {"ANLYT_LOG_LEVEL": "error"},
        )
        waited = asyncio.create_task(worker.wait())
        python_cpu = rss = 0.0
        while not waited.done():
            try:
                python_cpu = cpu_s(worker.pid)
                rss = max(rss, rss_bytes(worker.pid))
            except (FileNotFoundError, ProcessLookupError):
                break
            await asyncio.sleep(0.02)
        assert await waited == 0
        seconds = time.perf_counter() - begun
        after = tree_cpu_s(postgres.pid), cpu_s(nats.pid)
        counted = await conn.fetchval("SELECT sum(counted_events)::bigint FROM anlyt.ingest_totals")
        wal_bytes = await conn.fetchval("SELECT pg_current_wal_lsn() - $1::pg_lsn", wal)
        ids_bytes = await conn.fetchval("SELECT pg_total_relation_size('anlyt.processed_events')")
    assert counted == events, (counted, events)
    await jetstream.request(nc, f"STREAM.DELETE.{settings.stream}")
    await nc.close()
    async with session(postgres.admin_url, application="bench") as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return {
        "events_per_s": events / seconds,
        "read_events_per_s": events / read["seconds"],
        "ratio_to_reading": read["seconds"] / seconds,
        "read_python_us": read["python_cpu_s"] / events * 1e6,
        "worker_python_us": python_cpu / events * 1e6,
        "postgres_us": (after[0] - before[0]) / events * 1e6,
        "nats_us": (after[1] - before[1]) / events * 1e6,
        "worker_rss_mb": rss / 2**20,
        "wal_bytes": float(wal_bytes) / events,
        "ids_bytes": ids_bytes / events,
    }


def _set(settings: Settings) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.nats_url is not None
    return {
        "database_url": settings.database_url.get_secret_value(),
        "nats_url": settings.nats_url.get_secret_value(),
        "stream": settings.stream,
        "subjects": settings.subjects,
    }


async def _each(outgoing: Iterable[Outgoing]) -> AsyncIterator[Outgoing]:
    for message in outgoing:
        yield message


async def measure(directory: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Medians of several runs, of single events and of batches."""
    events, runs = (30_000, 1) if quick else (300_000, 3)
    return {
        title: await _medians(events, batch, runs, directory / title.replace(" ", "-"))
        for title, batch in (("single events", 0), ("batches of 100", 100))
    }


async def _medians(events: int, batch: int, runs: int, directory: Path) -> dict[str, float]:
    async with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedNats(directory / "nats") as nats:
        results = [await one_run(events, batch, postgres, nats, directory=directory) for _ in range(runs)]
    return {key: statistics.median(result[key] for result in results) for key in results[0]}
