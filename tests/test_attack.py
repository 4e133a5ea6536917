"""What a hostile or broken producer, or an unlucky operator, can do to the counts: nothing blocks, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

import pipeline
from anlyt import jetstream, publishing, worker
from anlyt.events import Decoder, Message, Rules, to_instant
from anlyt.postgres import ensure_partitions, session
from support import run, wait_until

if TYPE_CHECKING:
    from anlyt.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=0)
ACCOUNT = "00000000-0000-4000-8000-00000000000a"


def event(kind: str = "message.submitted", **data: Any) -> dict[str, Any]:
    """A good event of ACCOUNT."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": "/gateway/1",
        "type": kind,
        "time": NOW.isoformat(),
        "data": {"messageId": "m", "accountId": ACCOUNT, "submittedAt": NOW.isoformat()} | data,
    }


def body(kind: str = "message.submitted", **data: Any) -> bytes:
    """The body of `event`."""
    return json.dumps(event(kind, **data)).encode()


async def publish_raw(settings: Settings, subject: bytes, payload: bytes, *, headers: bytes | None = None) -> None:
    """Publish bytes that no client library would let through, as any TCP client can."""
    assert settings.nats_url is not None
    url = urlsplit(settings.nats_url.get_secret_value())
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    options = {"verbose": False, "headers": True, "user": url.username, "pass": url.password}
    prefix = settings.subjects.removesuffix(">").encode()
    writer.write(b"CONNECT " + json.dumps(options).encode() + b"\r\nSUB _INBOX.raw 1\r\n")
    if headers is None:
        writer.write(b"PUB %b _INBOX.raw %d\r\n" % (prefix + subject, len(payload)))
    else:
        sizes = len(headers), len(headers) + len(payload)
        writer.write(b"HPUB %b _INBOX.raw %d %d\r\n" % (prefix + subject, *sizes))
    writer.write((headers or b"") + payload + b"\r\n")
    answer = b""
    while b'"seq":' not in answer:
        answer += await asyncio.wait_for(reader.read(4096), 5)
    writer.close()
    await writer.wait_closed()


async def fetch(settings: Settings, query: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    async with pipeline.database(settings) as conn:
        return [tuple(row) for row in await conn.fetch(query)]


async def total(settings: Settings) -> int:
    """Messages counted for the platform."""
    rows = await fetch(settings, "SELECT sum(total_messages)::BIGINT FROM anlyt.metrics_daily WHERE scope = 'PLATFORM'")
    return int(rows[0][0] or 0)


# -------------------------------------------------------------------------------------------------- what is not text


SUBJECTS = [b"a\xff\xfeb", b"a\x0cb", b"a\x0bb", b"a\x00b", b"\x85", b"a" * 3800, b"*", b"a.*", b"a.>"]


@pytest.mark.parametrize("subject", SUBJECTS, ids=ascii)
def test_any_subject_can_be_read_and_kept(settings: Settings, subject: bytes) -> None:
    async def scenario() -> tuple[int, list[tuple[Any, ...]]]:
        async with pipeline.stream_of(settings):
            await publish_raw(settings, subject, body())
            await publish_raw(settings, subject, b"not JSON")
            await publish_raw(settings, b"plain", body())
            await pipeline.count(settings)
        return await total(settings), await fetch(settings, "SELECT reason FROM anlyt.dead_letters")

    assert run(scenario()) == (2, [("malformed",)])


@pytest.mark.parametrize(
    "headers",
    [
        b"NATS/1.0",
        b"XXXX",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 503 \xff\xff\xff\r\nA: b\r\n\r\n",
        b"NATS/1.0 \xff\xff\xff\r\nA: b\r\n\r\n",
        b"NATS/1.0\r\nA: \x00\xff\r\n\xff: b\r\n: c\r\n\r\n",
    ],
    ids=ascii,
)
def test_any_headers_can_be_read_and_kept(settings: Settings, headers: bytes) -> None:
    async def scenario() -> tuple[int, list[tuple[Any, ...]]]:
        async with pipeline.stream_of(settings):
            await publish_raw(settings, b"x", body(), headers=headers)
            await publish_raw(settings, b"x", b"not JSON", headers=headers)
            await publish_raw(settings, b"x", body())
            await pipeline.count(settings)
        return await total(settings), await fetch(settings, "SELECT reason FROM anlyt.dead_letters")

    assert run(scenario()) == (2, [("malformed",)])


@pytest.mark.parametrize("name", [b"", b"a\x00b", b"x" * 5000, b"tab\there"], ids=ascii)
def test_a_backfill_name_nobody_could_read_is_refused(settings: Settings, name: bytes) -> None:
    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings):
            await publish_raw(settings, b"x", body(), headers=b"NATS/1.0\r\nAnlyt-Backfill: " + name + b"\r\n\r\n")
            await publish_raw(settings, b"x", b"?", headers=b"NATS/1.0\r\nAnlyt-Backfill: " + name + b"\r\n\r\n")
            await publish_raw(settings, b"x", body())
            await pipeline.count(settings)
        assert await total(settings) == 1
        assert not await fetch(settings, "SELECT * FROM anlyt.backfills")
        return await fetch(settings, "SELECT reason FROM anlyt.dead_letters ORDER BY sequence")

    assert run(scenario()) == [("invalid_field",), ("malformed",)]


