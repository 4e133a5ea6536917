"""Slow, silent and greedy peers: their connections end, and everybody else is served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx2
import pytest

from anlyt import listener, web
from anlyt.postgres import connect
from serving import key_for, listening
from support import pause, run

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter

LIMIT_S = 60.0  # for what must end soon
SLOW = 500
PROMPTED = b"GET /livez HTTP/1.1\r\nHost: anlyt\r\n\r\n"
BODY = b"POST /v1/events HTTP/1.1\r\nHost: anlyt\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\n"


async def opened(url: str, first: bytes) -> tuple[StreamReader, StreamWriter]:
    """A connection over which something was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]), limit=2**20)
    writer.write(first)
    await writer.drain()
    return reader, writer


async def ends(reader: StreamReader) -> bytes:
    """What comes until the other side ends the connection."""
    try:
        return await asyncio.wait_for(reader.read(-1), LIMIT_S)
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize(
    "first",
    [b"", b"G", PROMPTED[:-2], PROMPTED + b"GET /", PROMPTED + PROMPTED + b"GET /livez HTTP/1.1\r\nHost: a"],
    ids=["nothing", "a letter", "half a head", "a request and a half", "two and a half"],
)
def test_a_head_that_does_not_arrive_ends_its_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch, first: bytes
) -> None:
    monkeypatch.setattr(listener, "HEAD_LIMIT_S", 0.3)
    monkeypatch.setattr(listener, "KEEP_ALIVE_S", 1)  # ends those that sent the next head while the answer was made

    async def story() -> None:
        async with listening(database_url) as url:
            reader, writer = await opened(url, first)
            assert (await ends(reader)).count(b"200 OK") == first.count(PROMPTED)
            writer.close()

    run(story(), 2 * LIMIT_S)


def test_a_head_that_trickles_in_ends_its_connection_all_the_same(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is for the whole head, not for the next byte."""
    monkeypatch.setattr(listener, "HEAD_LIMIT_S", 0.5)

    async def trickle(writer: StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"x")
            await pause(0.02)

    async def story() -> None:
        async with listening(database_url) as url:
            reader, writer = await opened(url, b"GET /livez?")
            trickling = asyncio.create_task(trickle(writer))
            assert await ends(reader) == b""
            trickling.cancel()
            writer.close()

    run(story(), 2 * LIMIT_S)


def test_an_answer_may_take_longer_than_a_head_and_an_idle_connection_stays(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HEAD_LIMIT_S", 0.3)

    async def story() -> None:
        async with listening(database_url) as url, httpx2.AsyncClient() as client:
            conn = await connect(database_url, application="test")
            key = await key_for(conn, "PLATFORM")
            await conn.close()
            heard: list[str] = []
            async with client.stream("GET", f"{url}/v1/live", headers=key, timeout=LIMIT_S) as answer:
                async for line in answer.aiter_lines():
                    heard.append(line)
                    await pause(0.1)
                    if len(heard) > 3:
                        break
            reader, writer = await opened(url, PROMPTED)
            assert b"200 OK" in await reader.readuntil(b"alive")
            await pause(0.6)
            writer.write(PROMPTED)
            assert b"200 OK" in await reader.readuntil(b"alive")
            writer.close()

    run(story(), 2 * LIMIT_S)


def test_a_body_that_does_not_arrive_is_a_problem_soon(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "BODY_LIMIT_S", 0.3)

    async def story() -> None:
        async with listening(database_url) as url:
            conn = await connect(database_url, application="test")
            key = (await key_for(conn, "PLATFORM", permission="events:write"))["Authorization"].removeprefix("Bearer ")
            await conn.close()
            head = BODY % key.encode() + b"Content-Length: 1000\r\n\r\n{"
            reader, writer = await opened(url, head)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), LIMIT_S)
            assert answer.split()[1] == b"408", answer
            writer.close()

    run(story(), 2 * LIMIT_S)


def test_hundreds_of_slow_connections_hold_up_nobody(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEAD_LIMIT_S", 3.0)

    async def story() -> None:
        async with listening(database_url) as url, httpx2.AsyncClient() as client:
            slow = [await opened(url, b"GET /livez HTTP/1.1\r\nX: ") for _ in range(SLOW)]
            answers = [await client.get(f"{url}/livez", timeout=LIMIT_S) for _ in range(20)]
            assert {answer.status_code for answer in answers} == {200}
            assert set(await asyncio.gather(*(ends(reader) for reader, _ in slow))) == {b""}
            for _, writer in slow:
                writer.close()

    run(story(), 2 * LIMIT_S)
