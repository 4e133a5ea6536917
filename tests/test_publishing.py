"""Publishing: everything is acknowledged or told, nothing is held in memory, and a stop leaves an exact tally."""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from anlyt import jetstream, publishing, simulate
from anlyt.errors import StreamUnavailable, UsageError
from anlyt.jetstream import Outgoing
from anlyt.publishing import Published
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anlyt.embedded import EmbeddedNats
    from anlyt.settings import Settings

NOWHERE = "nats://127.0.0.1:9"
LIMIT = 10_000


def read(*lines: bytes, backfill: str | None = None, bytes_max: int = LIMIT) -> list[Outgoing]:
    return cut(b"\n".join(lines), len(lines) + 1, backfill=backfill, bytes_max=bytes_max)


def cut(text: bytes, step: int, *, backfill: str | None = None, bytes_max: int = LIMIT) -> list[Outgoing]:
    """The messages of a text that arrives in pieces of `step` bytes."""
    reader = publishing.Lines("s.x", backfill=backfill, bytes_max=bytes_max)
    pieces = [text[begin : begin + step] for begin in range(0, len(text), step)]
    return [message for piece in pieces for message in reader.cut(piece)] + list(reader.end())


def event(number: int, **more: Any) -> bytes:
    return json.dumps({"id": f"e{number}", "source": "/t", **more}).encode()


# ---------------------------------------------------------------------------------------------------------------- files


def test_each_line_that_holds_something_is_a_message_as_it_stands() -> None:
    lines = [b" {not json ", b"", b"  ", b"[1,2]\r", "ü".encode("latin-1")]

    assert [message.body for message in read(*lines)] == [b" {not json ", b"[1,2]", b"\xfc"]


@pytest.mark.parametrize(
    ("line", "known_by"),
    [
        (event(1), "e1 /t"),
        (event(1, data={"deep": [[]]}), "e1 /t"),
        (b"[" + event(1) + b"]", None),
        (b'{"id":1,"source":"/t"}', None),
        (b'{"id":"","source":"/t"}', None),
        (b'{"id":"a\\nb","source":"/t"}', None),
        ('{"id":"ü","source":"/t"}'.encode(), None),
        (b'{"id":"' + b"x" * 600 + b'","source":"/t"}', None),
        (b"[" * 5_000, None),
        (b"nothing", None),
    ],
)
def test_a_single_event_is_known_by_its_identity_where_a_header_can_carry_it(line: bytes, known_by: str | None) -> None:
    (message,) = read(line)

    assert message.headers.get("Nats-Msg-Id") == known_by


def test_a_backfill_is_named_in_each_message() -> None:
    assert [message.headers["Anlyt-Backfill"] for message in read(event(1), b"[]", backfill="may")] == ["may", "may"]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_a_line_may_be_as_long_as_the_server_takes(end: bytes) -> None:
    (message,) = read(b"x" * LIMIT + end)

    assert len(message.body) == LIMIT


def test_a_longer_line_is_named_and_not_kept() -> None:
    reader = publishing.Lines("s.x", backfill=None, bytes_max=LIMIT)

    assert [message.body for message in reader.cut(b"short\n" + b"x" * LIMIT)] == [b"short"]
    with pytest.raises(UsageError, match="line 2 has more than 10,000 bytes"):
        list(reader.cut(b"xx"))


@pytest.mark.parametrize("step", [1, 2, 3, 7, 1_000])
def test_the_pieces_a_file_arrives_in_change_nothing(step: int) -> None:
    text = b"\r\n".join([event(1), b"", b"[1,2]", event(2), b" "]) + b"\nlast"

    assert [message.body for message in cut(text, step)] == [event(1), b"[1,2]", event(2), b"last"]
    assert [message.headers for message in cut(text, step)] == [message.headers for message in cut(text, 1_000)]


def test_a_pipe_hands_out_what_is_there_without_waiting_for_more() -> None:
    async def scenario() -> tuple[list[bytes], list[bytes]]:
        ours, theirs = os.pipe()
        stop = asyncio.Event()
        with os.fdopen(ours, "rb") as file, os.fdopen(theirs, "wb", buffering=0) as writer:
            reader = publishing.Lines("s.x", backfill=None, bytes_max=LIMIT)
            batches = publishing.read_batches(file, reader, stop=stop)
            writer.write(b"one\ntwo\nthr")
            first = await anext(batches)
            writer.write(b"ee\nfour\n")
            second = await anext(batches)
            stop.set()
            assert [batch async for batch in batches] == []
        return [message.body for message in first], [message.body for message in second]

    assert run(scenario(), limit_s=5) == ([b"one", b"two"], [b"three", b"four"])


def test_lines_before_one_that_is_too_long_are_handed_out(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"one\ntwo\n" + b"x" * 2 * LIMIT)

    async def scenario() -> list[bytes]:
        with path.open("rb") as file:
            reader = publishing.Lines("s.x", backfill=None, bytes_max=LIMIT)
            batches = publishing.read_batches(file, reader, stop=asyncio.Event())
            seen = [message.body for message in await anext(batches)]
            with pytest.raises(UsageError, match="line 3 has more than"):
                await anext(batches)
        return seen

    assert run(scenario(), limit_s=5) == [b"one", b"two"]


# ------------------------------------------------------------------------------------------------------------- stopping


