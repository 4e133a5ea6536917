"""Exact when the PostgreSQL primary goes and its standby takes over; a start while a NATS cluster has no leader."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

import clusters
import fleet
import oracle
import pipeline
import verdict
from anlyt import jetstream, postgres
from anlyt.errors import StreamUnavailable
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anlyt.settings import Settings

LIMIT_S = 600
EVENTS = 600
pytestmark = pytest.mark.timeout(600)


@asynccontextmanager
async def workers_of(settings: Settings, number: int = 2) -> AsyncGenerator[list[fleet.WorkerProcess]]:
    """Worker processes that stay."""
    processes = [fleet.WorkerProcess(settings, until_idle=False) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.close()


def traffic(seed: int, events: int = EVENTS) -> tuple[datetime, list[pipeline.Copy]]:
    """Copies to publish, and the instant they are made for."""
    now, rng = datetime.now(UTC), random.Random(seed)
    return now, pipeline.copies_of(rng, oracle.generate(seed, events, now))


async def wrong(settings: Settings, stored: list[bytes], now: datetime) -> list[str]:
    """What the oracle and reconcile find."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    found = await wait_until(lambda: verdict.reconciled(url), LIMIT_S, what="reconcile is done")
    broken = [f"reconcile {finding.identity.name}: {finding.total}" for finding in found if finding.total]
    return await pipeline.differences(settings, stored, now) + broken


def test_a_stream_is_asked_for_on_as_many_servers_as_set_and_one_on_fewer_is_told(settings: Settings) -> None:
    asked = settings.model_copy(update={"stream_replicas": 3})

    async def make() -> list[str]:
        with pytest.raises(StreamUnavailable, match="replicas"):  # the server stands alone
            async with pipeline.stream_of(asked):
                pass
        async with pipeline.stream_of(settings) as nc:
            config = (await jetstream.stream_info(nc, settings.stream)).config
        return jetstream.stream_problems(config, settings.subjects, replicas=3)

    assert run(make()) == ["should be on 3 servers (ANLYT_STREAM_REPLICAS), not 1"]


def test_nothing_is_lost_when_a_synchronous_standby_is_promoted_under_load(
    settings: Settings, server_dir: Path
) -> None:
    assert run(_promoted(settings, server_dir, synchronous=True), LIMIT_S) == []


def test_what_an_asynchronous_standby_never_got_is_read_from_the_stream_again(
    settings: Settings, server_dir: Path
) -> None:
    assert run(_promoted(settings, server_dir, synchronous=False), LIMIT_S) == []


async def _promoted(settings: Settings, directory: Path, *, synchronous: bool) -> list[str]:
    """Kill the primary under load and promote the standby, which without `synchronous` lacks the last commits."""
    now, copies = traffic(31)
    async with AsyncExitStack() as stack:
        pair = await stack.enter_async_context(clusters.pair(directory))
        await postgres.migrate(pair.primary.url)
        changed = {"database_url": SecretStr(pair.url), "partitions": 2, "batch_events_max": 10}
        settings = settings.model_copy(update=changed)
        nc = await stack.enter_async_context(pipeline.stream_of(settings))
        if synchronous:
            await pair.follow_synchronously()
        workers = await stack.enter_async_context(workers_of(settings))
        half, most = len(copies) // 2, len(copies) * 3 // 4
        await pipeline.publish_through_outages(nc, settings, copies[:half])
        await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
        if not synchronous:
            pair.standby.kill()
        await pipeline.publish_through_outages(nc, settings, copies[half:most])
        if not synchronous:
            await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
        before = await _events_counted(pair.primary.url)
        rest = asyncio.create_task(pipeline.publish_through_outages(nc, settings, copies[most:]))
        pair.primary.kill()
        if not synchronous:
            await pair.standby.start()
        after = await _events_counted(pair.standby.url)
        assert after >= before if synchronous else after < before
        await pair.standby.promote()
        await rest
        await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
        assert [process.poll() for process in workers] == [None] * len(workers)
        stored = await pipeline.stored_copies(nc, settings, copies)
        return await wrong(settings, stored, now)


async def _events_counted(url: str) -> int:
    conn = await asyncpg.connect(url)
    try:
        return int(await conn.fetchval("SELECT count(*) FROM anlyt.processed_events"))
    finally:
        await conn.close()


# -------------------------------------------------------------------------------------------------------- NATS cluster


@pytest.mark.long
def test_a_worker_that_starts_while_there_is_no_leader_waits_for_one(settings: Settings, server_dir: Path) -> None:
    async def scenario() -> int:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(clusters.loners(server_dir))
            changed = {"nats_url": SecretStr(cluster.nodes[0].url), "stream_replicas": clusters.NODES}
            settings_here = settings.model_copy(update=changed)
            (process,) = await stack.enter_async_context(workers_of(settings_here, 1))
            await wait_until(lambda: "stream-awaited" in process.said, LIMIT_S, what="the worker waits")
            assert process.poll() is None
            for node in cluster.nodes[1:]:
                await node.start()
            nc = await wait_until(lambda: pipeline.connected(settings_here), LIMIT_S, what="a connection")
            stack.push_async_callback(nc.close)
            await cluster.whole(nc, settings.stream)
            await pipeline.publish_through_outages(nc, settings_here, traffic(14, 20)[1])
            return await pipeline.all_counted(nc, settings_here, limit_s=LIMIT_S)

    assert run(scenario(), LIMIT_S) > 0
