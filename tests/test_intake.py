"""`POST /v1/events`: each event learns its fate, what is valid is in JetStream, and nobody sends for somebody else."""

from __future__ import annotations

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import nats
import pytest
from pydantic import SecretStr

from anlyt import intake, jetstream, web, worker
from anlyt.access import make_grant
from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX, BODY_BYTES_MAX
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedNats
from anlyt.errors import RequestError
from anlyt.events import Decoder, Rules, to_instant
from anlyt.publishing import Publisher
from anlyt.telemetry import Telemetry
from serving import key_for, problem_of, service
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg
    import httpx2

    from anlyt.settings import Settings

NOW = datetime(2026, 4, 18, 10, tzinfo=UTC)
ACCOUNT, OTHER_ACCOUNT = (f"0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a000{n}" for n in (1, 2))
OPERATOR, OTHER_OPERATOR = (f"0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a00e{n}" for n in (1, 2))
STAFF = make_grant("PLATFORM", [], ["events:write"])
BATCH = {"Content-Type": "application/cloudevents-batch+json"}
SINGLE = {"Content-Type": "application/cloudevents+json"}


def event(
    kind: str = "message.submitted", *, at: datetime = NOW, name: str | None = None, **data: Any
) -> dict[str, Any]:
    members = {"messageId": "m", "accountId": ACCOUNT, "submittedAt": at.isoformat()} | data
    head = {"specversion": "1.0", "id": name or str(uuid.uuid4()), "source": "/tests", "type": kind}
    return head | {"time": at.isoformat(), "data": members}


def judge(body: Any, *, grant: Any = STAFF, **rules: Any) -> intake.Intake:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return intake.judge(Decoder(Rules(**rules)), grant, raw, subject="t.http", now_us=to_instant(NOW))


# --------------------------------------------------------------------------------------------------------------- judge


def test_valid_events_are_accepted_and_make_one_message() -> None:
    events = [event(), event("message.failed")]
    taken = judge(events)

    assert [(fate.index, fate.fate, fate.id) for fate in taken.fates] == [
        (0, "accepted", events[0]["id"]),
        (1, "accepted", events[1]["id"]),
    ]
    assert taken.outgoing is not None
    assert json.loads(taken.outgoing.body) == events
    assert taken.outgoing.headers == BATCH


def test_one_event_alone_is_published_as_it_was_sent_and_known_by_its_identity() -> None:
    raw = b' {"traceparent": "00-1", ' + json.dumps(event(name="a b")).encode()[1:]
    alone = judge(raw).outgoing
    in_a_batch = judge(b"[" + raw + b"]").outgoing

    assert alone is not None
    assert in_a_batch is not None
    assert alone.body.strip() == in_a_batch.body.strip() == raw.strip()
    assert alone.headers == in_a_batch.headers == SINGLE | {"Nats-Msg-Id": "a b /tests"}


def test_an_identity_no_header_can_carry_is_left_out() -> None:
    taken = judge(event(name="ä"))

    assert taken.fates[0].fate == "accepted"
    assert taken.outgoing is not None
    assert taken.outgoing.headers == SINGLE


def test_a_bad_event_harms_none_of_its_neighbours() -> None:
    good, late = event(), event("message.delivered", submittedAt=(NOW - timedelta(days=8)).isoformat())
    old, early = event(at=NOW - timedelta(days=2)), event(at=NOW + timedelta(minutes=6))
    dear = event(currency="GBP")
    bad = [7, {"id": 1}, event("no.such.type"), event(segments=0), dear, early, old, late, [good]]
    taken = judge([*bad[:4], good, *bad[4:]])

    assert [fate.reason for fate in taken.fates] == [
        "malformed",
        "malformed",
        "unknown_type",
        "invalid_field",
        None,
        "currency_mismatch",
        "in_future",
        "stale",
        "too_late",
        "malformed",
    ]
    assert all(fate.detail for fate in taken.fates if fate.fate == "rejected")
    assert taken.outgoing is not None
    assert json.loads(taken.outgoing.body) == good


def test_an_event_sent_twice_in_one_request_goes_out_once() -> None:
    first, second = event(name="x"), event(name="x", segments=5)
    taken = judge([first, event(), second])

    assert [(fate.fate, fate.duplicate_of) for fate in taken.fates] == [
        ("accepted", None),
        ("accepted", None),
        ("duplicate", 0),
    ]
    assert taken.outgoing is not None
    assert json.loads(taken.outgoing.body)[0] == first
    assert len(json.loads(taken.outgoing.body)) == 2


