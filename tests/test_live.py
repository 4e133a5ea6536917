"""Live readers: every change arrives, of the rows one may see, in its newest state, and many cost no more than one."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2
import pytest

import pipeline
from anlyt import access, jobs, live, store
from anlyt.crash import CrashPoints
from anlyt.events import Decoder, Message, Rules, to_instant
from anlyt.postgres import connect, ensure_partitions
from anlyt.rollup import fold
from anlyt.settings import Settings
from anlyt.telemetry import Telemetry
from serving import key_for, listening, problem_of, service
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg import Connection

ROUTE = "/v1/live"
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = NOW.replace(minute=0, second=0)
ALICE, BOB = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
CARRIER, OTHER = "00000000-0000-4000-8000-0000000000c1", "00000000-0000-4000-8000-0000000000c2"


class Heard(NamedTuple):
    """One server-sent event."""

    event: str
    id: str | None
    data: Any


class Reader:
    """What one connection has heard, as it comes in."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.comments = 0
        self.retry_ms: int | None = None
        self.ended = False

    def rows(self, table: str = "hourly") -> list[dict[str, Any]]:
        return [each.data for each in self.heard if each.event == table]

    def names(self) -> list[str]:
        return [each.event for each in self.heard]

    @property
    def last_id(self) -> str | None:
        return next((each.id for each in reversed(self.heard) if each.id), None)

    def keys(self) -> set[tuple[str, str]]:
        return {(row["scope"], row["scopeId"]) for row in self.rows()}

    async def take(self, response: httpx2.Response) -> None:
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if line.startswith(":"):
                self.comments += 1
            elif name == "retry":
                self.retry_ms = int(value)
            elif line:
                fields[name] = value
            elif fields:
                self.heard.append(Heard(fields["event"], fields.get("id"), json.loads(fields["data"])))
                fields = {}
        self.ended = True


@asynccontextmanager
async def reading(url: str, key: dict[str, str], *, after: str | None = None, **asked: Any) -> AsyncIterator[Reader]:
    """A reader that has heard from where it reads."""
    reader = Reader()
    headers = key | {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after is not None else {})
    async with (
        httpx2.AsyncClient(base_url=url, timeout=20) as client,
        client.stream("GET", ROUTE, headers=headers, params=asked) as response,
    ):
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"] == "text/event-stream"
        task = asyncio.create_task(reader.take(response))
        try:
            await wait_until(lambda: reader.last_id)
            yield reader
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def session_of(url: str) -> AsyncIterator[Connection[Any]]:
    conn = await connect(url, application="anlyt-tests")
    try:
        await ensure_partitions(conn, {NOW, NOW - timedelta(days=1)})
        yield conn
    finally:
        await conn.close()


async def add(conn: Connection[Any], account: str, operator: str | None = None, *, at: datetime = NOW) -> None:
    """Count one submitted message by the worker's own code, inside of the transaction that is open, if one is."""
    data = {"messageId": "m", "accountId": account} | ({"operatorId": operator} if operator else {})
    head = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/test", "type": "message.submitted"}
    body = json.dumps(head | {"time": at.isoformat(), "data": data}).encode()
    [event] = Decoder(Rules()).decode([Message("s", None, body, 1, to_instant(at))]).events
    async with conn.transaction() if not conn.is_in_transaction() else _nothing():
        await store.add(conn, fold([event]), CrashPoints())


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


# ------------------------------------------------------------------------------------------------------ what is heard


