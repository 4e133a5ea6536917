"""What a hostile or broken producer, or an unlucky operator, can do to the counts: nothing blocks, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import pipeline
from anlyt.events import Decoder, Message, Rules, to_instant
from support import run

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


@pytest.mark.parametrize("subject", [b"a\xff\xfeb", b"a\x0cb", b"a\x0bb", b"a\x00b", b"\x85", b"a" * 3800], ids=ascii)
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
