"""Dead letters over HTTP: for platform staff alone, the same letters and the same counts as by the commands."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from anlyt import desk, letters, store
from anlyt.events import Decoder, Message, Rules, to_instant
from serving import key_for, problem_of, service
from support import run

if TYPE_CHECKING:
    import asyncpg
    import httpx2

ROUTE = "/v1/dead-letters"
STREAM = "T"  # of serving.service, in dollars
NOW = datetime.now(UTC).replace(microsecond=0)
ACCOUNT = "00000000-0000-4000-8000-00000000000a"
TENANT = "00000000-0000-4000-8000-00000000000b"


def event(number: int, *, currency: str = "USD", at: datetime = NOW) -> bytes:
    body = {"messageId": "m", "accountId": ACCOUNT, "currency": currency, "cost": "0.000001"}
    head = {"specversion": "1.0", "id": f"e{number}", "source": "/test", "type": "message.submitted"}
    return json.dumps({**head, "time": at.isoformat(), "data": body}).encode()


async def keep(conn: asyncpg.Connection[Any], *bodies: bytes, headers: dict[str, str] | None = None) -> None:
    """Dead letters of a deployment in euro, from sequence 1 on, each a second after the one before."""
    published = to_instant(NOW)
    for n, body in enumerate(bodies, start=1):
        decoded = Decoder(Rules()).decode([Message("s.x", headers, body, n, published)])
        assert decoded.events == []
        await store._keep_letters(conn, STREAM, decoded.letters)
    await conn.execute("UPDATE anlyt.dead_letters SET recorded_at = recorded_at + make_interval(secs => sequence)")


async def staff(conn: asyncpg.Connection[Any]) -> dict[str, str]:
    return await key_for(conn, "PLATFORM", permission="admin")


async def post(client: httpx2.AsyncClient, key: dict[str, str], what: str, **body: Any) -> dict[str, Any]:
    response = await client.post(f"{ROUTE}/{what}", headers=key, json=body)

    assert response.status_code == 200, response.text
    return response.json()


def test_pages_hold_every_letter_once_newest_first(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, *(event(n) for n in range(7)))
            key = await staff(conn)
            seen: list[int] = []
            cursor: dict[str, str] = {}
            while True:
                page = (await client.get(ROUTE, headers=key, params={"limit": "3", **cursor})).json()
                seen += [row["sequence"] for row in page["data"]]
                if page["next"] is None:
                    break
                cursor = {"cursor": page["next"]}

            assert seen == [7, 6, 5, 4, 3, 2, 1]
            assert page["meta"]["stream"] == STREAM
            assert page["data"][-1] == {
                "stream": STREAM,
                "sequence": 1,
                "batchIndex": 0,
                "publishedAt": NOW.isoformat().replace("+00:00", "Z"),
                "state": "open",
                "reason": "currency_mismatch",
                "detail": page["data"][-1]["detail"],
                "subject": "s.x",
                "bodyBytes": len(event(0)),
                "recordedAt": page["data"][-1]["recordedAt"],
                "attempts": 0,
            }
            assert "USD" in page["data"][-1]["detail"]

    run(story())


def test_a_list_is_of_one_reason_and_one_state(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0), b"no json", event(1))
            key = await staff(conn)
            await post(client, key, "discard", sequence=3)

            async def listed(**asked: str) -> list[int]:
                rows = (await client.get(ROUTE, headers=key, params=asked)).json()["data"]
                return [row["sequence"] for row in rows]

            assert await listed() == [2, 1]
            assert await listed(reason="malformed") == [2]
            assert await listed(state="discarded") == [3]
            assert await listed(state="all", reason="currency_mismatch") == [3, 1]
            assert await listed(state="counted") == []

    run(story())


@pytest.mark.parametrize("body", [b"\xff\xfe\x00no text", b"no json, but text \xe2\x82\xac"])
def test_a_letter_is_shown_whole_to_the_byte(database_url: str, body: bytes) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, body, headers={"X-Producer": "gateway"})
            answer = (await client.get(f"{ROUTE}/1/0", headers=await staff(conn))).json()
            [letter] = answer["data"]

            assert base64.b64decode(letter["bodyBase64"]) == body
            assert letter["body"] == letters.read_text(body)
            assert letter["headers"] == {"X-Producer": "gateway"}
            assert letter["reason"] == "malformed"
            assert letter["resolvedAt"] is None

    run(story())


def test_a_retry_counts_what_passes_now_once_and_leaves_the_rest_open(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0), event(0), b"no json", event(1))
            key = await staff(conn)
            first = await post(client, key, "retry", all=True)
            again = await post(client, key, "retry", all=True)

            assert first["data"] == {"counted": 2, "duplicate": 1, "ignored": 0, "failed": 1, "stillOpen": 1}
            assert first["next"] is None
            assert again["data"] == {"counted": 0, "duplicate": 0, "ignored": 0, "failed": 1, "stillOpen": 1}
            total = "SELECT total_messages FROM anlyt.metrics_hourly WHERE scope = 'PLATFORM'"
            assert await conn.fetchval(total) == 2

    run(story())


def test_a_retry_that_ran_out_of_time_goes_on_where_it_was(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every letter is tried once, though those that fail stay open."""
    monkeypatch.setattr(letters, "RETRY_LETTERS_MAX", 2)
    bodies = [event(n) if n % 2 else b"no json" for n in range(7)]

    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, *bodies)
            key = await staff(conn)
            parts = [await post(client, key, "retry", all=True)]
            monkeypatch.setattr(desk, "WORK_LIMIT_S", 0.0)
            untouched = await post(client, key, "retry", all=True)
            monkeypatch.undo()
            monkeypatch.setattr(letters, "RETRY_LETTERS_MAX", 2)

            assert untouched["data"] == {"counted": 0, "duplicate": 0, "ignored": 0, "failed": 0, "stillOpen": 4}
            assert parts[0]["data"]["counted"] == 3
            assert untouched["next"] is not None
            rest = await post(client, key, "retry", all=True, cursor=untouched["next"])
            assert rest["data"]["failed"] == 4
            assert rest["next"] is None

    run(story())