def test_what_a_worker_counts_is_heard_as_the_rows_that_the_api_answers(settings: Settings) -> None:
    async def story() -> None:
        assert settings.database_url is not None
        url = settings.database_url.get_secret_value()
        async with (
            listening(url, settings=settings) as api_url,
            session_of(url) as conn,
            reading(api_url, await key_for(conn, "PLATFORM")) as reader,
            pipeline.stream_of(settings) as nc,
            pipeline.counting(settings),
        ):
            bodies = [pipeline.submitted(NOW, accountId=ALICE, operatorId=CARRIER, cost="0.100000") for _ in range(3)]
            await nc.publish(settings.subjects.removesuffix(">") + "x", b"[" + b",".join(bodies) + b"]")
            await wait_until(lambda: reader.rows("operators"))
            async with httpx2.AsyncClient(base_url=api_url) as client:
                headers = await key_for(conn, "PLATFORM")
                answers = [
                    await client.get(route, headers=headers)
                    for route in ("/v1/metrics/hourly", "/v1/operators/performance")
                ]

            hourly, operators = (answer.json()["data"] for answer in answers)
            assert sorted(reader.rows(), key=str) == sorted(hourly, key=str)
            assert reader.rows("operators") == operators
            assert {row["totalMessages"] for row in hourly} == {3}
            progress = [each.data for each in reader.heard if each.event == "progress"]
            assert progress[-1].keys() == {"asOf", "completeThrough", "lagSeconds"}

    run(story())


def test_a_percentile_that_was_computed_is_heard(database_url: str) -> None:
    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
        ):
            await add(conn, ALICE, CARRIER)
            await conn.execute(
                "INSERT INTO anlyt.latency_histograms VALUES ($1, $2, 1, '{5}', '{9}')", HOUR, uuid.UUID(CARRIER)
            )
            async with reading(api_url, await key_for(conn, "OPERATOR", CARRIER)) as reader:
                await jobs.run_job(database_url, "percentiles", CrashPoints())
                [row] = await wait_until(lambda: reader.rows("operators"))

                assert row["latencyP95Ms"] == 5

    run(story())


def test_a_row_that_changes_again_and_again_is_heard_in_its_newest_state(database_url: str) -> None:
    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as reader,
        ):
            for _ in range(30):
                await add(conn, ALICE)
            await wait_until(lambda: reader.rows() and reader.rows()[-1]["totalMessages"] == 30)

            assert len(reader.rows()) < 15
            totals = [row["totalMessages"] for row in reader.rows()]
            assert totals == sorted(totals)

    run(story())


def test_a_transaction_that_commits_late_is_not_missed(database_url: str) -> None:
    """It wrote its rows before others that were read long before it committed."""

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            session_of(database_url) as slow,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE, BOB)) as reader,
        ):
            await add(conn, ALICE)  # so that the slow one only changes rows that are there
            await add(conn, BOB)
            earlier = HOUR - timedelta(hours=1)
            async with slow.transaction():
                await add(slow, ALICE, at=earlier)
                for count in range(2, 5):
                    await _add_account_only(conn, BOB)
                    await wait_until(lambda count=count: any(row["totalMessages"] == count for row in reader.rows()))
                assert not any(row["hourBucket"].startswith(f"{earlier:%Y-%m-%dT%H}") for row in reader.rows())
            await wait_until(
                lambda: any(row["hourBucket"].startswith(f"{earlier:%Y-%m-%dT%H}") for row in reader.rows())
            )

    run(story())


async def _add_account_only(conn: Connection[Any], account: str) -> None:
    """A change that does not wait for the row of the platform, which another transaction holds."""
    async with conn.transaction():
        await conn.execute(
            "UPDATE anlyt.metrics_hourly SET total_messages = total_messages + 1 "
            "WHERE hour_bucket = $1 AND scope_id = $2",
            HOUR,
            account,
        )
        await store.add_changed_hours(conn, [int(HOUR.timestamp())])


def test_a_row_rolled_back_is_not_heard(database_url: str) -> None:
    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "PLATFORM")) as reader,
        ):
            transaction = conn.transaction()
            await transaction.start()
            await add(conn, ALICE)
            await transaction.rollback()
            await add(conn, BOB)
            await wait_until(reader.rows)

            assert reader.keys() == {("PLATFORM", "platform"), ("ACCOUNT", BOB)}

    run(story())


# --------------------------------------------------------------------------------------------------------- who hears it


