"""What readers wait for: every route over 90 hot days, whole exports, and how soon a published event can be read.

The database holds 90 days of 20 operators and 1,000 accounts: 2.2 million hourly rows with their days, performance rows
and latency histograms. The API is a process of its own with its own ten sessions; a client is one connection that asks
again as soon as it is answered, each with a key of its own. `readable` publishes traffic and, beside it, marks of one
account; a mark is readable when the account's row in an answer has counted it, and heard when a live event has.

    python bench/run.py --only api
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from anlyt import jetstream, keys, up
from anlyt.access import make_grant
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.postgres import ensure_partitions, session, sql
from anlyt.settings import Settings, load
from flood import ACCOUNTS, OPERATORS, event

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

    from asyncpg import Connection

DAYS = 90
QUICK_DAYS = 4
PROBE = "ffffffff-0000-4000-8000-00000000acc0"
CLIENTS = (1, 16)
RATES = (5_000, 30_000)  # events a second while marks are published
READING_RATE = 20_000  # events a second while routes are asked
MARK_PERIOD_S = 0.02
LATENCY_BUCKETS = 120  # of one operator's hour
EXPORT_ROWS = 1_000_000

_HOURLY = """
INSERT INTO anlyt.metrics_hourly
SELECT hour, scope, id, 1000 + n, 950, 20, 30 + n, (n * 0.0451)::NUMERIC(18, 6), 950 * 800, 950, 9, hour
FROM generate_series($1::TIMESTAMPTZ, $2, '1 hour') AS hour,
    unnest($3::TEXT[], $4::TEXT[]) WITH ORDINALITY AS ids (scope, id, n)
ORDER BY hour, scope, id  -- as they are written: an hour's rows lie together"""
_DAILY = """
INSERT INTO anlyt.metrics_daily
SELECT date_trunc('day', hour_bucket, 'UTC'), scope, scope_id, sum(total_messages), sum(delivered_messages),
    sum(failed_messages), sum(pending_messages), sum(total_cost), sum(latency_sum_ms), sum(latency_sample_count),
    max(peak_tps), max(updated_at)
FROM anlyt.metrics_hourly GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
_OPERATORS = """
INSERT INTO anlyt.operator_performance
SELECT hour_bucket, scope_id::UUID, total_messages, delivered_messages, failed_messages, latency_sum_ms,
    latency_sample_count, 1500, peak_tps, 3, updated_at
FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR' ORDER BY 1, 2"""
_ACCOUNTS = """
INSERT INTO anlyt.account_usage_daily
SELECT day_bucket, scope_id::UUID, total_messages, delivered_messages, failed_messages, total_cost, total_messages,
    updated_at
FROM anlyt.metrics_daily WHERE scope = 'ACCOUNT' ORDER BY 1, 2"""
_HISTOGRAMS = """
INSERT INTO anlyt.latency_histograms
SELECT hour_bucket, operator_id, 0, ARRAY(SELECT generate_series(300, 299 + $1)::SMALLINT),
    ARRAY(SELECT CASE WHEN n = 1 THEN latency_sample_count - ($1 - 1) * 5 ELSE 5 END FROM generate_series(1, $1) AS n)
FROM anlyt.operator_performance"""
_HISTOGRAM_DAYS = """
INSERT INTO anlyt.latency_days
SELECT day, operator_id, buckets, ARRAY(SELECT n * hours FROM unnest(sample_counts) AS n)
FROM (
    SELECT date_trunc('day', hour_bucket, 'UTC') AS day, operator_id, buckets, sample_counts, count(*) AS hours
    FROM anlyt.latency_histograms GROUP BY 1, 2, 3, 4
) AS days"""


class Route(NamedTuple):
    """A question; `key` is who asks it, `aim_ms` the p99 that is aimed at with one client."""

    path: str
    key: str
    aim_ms: float