def test_a_cursor_of_a_retry_skips_what_was_tried(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, b"no json", b"no json either", event(2))
            key = await staff(conn)
            behind_the_second = f"2.0.{to_instant(NOW)}"
            done = await post(client, key, "retry", all=True, cursor=behind_the_second)

            assert done["data"] == {"counted": 1, "duplicate": 0, "ignored": 0, "failed": 0, "stillOpen": 2}

    run(story())


def test_a_stale_letter_counts_only_when_that_is_accepted(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0, currency="EUR", at=NOW - timedelta(days=3)))
            await conn.execute("UPDATE anlyt.dead_letters SET body = $1", event(0, at=NOW - timedelta(days=3)))
            key = await staff(conn)

            assert (await post(client, key, "retry", reason="stale"))["data"]["failed"] == 1
            assert (await post(client, key, "retry", sequence=1, index=0, acceptStale=True))["data"]["counted"] == 1
            assert await conn.fetchval("SELECT counted_events FROM anlyt.backfills") == 1

    run(story())


def test_a_discarded_letter_is_kept_and_never_counted(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "DISCARD_LETTERS_MAX", 2)

    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, *(event(n) for n in range(5)), b"no json")
            key = await staff(conn)
            done = await post(client, key, "discard", reason="currency_mismatch")

            assert done["data"] == {"discarded": 5, "stillOpen": 0}
            assert (await post(client, key, "retry", all=True))["data"]["counted"] == 0
            assert await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters") == 6

    run(story())


def test_every_retry_and_every_discard_leaves_a_line_with_its_key_and_what_became_of_the_letters(
    database_url: str,
) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, *(event(n) for n in range(3)), b"no json")
            keys = [await staff(conn) for _ in range(2)]
            with capture_logs() as log:
                await post(client, keys[0], "retry", sequence=1)
                await post(client, keys[1], "discard", sequence=2)
                await post(client, keys[0], "retry", all=True)
            lines = [line for line in log if line["event"].startswith("letters-")]

            ids = [key["Authorization"][13:25] for key in keys]
            assert [(line["event"], line["key_id"]) for line in lines] == [
                ("letters-retried", ids[0]),
                ("letters-discarded", ids[1]),
                ("letters-retried", ids[0]),
            ]
            assert [line.get("counted", line.get("discarded")) for line in lines] == [1, 1, 1]
            assert {line["log_level"] for line in lines} == {"info"}
            resolved = await conn.fetch("SELECT sequence, resolution FROM anlyt.dead_letters ORDER BY sequence")
            assert [tuple(row) for row in resolved] == [(1, "counted"), (2, "discarded"), (3, "counted"), (4, None)]

    run(story())