def test_types_the_deployment_skips_are_not_published() -> None:
    taken = judge([event("audit.login")], ignored_types=("audit.*",))

    assert [fate.fate for fate in taken.fates] == ["ignored"]
    assert taken.outgoing is None


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[1,", b'{"a":NaN}', b"\xff", b"[" * 5_000])
def test_what_cannot_be_read_is_one_malformed_event(body: bytes) -> None:
    taken = judge(body)

    assert [fate.reason for fate in taken.fates] == ["malformed"]
    assert taken.outgoing is None


def test_more_events_than_a_batch_holds_are_a_413() -> None:
    with pytest.raises(RequestError, match="1001 events") as caught:
        judge([1] * (BATCH_BODY_EVENTS_MAX + 1))

    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("scope", "own", "sent", "allowed"),
    [
        ("ACCOUNT", ACCOUNT, event(), True),
        ("ACCOUNT", ACCOUNT, event(accountId=ACCOUNT.upper(), operatorId=OTHER_OPERATOR), True),
        ("ACCOUNT", ACCOUNT, event(accountId=OTHER_ACCOUNT), False),
        ("ACCOUNT", ACCOUNT, event("message.routed", operatorId=OPERATOR), False),
        ("ACCOUNT", ACCOUNT, event("operator.error", operatorId=OPERATOR), False),
        ("OPERATOR", OPERATOR, event(operatorId=OPERATOR), True),
        ("OPERATOR", OPERATOR, event("operator.error", operatorId=OPERATOR), True),
        ("OPERATOR", OPERATOR, event(operatorId=OTHER_OPERATOR), False),
        ("OPERATOR", OPERATOR, event(), False),
        ("OPERATOR", OPERATOR, event("message.routed", operatorId=OPERATOR), True),
        ("OPERATOR", OPERATOR, event("message.routed", operatorId=OPERATOR, fromOperatorId=OTHER_OPERATOR), False),
        ("PLATFORM", "platform", event("message.routed", operatorId=OPERATOR, fromOperatorId=OTHER_OPERATOR), True),
    ],
)
def test_a_key_sends_events_of_its_own_ids_only(scope: str, own: str, sent: Any, *, allowed: bool) -> None:
    (fate,) = judge(sent, grant=make_grant(scope, [own], ["events:write"])).fates

    assert (fate.fate, fate.reason) == (("accepted", None) if allowed else ("rejected", "forbidden"))
    assert OTHER_ACCOUNT not in (fate.detail or "")
    assert OTHER_OPERATOR not in (fate.detail or "")


# ---------------------------------------------------------------------------------------------------------------- HTTP


@asynccontextmanager
async def taking(settings: Settings) -> AsyncIterator[tuple[httpx2.AsyncClient, asyncpg.Connection[Any]]]:
    """A client of an API that takes events into the test's stream."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="anlyt-tests")
    await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
    await nc.close()
    publisher = Publisher(settings.nats_url.get_secret_value(), settings.stream, name="anlyt-tests")
    try:
        async with service(settings.database_url.get_secret_value(), settings=settings, publisher=publisher) as (
            client,
            conn,
        ):
            yield client, conn
    finally:
        await publisher.close()


def fresh(**data: Any) -> dict[str, Any]:
    return event(at=datetime.now(UTC), **data)


def test_what_was_accepted_is_counted_once(settings: Settings) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            headers = await key_for(conn, "PLATFORM", permission="events:write")
            single, batch = fresh(), [fresh(), fresh(), fresh(segments=0)]
            answers = [
                await client.post("/v1/events", json=single, headers=headers | SINGLE),
                await client.post("/v1/events", json=single, headers=headers | SINGLE),
                await client.post("/v1/events", json=batch, headers=headers | BATCH),
                await client.post("/v1/events", json=batch, headers=headers),
            ]
            await worker.run(
                settings,
                telemetry=Telemetry(),
                crash=CrashPoints.parse(""),
                stop=asyncio.Event(),
                until_idle=True,
            )
            counted = await conn.fetchval("SELECT total_messages FROM anlyt.metrics_hourly WHERE scope = 'PLATFORM'")
            letters = await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters")

            assert [answer.status_code for answer in answers] == [202] * 4
            assert [fate["fate"] for fate in answers[0].json()["data"]] == ["accepted"]
            assert [fate["fate"] for fate in answers[1].json()["data"]] == ["duplicate"]
            assert answers[2].json()["meta"] == {"accepted": 2, "duplicate": 0, "ignored": 0, "rejected": 1}
            assert answers[2].json()["data"][2]["reason"] == "invalid_field"
            assert "segments" in answers[2].json()["data"][2]["detail"]
            assert (counted, letters) == (3, 0)

    run(story())


def test_when_nothing_can_be_counted_the_answer_is_a_422_with_each_fate(settings: Settings) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            headers = await key_for(conn, "ACCOUNT", ACCOUNT, permission="events:write")
            foreign = await client.post("/v1/events", json=[fresh(accountId=OTHER_ACCOUNT), 1], headers=headers)
            broken = await client.post("/v1/events", content=b"{", headers=headers | SINGLE)
            empty = await client.post("/v1/events", json=[], headers=headers)

            assert (foreign.status_code, broken.status_code, empty.status_code) == (422, 422, 202)
            assert [fate["reason"] for fate in problem_of(foreign)["events"]] == ["forbidden", "malformed"]
            assert [fate["reason"] for fate in problem_of(broken)["events"]] == ["malformed"]
            assert await _messages(settings) == 0

    run(story())


async def _messages(settings: Settings) -> int:
    assert settings.nats_url is not None
    nc = await nats.connect(settings.nats_url.get_secret_value())
    try:
        return (await jetstream.stream_info(nc, settings.stream)).messages
    finally:
        await nc.close()


def test_who_may_not_send_is_told_so_and_nothing_is_read(settings: Settings) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            reader = await key_for(conn, "PLATFORM", permission="metrics:read")
            answers = [
                await client.post("/v1/events", json=fresh()),
                await client.post("/v1/events", json=fresh(), headers={"X-API-Key": "anlyt_x"}),
                await client.post("/v1/events", json=fresh(), headers=reader),
            ]

            assert [answer.status_code for answer in answers] == [401, 401, 403]
            for answer in answers:
                problem_of(answer)
            assert await _messages(settings) == 0

    run(story())


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({}, b"{}", 415),
        ({"Content-Type": "application/json; charset=latin-1"}, b"{}", 415),
        (SINGLE | {"Content-Encoding": "gzip"}, b"{}", 415),
        ({"Content-Type": "application/json", "ce-id": "1"}, b"{}", 415),
        (SINGLE | {"Accept": "text/html"}, b"{}", 406),
        (SINGLE, b" " * (BODY_BYTES_MAX + 1), 413),
        (BATCH, b"[" + b"1," * BATCH_BODY_EVENTS_MAX + b"1]", 413),
        (SINGLE | {"Content-Type": 'application/json; charset="UTF-8"'}, b"{}", 422),
    ],
)
def test_bodies_that_are_not_taken_are_refused(
    settings: Settings, headers: dict[str, str], content: bytes, status: int
) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            key = await key_for(conn, "PLATFORM", permission="events:write")
            response = await client.post("/v1/events", content=content, headers=key | headers)

            assert response.status_code == status
            problem_of(response)

    run(story())


def test_a_body_of_unknown_length_is_read_no_further_than_the_limit(settings: Settings) -> None:
    async def story() -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 65_536
                yield b" " * 65_536

        async with taking(settings) as (client, conn):
            key = await key_for(conn, "PLATFORM", permission="events:write")
            response = await client.post("/v1/events", content=endless(), headers=key | SINGLE)

            assert response.status_code == 413
            assert sent <= BODY_BYTES_MAX + 2 * 65_536

    run(story())


def test_a_body_of_the_full_size_is_taken(settings: Settings) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            key = await key_for(conn, "PLATFORM", permission="events:write")
            raw = json.dumps(fresh()).encode()
            full = raw[:-1] + b" " * (BODY_BYTES_MAX - len(raw)) + raw[-1:]
            response = await client.post("/v1/events", content=full, headers=key | SINGLE)

            assert len(full) == BODY_BYTES_MAX
            assert response.status_code == 202

    run(story())


def test_who_sends_too_fast_is_told_when_to_come_back(settings: Settings) -> None:
    async def story() -> None:
        async with taking(settings) as (client, conn):
            key = await key_for(conn, "PLATFORM", permission="events:write")
            body = b"[" + b",".join([b"1"] * BATCH_BODY_EVENTS_MAX) + b"]"
            statuses: list[int] = []
            while 429 not in statuses:
                response = await client.post("/v1/events", content=body, headers=key | BATCH)
                statuses.append(response.status_code)

            assert len(statuses) > intake.EVENTS_BURST_MAX // BATCH_BODY_EVENTS_MAX
            assert int(response.headers["retry-after"]) == 1
            assert problem_of(response)["type"] == web.PROBLEM_BASE + "too-fast"

    run(story())


def test_without_nats_sending_is_a_503_soon_and_reading_goes_on(settings: Settings, server_dir: Path) -> None:
    async def story() -> None:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as server:
            own = settings.model_copy(update={"nats_url": SecretStr(server.url)})
            async with taking(own) as (client, conn):
                key = await key_for(conn, "PLATFORM", permission="events:write")
                reader = await key_for(conn, "PLATFORM", permission="metrics:read")

                async def send() -> httpx2.Response:
                    return await client.post("/v1/events", json=fresh(), headers=key)

                server.kill()
                for _ in range(2):
                    refused = await send()
                    assert refused.status_code == 503
                    assert int(refused.headers["retry-after"]) > 0
                    assert "127.0.0.1" not in refused.text
                    problem_of(refused)
                assert (await client.get("/v1/metrics/hourly", headers=reader)).status_code == 200
                await server.start()
                await wait_until(lambda: _accepted(send), what="events are taken again")
                server.kill()
                assert (await send()).status_code == 503
                await server.start()
                await wait_until(lambda: _accepted(send), what="events are taken again")

    run(story())


async def _accepted(send: Any) -> bool:
    return (await send()).status_code == 202
