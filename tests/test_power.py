"""What a power cut, a full disk and a failing disk take with them: nothing that was promised to be there."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

import archives
import oracle
import pipeline
import power
import verdict
from anlyt import chdb_owner, jetstream, postgres
from anlyt.clickhouse import TABLES, ClickHouse
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.errors import DatabaseUnavailable
from support import run, wait_until
from test_archive import DAY, TODAY, add_day, copy

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from anlyt.frames import Client
    from anlyt.settings import Settings

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

LIMIT_S = 800
CUTS = 20
Counting = tuple[EmbeddedPostgres, "Settings", "Client", list[bytes]]
EVENTS = 600
SMALL = {"min_wal_size": "32MB", "max_wal_size": "64MB", "shared_buffers": "32MB"}


class Publisher:
    """Publishes copies in order and remembers what was acknowledged, until it is told to stop."""

    def __init__(self, nc: Client, settings: Settings, copies: Sequence[pipeline.Copy]) -> None:
        self.acked: list[pipeline.Copy] = []
        self._nc, self._settings = nc, settings
        self._left = [*copies]

    async def publish(self, number: int) -> None:
        """Publish until that many more are acknowledged, or the server says nothing more."""
        js = self._nc.jetstream(timeout=5)
        subject = self._settings.subjects.removesuffix(">") + "any.where"
        goal = len(self.acked) + number
        while self._left and len(self.acked) < goal:
            window, self._left = self._left[:20], self._left[20:]
            sent = (js.publish(subject, c.body, headers=c.headers | {pipeline.MARK: c.mark}) for c in window)
            answers = await asyncio.gather(*sent, return_exceptions=True)
            self.acked += [
                c for c, answer in zip(window, answers, strict=True) if not isinstance(answer, BaseException)
            ]


def traffic(seed: int, events: int = EVENTS) -> list[pipeline.Copy]:
    """Copies to publish, most of them once."""
    rng = random.Random(seed)
    return pipeline.copies_of(rng, oracle.generate(seed, events, datetime.now(UTC), batches=0.02), most=2)


def here(settings: Settings, **urls: str) -> Settings:
    """The settings with other servers."""
    update = {name: SecretStr(url) for name, url in urls.items()}
    return settings.model_copy(update=update | {"batch_events_max": 20, "partitions": 2})


async def stored_marks(nc: Client, settings: Settings) -> list[str]:
    """The marks of what the stream holds; none when the stream itself is gone."""
    try:
        return [message.mark for message in await verdict.read_stream(nc, settings.stream)]
    except jetstream.JetStreamError:
        return []


async def lose_power(disk: power.Disk, server: EmbeddedNats | EmbeddedPostgres) -> None:
    """Cut the power of the disk, then end the server, and switch both on again."""
    disk.cut()
    server.kill()
    await server.stop()  # gives the directory up
    await disk.remount()
    await server.start()


# ----------------------------------------------------------------------------------------------------------- JetStream


def test_nothing_acknowledged_is_lost_in_power_cuts_of_a_stream_that_synchronises_always(
    settings: Settings, server_dir: Path
) -> None:
    """Cut after cut, in one stream: what was acknowledged before each is there after it, and counts once."""
    copies = traffic(1, 2_000)
    told = {copy.mark: copy.told for copy in copies}
    rng = random.Random(1)

    async def scenario(disk: power.Disk) -> list[str]:
        acked: set[str] = set()
        async with EmbeddedNats(disk.path / "nats") as nats:
            changed = here(settings, nats_url=nats.url)
            async with pipeline.stream_of(changed) as nc, pipeline.counting(changed, workers=2):
                for cut in range(CUTS):
                    publisher = Publisher(nc, changed, copies[cut::CUTS])
                    publishing = asyncio.create_task(publisher.publish(len(copies)))
                    some = rng.randrange(10, 60)
                    await wait_until(lambda p=publisher, n=some: len(p.acked) >= n, 60, what="some are acknowledged")
                    await lose_power(disk, nats)
                    await publishing
                    acked |= {copy.mark for copy in publisher.acked}
                stored = await stored_marks(nc, changed)
                assert acked - set(stored) == await known_by_id(copies, acked, stored)
                await pipeline.all_counted(nc, changed, limit_s=120)
        return await pipeline.differences(changed, [told[mark] for mark in stored], datetime.now(UTC))

    with power.disk(server_dir) as disk:
        assert run(scenario(disk), LIMIT_S) == []


async def known_by_id(copies: list[pipeline.Copy], acked: set[str], stored: list[str]) -> set[str]:
    """Acknowledged copies that JetStream took for ones it has: another copy of the same Nats-Msg-Id is stored."""
    ids = {copy.mark: copy.headers.get("Nats-Msg-Id") for copy in copies}
    there = {ids[mark] for mark in stored} - {None}
    return {mark for mark in acked - set(stored) if ids[mark] in there}


def test_what_a_lazy_stream_loses_in_a_power_cut_is_the_brokers_loss_and_nothing_else(
    settings: Settings, server_dir: Path
) -> None:
    """Workers go on exactly: what is still stored and what they had read before counts once."""
    copies = traffic(2)
    told = {copy.mark: copy.told for copy in copies}
    before, after = copies[: len(copies) // 2], copies[len(copies) // 2 :]

    async def scenario(disk: power.Disk) -> tuple[int, list[str]]:
        async with EmbeddedNats(disk.path / "nats", sync_interval="2m") as nats:
            changed = here(settings, nats_url=nats.url)
            async with pipeline.stream_of(changed) as nc, pipeline.counting(changed, workers=2):
                publisher = Publisher(nc, changed, before)
                await publisher.publish(len(before))
                await wait_until(lambda: some_counted(changed), 60, what="something is counted")
                await lose_power(disk, nats)
                await wait_until(lambda: answers(nc), 60, what="nats-server answers again")
                await jetstream.ensure_stream(nc, changed.stream, changed.subjects)
                kept = set(await stored_marks(nc, changed))
                second = Publisher(nc, changed, after)
                await second.publish(len(after))
                stored = await stored_marks(nc, changed)
                await wait_until(lambda: at_end(nc, changed), 120, what="everything is counted")
            found: list[str] = []
            async with pipeline.database(changed) as conn:
                sent = verdict.Traffic({copy.mark: copy for copy in copies}, attempted={copy.mark for copy in before})
                bodies = [told[mark] for mark in stored]
                extra = await verdict.counted_beside(conn, sent, bodies, found, losing=True)
            found += await pipeline.differences(changed, bodies + extra, datetime.now(UTC), totals=False, letters=False)
            return len({copy.mark for copy in publisher.acked} - kept), found

    with power.disk(server_dir) as disk:
        lost, found = run(scenario(disk), LIMIT_S)

    assert found == []
    assert lost > 0  # or this test shows nothing


async def some_counted(settings: Settings) -> bool:
    """Whether anything is."""
    return await pipeline.progress(settings) > 0


async def answers(nc: Client) -> bool:
    """Whether JetStream does."""
    try:
        await jetstream.request(nc, "INFO")
    except jetstream.StreamUnavailable:
        return False
    return True


async def at_end(nc: Client, settings: Settings) -> bool:
    """Whether every slot is at the end of the stream as it is now."""
    info = await jetstream.stream_info(nc, settings.stream)
    async with pipeline.database(settings) as conn:
        return bool(
            await conn.fetchval(
                "SELECT bool_and(last_seq = $2 AND stream_created_at = $3) FROM anlyt.stream_positions"
                " WHERE stream = $1",
                settings.stream,
                info.last_seq,
                verdict.to_datetime(info.created),
            )
        )


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


@asynccontextmanager
async def counting_in(directory: Path, settings: Settings, seed: int) -> AsyncGenerator[Counting]:
    """A PostgreSQL in a directory, workers that count into it, and what they have to count."""
    server = EmbeddedPostgres(directory / "postgres", settings=SMALL)
    await server.start()
    try:
        await postgres.migrate(server.url)
        changed = here(settings, database_url=server.url)
        async with pipeline.stream_of(changed) as nc:
            stored = await pipeline.publish(nc, changed, traffic(seed))
            async with pipeline.counting(changed, workers=2):
                yield server, changed, nc, stored
    finally:
        await server.stop()


async def ids(settings: Settings) -> set[str]:
    """The ids that are committed."""
    async with pipeline.database(settings) as conn:
        return {row[0] for row in await conn.fetch("SELECT event_id FROM anlyt.processed_events")}


def test_what_is_committed_survives_power_cuts_of_postgresql_and_the_rest_is_read_again(
    settings: Settings, server_dir: Path
) -> None:
    async def scenario(disk: power.Disk) -> list[str]:
        async with counting_in(disk.path, settings, 3) as (server, changed, nc, stored):
            end = (await jetstream.stream_info(nc, changed.stream)).last_seq
            seen: set[str] = set()
            for cut in range(CUTS):
                goal = end * (cut + 1) / (CUTS + 2)
                await wait_until(lambda goal=goal: beyond(changed, goal), 120, what=f"{goal} are counted")
                seen |= await ids(changed)
                await lose_power(disk, server)
                assert seen <= await ids(changed)
            await pipeline.all_counted(nc, changed, limit_s=120)
            return await pipeline.differences(changed, stored, datetime.now(UTC))

    with power.disk(server_dir) as disk:
        assert run(scenario(disk), LIMIT_S) == []


async def beyond(settings: Settings, goal: float) -> bool:
    """Whether so much is counted."""
    return await pipeline.progress(settings) >= goal


def test_a_disk_that_fails_to_synchronise_leaves_everything_exact(settings: Settings, server_dir: Path) -> None:
    """PostgreSQL panics and recovers; what became of the commit only the position can tell."""
    power.need_root_and("strace")

    async def scenario() -> list[str]:
        async with counting_in(server_dir, settings, 4) as (server, changed, nc, stored):
            command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]
            command += ["inject=fdatasync:error=EIO:when=5", "-p", str(server.pid)]
            strace = await asyncio.create_subprocess_exec(*command)
            try:
                await wait_until(lambda: "PANIC" in log_of(server_dir), 120, what="PostgreSQL panics")
            finally:
                strace.send_signal(signal.SIGTERM)
                await strace.wait()
            await wait_until(lambda: comes_back(server), 60, what="PostgreSQL runs")
            await pipeline.all_counted(nc, changed, limit_s=240)
            return await pipeline.differences(changed, stored, datetime.now(UTC))

    assert run(scenario(), LIMIT_S) == []


def log_of(directory: Path) -> str:
    """What PostgreSQL said."""
    return (directory / "postgres" / "log").read_text(encoding="utf-8", errors="replace")


async def comes_back(server: EmbeddedPostgres) -> bool:
    """Start it again if it has ended; whether it takes sessions."""
    if not server.running:
        server.kill()
        await server.start()
    try:
        async with postgres.session(server.url, application="test"):
            return True
    except DatabaseUnavailable:
        return False


def test_a_full_disk_stops_the_count_and_room_lets_it_go_on_exactly(settings: Settings, server_dir: Path) -> None:
    async def scenario() -> list[str]:
        small = server_dir / "small"
        async with counting_in(small, settings, 5) as (server, changed, nc, stored):
            filler = small / "filler"
            filler.write_bytes(b"")
            await wait_until(lambda: some_counted(changed), 120, what="something is counted")
            power.fill(filler)
            more = await pipeline.publish(nc, changed, traffic(6, 3_000))
            await wait_until(lambda: no_room(small), 240, what="PostgreSQL finds no room")
            power.grow(small, "900m")
            await wait_until(lambda: comes_back(server), 120, what="PostgreSQL runs")
            await pipeline.all_counted(nc, changed, limit_s=240)
            return await pipeline.differences(changed, stored + more, datetime.now(UTC))

    with power.small_disk(server_dir / "small", "220m"):
        assert run(scenario(), LIMIT_S) == []


def no_room(directory: Path) -> bool:
    """Whether PostgreSQL said so."""
    return "No space left on device" in log_of(directory)


# ---------------------------------------------------------------------------------------------------------- ClickHouse


def test_what_the_archive_has_noted_survives_power_cuts(database_url: str, server_dir: Path) -> None:
    """Copy, cut at once, again and again: what has a receipt is there. Asked as retention asks before rows leave."""

    async def scenario(disk: power.Disk) -> None:
        directory = disk.path / "archive"
        async with postgres.session(database_url, application="test") as conn:
            for n in range(CUTS):
                await add_day(conn, TODAY - 3 * (n + 1) * DAY, ids=6)
                clickhouse = ClickHouse(f"chdb://{directory}")
                assert (await copy(database_url, clickhouse))["days_copied"] == len(TABLES)
                await clickhouse.close()
                await lose_archive(disk, directory)
                clickhouse = ClickHouse(f"chdb://{directory}")
                await archives.assert_same_rows(conn, clickhouse)
                await clickhouse.close()

    with power.disk(server_dir) as disk:
        try:
            run(scenario(disk), LIMIT_S)
        finally:
            archives.stop(disk.path / "archive")


async def lose_archive(disk: power.Disk, directory: Path) -> None:
    """Cut the power of the disk, then end the embedded archive's owner, and switch the disk on again."""
    owner = chdb_owner.find(directory)
    assert owner is not None, "somebody has just copied"
    disk.cut()
    os.kill(owner.pid, signal.SIGKILL)
    await wait_until(lambda: not archives.is_there(owner.pid), what="the owner ends")
    await disk.remount()