def test_tenants_hear_of_their_own_rows_only(database_url: str) -> None:
    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "PLATFORM")) as staff,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as alice,
            reading(api_url, await key_for(conn, "ACCOUNT", BOB)) as bob,
            reading(api_url, await key_for(conn, "OPERATOR", CARRIER)) as carrier,
            reading(api_url, await key_for(conn, "OPERATOR", OTHER)) as idle,
            reading(api_url, await key_for(conn, "PLATFORM"), scope="OPERATOR") as operators,
            reading(api_url, await key_for(conn, "PLATFORM"), scopeId=[BOB, "platform"]) as chosen,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE), scope="OPERATOR") as nothing,
        ):
            await add(conn, ALICE, CARRIER)
            await add(conn, BOB, CARRIER)
            everybody = {("PLATFORM", "platform"), ("ACCOUNT", ALICE), ("ACCOUNT", BOB), ("OPERATOR", CARRIER)}
            await wait_until(lambda: staff.keys() == everybody)
            await wait_until(lambda: bob.rows() and alice.rows() and carrier.rows("operators"))

            assert alice.keys() == {("ACCOUNT", ALICE)}
            assert bob.keys() == {("ACCOUNT", BOB)}
            assert carrier.keys() == {("OPERATOR", CARRIER)}
            assert operators.keys() == {("OPERATOR", CARRIER)}
            assert chosen.keys() == {("ACCOUNT", BOB), ("PLATFORM", "platform")}
            for reader in (alice, bob, chosen, idle, nothing):
                assert reader.rows("operators") == []
            assert idle.rows() == nothing.rows() == []

    run(story())


def test_who_may_not_listen_is_told_why(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            own = await key_for(conn, "ACCOUNT", ALICE)
            sender = await key_for(conn, "ACCOUNT", ALICE, permission="events:write")
            foreign = await client.get(ROUTE, headers=own, params={"scopeId": BOB})
            unknown = await client.get(ROUTE, headers=own, params={"scopeId": OTHER})

            assert foreign.status_code == unknown.status_code == 404
            assert problem_of(foreign) == problem_of(unknown)
            assert (await client.get(ROUTE)).status_code == 401
            assert (await client.get(ROUTE, headers=sender)).status_code == 403
            assert (await client.get(ROUTE, headers=own, params={"limit": "5"})).status_code == 422
            assert (await client.get(ROUTE, headers=own | {"Accept": "application/json"})).status_code == 406
            assert (await client.get(ROUTE, headers=own)).status_code == 503  # this one runs no feed

    run(story())


def test_a_revoked_key_hears_the_end_and_others_go_on(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "RECHECK_PERIOD_S", 0.0)

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "ACCOUNT", BOB)) as bob,
        ):
            key = await key_for(conn, "ACCOUNT", ALICE)
            expiring = await key_for(conn, "ACCOUNT", ALICE, expires_at=datetime.now(UTC) + timedelta(seconds=2))
            async with reading(api_url, key) as alice, reading(api_url, expiring) as short:
                [key_id] = await conn.fetch(
                    "UPDATE anlyt.api_keys SET revoked_at = now() WHERE scope_ids = $1 AND expires_at IS NULL "
                    "RETURNING key_id",
                    [ALICE],
                )
                await wait_until(lambda: alice.ended and short.ended)

                assert key_id["key_id"] in key["Authorization"]
                for reader in (alice, short):
                    assert reader.heard[-1].event == "end"
                    assert reader.heard[-1].data["reason"] == "key"
            await add(conn, BOB)
            await wait_until(bob.rows)

            assert not bob.ended

    run(story())


# ---------------------------------------------------------------------------------------------------------- resuming