# ------------------------------------------------------------------------------------------------- values at the edge


def decode_one(payload: bytes) -> str:
    """`counted`, or the reason of its letter."""
    decoded = Decoder(Rules()).decode([Message("x", None, payload, 1, to_instant(NOW))])
    return decoded.letters[0].reason if decoded.letters else "counted"


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
@pytest.mark.parametrize("member", ["accountId", "currency", "id"])
def test_a_value_nested_to_any_depth_becomes_a_letter(member: str, opening: str, closing: str) -> None:
    good = json.dumps(event() | {"id": "ID"} if member == "id" else event(**{member: "ID"}))
    expected = {"id": "malformed", "accountId": "invalid_field", "currency": "currency_mismatch"}[member]
    for depth in [*range(1, 20), *range(900, 1010)]:
        nested = opening * depth + "1" + closing * depth
        assert decode_one(good.replace('"ID"', nested).encode()) in {expected, "malformed"}, depth


@pytest.mark.parametrize("zero", ["0e99999999999999999999999", "0e-99999999999999999999999", "0.0E+5"])
def test_a_cost_of_nothing_with_any_exponent_never_raises(zero: str) -> None:
    plain = json.dumps(event(cost="COST")).replace('"COST"', zero)
    assert decode_one(plain.encode()) == decode_one(plain.replace('"m"', '"\\u00e9"').encode())


def test_costs_whose_sum_fits_no_column_become_letters_and_the_rest_counts(settings: Settings) -> None:
    """Full batches of the highest cost there is: one fills the column, and ten do not even fit 64 bits."""

    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings) as nc:
            js = nc.jetstream(timeout=10)
            subject = settings.subjects.removesuffix(">") + "x"
            for _ in range(24):
                events = [event("message.charged", cost="999999999.999999") for _ in range(1000)]
                await js.publish(subject, json.dumps(events).encode())
            await js.publish(subject, body(cost="-1.5"))
            await pipeline.count(settings)
        assert await total(settings) == 1
        cost = await fetch(settings, "SELECT total_cost FROM anlyt.metrics_daily WHERE scope = 'PLATFORM'")
        assert cost == [(Decimal("999999999999.999") - Decimal("1.5"),)]
        return await fetch(settings, "SELECT reason, subject, count(*) FROM anlyt.dead_letters GROUP BY 1, 2")

    assert run(scenario()) == [("invalid_field", settings.subjects.removesuffix(">") + "x", 23_000)]