def routes() -> dict[str, Route]:
    """The questions, with an account or operator to be filled in anew for each request."""
    return {
        "hourly, an account, 24 h": Route("/v1/metrics/hourly", "account", 50),
        "hourly, the platform, 7 d": Route("/v1/metrics/hourly?scope=PLATFORM&from=-7d&limit=200", "staff", 50),
        "hourly, everything, a page": Route("/v1/metrics/hourly?from=-24h", "staff", 50),
        "daily, an account, 90 d": Route("/v1/metrics/daily?from=-90d", "account", 50),
        "operators, one, 7 d": Route("/v1/operators/performance?from=-7d&limit=200", "operator", 50),
        "usage, an account, 90 d": Route("/v1/accounts/usage?from=-90d", "account", 50),
        "sum, an account, 89 d": Route("/v1/summary?from=-89d", "account", 50),
        "sum, an account, local days": Route("/v1/summary?from=-30d&groupBy=day&timezone=Europe/Berlin", "account", 50),
        "sum, an operator, 89 d": Route("/v1/summary?from=-89d", "operator", 50),
        "sum, an operator, local days": Route(
            "/v1/summary?from=-30d&groupBy=day&timezone=Europe/Berlin", "operator", 50
        ),
        "top 10 of accounts, 24 h": Route("/v1/summary?scope=ACCOUNT&groupBy=scopeId&limit=10", "staff", 200),
        "top 10 of accounts, 30 d": Route(
            "/v1/summary?scope=ACCOUNT&groupBy=scopeId&limit=10&from=-30d&sort=totalCost", "staff", 200
        ),
        "top 10 of accounts, 89 d": Route(
            "/v1/summary?scope=ACCOUNT&groupBy=scopeId&limit=10&from=-89d&sort=deliveryRate&order=asc", "staff", 200
        ),
        "top 10 of accounts, two months": Route(
            "/v1/summary?scope=ACCOUNT&groupBy=scopeId&limit=10&from=-30d&compare=previous", "staff", 200
        ),
        "percentiles of operators, 7 d": Route("/v1/summary?scope=OPERATOR&groupBy=scopeId&from=-7d", "staff", 200),
        "percentiles of operators, 89 d": Route("/v1/summary?scope=OPERATOR&groupBy=scopeId&from=-89d", "staff", 200),
        "status, a tenant": Route("/v1/status", "account", 50),
    }


# ------------------------------------------------------------------------------------------------------------- servers


class World(NamedTuple):
    """What is measured: the API's address, the processes, the settings, and keys by who asks."""

    host: str
    port: int
    pids: tuple[int, int]  # of the API and of the postmaster
    settings: Settings
    keys: dict[str, list[str]]


async def fill(conn: Connection, days: int) -> None:
    """Rows of every table for the last `days`, up to the hour before this one."""
    end = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    start = end - timedelta(days=days) + timedelta(hours=1)
    await ensure_partitions(conn, [end + timedelta(hours=2), *(start + timedelta(days=n) for n in range(days))])
    scopes = ["PLATFORM", *["OPERATOR"] * len(OPERATORS), *["ACCOUNT"] * len(ACCOUNTS)]
    await conn.execute(_HOURLY, start, end, scopes, ["platform", *OPERATORS, *ACCOUNTS])
    for statement in (_DAILY, _OPERATORS, _ACCOUNTS):
        await conn.execute(statement)
    await conn.execute(_HISTOGRAMS, LATENCY_BUCKETS)
    await conn.execute(_HISTOGRAM_DAYS)
    rows = await conn.fetch("SELECT day_bucket, operator_id FROM anlyt.latency_days")
    await conn.execute(sql("jobs/merge_weeks"), *map(list, zip(*rows, strict=True)))
    await conn.execute("VACUUM ANALYZE")


async def make_keys(conn: Connection) -> dict[str, list[str]]:
    """As many keys of each kind as there are clients, so that nobody is held up by the turns of another."""
    made: dict[str, list[str]] = {}
    for name, scope, ids in (
        ("staff", "PLATFORM", [""]),
        ("operator", "OPERATOR", OPERATORS),
        ("account", "ACCOUNT", ACCOUNTS),
    ):
        made[name] = []
        for n in range(max(CLIENTS)):
            grant = make_grant(scope, [ids[n]] if scope != "PLATFORM" else [], ["metrics:read"])
            made[name].append((await keys.create_key(conn, grant, name="bench")).key)
    probe = make_grant("ACCOUNT", [PROBE], ["metrics:read"])
    made["probe"] = [(await keys.create_key(conn, probe, name="bench")).key for _ in range(2)]
    return made