def test_a_reader_resumes_without_a_gap_from_any_process(database_url: str) -> None:
    async def story() -> None:
        async with (
            listening(database_url) as first_url,
            listening(database_url) as second_url,
            session_of(database_url) as conn,
        ):
            key = await key_for(conn, "ACCOUNT", ALICE, BOB)
            await add(conn, BOB)
            async with reading(first_url, key) as reader:
                await add(conn, ALICE)
                await wait_until(reader.rows)
            await add(conn, ALICE)
            await add(conn, ALICE)
            for url in (second_url, first_url):
                async with reading(url, key, after=reader.last_id) as resumed:
                    assert [(row["scopeId"], row["totalMessages"]) for row in resumed.rows()] == [(ALICE, 3)]
                    assert "reset" not in resumed.names()
                    assert resumed.last_id != reader.last_id

    run(story())


def test_what_is_open_at_the_place_is_heard_after_it_commits(database_url: str) -> None:
    """The place was given while a transaction was open; it commits while nobody listens."""

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            session_of(database_url) as slow,
        ):
            key = await key_for(conn, "ACCOUNT", ALICE, BOB)
            async with slow.transaction():
                await add(slow, ALICE)
                async with reading(api_url, key) as reader:
                    assert reader.rows() == []
            async with reading(api_url, key, after=reader.last_id) as resumed:
                assert {row["scopeId"] for row in resumed.rows()} == {ALICE}

    run(story())


@pytest.mark.parametrize("what", ["too old", "of another database", "from the future", "nonsense", "empty"])
def test_a_place_that_cannot_be_resumed_is_a_reset_and_the_reader_goes_on(database_url: str, what: str) -> None:
    async def story() -> None:
        async with listening(database_url) as api_url, session_of(database_url) as conn:
            key = await key_for(conn, "ACCOUNT", ALICE)
            async with reading(api_url, key) as reader:
                identity, as_of, oldest = str(reader.last_id).split("-")
            age_us = live.RESUME_MAX // timedelta(microseconds=1)
            wrong = {
                "too old": f"{identity}-{int(as_of) - age_us - 1}-{oldest}",
                "of another database": f"00000000-{as_of}-{oldest}",
                "from the future": f"{identity}-{int(as_of) + age_us}-{oldest}",
                "nonsense": "0:0:0",
                "empty": "",
            }
            async with reading(api_url, key, after=wrong[what]) as resumed:
                assert [name for name in resumed.names() if name != "progress"] == ["reset"]
                assert resumed.heard[0].data["reason"] == "too-old"
                await add(conn, ALICE)
                await wait_until(resumed.rows)

    run(story())


def test_more_changes_than_are_sent_one_by_one_are_one_reset(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HOURS_MAX", 2)

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as reader,
        ):
            before = reader.last_id
            async with conn.transaction():
                for n in range(5):
                    await add(conn, ALICE, at=NOW - timedelta(hours=n))
            await wait_until(lambda: "reset" in reader.names())
            await add(conn, ALICE)
            await wait_until(reader.rows)
            async with reading(api_url, await key_for(conn, "ACCOUNT", ALICE), after=before) as resumed:
                assert resumed.names()[:2] == ["reset", "progress"]

            assert reader.names().count("reset") == 1

    run(story())


# -------------------------------------------------------------------------------------------------------- the world


def test_after_its_session_was_ended_the_feed_goes_on_where_it_was(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "BACKOFF_S", 0.1)

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as reader,
        ):
            for count in range(1, 6):
                async with conn.transaction():
                    await add(conn, ALICE)
                    ended = await conn.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'anlyt-live' AND datname = current_database()"
                    )
                    assert len(ended) <= 1
                await wait_until(lambda count=count: reader.rows() and reader.rows()[-1]["totalMessages"] == count)

            assert "reset" not in reader.names()

    run(story())


def test_a_reader_hears_something_all_the_time_and_the_end_of_the_service(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)

    async def story() -> None:
        async with session_of(database_url) as conn:
            async with (
                listening(database_url) as api_url,
                reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as reader,
            ):
                await wait_until(lambda: reader.comments > 5)
                taking = [task for task in asyncio.all_tasks() if "Reader.take" in repr(task)]
                stopped = asyncio.gather(*taking)
                assert reader.retry_ms is not None
                assert live.RETRY_MS[0] <= reader.retry_ms <= live.RETRY_MS[1]
                ids = [each.id for each in reader.heard]
                assert len(set(ids)) < len(ids)  # between two reads the place stays
                [feed_stop] = [task for task in asyncio.all_tasks() if "Feed.run" in repr(task)]
                feed_stop.cancel()
                await stopped

            assert reader.heard[-1].data["reason"] == "stopping"

    run(story())


