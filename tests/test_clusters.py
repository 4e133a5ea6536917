"""Exact while a server of several goes: a node of the NATS cluster, a worker, the PostgreSQL primary."""

from __future__ import annotations

import asyncio
import os
import random
import signal
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
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from anlyt.frames import Client
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
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_exact_while_nodes_of_a_nats_cluster_and_workers_die_and_a_node_forgets(
    settings: Settings, server_dir: Path, seed: int
) -> None:
    turns = ["leader", "follower", "store", "worker", "frozen"]
    random.Random(seed).shuffle(turns)
    assert run(_nodes_go(settings, server_dir, seed, turns), LIMIT_S) == []


def test_exact_while_the_leader_of_a_nats_cluster_and_a_worker_are_killed(settings: Settings, server_dir: Path) -> None:
    assert run(_nodes_go(settings, server_dir, 14, ["leader", "worker"]), LIMIT_S) == []


async def _nodes_go(settings: Settings, directory: Path, seed: int, turns: list[str]) -> list[str]:
    """Publish a part in each turn while something is away; workers that were killed are replaced."""
    now, copies = traffic(seed)
    size = len(copies) // len(turns) + 1
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(clusters.cluster(directory))
        changed = {"nats_url": SecretStr(cluster.url), "stream_replicas": clusters.NODES, "partitions": 4}
        settings = settings.model_copy(update=changed | {"batch_events_max": 20})
        nc = await stack.enter_async_context(pipeline.stream_of(settings))
        workers = await stack.enter_async_context(workers_of(settings, 3))
        for number, turn in enumerate(turns):
            part = copies[number * size : (number + 1) * size]
            await pipeline.publish_through_outages(nc, settings, part[: size // 2])
            bring_back = await _take_away(turn, cluster, nc, settings, workers)
            await pipeline.publish_through_outages(nc, settings, part[size // 2 :])
            await bring_back()
            await cluster.whole(nc, settings.stream)
            info = await cluster.info(nc, settings.stream)
            await _count_on(settings, workers, info.last_seq, turn=turn)
        assert info.config["num_replicas"] == clusters.NODES
        stored = await pipeline.stored_copies(nc, settings, copies)
    return await wrong(settings, stored, now)


async def _take_away(
    turn: str, cluster: clusters.Cluster, nc: Client, settings: Settings, workers: list[fleet.WorkerProcess]
) -> Callable[[], Awaitable[None]]:
    """Take away what the turn is about; how to bring it back."""
    if turn == "worker":
        workers[0].close()

        async def replace() -> None:
            workers[0] = fleet.WorkerProcess(settings, until_idle=False)

        return replace
    leader = await cluster.leader(nc, settings.stream)
    node = leader if turn in {"leader", "frozen"} else next(node for node in cluster.nodes if node is not leader)
    if turn == "frozen":
        os.kill(node.pid, signal.SIGSTOP)

        async def thaw() -> None:
            os.kill(node.pid, signal.SIGCONT)

        return thaw
    node.kill()
    if turn == "store":
        node.forget_everything()
    return node.start


async def _count_on(settings: Settings, workers: list[fleet.WorkerProcess], end: int, *, turn: str) -> None:
    """Wait until everything up to `end` is counted. No worker ends by itself."""

    async def counted() -> bool:
        for process in workers:
            assert process.poll() is None, process.said
        return await pipeline.counted_through(settings) >= end

    try:
        await wait_until(counted, LIMIT_S / 2, what=f"{end} counted after the turn of the {turn}")
    except AssertionError as e:
        said = "\n".join(process.said[-fleet.LOG_CHARS :] for process in workers)
        raise AssertionError(f"{e}\n{said}") from None


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