@asynccontextmanager
async def process(settings: Settings, *words: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    """A role of anlyt as a process of its own."""
    values = {
        "DATABASE_URL": settings.database_url and settings.database_url.get_secret_value(),
        "NATS_URL": settings.nats_url and settings.nats_url.get_secret_value(),
        "STREAM": settings.stream,
        "SUBJECTS": settings.subjects,
        "HTTP_PORT": str(settings.http_port),
        "LOG_LEVEL": "error",
    }
    env = os.environ | {f"ANLYT_{name}": str(value) for name, value in values.items()}
    started = await asyncio.create_subprocess_exec(sys.executable, "-m", "anlyt", *words, env=env)
    try:
        yield started
    finally:
        with suppress(ProcessLookupError):
            started.terminate()
        await started.wait()


@asynccontextmanager
async def world(directory: Path, days: int) -> AsyncGenerator[World]:
    """The servers, a filled database and the API."""
    async with AsyncExitStack() as stack:
        postgres = await stack.enter_async_context(EmbeddedPostgres(directory / "postgres"))
        # Syncing each message to the disk, as the embedded server does by itself, bounds how many can be published.
        nats = await stack.enter_async_context(EmbeddedNats(directory / "nats", sync_interval="2m"))
        given = {"database_url": postgres.url, "nats_url": nats.url, "stream": "BENCH", "subjects": "bench.events.>"}
        settings = load(given | {"http_port": _free_port()}, {})
        await up.prepare(settings)
        async with session(postgres.url, application="bench", statement_timeout_s=1_800) as conn:
            await fill(conn, days)
            made = await make_keys(conn)
        async with process(settings, "worker", "--until-idle") as worker:  # so that freshness is known
            await worker.wait()
        api = await stack.enter_async_context(process(settings, "api"))
        await _listening(settings.http_port)
        yield World("127.0.0.1", settings.http_port, (api.pid, postgres.pid), settings, made)


def _free_port() -> int:
    return random.randint(20_000, 30_000)


async def _listening(port: int) -> None:
    for _ in range(600):
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)
    raise TimeoutError(f"the API does not listen on {port}")