def test_an_answer_that_has_lasted_long_ends_and_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LIFETIME_S", 0.2)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.05)

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            reading(api_url, await key_for(conn, "ACCOUNT", ALICE)) as reader,
        ):
            await wait_until(lambda: reader.ended)

            assert reader.heard[-1].data["reason"] == "lifetime"

    run(story())


# --------------------------------------------------------------------------------------------------------------- many


def caller(number: int) -> live.Caller:
    presented = access.PresentedKey(f"{number:012}", b"")
    return live.Caller(
        presented.key_id, access.make_grant("ACCOUNT", [str(uuid.UUID(int=number))], ["metrics:read"]), presented
    )


async def statements_of_a_read(feed: live.Feed, conn: Connection[Any]) -> list[str]:
    asked: list[str] = []

    def note(record: Any) -> None:
        asked.append(record.query)

    with conn.query_logger(note):
        await feed._read(conn)
        await feed._recheck(conn)
    return asked


@pytest.mark.parametrize("resuming", [False, True])
def test_a_read_asks_the_same_for_two_thousand_readers_as_for_one(
    database_url: str, *, resuming: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RECHECK_PERIOD_S", 0.0)

    async def asked_for(readers: int, conn: Connection[Any]) -> list[str]:
        settings = Settings.model_validate({"stream": "T", "database_url": database_url})
        feed = live.Feed(settings, Telemetry(), lambda: datetime.now(UTC))
        feed._running = True
        own = await feed._connect()
        await feed._read(own)
        last_event_id = f"{feed._identity}-{to_instant(datetime.now(UTC))}-3" if resuming else None
        listeners = [
            feed.join(caller(n), access.Visible("ACCOUNT", (str(uuid.UUID(int=n)),)), last_event_id=last_event_id)
            for n in range(readers)
        ]
        await add(conn, str(uuid.UUID(int=0)))
        asked = await statements_of_a_read(feed, own)
        await own.close()

        assert all(listener.settled for listener in listeners)
        assert len(listeners[0]._waiting) == 1
        return asked

    async def story() -> None:
        async with session_of(database_url) as conn:
            one, many = await asked_for(1, conn), await asked_for(2_000, conn)

            assert one == many
            assert len(one) <= 9

    run(story())


def test_thousands_of_idle_readers_leave_the_database_alone(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 real connections, each with a heartbeat every two seconds; nothing is asked for any of them."""
    readers = 2_000
    monkeypatch.setattr(live, "HEARTBEAT_S", 2.0)

    async def story() -> None:
        async with listening(database_url) as api_url, session_of(database_url) as conn:
            beats = [0] * readers
            key = await key_for(conn, "ACCOUNT", ALICE)
            gate = asyncio.Semaphore(8)
            tasks = [asyncio.create_task(_listen(api_url, key, beats, n, gate)) for n in range(readers)]
            await wait_until(lambda: min(beats) > 0, 60, what="every reader hears")
            before, heard = await _transactions(conn), sum(beats)
            await wait_until(lambda: sum(beats) > heard + 2 * readers, 60, what="two more heartbeats each")
            spent = await _transactions(conn) - before
            sessions = await conn.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)

            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert spent < 200
            assert sessions <= 5

    run(story(), limit_s=110)


async def _listen(api_url: str, key: dict[str, str], beats: list[int], n: int, gate: asyncio.Semaphore) -> None:
    host, port = api_url.removeprefix("http://").split(":")
    head = f"GET {ROUTE} HTTP/1.1\r\nHost: a\r\nAuthorization: {key['Authorization']}\r\n\r\n"
    answer = b""
    while b" 200 " not in answer:  # a busy machine may answer 503: come again
        async with gate:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer:
                writer.transport.abort()
    try:
        while await reader.readuntil(b": heartbeat"):
            beats[n] += 1
    finally:
        writer.transport.abort()


async def _transactions(conn: Connection[Any]) -> int:
    await conn.execute("SELECT pg_stat_force_next_flush()")
    return await conn.fetchval("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")


def test_a_process_takes_so_many_readers_and_no_more(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LISTENERS_MAX", 3)
    monkeypatch.setattr(live, "LISTENERS_OF_KEY_MAX", 2)

    async def story() -> None:
        async with (
            listening(database_url) as api_url,
            session_of(database_url) as conn,
            httpx2.AsyncClient(base_url=api_url) as client,
        ):
            alice, bob = await key_for(conn, "ACCOUNT", ALICE), await key_for(conn, "ACCOUNT", BOB)
            async with reading(api_url, alice), reading(api_url, alice):
                too_many = await client.get(ROUTE, headers=alice)
                async with reading(api_url, bob):
                    full = await client.get(ROUTE, headers=bob)

                assert too_many.status_code == 429
                assert "as many as it may" in problem_of(too_many)["detail"]
                assert full.status_code == 503
                assert int(full.headers["retry-after"]) > 0
            async with reading(api_url, alice):
                pass

    run(story())


def test_what_waits_for_a_slow_reader_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LISTENER_ROWS_MAX", 10)
    feed = live.Feed(Settings.model_validate({}), Telemetry(), lambda: datetime.now(UTC))
    feed.progress = b"event: progress\ndata: {}\n\n"
    listener = live.Listener(feed, caller(1), access.Visible("ACCOUNT", (str(uuid.UUID(int=1)),)), None)
    listener.settle()
    for n in range(50):
        record = (HOUR - timedelta(hours=n % 25),)
        listener.offer(live.Change("hourly", "ACCOUNT", str(uuid.UUID(int=1)), record), b"event: hourly\ndata: 1\n\n")

        assert len(listener._waiting) <= 10
    text = listener._take().decode()

    assert text.count("event: reset") == 1
    assert "event: hourly" not in text
    assert text.endswith("event: progress\ndata: {}\n\n")


def test_a_row_of_somebody_else_never_reaches_a_reader() -> None:
    """Should the feed ever hand one to it."""
    feed = live.Feed(Settings.model_validate({}), Telemetry(), lambda: datetime.now(UTC))
    listener = live.Listener(feed, caller(1), access.Visible("ACCOUNT", (str(uuid.UUID(int=1)),)), None)
    with pytest.raises(AssertionError):
        listener.offer(live.Change("hourly", "ACCOUNT", str(uuid.UUID(int=2)), (HOUR,)), b"")


def test_a_place_is_read_as_it_was_written() -> None:
    place = live.Place("0123abcd", 1_776_000_000_000_000, 12_345)

    assert live.read_place(live.write_place(place)) == place
    assert live.read_place("0123abcd-1776000000000000-0") is None


def test_changes_are_forgotten_when_nobody_may_resume_behind_them_any_more(database_url: str) -> None:
    async def story() -> None:
        async with session_of(database_url) as conn:
            await add(conn, ALICE)
            await add(conn, ALICE)
            await conn.execute(
                "UPDATE anlyt.changed_hours SET changed_at = now() - $1::INTERVAL "
                "WHERE changed_by = (SELECT min(changed_by) FROM anlyt.changed_hours)",
                jobs.CHANGES_RETENTION,
            )
            counts = await jobs.run_job(database_url, "purge", CrashPoints())

            assert counts["changes_purged"] == 1
            assert await conn.fetchval("SELECT count(*) FROM anlyt.changed_hours") == 1

    assert jobs.CHANGES_RETENTION >= 3 * live.RESUME_MAX
    run(story())