@pytest.mark.parametrize(
    ("scope", "ids", "permission"),
    [
        ("PLATFORM", (), "metrics:read"),
        ("PLATFORM", (), "events:write"),
        ("ACCOUNT", (TENANT,), "admin"),
        ("OPERATOR", (TENANT,), "admin"),
    ],
)
def test_nobody_but_staff_with_admin_sees_or_changes_a_letter(
    database_url: str, scope: str, ids: tuple[str, ...], permission: str
) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0))
            key = await key_for(conn, scope, *ids, permission=permission)
            answers = [
                await client.get(ROUTE, headers=key),
                await client.get(f"{ROUTE}/1/0", headers=key),
                await client.get(f"{ROUTE}/2/0", headers=key),
                await client.post(f"{ROUTE}/retry", headers=key, json={"all": True}),
                await client.post(f"{ROUTE}/discard", headers=key, json={"all": True}),
            ]

            assert {answer.status_code for answer in answers} == {403}
            assert len({problem_of(answer)["detail"] for answer in answers}) == 1
            assert await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters WHERE resolution IS NULL") == 1

    run(story())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "one way"),
        ({"all": True, "reason": "stale"}, "one way"),
        ({"index": 1, "all": True}, "one way"),
        ({"sequence": 0}, "sequence"),
        ({"sequence": 2**63}, "no choice of letters"),
        ({"sequence": 1, "index": -1}, "index"),
        ({"reason": "late"}, "too_late"),
        ({"all": 1}, "all"),
        ({"everything": True}, "everything"),
        ([], "object"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused_and_changes_nothing(database_url: str, body: Any, told: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0))
            key = await staff(conn)
            for what in ("retry", "discard"):
                response = await client.post(f"{ROUTE}/{what}", headers=key, json=body)

                assert response.status_code == 422
                assert told in problem_of(response)["detail"]
            assert await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters WHERE attempts = 0") == 1

    run(story())


@pytest.mark.parametrize("cursor", ["", "x", "1.2.3", "1.2.3.4.5", "-1.1.1.1", f"{10**18}.1.1.1", f"1.1.{2**31}.1"])
def test_a_cursor_that_is_none_is_a_400(database_url: str, cursor: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await client.get(ROUTE, headers=await staff(conn), params={"cursor": cursor})

            assert response.status_code == 400
            assert problem_of(response)["parameter"] == "cursor"

    run(story())


@pytest.mark.parametrize("cursor", ["", "x", "1.2", "1.2.3.4", "-1.1.1", f"1.1.{10**18}", f"1.{2**31}.1"])
def test_a_cursor_of_no_retry_is_a_400_and_nothing_is_tried(database_url: str, cursor: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, b"no json")
            choice = {"all": True, "cursor": cursor}
            response = await client.post(f"{ROUTE}/retry", headers=await staff(conn), json=choice)

            assert response.status_code == 400
            assert problem_of(response)["parameter"] == "cursor"
            assert await conn.fetchval("SELECT attempts FROM anlyt.dead_letters") == 0

    run(story())


def test_letters_that_are_not_there_or_not_open_are_a_404(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await keep(conn, event(0))
            key = await staff(conn)
            await post(client, key, "discard", sequence=1)
            for place in ("2/0", "1/1", "x/0", f"{2**63}/0", f"1/{2**31}", "-1/0"):
                assert (await client.get(f"{ROUTE}/{place}", headers=key)).status_code == 404
            for what in ("retry", "discard"):
                response = await client.post(f"{ROUTE}/{what}", headers=key, json={"sequence": 1})

                assert response.status_code == 404
                assert "/v1/dead-letters" in problem_of(response)["detail"]

    run(story())