def test_a_sum_that_is_full_stops_nobody_and_what_does_not_fit_becomes_a_letter(settings: Settings) -> None:
    """As if one tenant had sent 4 billion of the longest latencies: the platform's sum is full, for everybody's."""
    day = "date_trunc('day', $1::TIMESTAMPTZ, 'UTC')"
    fill = f"INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, latency_sum_ms) VALUES ({day}, 'PLATFORM', 'platform', $2)"  # noqa: E501, S608 - ours
    bodies = [
        body(),
        body("message.delivered", latencyMs=6),
        body("message.failed"),
        body("operator.error", operatorId=ACCOUNT),
    ]
    whole = [event("message.delivered", latencyMs=2), event("message.submitted")]

    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings) as nc:
            async with pipeline.database(settings) as conn:
                await conn.execute(fill, NOW, 2**63 - 1 - 5)
            for each in [*bodies, json.dumps(whole).encode()] * 2:
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), each)
            await pipeline.count(settings)
        query = "SELECT total_messages, failed_messages FROM anlyt.metrics_hourly WHERE scope = 'PLATFORM'"
        assert await fetch(settings, query) == [(2, 1)]
        return await fetch(
            settings, "SELECT sequence, batch_index, reason, detail FROM anlyt.dead_letters ORDER BY 1, 2"
        )

    letters = run(scenario())

    assert [letter[:3] for letter in letters] == [(2, 0, "invalid_field"), (7, 0, "invalid_field")]
    assert "past 9223372036854775807" in letters[0][3]


def test_a_counter_at_the_end_of_its_column_costs_a_letter_for_each_event_of_its_own_and_nothing_else(
    settings: Settings,
) -> None:
    """Somebody's messages, failures, segments and an operator's errors are at 2^63-1; everybody else's go on."""
    hour, day = NOW.replace(minute=0, second=0), NOW.replace(hour=0, minute=0, second=0)
    sent, failed, segments, operator, other = (str(uuid.uuid4()) for _ in range(5))
    full = [
        ("metrics_hourly (hour_bucket, scope, scope_id, total_messages)", (hour, "ACCOUNT", sent)),
        ("metrics_daily (day_bucket, scope, scope_id, failed_messages)", (day, "ACCOUNT", failed)),
        ("account_usage_daily (day_bucket, account_id, total_segments)", (day, segments)),
        ("operator_performance (hour_bucket, operator_id, error_count)", (hour, operator)),
    ]
    bodies = [
        body(accountId=sent),
        body("message.failed", accountId=failed),
        body(accountId=segments),
        body("operator.error", operatorId=operator, count=1),
    ]
    good = [body(accountId=other), body(accountId=sent, submittedAt=(NOW - timedelta(hours=1)).isoformat())]

    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings) as nc:
            async with pipeline.database(settings) as conn:
                await ensure_partitions(conn, [hour])
                for columns, key in full:
                    places = ", ".join(f"${n}" for n in range(1, len(key) + 1))
                    await conn.execute(f"INSERT INTO anlyt.{columns} VALUES ({places}, {2**63 - 1})", *key)  # noqa: S608 - ours
            for each in [*bodies, *good] * 2:
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), each)
            await pipeline.count(settings)
        assert await total(settings) == 2
        return await fetch(settings, "SELECT sequence, reason FROM anlyt.dead_letters ORDER BY sequence")

    assert run(scenario()) == [(sequence, "invalid_field") for sequence in (1, 2, 3, 4, 7, 8, 9, 10)]


def test_a_charge_and_its_refund_leave_the_same_rows_in_one_batch_and_in_two(settings: Settings) -> None:
    """What adds up to nothing in an hour, or only in a day, is a row of zeros all the same."""
    noon = NOW.replace(hour=12, minute=0, second=0)
    charges = ((2, 0, "1"), (2, 0, "-1"), (1, 0, "1"), (1, 1, "-1"))
    bodies = [
        body("message.charged", cost=cost, submittedAt=(noon - timedelta(days=days, hours=hours)).isoformat())
        for days, hours, cost in charges
    ]

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            for each in bodies:
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), each)
            await pipeline.count(settings)
        async with pipeline.database(settings) as conn:
            assert await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly") == 6
            return await pipeline.broken_identities(conn)

    assert run(scenario()) == []