class Client:
    """One connection that asks and waits. Plain HTTP/1.1 by hand, so that little of what is measured is the client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str) -> None:
        self._reader = reader
        self._writer = writer
        self._head = f"Host: bench\r\nAuthorization: Bearer {key}\r\nAccept: */*\r\n\r\n"

    @classmethod
    async def connect(cls, where: World, key: str) -> Client:
        """A connection of its own."""
        return cls(*await asyncio.open_connection(where.host, where.port, limit=2**24), key)

    async def ask(self, path: str) -> bytes:
        """The body of a good answer; a question that got no turn is asked again until it has one."""
        while True:
            self._writer.write(f"GET {path} HTTP/1.1\r\n{self._head}".encode())
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await self._reader.readexactly(length)
            if b" 429 " not in head[:20]:
                assert b" 200 " in head[:20], (path, head, body)
                return body

    async def stream(self, path: str) -> AsyncIterator[bytes]:
        """The chunks of an answer without a length; the end is checked to be the whole's."""
        self._writer.write(f"GET {path} HTTP/1.1\r\n{self._head}".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head[:20], (path, head)
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield (await self._reader.readexactly(size + 2))[:-2]

    def close(self) -> None:
        """End the connection."""
        self._writer.transport.abort()


# ------------------------------------------------------------------------------------------------------------- measured


def rank(sorted_values: list[float], percent: float) -> float:
    """The nearest-rank percentile."""
    return sorted_values[max(0, -int(-len(sorted_values) * percent // 100) - 1)]


class Length(NamedTuple):
    """How long a route is asked: so many answers to all clients together, and so many seconds, at least."""

    answers: int
    seconds: float


async def ask_again(where: World, route: Route, clients: int, least: Length) -> list[float]:
    """Milliseconds of answers to so many clients at once, sorted; the first of each does not count."""
    end = time.perf_counter() + least.seconds

    async def one(number: int) -> list[float]:
        client = await Client.connect(where, where.keys[route.key][number])
        took: list[float] = []
        while len(took) <= least.answers // clients or time.perf_counter() < end:
            begun = time.perf_counter()
            await client.ask(route.path)
            took.append((time.perf_counter() - begun) * 1_000)
        client.close()
        return took[1:]

    parts = await asyncio.gather(*(one(number) for number in range(clients)))
    return sorted(took for part in parts for took in part)


async def measure_routes(where: World, least: Length) -> dict[str, dict[str, float]]:
    """p50, p99 and the CPU time of API and PostgreSQL a request, of every route, for one client and for many."""
    tables: dict[str, dict[str, float]] = {"aim p99 ms": {name: route.aim_ms for name, route in routes().items()}}
    for name, route in routes().items():
        for clients in CLIENTS:
            before = sum(map(cpu_s, where.pids))
            took = await ask_again(where, route, clients, least)
            spent_ms = (sum(map(cpu_s, where.pids)) - before) * 1_000 / (len(took) + clients)
            for title, value in (("p50 ms", rank(took, 50)), ("p99 ms", rank(took, 99)), ("CPU ms", spent_ms)):
                tables.setdefault(f"{clients}: {title}", {})[name] = value
    return tables


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and its children: PostgreSQL's sessions are the postmaster's."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    ticks = 0
    for each in [str(pid), *children]:
        with suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) + (sum(map(int, fields[13:15])) if each == str(pid) else 0)
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def measure_exports(where: World) -> dict[str, dict[str, float]]:
    """A million rows in each format: rows a second, and how much memory the API took for them."""
    hours = -(-EXPORT_ROWS // (1 + len(OPERATORS) + len(ACCOUNTS)))
    tables: dict[str, dict[str, float]] = {}
    for form in ("csv", "ndjson", "parquet"):
        client = await Client.connect(where, where.keys["staff"][0])
        before = peak = rss_mb(where.pids[0])
        size, begun = 0, time.perf_counter()
        async for chunk in client.stream(f"/v1/metrics/hourly?from=-{hours + 1}h&format={form}"):
            size += len(chunk)
            peak = max(peak, rss_mb(where.pids[0]))
        seconds = time.perf_counter() - begun
        client.close()
        rows = hours * (1 + len(OPERATORS) + len(ACCOUNTS))
        figures = {"rows": rows, "rows/s": rows / seconds, "MB": size / 2**20, "API grew by MB": peak - before}
        tables[f"export as {form}"] = figures
    return tables


@asynccontextmanager
async def flood(where: World, rate: int) -> AsyncGenerator[None]:
    """So many events a second are published and counted, and the jobs run."""
    nats_url = where.settings.nats_url
    assert nats_url is not None
    env = os.environ | {"NATS_URL": nats_url.get_secret_value(), "SUBJECT": "bench.events.x"}
    async with process(where.settings, "worker"), process(where.settings, "jobs", "loop"):
        words = (sys.executable, str(Path(__file__).with_name("flood.py")), str(rate))
        publisher = await asyncio.create_subprocess_exec(*words, env=env)
        try:
            yield
        finally:
            publisher.kill()
            await publisher.wait()


async def publish(where: World, seconds: float, published: list[float]) -> None:
    """A mark every MARK_PERIOD_S: the moment before each is noted."""
    nats_url = where.settings.nats_url
    assert nats_url is not None
    nc = await jetstream.connect(nats_url.get_secret_value(), name="bench")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        published.append(time.perf_counter())
        await nc.publish("bench.events.x", event(PROBE, OPERATORS[0], datetime.now(UTC).isoformat()))
        await asyncio.sleep(MARK_PERIOD_S)
    await nc.flush()
    await nc.close()


def note(published: list[float], seen: list[float], total: int) -> None:
    """The marks up to `total` are there now."""
    now = time.perf_counter()
    seen += [(now - at) * 1_000 for at in published[len(seen) : total]]


async def count_marks(where: World) -> int:
    """Marks that have been counted so far."""
    client = await Client.connect(where, where.keys["probe"][0])
    rows = json.loads(await client.ask("/v1/metrics/hourly?from=-3h"))["data"]
    client.close()
    return sum(row["totalMessages"] for row in rows)


async def poll(where: World, published: list[float], seen: list[float], more: Callable[[], bool]) -> None:
    """Ask for the account's rows again and again, until every mark was seen."""
    client = await Client.connect(where, where.keys["probe"][0])
    while more() or len(seen) < len(published):
        rows = json.loads(await client.ask("/v1/metrics/hourly?from=-3h"))["data"]
        note(published, seen, sum(row["totalMessages"] for row in rows))
        await asyncio.sleep(0.02)  # a caller may ask 50 times a second and be no burden to what is measured
    client.close()


async def hear(where: World, published: list[float], heard: list[float], *, more: Callable[[], bool]) -> None:
    """Listen to the account's rows until every mark was heard."""
    client = await Client.connect(where, where.keys["probe"][1])
    rows: dict[str, int] = {}
    async for chunk in client.stream("/v1/live?scope=ACCOUNT"):
        for line in chunk.splitlines():
            if line.startswith(b'data: {"hourBucket"'):
                row = json.loads(line[6:])
                rows[row["hourBucket"]] = row["totalMessages"]
        note(published, heard, sum(rows.values()))
        if not more() and len(heard) == len(published):
            break
    client.close()


async def measure_readable(where: World, seconds: float, rate: int) -> dict[str, float]:
    """Milliseconds from just before a mark is published until an answer, and a live event, has counted it."""
    published: list[float] = []
    seen: list[float] = []
    heard: list[float] = []
    before = await count_marks(where)
    async with flood(where, rate):
        warm: list[float] = []
        await publish(where, 2, warm)
        async with asyncio.timeout(seconds + 60):
            await poll(where, [0.0] * before + warm, [], lambda: False)
        published += [0.0] * (before + len(warm))
        seen += [math.nan] * len(published)  # what was there before counts in the rows, not in the figures
        heard += [math.nan] * len(published)
        publishing = asyncio.create_task(publish(where, seconds, published))
        listening = asyncio.create_task(hear(where, published, heard, more=lambda: not publishing.done()))
        async with asyncio.timeout(seconds + 60):
            await poll(where, published, seen, lambda: not publishing.done())
            await publishing
            await listening
    seen, heard = (sorted(value for value in values if not math.isnan(value)) for values in (seen, heard))
    return {"events/s": rate, "marks": len(seen)} | {
        f"{name}, p{percent} ms": rank(values, percent)
        for name, values in (("in an answer", seen), ("in a live event", heard))
        for percent in (50, 99)
    }


async def measure_beside(where: World, least: Length) -> dict[str, dict[str, float]]:
    """p50 and p99 of every route for many clients while events are counted."""
    tables: dict[str, dict[str, float]] = {}
    clients = max(CLIENTS)
    async with flood(where, READING_RATE):
        for name, route in routes().items():
            took = await ask_again(where, route, clients, least)
            for title, percent in (("p50 ms", 50), ("p99 ms", 99)):
                tables.setdefault(f"{clients} + ingest: {title}", {})[name] = rank(took, percent)
    return tables


async def measure(directory: Path, *, quick: bool = False) -> dict[str, dict[str, float]]:
    """Tables of everything, on fresh servers under `directory`: by clients, by format, and how soon events are read."""
    days, least, seconds = (QUICK_DAYS, Length(16, 0), 3) if quick else (DAYS, Length(200, 2), 15)
    async with world(directory, days) as where:
        tables = await measure_routes(where, least)
        if not quick:
            tables |= await measure_exports(where)
        for rate in RATES[:1] if quick else RATES:
            tables[f"readable, {rate // 1000},000/s"] = await measure_readable(where, seconds, rate)
        return tables | await measure_beside(where, least)
