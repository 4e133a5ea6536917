"""A stream whose files are damaged, and one whose disk is full: what is left is counted once, and it is said."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import nats.errors
import nats.js.errors
import pytest
from pydantic import SecretStr

import pipeline
import power
from anlyt import audit, doctor, jetstream
from anlyt.embedded import EmbeddedNats
from commands import anlyt, environment_of
from support import run, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from anlyt.frames import Client
    from anlyt.settings import Settings

LIMIT_S = 120.0
MESSAGES = 60
DAMAGED = 30  # the place of the message whose file gets another byte
BIG = b"x" * 20_000
pytestmark = pytest.mark.timeout(600)


def copies(number: int, *, first: int = 0) -> list[pipeline.Copy]:
    """So many submitted messages that can be told apart in a file."""
    bodies = [
        pipeline.submitted(datetime.now(UTC), event_id=f"event-{n:05}", messageId=f"message-{n:05}")
        for n in range(first, first + number)
    ]
    return [pipeline.Copy(body, body, {}, str(n)) for n, body in enumerate(bodies)]


def at(settings: Settings, server: EmbeddedNats, *, partitions: int) -> Settings:
    """The settings with a nats-server of the test's own."""
    return settings.model_copy(update={"nats_url": SecretStr(server.url), "partitions": partitions})


def damage(directory: Path) -> None:
    """Turn one bit of one message in the stream's file."""
    (path,) = (directory / "data").rglob("msgs/*.blk")
    stored = bytearray(path.read_bytes())
    stored[stored.index(f"event-{DAMAGED:05}".encode()) + 1] ^= 1
    path.write_bytes(stored)


async def recount(settings: Settings) -> audit.Report:
    """What an audit of today finds."""
    now = datetime.now(UTC)
    return await audit.audit(settings, now - timedelta(days=1), now, advance=lambda *_: None)


async def lost(settings: Settings) -> int:
    """How many messages are known to have been lost."""
    async with pipeline.database(settings) as conn:
        return await conn.fetchval("SELECT max(lost_messages) FROM anlyt.stream_positions")


@pytest.mark.parametrize(("partitions", "told"), [(1, 1), (4, 0)])
def test_a_message_that_cannot_be_read_any_more_is_told_and_the_others_count(
    settings: Settings, server_dir: Path, partitions: int, told: int
) -> None:
    """The worker sees it where it reads every message; where its parts have holes by nature, the audit does."""

    async def scenario() -> None:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as server:
            here = at(settings, server, partitions=partitions)
            async with pipeline.stream_of(here) as nc:
                stored = await pipeline.publish(nc, here, copies(MESSAGES))
            await server.stop()
            damage(server_dir / "nats")
            await server.start()
            await pipeline.count(here)
            assert await lost(here) == told
            left = stored[:DAMAGED] + stored[DAMAGED + 1 :]
            assert await pipeline.differences(here, left, datetime.now(UTC)) == []
            report = await recount(here)
            assert (report.messages, report.missing_messages, report.total) == (MESSAGES - 1, 1, 0)
            said = await asyncio.to_thread(anlyt, "audit", env=environment_of(here))
            assert (said.code, "1 messages of the stream cannot be read" in said.err) == (5, True)

    run(scenario(), 2 * LIMIT_S)


def test_a_stream_that_lost_its_end_goes_on_from_there_and_doctor_says_what_was_lost(
    settings: Settings, server_dir: Path
) -> None:
    """A server that was killed looks through its files when it starts, and drops what is behind the damage."""

    async def scenario() -> None:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as server:
            here = at(settings, server, partitions=4)
            async with pipeline.stream_of(here) as nc:
                stored = await pipeline.publish(nc, here, copies(MESSAGES))
            await pipeline.count(here)
            server.kill()
            damage(server_dir / "nats")
            await server.start()
            async with pipeline.stream_of(here) as nc:
                assert (await jetstream.stream_info(nc, here.stream)).last_seq == DAMAGED
                findings = [each.finding for each in await doctor.examine(here) if each.level == "problem"]
                assert any("unreadable, and dropped them" in finding for finding in findings), findings
                stored += await pipeline.publish(nc, here, copies(MESSAGES, first=MESSAGES))
            await pipeline.count(here)
            found = await pipeline.differences(here, stored, datetime.now(UTC), totals=False)  # some was read twice
            assert found == []

    run(scenario(), 2 * LIMIT_S)


# ------------------------------------------------------------------------------------------------------------ no room


class UnboundedNats(EmbeddedNats):
    """One that thinks its disk is larger than it is, as when something else fills it."""

    def _configuration(self) -> str:
        return super()._configuration().replace("store_dir", "max_file_store: 1GB, store_dir")


async def fill_up(nc: Client, settings: Settings) -> int:
    """Publish until the stream takes nothing more; how many were acknowledged."""
    acked = 0
    while await takes(nc, settings, [pipeline.Copy(BIG, BIG, {}, "")]):
        acked += 1
    return acked


@pytest.mark.long
@pytest.mark.parametrize("kind", [EmbeddedNats, UnboundedNats], ids=["the server's limit", "the disk itself"])
def test_a_disk_without_room_for_the_stream_loses_nothing_acknowledged(
    settings: Settings, server_dir: Path, kind: type[EmbeddedNats]
) -> None:
    """Counting goes on to what was acknowledged last. nats-server itself takes messages again when it is restarted."""

    async def scenario() -> None:
        async with kind(server_dir / "small" / "nats") as server:
            here = at(settings, server, partitions=2)
            async with pipeline.stream_of(here) as nc, pipeline.counting(here):
                stored = await pipeline.publish(nc, here, copies(MESSAGES))
                bad = await fill_up(nc, here)
                assert not await takes(nc, here, [pipeline.Copy(BIG, BIG, {}, "")])
                assert await pipeline.all_counted(nc, here, limit_s=LIMIT_S) == MESSAGES + bad
                power.grow(server_dir / "small", "200m")
                server.kill()
                await server.start()
                more = copies(MESSAGES, first=MESSAGES)
                stored += [copy.told for copy in more]
                await wait_until(lambda: takes(nc, here, more), LIMIT_S, what="it takes messages again")
                await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            assert (await recount(here)).missing_messages == 0
            assert await pipeline.differences(here, stored + bad * [BIG], datetime.now(UTC)) == []

    with power.small_disk(server_dir / "small", "24m"):
        run(scenario(), 3 * LIMIT_S)


async def takes(nc: Client, settings: Settings, left: list[pipeline.Copy]) -> bool:
    """Whether all of it is stored now; what was not acknowledged is published again, as a producer does."""
    js = nc.jetstream(timeout=5)
    while left:
        try:
            await js.publish(settings.subjects.replace(">", "more"), left[-1].body)
        except (OSError, nats.errors.Error, nats.js.errors.Error):
            return False
        left.pop()
    return True
