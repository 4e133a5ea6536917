"""Counting: a preloaded stream is counted by `anlyt worker`, beside only reading it and beside others that count it.

All of it on servers with durable settings, on one machine, each program a process of its own:

- *single events*, *batches of 100*: medians of several runs over a new stream and database each: events/s, the CPU time
  of each process per event (from /proc), WAL and table bytes per event, and the ratio to only reading. Time is counted
  from the start of the worker's process to its end.
- *backlog*: five million events that wait for one worker.
- *sustained*, *2 workers*: three million, through checkpoints; and the same while the purge deletes as many old ids.
- *ids*: what random ids (UUIDv4) cost instead of time-ordered ones (UUIDv7).
- *workers*: one worker, two on two partitions, eight on eight.
- *steps*: what each step of the worker costs, alone, and the least that step can be.
- *peers*: programs that others would write for the job, over the same stream (see bench/peers).

Machines are noisy: the medians and the ratios are what counts.

    python bench/run.py --only ingest
"""

from __future__ import annotations

import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import compare
import steps
from anlyt import jetstream, publishing, simulate, up
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.jetstream import Outgoing
from anlyt.postgres import session
from anlyt.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator

TICK = os.sysconf("SC_CLK_TCK")
TAKE_MAX = 10_000
TAKE_BYTES_MAX = 64 * 2**20
STREAM_GENERATED = 500_000  # events made at a time, so that millions need no memory
BESIDE_AFTER_S = 3
CHECKPOINT_PERIOD_S = 10
_ID = re.compile(rb'"id":"[0-9a-f-]{36}"')


class Size(NamedTuple):
    """How much is measured: events of a median's run, and runs; of sustained runs; of a backlog; shared; for peers."""

    events: int
    runs: int
    sustained: int
    backlog: int
    shared: int
    peers: int


FULL = Size(300_000, 3, 3_000_000, 5_000_000, 1_000_000, 300_000)
QUICK = Size(30_000, 1, 60_000, 0, 0, 1_000)


class Servers(NamedTuple):
    """Both servers, and where they live."""

    postgres: EmbeddedPostgres
    nats: EmbeddedNats
    directory: Path


# ----------------------------------------------------------------------------------------------------------- processes


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


class Spent(NamedTuple):
    """Of some processes until the last of them ended: seconds, their CPU seconds, the most memory of one of them."""

    seconds: float
    cpu_s: float
    rss_bytes: int