def traffic(**changes: Any) -> simulate.Traffic:
    return simulate.Traffic(**({"start": datetime.now(UTC), "rate": 50.0} | changes))


def test_what_waits_for_its_time_at_a_stop_is_neither_published_nor_counted() -> None:
    tally, stop = simulate.Tally(), asyncio.Event()

    async def scenario() -> int:
        taken = 0
        async for _ in publishing.at_their_time(simulate.simulate(traffic(), tally), stop=stop):
            taken += 1
            if taken == 20:
                stop.set()
        return taken

    assert run(scenario()) == tally.messages == 20


def test_what_goes_at_once_stops_with_an_exact_tally() -> None:
    tally, stop = simulate.Tally(), asyncio.Event()
    history = simulate.simulate(traffic(history=timedelta(days=1)), tally)
    taken = 0
    for _ in publishing.until_stopped(history, stop=stop):
        taken += 1
        if taken == 100:
            stop.set()

    assert taken == tally.messages == 100


def test_each_publication_has_its_time() -> None:
    async def scenario() -> list[int]:
        some = simulate.simulate(traffic(duration=timedelta(seconds=1)))
        at_their_time = publishing.at_their_time(some, stop=asyncio.Event())
        return [time.time_ns() // 1000 - publication.publish_at async for publication in at_their_time]

    late_us = run(scenario())

    assert late_us
    assert min(late_us) >= -publishing.PACE_SLACK_US


# ----------------------------------------------------------------------------------------------------------- the stream


def outgoing(settings: Settings, numbers: range, *, size: int = 10, known: bool = True) -> list[Outgoing]:
    subject = settings.subjects.removesuffix(">") + "x"
    return [Outgoing(subject, b"x" * size, {"Nats-Msg-Id": f"{number} /t"} if known else {}) for number in numbers]


async def opened(settings: Settings) -> jetstream.Client:
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="test")
    await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
    return nc


def test_everything_is_stored_once_in_order_whatever_the_stream_knew_before(settings: Settings) -> None:
    async def scenario() -> tuple[list[Published], int]:
        nc = await opened(settings)
        seen: list[Published] = []
        done = [
            await publishing.publish_fast(nc, outgoing(settings, range(500)), on_progress=seen.append),
            await publishing.publish_fast(nc, outgoing(settings, range(400, 2_600))),
            await publishing.publish_fast(nc, []),
        ]
        held = (await jetstream.stream_info(nc, settings.stream)).messages
        await nc.close()
        assert seen[-1] == done[0]
        return done, held

    done, held = run(scenario())

    assert done == [Published(500, 0), Published(2_100, 100), Published(0, 0)]
    assert held == 2_600


def test_large_messages_go_in_several_batches(settings: Settings) -> None:
    messages = outgoing(settings, range(10), size=publishing.ATOMIC_BYTES_MAX // 3, known=False)
    sizes = [len(batch) for batch in publishing.batched(messages)]

    async def scenario() -> Published:
        nc = await opened(settings)
        done = await publishing.publish_fast(nc, messages)
        await nc.close()
        return done

    assert sizes == [3, 3, 3, 1]
    assert run(scenario()) == Published(10, 0)


def test_one_by_one_says_what_was_known(settings: Settings) -> None:
    async def each() -> AsyncIterator[Outgoing]:
        for message in [*outgoing(settings, range(1_200)), *outgoing(settings, range(7))]:
            yield message

    async def scenario() -> Published:
        nc = await opened(settings)
        done = await publishing.publish_each(nc, each())
        await nc.close()
        return done

    assert run(scenario()) == Published(1_200, 7)


def test_a_message_that_no_stream_takes_is_told(settings: Settings) -> None:
    async def each() -> AsyncIterator[Outgoing]:
        yield Outgoing("nobody.listens", b"x", {})

    async def scenario() -> None:
        nc = await opened(settings)
        try:
            with pytest.raises(StreamUnavailable, match="publish the same again, it is counted once"):
                await publishing.publish_each(nc, each())
            with pytest.raises(StreamUnavailable, match="publish the same again, it is counted once"):
                await publishing.publish_fast(nc, [Outgoing("nobody.listens", b"x", {})])
        finally:
            await nc.close()

    run(scenario())


# ------------------------------------------------------------------------------------------------------- the connection


@pytest.mark.parametrize("address", [NOWHERE, f"{NOWHERE},nats://127.0.0.1:10", "nats://u:CANARY@127.0.0.1:9"])
def test_servers_that_are_away_are_told_at_once_by_their_addresses_alone(address: str) -> None:
    with pytest.raises(StreamUnavailable, match=r"127\.0\.0\.1:9.*cannot be reached.*ANLYT_NATS_URL") as told:
        run(jetstream.connect(address, name="test"), limit_s=5)

    assert "CANARY" not in str(told.value)


def test_a_wrong_password_is_told(nats_server: EmbeddedNats) -> None:
    address = nats_server.url.partition("@")[2]
    with pytest.raises(StreamUnavailable, match="Authorization Violation"):
        run(jetstream.connect(f"nats://anlyt:CANARY@{address}", name="test"), limit_s=5)


def test_one_server_of_several_is_enough(nats_server: EmbeddedNats) -> None:
    async def scenario() -> bool:
        nc = await jetstream.connect(f"{NOWHERE},{nats_server.url}", name="test")
        connected = nc.is_connected
        await nc.close()
        return connected

    assert run(scenario(), limit_s=10)
