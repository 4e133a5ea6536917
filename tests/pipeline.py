"""Traffic through real servers and workers, and every cell of the tables against the oracle; for the proofs.

Used by test_conformance, test_faults, test_ledger and test_planted_bugs: one checker for all, so that the planted bugs
show what it can see.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

import oracle
from anlyt import jetstream, jobs, worker
from anlyt.crash import CrashPoints
from anlyt.errors import StreamUnavailable
from anlyt.telemetry import Telemetry
from publisher import MARK
from support import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from asyncpg import Connection
    from nats.aio.client import Client

    from anlyt.settings import Settings

TABLES: Final = ("metrics_hourly", "metrics_daily", "operator_performance", "account_usage_daily")
PUBLISH_WINDOW: Final = 200
CONNECT_LIMIT_S: Final = 60.0
OUTAGE_WINDOW: Final = 20  # small, so that publishing lasts as long as the outages
ACCOUNT: Final = "00000000-0000-4000-8000-00000000000a"

# CONTRACT section 5, each as the rows that break it.
IDENTITIES: Final = {
    "1 hourly: total = delivered + failed + pending": """
        SELECT * FROM anlyt.metrics_hourly
        WHERE total_messages <> delivered_messages + failed_messages + pending_messages""",
    "1 daily: total = delivered + failed + pending": """
        SELECT * FROM anlyt.metrics_daily
        WHERE total_messages <> delivered_messages + failed_messages + pending_messages""",
    "2 daily = sum of hourly": """
        WITH hours AS (
            SELECT date_trunc('day', hour_bucket, 'UTC') AS day_bucket, scope, scope_id, sum(total_messages) AS total,
                sum(delivered_messages) AS delivered, sum(failed_messages) AS failed, sum(pending_messages) AS pending,
                sum(total_cost) AS cost, sum(latency_sum_ms) AS latency, sum(latency_sample_count) AS samples,
                max(peak_tps) AS peak
            FROM anlyt.metrics_hourly GROUP BY 1, 2, 3
        )
        SELECT * FROM hours AS h FULL JOIN anlyt.metrics_daily AS d USING (day_bucket, scope, scope_id)
        WHERE (total, delivered, failed, pending, cost, latency, samples, peak) IS DISTINCT FROM (total_messages,
            delivered_messages, failed_messages, pending_messages, total_cost, latency_sum_ms, latency_sample_count,
            peak_tps)""",
    "3 sum of accounts = platform": """
        WITH sums AS (
            SELECT hour_bucket, scope, sum(total_messages) AS total, sum(delivered_messages) AS delivered,
                sum(failed_messages) AS failed, sum(pending_messages) AS pending, sum(total_cost) AS cost,
                sum(latency_sum_ms) AS latency, sum(latency_sample_count) AS samples
            FROM anlyt.metrics_hourly WHERE scope <> 'OPERATOR' GROUP BY 1, 2
        )
        SELECT * FROM (SELECT * FROM sums WHERE scope = 'ACCOUNT') AS a
        FULL JOIN (SELECT * FROM sums WHERE scope = 'PLATFORM') AS p USING (hour_bucket)
        WHERE (a.total, a.delivered, a.failed, a.pending, a.cost, a.latency, a.samples)
            IS DISTINCT FROM (p.total, p.delivered, p.failed, p.pending, p.cost, p.latency, p.samples)""",
    "4 hourly OPERATOR = operator_performance": """
        SELECT * FROM (SELECT *, scope_id::UUID AS operator_id FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR') AS h
        FULL JOIN (
            SELECT * FROM anlyt.operator_performance
            -- A row that only has errors stands for no message.
            WHERE (total_messages, delivered_messages, failed_messages, latency_sum_ms, peak_tps) <> (0, 0, 0, 0, 0)
        ) AS o USING (hour_bucket, operator_id)
        WHERE (coalesce(h.total_messages, 0), coalesce(h.delivered_messages, 0), coalesce(h.failed_messages, 0),
            coalesce(h.latency_sum_ms, 0), coalesce(h.latency_sample_count, 0), coalesce(h.peak_tps, 0))
            IS DISTINCT FROM (coalesce(o.total_messages, 0), coalesce(o.delivered_messages, 0),
            coalesce(o.failed_messages, 0), coalesce(o.latency_sum_ms, 0), coalesce(o.latency_sample_count, 0),
            coalesce(o.peak_tps, 0))""",
    "5 daily ACCOUNT = account_usage_daily": """
        SELECT * FROM (SELECT *, scope_id::UUID AS account_id FROM anlyt.metrics_daily WHERE scope = 'ACCOUNT') AS d
        FULL JOIN anlyt.account_usage_daily AS u USING (day_bucket, account_id)
        WHERE (coalesce(d.total_messages, 0), coalesce(d.delivered_messages, 0), coalesce(d.failed_messages, 0),
            coalesce(d.total_cost, 0)) IS DISTINCT FROM (coalesce(u.messages_sent, 0),
            coalesce(u.messages_delivered, 0), coalesce(u.messages_failed, 0), coalesce(u.total_cost, 0))""",
    "6 histogram samples = latency_sample_count": """
        WITH sums AS (
            SELECT hour_bucket, operator_id, sum(n) AS samples
            FROM anlyt.latency_histograms, unnest(sample_counts) AS n GROUP BY 1, 2
        )
        SELECT * FROM sums FULL JOIN anlyt.operator_performance AS o USING (hour_bucket, operator_id)
        WHERE coalesce(samples, 0) IS DISTINCT FROM coalesce(latency_sample_count, 0)""",
}


# ---------------------------------------------------------------------------------------------------------- publishing


@dataclass(frozen=True, slots=True)
class Copy:
    """One message to publish, and the body that says the same to the oracle."""

    told: bytes
    body: bytes
    headers: dict[str, str]
    mark: str

    @property
    def subject(self) -> str:
        """Behind the prefix. Many different ones, as a stream in a cluster is divided by subject."""
        return f"any.{self.mark[:2]}where"


def copies_of(rng: random.Random, bodies: Iterable[bytes], *, most: int = 3) -> list[Copy]:
    """Every body 1 to `most` times, in random order, in every shape an event may arrive in."""
    copies = [_disguise(rng, body) for body in bodies for _ in range(rng.randint(1, most))]
    rng.shuffle(copies)
    return copies


def _disguise(rng: random.Random, body: bytes) -> Copy:
    """The body as it is, with a content type, or a single event in binary mode; with and without a Nats-Msg-Id."""
    event = _single_event(body)
    shape = rng.choice(("plain", "typed", "binary"))
    headers: dict[str, str] = {}
    sent = body
    if shape == "typed" and event is not None:
        headers["Content-Type"] = "application/cloudevents+json"
    elif shape == "binary" and event is not None:
        headers = {f"{rng.choice(('ce-', 'Ce-', 'CE-'))}{name}": event[name] for name in event.keys() - {"data"}}
        sent = json.dumps(event["data"]).encode()
    # Only the producer's own id may make JetStream drop a copy; it does so for one copy of several here.
    message_id = rng.choice((None, "own", "fresh"))
    if message_id == "own" and event is not None:
        headers["Nats-Msg-Id"] = f"{event['id']} {event['source']}"
    elif message_id == "fresh":
        headers["Nats-Msg-Id"] = secrets.token_hex(8)
    return Copy(body, sent, headers, secrets.token_hex(8))


def _single_event(body: bytes) -> dict[str, Any] | None:
    """The event of a body that binary mode can carry: every attribute plain text, an object as data."""
    try:
        event = json.loads(body)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        return None
    texts = [value for name, value in event.items() if name != "data"]
    plain = all(isinstance(text, str) and text.isascii() and text.isprintable() for text in texts)
    return event if plain and {"id", "source"} <= event.keys() else None


def submitted(time: datetime, *, event_id: str | None = None, **data: Any) -> bytes:
    """A message.submitted of ACCOUNT at `time`."""
    event = {
        "specversion": "1.0",
        "id": event_id or str(uuid.uuid4()),
        "source": "/gateway/1",
        "type": "message.submitted",
        "time": time.isoformat(),
        "data": {"messageId": "m", "accountId": ACCOUNT} | data,
    }
    return json.dumps(event).encode()


def dear_bodies(rng: random.Random, now: datetime) -> list[bytes]:
    """Charges in batches of ten, each of which adds up to more digits than a float holds."""
    account, at = str(uuid.UUID(int=rng.getrandbits(128), version=4)), now - timedelta(hours=2)
    charges = [
        {
            "specversion": "1.0",
            "id": f"dear-{n}-{rng.getrandbits(32)}",
            "source": "/billing",
            "type": "message.charged",
            "time": at.isoformat(),
            "data": {
                "messageId": "m",
                "accountId": account,
                "submittedAt": at.isoformat(),
                "cost": f"{rng.randrange(10**9 - 10**6, 10**9)}.{rng.randrange(10**6):06d}",
            },
        }
        for n in range(40)
    ]
    return [json.dumps(charges[start : start + 10]).encode() for start in range(0, len(charges), 10)]


async def publish(nc: Client, settings: Settings, copies: Sequence[Copy]) -> list[bytes]:
    """Publish in order; what JetStream stored, as the oracle reads it (not the copies it knew by their Nats-Msg-Id)."""
    js = nc.jetstream(timeout=30, publish_async_max_pending=PUBLISH_WINDOW)
    prefix = settings.subjects.removesuffix(">")
    stored: list[bytes] = []
    for start in range(0, len(copies), PUBLISH_WINDOW):
        part = copies[start : start + PUBLISH_WINDOW]
        asked = [
            await js.publish_async(prefix + copy.subject, copy.body, headers=copy.headers or None) for copy in part
        ]
        acks = await asyncio.wait_for(asyncio.gather(*asked), 30)
        stored += [copy.told for copy, ack in zip(part, acks, strict=True) if not ack.duplicate]
    return stored


async def publish_through_outages(nc: Client, settings: Settings, copies: Sequence[Copy]) -> None:
    """Publish, again and again what got no answer, until JetStream has said of every copy that it has it."""
    for start in range(0, len(copies), OUTAGE_WINDOW):
        await _publish_until_known(nc, settings, list(copies[start : start + OUTAGE_WINDOW]))


async def _publish_until_known(nc: Client, settings: Settings, left: list[Copy]) -> None:
    js = nc.jetstream(timeout=2)
    prefix = settings.subjects.removesuffix(">")

    async def all_known() -> bool:
        asked = (
            js.publish(prefix + copy.subject, copy.body, headers=copy.headers | {MARK: copy.mark}) for copy in left
        )
        answers = await asyncio.gather(*asked, return_exceptions=True)
        left[:] = [copy for copy, answer in zip(left, answers, strict=True) if isinstance(answer, BaseException)]
        return not left

    await wait_until(all_known, 60, what="JetStream has what was published")


async def stored_copies(nc: Client, settings: Settings, copies: Iterable[Copy]) -> list[bytes]:
    """What the stream holds, message by message, as the oracle reads it."""
    told = {copy.mark: copy.told for copy in copies}
    info = await jetstream.stream_info(nc, settings.stream)
    stored: list[bytes] = []
    for sequence in range(info.first_seq, info.last_seq + 1):
        answer = await jetstream.request(nc, f"STREAM.MSG.GET.{settings.stream}", {"seq": sequence})
        mark = re.search(rf"{MARK}: (\w+)", base64.b64decode(answer["message"]["hdrs"]).decode())
        assert mark is not None
        stored.append(told[mark[1]])
    return stored


async def published_times(nc: Client, stream: str) -> list[int]:
    """The JetStream times of all messages, in order of their sequences from 1 on."""
    last = (await jetstream.stream_info(nc, stream)).last_seq
    reader = await jetstream.open_reader(nc, stream, subject=None, after=0)
    times: list[int] = []
    while len(times) < last:
        times += [m.published for m in await reader.take(5_000, bytes_max=2**24, wait_s=1)]
    await reader.close()
    return times


async def connected(settings: Settings) -> Client | None:
    """A connection; None when a busy nats-server had no time for it."""
    assert settings.nats_url is not None
    try:
        return await jetstream.connect(settings.nats_url.get_secret_value(), name="test")
    except StreamUnavailable:
        return None


@asynccontextmanager
async def stream_of(settings: Settings) -> AsyncGenerator[Client]:
    """A connection, with the stream made."""
    nc = await wait_until(lambda: connected(settings), CONNECT_LIMIT_S, what="nats-server takes a connection")
    try:
        await jetstream.ensure_stream(nc, settings.stream, settings.subjects, replicas=settings.stream_replicas)
        yield nc
    finally:
        await nc.close()


# -------------------------------------------------------------------------------------------------------------- workers


async def count(settings: Settings, *, workers: int = 1) -> None:
    """Count what the stream holds now, with workers side by side in this process."""
    stop = asyncio.Event()
    await asyncio.gather(
        *(
            worker.run(settings, telemetry=Telemetry(), crash=CrashPoints(), stop=stop, until_idle=True)
            for _ in range(workers)
        )
    )


@asynccontextmanager
async def counting(settings: Settings, *, workers: int = 1) -> AsyncGenerator[None]:
    """Workers in this process for the length of the block."""
    stop = asyncio.Event()
    running = [
        asyncio.create_task(worker.run(settings, telemetry=Telemetry(), crash=CrashPoints(), stop=stop))
        for _ in range(workers)
    ]
    try:
        yield
    finally:
        stop.set()
        await asyncio.gather(*running)


async def counted_through(settings: Settings) -> int:
    """The sequence up to which every slot has been counted; -1 while PostgreSQL cannot tell."""
    return int(await _ask_positions(settings, "CASE WHEN count(*) = 16 THEN min(last_seq) ELSE -1 END"))


async def progress(settings: Settings) -> float:
    """How far the slots have been counted on average; -1 while PostgreSQL cannot tell."""
    return float(await _ask_positions(settings, "coalesce(avg(last_seq), 0)"))


async def _ask_positions(settings: Settings, what: str) -> Any:
    try:
        async with database(settings) as conn:
            return await conn.fetchval(
                f"SELECT {what} FROM anlyt.stream_positions WHERE stream = $1",  # noqa: S608 - ours
                settings.stream,
            )
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return -1


async def all_counted(nc: Client, settings: Settings, *, limit_s: float = 30) -> int:
    """Wait until everything the stream holds has been counted; the sequence up to which."""
    end = (await jetstream.stream_info(nc, settings.stream)).last_seq

    async def counted() -> bool:
        return await counted_through(settings) >= end

    await wait_until(counted, limit_s, what=f"{settings.stream} counted up to {end}")
    return end


# ------------------------------------------------------------------------------------------------------------- checking


@asynccontextmanager
async def database(settings: Settings) -> AsyncGenerator[Connection]:
    """A plain session of the test's own."""
    assert settings.database_url is not None
    conn = await asyncpg.connect(settings.database_url.get_secret_value(), timeout=10)
    try:
        yield conn
    finally:
        await conn.close(timeout=10)


async def differences(
    settings: Settings,
    stored: list[bytes],
    published: datetime,
    *,
    totals: bool = True,
    letters: bool = True,
    ids: bool = True,
) -> list[str]:
    """Everything in the tables that is not as the oracle expects of `stored`, and every broken identity.

    `totals`: the running totals too; they say what was read, so reading again adds to them. `letters`: how many dead
    letters there are too; some may be of messages that are no longer stored. `ids`: how many ids are known too; the
    purge forgets some.
    """
    assert settings.database_url is not None
    await jobs.run_job(settings.database_url.get_secret_value(), "percentiles", CrashPoints())
    expected = oracle.expect(stored, published)
    found: list[str] = []
    async with database(settings) as conn:
        for table in TABLES:
            rows = [dict(row) for row in await conn.fetch(f"SELECT * FROM anlyt.{table}")]  # noqa: S608 - our own list
            found += oracle.differences(expected, table, rows)
        known = await conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
        if ids and known != expected["processed_events"]:
            found.append(f"processed_events: expected {expected['processed_events']}, found {known}")
        kept = dict(await conn.fetch("SELECT reason, count(*) FROM anlyt.dead_letters GROUP BY reason"))
        if letters and kept != expected["dead_letters"]:
            found.append(f"dead_letters: expected {expected['dead_letters']}, found {kept}")
        found += await broken_identities(conn)
        if totals:
            found += await _wrong_totals(conn, settings, stored, expected)
    return found


async def broken_identities(conn: Connection) -> list[str]:
    """The identities of the roll-ups that do not hold, with a row that breaks each."""
    found: list[str] = []
    for name, query in IDENTITIES.items():
        rows = await conn.fetch(query)
        found += [f"identity {name}: {len(rows)} rows, like {dict(rows[0])}"] if rows else []
    return found


async def _wrong_totals(conn: Connection, settings: Settings, stored: list[bytes], expected: Any) -> list[str]:
    """What the running totals say against what was published."""
    query = """
        SELECT sum(counted_events) AS counted, sum(duplicate_events) AS duplicates, sum(dead_letter_events) AS letters
        FROM anlyt.ingest_totals WHERE stream = $1"""
    row = await conn.fetchrow(query, settings.stream)
    letters = sum(expected["dead_letters"].values())
    events = sum(_elements(body) for body in stored)
    wanted = (expected["processed_events"], events - expected["processed_events"] - letters, letters)
    found = tuple(int(value or 0) for value in row.values())
    return [] if wanted == found else [f"ingest_totals: expected {wanted}, found {found}"]


def _elements(body: bytes) -> int:
    """How many events, good or bad, a body has."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return 1
    return len(parsed) if isinstance(parsed, list) else 1