async def run_until_done(commands: list[list[str]], settings: Settings) -> Spent:
    """Start the commands at once and wait for all of them."""
    env = os.environ | {f"ANLYT_{key.upper()}": value for key, value in given(settings).items()}
    begun = time.perf_counter()
    started = [
        await asyncio.create_subprocess_exec(
            *words, env=env | {"ANLYT_LOG_LEVEL": "error"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for words in commands
    ]
    done = asyncio.gather(*(process.communicate() for process in started))
    cpu, rss = dict.fromkeys((process.pid for process in started), 0.0), 0
    while not done.done():
        for pid in cpu:
            try:
                cpu[pid], rss = cpu_s(pid), max(rss, rss_bytes(pid))
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
        await asyncio.sleep(0.02)
    said = await done
    assert all(process.returncode == 0 for process in started), said
    return Spent(time.perf_counter() - begun, sum(cpu.values()), rss)


def given(settings: Settings) -> dict[str, str]:
    """The settings that differ from the defaults, as their variables take them."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    return {
        "database_url": settings.database_url.get_secret_value(),
        "nats_url": settings.nats_url.get_secret_value(),
        "stream": settings.stream,
        "subjects": settings.subjects,
        "partitions": str(settings.partitions),
    }


# -------------------------------------------------------------------------------------------------------------- streams


def bodies(events: int, batch: int = 0, *, random_ids: bool = False) -> Iterator[bytes]:
    """Single events, or CloudEvents batches of `batch`, that happened in the last hours."""
    made = 0
    start = datetime.now(UTC) - timedelta(seconds=events / 400, minutes=5)
    while made < events:
        part = min(events - made, STREAM_GENERATED)
        traffic = simulate.Traffic(
            start=start + timedelta(seconds=made / 400),
            rate=500,
            duration=timedelta(seconds=part / 400, minutes=3),  # more than needed: what happens later is cut
            duplicates=0,
            bad=0,
            operators=20,
            accounts=200,
            seed=made,
        )
        single = simulate.bodies(simulate.plain(traffic))[:part]
        assert len(single) == part, "the traffic is shorter than asked for"
        made += part
        if random_ids:
            single = [_ID.sub(b'"id":"%s"' % str(uuid.uuid4()).encode(), body, count=1) for body in single]
        yield from single if not batch else (b"[%s]" % b",".join(single[n : n + batch]) for n in range(0, part, batch))


@asynccontextmanager
async def loaded(servers: Servers, made: Iterable[bytes], *, partitions: int = 1) -> AsyncGenerator[Settings]:
    """A new database and a stream of its own that holds all of `made`; both are gone afterwards."""
    name = f"bench_{time.time_ns()}"
    async with session(servers.postgres.admin_url, application="bench") as admin:
        await admin.execute(f"CREATE DATABASE {name} OWNER anlyt")  # a name of digits and letters made here
    url = servers.postgres.url.removesuffix("/anlyt") + f"/{name}"
    places = {"database_url": url, "stream": name.upper(), "subjects": f"{name}.events.>", "partitions": partitions}
    settings = load(places | {"nats_url": servers.nats.url}, {})
    await up.prepare(settings)
    await servers.nats.stop()  # loading must not take all day: one by one, as producers do, but with a lazy disk
    async with EmbeddedNats(servers.directory / "nats", sync_interval="1m") as lazy:
        nc = await jetstream.connect(lazy.url, name="bench")
        await publishing.publish_each(nc, _each(Outgoing(f"{name}.events.x", body, {}) for body in made))
        await nc.close()
    await servers.nats.start()
    yield settings
    nc = await jetstream.connect(servers.nats.url, name="bench")
    await jetstream.request(nc, f"STREAM.DELETE.{settings.stream}")
    await nc.close()
    async with session(servers.postgres.admin_url, application="bench") as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _each(outgoing: Iterable[Outgoing]) -> AsyncIterator[Outgoing]:
    for message in outgoing:
        yield message


# ------------------------------------------------------------------------------------------------------------- measured


async def only_read(settings: Settings) -> Spent:
    """Read the whole stream with the worker's reader; events are not even decoded."""
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="bench")
    messages = (await jetstream.stream_info(nc, settings.stream)).last_seq
    reader = await jetstream.open_reader(nc, settings.stream, subject=None, after=0)
    begun, cpu, seen = time.perf_counter(), time.process_time(), 0
    while seen < messages:
        seen += len(await reader.take(TAKE_MAX, bytes_max=TAKE_BYTES_MAX, wait_s=1))
    spent = Spent(time.perf_counter() - begun, time.process_time() - cpu, 0)
    await reader.close()
    await nc.close()
    return spent


async def counted(
    servers: Servers, settings: Settings, events: int, *, beside: list[str] | None = None, checkpoints: bool = False
) -> dict[str, float]:
    """Count with `anlyt worker --until-idle`, one for each partition; `beside`: words of one command more.

    With `checkpoints` one is made every CHECKPOINT_PERIOD_S, at full speed, where the server would wait for 15 minutes.
    """
    assert settings.database_url is not None
    work = [[sys.executable, "-m", "anlyt", "worker", "--until-idle"]] * settings.partitions
    async with session(settings.database_url.get_secret_value(), application="bench") as conn:
        wal = await conn.fetchval("SELECT pg_current_wal_lsn()")
        done = await conn.fetchval("SELECT num_timed + num_requested FROM pg_stat_checkpointer")
        making = asyncio.create_task(_make_checkpoints(servers)) if checkpoints else None
        before = tree_cpu_s(servers.postgres.pid), cpu_s(servers.nats.pid)
        other = asyncio.create_task(_later(beside, settings)) if beside else None
        spent = await run_until_done(work, settings)
        after = tree_cpu_s(servers.postgres.pid), cpu_s(servers.nats.pid)
        if making is not None:
            making.cancel()
        beside_s = (await other).seconds if other else 0.0
        found = await conn.fetchval("SELECT sum(counted_events)::BIGINT FROM anlyt.ingest_totals")
        assert found == events, (found, events)
        wal_bytes = await conn.fetchval("SELECT pg_current_wal_lsn() - $1::PG_LSN", wal)
        ids_bytes = await conn.fetchval("SELECT pg_total_relation_size('anlyt.processed_events')")
        done = await conn.fetchval("SELECT num_timed + num_requested FROM pg_stat_checkpointer") - done
        deadlocks = await conn.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
    return {
        "events": events,
        "events/s": events / spent.seconds,
        "worker CPU us": spent.cpu_s / events * 1e6,
        "PostgreSQL CPU us": (after[0] - before[0]) / events * 1e6,
        "nats-server CPU us": (after[1] - before[1]) / events * 1e6,
        "most memory of a worker MB": spent.rss_bytes / 2**20,
        "WAL bytes": float(wal_bytes) / events,
        "bytes of an id on disk": ids_bytes / events,
        "checkpoints": done,
        "deadlocks": deadlocks,
        "purge took s": beside_s,
    }


async def _make_checkpoints(servers: Servers) -> None:
    """Again and again, until cancelled."""
    async with session(servers.postgres.admin_url, application="bench", statement_timeout_s=900) as conn:
        while True:
            await asyncio.sleep(CHECKPOINT_PERIOD_S)
            await conn.execute("CHECKPOINT")


async def _later(words: list[str], settings: Settings) -> Spent:
    """Run a command once counting is under way: the purge keeps what nobody has begun to count."""
    await asyncio.sleep(BESIDE_AFTER_S)
    return await run_until_done([words], settings)


async def one_run(servers: Servers, events: int, batch: int, *, random_ids: bool = False) -> dict[str, float]:
    """One measurement on a fresh database and stream: read only, then count."""
    async with loaded(servers, bodies(events, batch, random_ids=random_ids)) as settings:
        read = await only_read(settings)
        figures = await counted(servers, settings, events)
    return figures | {
        "only reading, events/s": events / read.seconds,
        "only reading, CPU us": read.cpu_s / events * 1e6,
        "ratio to only reading": figures["events/s"] / (events / read.seconds),
    }


async def medians(servers: Servers, size: Size, batch: int, *, random_ids: bool = False) -> dict[str, float]:
    """Of several runs."""
    results = [await one_run(servers, size.events, batch, random_ids=random_ids) for _ in range(size.runs)]
    return {key: statistics.median(result[key] for result in results) for key in results[0]}


async def sustained(
    servers: Servers, size: Size, batch: int, *, workers: int = 1, purging: bool = False
) -> dict[str, float]:
    """Millions of events in one run; with `purging`, as many ids that are old enough are deleted meanwhile."""
    async with loaded(servers, bodies(size.sustained, batch), partitions=workers) as settings:
        if not purging:
            return await counted(servers, settings, size.sustained, checkpoints=True)
        assert settings.database_url is not None
        async with session(
            settings.database_url.get_secret_value(), application="bench", statement_timeout_s=900
        ) as conn:
            await conn.execute(
                "INSERT INTO anlyt.processed_events (event_id, event_type, processed_at) "
                "SELECT 'old-' || lpad(n::TEXT, 12, '0') || '-4b5d-8c41-8a5b3c /gateway', 'message.submitted', "
                "now() - INTERVAL '60 hours' FROM generate_series(1, $1::INTEGER) AS n",
                size.sustained,
            )
            await conn.execute("VACUUM ANALYZE anlyt.processed_events")
        purge = [sys.executable, "-m", "anlyt", "jobs", "run", "purge"]
        return await counted(servers, settings, size.sustained, beside=purge, checkpoints=True)


async def shared_by(servers: Servers, size: Size, workers: int) -> dict[str, float]:
    """As many workers as partitions over single events."""
    async with loaded(servers, bodies(size.shared), partitions=workers) as settings:
        return await counted(servers, settings, size.shared)


async def at_length(servers: Servers, size: Size) -> dict[str, dict[str, float]]:
    """What a quick look goes without."""
    tables = {"single, random ids": await medians(servers, size, 0, random_ids=True)}
    for workers in (1, 2, 8):
        tables[f"{workers} workers"] = await shared_by(servers, size, workers)
    tables["single, backlog"] = await sustained(servers, size._replace(sustained=size.backlog), 0)
    tables["batches, sustained"] = await sustained(servers, size, 100)
    for batch, title in ((0, "single"), (100, "batches")):
        tables[f"{title}, 2 workers"] = await sustained(servers, size, batch, workers=2)
    tables["single, purging, 1 workers"] = await sustained(servers, size, 0, purging=True)
    return tables


async def measure(directory: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """Tables of all of it, on fresh servers under `directory`."""
    size = QUICK if quick else FULL
    tables: dict[str, dict[str, float]] = {}
    async with EmbeddedPostgres(directory / "postgres") as postgres, EmbeddedNats(directory / "nats") as nats:
        servers = Servers(postgres, nats, directory)
        tables["single events"] = await medians(servers, size, 0)
        tables["batches of 100"] = await medians(servers, size, 100)
        if not quick:
            tables |= await at_length(servers, size)
        tables["single, purging, 2 workers"] = await sustained(servers, size, 0, workers=2, purging=True)
        async with loaded(servers, bodies(size.peers)) as settings:
            await nats.stop()
            peers = await compare.measure(settings, size.peers, directory / "nats")
            await nats.start()
            ours = {"events": size.peers, "events/s": (await counted(servers, settings, size.peers))["events/s"]}
        for title, figures in [*peers.items(), ("anlyt on that stream", ours)]:
            tables[title] = figures | {"anlyt is times as fast": ours["events/s"] / figures["events/s"]}
        tables |= await steps.measure(postgres, list(bodies(min(size.events, 100_000))))
    return tables