# ----------------------------------------------------------------------------------------------------- streams, servers


def test_an_empty_stream_is_waited_on_and_nothing_of_it_is_lost(settings: Settings) -> None:
    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings) as nc, pipeline.counting(settings):

            async def complete() -> bool:
                query = "SELECT count(complete_through) = 16 FROM anlyt.stream_positions"
                return bool((await fetch(settings, query))[0][0])

            await wait_until(complete, what="every slot is complete through some instant")
            async with pipeline.counting(settings):  # a second one that finds the first one's positions
                pass
            await nc.publish(settings.subjects.replace(">", "x"), body())
            await pipeline.all_counted(nc, settings)
        assert await total(settings) == 1
        return await fetch(settings, "SELECT DISTINCT lost_messages FROM anlyt.stream_positions")

    assert run(scenario()) == [(0,)]


async def all_idle_heads(settings: Settings, *, times: int) -> None:
    """Wait until the position of the slot that moves most has moved `times` times, about once a second."""
    query = "SELECT max(updated_at) FROM anlyt.stream_positions"
    for _ in range(times):
        before = (await fetch(settings, query))[0][0]

        async def moved(before: datetime = before) -> bool:
            return bool((await fetch(settings, query))[0][0] != before)

        await wait_until(moved, what="a position moves")


def test_workers_with_different_numbers_of_partitions_leave_nothing_uncounted(settings: Settings) -> None:
    """As during a rolling change of ANLYT_PARTITIONS: no part of the stream waits for the last old worker to leave."""
    eight = settings.model_copy(update={"partitions": 8})
    two = settings.model_copy(update={"partitions": 2})

    async def all_owned() -> bool:
        query = """
            SELECT count(*) = 16 FROM pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND objid < 16
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
        return bool((await fetch(settings, query))[0][0])

    async def scenario() -> None:
        async with pipeline.stream_of(settings), pipeline.counting(eight):
            await wait_until(all_owned, what="the old worker owns every slot")
            async with pipeline.counting(two):
                await all_idle_heads(settings, times=6)
                await wait_until(all_owned, 5, what="every slot is owned while both are there")
            await wait_until(all_owned, what="every slot is owned when the new worker has left")

    run(scenario())


@pytest.mark.parametrize(("bodies", "headers"), [(130, None), (10, {"K": "v" * 30_000})], ids=["many", "large headers"])
def test_letters_are_kept_in_transactions_of_bounded_size(
    settings: Settings, bodies: int, headers: dict[str, str] | None
) -> None:
    """A small body can hold a thousand bad events, each a letter with all the headers: memory holds only so many."""

    async def scenario() -> list[tuple[Any, ...]]:
        async with pipeline.stream_of(settings) as nc:
            for _ in range(bodies):
                subject = settings.subjects.replace(">", "x")
                await nc.jetstream().publish(subject, json.dumps([0] * 1000).encode(), headers=headers)
            await pipeline.count(settings.model_copy(update={"dead_letter_share_max": 1.0}))
        query = """
            SELECT sum(n)::BIGINT, max(bytes) < 64 * 1048576, count(*) > 1
            FROM (
                SELECT count(*) AS n, sum(length(body) + length(headers::TEXT)) AS bytes
                FROM anlyt.dead_letters GROUP BY recorded_at
            ) AS transactions"""
        return await fetch(settings, query)

    assert run(scenario()) == [(1000 * bodies, True, True)]


def test_an_error_of_nats_server_ends_no_worker_for_good(settings: Settings) -> None:
    """As when credentials expire: the server says so and closes; the client has to come back by itself."""
    assert settings.nats_url is not None
    url = urlsplit(settings.nats_url.get_secret_value())
    to_clients: list[asyncio.StreamWriter] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_clients.append(writer)
        server_reader, server_writer = await asyncio.open_connection(url.hostname, url.port)
        with suppress(OSError):
            await asyncio.gather(relay(reader, server_writer), relay(server_reader, writer))

    async def scenario() -> int:
        async with await asyncio.start_server(accept, "127.0.0.1", 0) as proxy, pipeline.stream_of(settings) as nc:
            port = proxy.sockets[0].getsockname()[1]
            through = SecretStr(url._replace(netloc=f"{url.username}:{url.password}@127.0.0.1:{port}").geturl())
            async with pipeline.counting(settings.model_copy(update={"nats_url": through})):
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), body())
                await pipeline.all_counted(nc, settings)
                to_clients[0].write(b"-ERR 'User Authentication Expired'\r\n")
                to_clients[0].close()
                await wait_until(lambda: len(to_clients) > 1, what="the worker connects again")
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), body())
                await pipeline.all_counted(nc, settings)
        return await total(settings)

    assert run(scenario()) == 2


def test_messages_the_stream_drops_while_a_worker_reads_are_counted_as_lost(settings: Settings) -> None:
    """The stream keeps 300 messages; a lock holds the worker up while 2,000 more are published and most are dropped."""
    small = settings.model_copy(update={"batch_events_max": 50})

    async def scenario() -> tuple[int, int, int]:
        async with pipeline.stream_of(settings) as nc, session(database_of(settings), application="test") as conn:
            limits = (await jetstream.stream_info(nc, settings.stream)).config
            limits |= {"discard": "old", "max_msgs": 300}
            await jetstream.request(nc, f"STREAM.UPDATE.{settings.stream}", limits)
            async with pipeline.counting(small):
                await publish_many(nc, settings, 10)
                await wait_until(lambda: conn.fetchval("SELECT sum(counted_events) = 10 FROM anlyt.ingest_totals"))
                async with conn.transaction():
                    await conn.execute("LOCK anlyt.processed_events IN EXCLUSIVE MODE")
                    await publish_many(nc, settings, 2000)
                await pipeline.all_counted(nc, settings)
            read = await conn.fetchval("SELECT sum(counted_events + duplicate_events)::BIGINT FROM anlyt.ingest_totals")
            lost = await conn.fetchval("SELECT max(lost_messages) FROM anlyt.stream_positions")
            return (await jetstream.stream_info(nc, settings.stream)).last_seq, read, lost

    stored, read, lost = run(scenario())

    assert stored >= 2010
    assert read + lost == stored


@pytest.mark.parametrize("partitions", [1, 4])
def test_a_hole_in_the_stream_too_wide_to_be_chance_is_counted_as_lost(settings: Settings, partitions: int) -> None:
    """A part of the stream cannot tell whose messages are missing, so there the count is an upper bound."""

    async def scenario() -> int:
        async with pipeline.stream_of(settings) as nc, session(database_of(settings), application="test") as conn:
            await publish_many(nc, settings, 1500)
            for sequence in range(501, 1001):
                await jetstream.request(nc, f"STREAM.MSG.DELETE.{settings.stream}", {"seq": sequence, "no_erase": True})
            async with pipeline.counting(settings.model_copy(update={"partitions": partitions})):
                await pipeline.all_counted(nc, settings)
            return await conn.fetchval("SELECT max(lost_messages) FROM anlyt.stream_positions")

    lost = run(scenario())

    assert lost == 500 if partitions == 1 else 500 <= lost < 500 + 2 * worker.HOLE_MAX * partitions


async def publish_many(nc: jetstream.Client, settings: Settings, count: int) -> None:
    subject = settings.subjects.removesuffix(">") + "x"
    await publishing.publish_fast(nc, (jetstream.Outgoing(subject, body(), {}) for _ in range(count)))


def database_of(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()
