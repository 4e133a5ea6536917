"""Workers on hosts of their own, one of which is cut off: the others take over, and nothing is counted twice."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

import fleet
import hosts
import oracle
import pipeline
import verdict
from anlyt import postgres
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anlyt.frames import Client
    from anlyt.settings import Settings

LIMIT_S = 240
CUTS = 6
LOST_PERCENT = 30
LOSSY_PARTS = 3
SMALL_PARTS = {"partitions": 4, "batch_events_max": 10}
HOSTS_THAT_WAIT = """
    SELECT count(DISTINCT client_addr) FROM pg_stat_activity
    WHERE application_name = 'anlyt-worker' AND datname = current_database() AND wait_event_type = 'Lock'"""
pytestmark = pytest.mark.timeout(900)


@pytest.mark.parametrize(
    "cut", [pytest.param(cut, marks=[pytest.mark.long] * (cut is not hosts.Cut.BOTH)) for cut in hosts.Cut]
)
def test_another_host_counts_on_when_a_workers_line_is_cut(
    settings: Settings, server_dir: Path, cut: hosts.Cut
) -> None:
    """PostgreSQL keeps the locks of a host that says nothing for about half a minute; then others may have them."""

    async def scenario() -> list[str]:
        now, rng = datetime.now(UTC), random.Random(41)
        copies = pipeline.copies_of(rng, oracle.generate(41, 600, now))
        third = len(copies) // 3
        async with AsyncExitStack() as stack:
            first, second = stack.enter_context(hosts.hosts(2))
            nats = await stack.enter_async_context(hosts.OpenNats(server_dir / "nats"))
            database = await stack.enter_async_context(hosts.OpenPostgres(server_dir / "postgres"))
            await postgres.migrate(database.url)
            addresses = {"nats_url": SecretStr(nats.url), "database_url": SecretStr(database.url)}
            here = settings.model_copy(update=addresses | {"partitions": 4, "batch_events_max": 20})
            there = here.model_copy(
                update={
                    name: SecretStr(hosts.seen_from_hosts(url.get_secret_value())) for name, url in addresses.items()
                }
            )
            nc = await stack.enter_async_context(pipeline.stream_of(here))
            workers = [fleet.WorkerProcess(there, until_idle=False, host=host.words) for host in (first, second)]
            for process in workers:
                stack.callback(process.close)

            await pipeline.publish_through_outages(nc, here, copies[:third])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            await wait_until(
                lambda: all("partition-owned" in process.said for process in workers), LIMIT_S, what="both count"
            )
            first.cut(cut)
            await pipeline.publish_through_outages(nc, here, copies[third : 2 * third])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            first.mend(cut)
            said = len(workers[0].said)
            await pipeline.publish_through_outages(nc, here, copies[2 * third :])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            await wait_until(
                lambda: "partition-owned" in workers[0].said[said:], LIMIT_S, what="the first counts again"
            )
            assert [process.poll() for process in workers] == [None, None]
            stored = await pipeline.stored_copies(nc, here, copies)
            found = await verdict.reconciled(database.url)
            broken = [f"reconcile {finding.identity.name}: {finding.total}" for finding in found or () if finding.total]
            return await pipeline.differences(here, stored, now) + broken

    assert run(scenario(), 3 * LIMIT_S) == []


@asynccontextmanager
async def site(settings: Settings, directory: Path) -> AsyncGenerator[tuple[list[hosts.Host], Settings, Client]]:
    """Two hosts with a worker each, the settings of this machine, where the servers run, and a connection."""
    async with AsyncExitStack() as stack:
        made = stack.enter_context(hosts.hosts(2))
        nats = await stack.enter_async_context(hosts.OpenNats(directory / "nats"))
        database = await stack.enter_async_context(hosts.OpenPostgres(directory / "postgres"))
        await postgres.migrate(database.url)
        urls = {"nats_url": nats.url, "database_url": database.url}
        here = settings.model_copy(update={name: SecretStr(url) for name, url in urls.items()} | SMALL_PARTS)
        seen = {name: SecretStr(hosts.seen_from_hosts(url)) for name, url in urls.items()}
        nc = await stack.enter_async_context(pipeline.stream_of(here))
        for host in made:
            process = fleet.WorkerProcess(here.model_copy(update=seen), until_idle=False, host=host.words)
            stack.callback(process.close)
            await wait_until(
                lambda p=process: "partition-owned" in p.said, LIMIT_S, what=f"the worker of {host.name} owns a part"
            )
        yield made, here, nc


@pytest.mark.long
@pytest.mark.parametrize("cut", hosts.Cut)
def test_a_line_that_is_cut_inside_a_transaction_costs_no_event_and_doubles_none(
    settings: Settings, server_dir: Path, cut: hosts.Cut
) -> None:
    """Statements of both workers wait for a lock when the cut comes; then the lock is gone."""
    now, rng = datetime.now(UTC), random.Random(42)
    copies = pipeline.copies_of(rng, oracle.generate(42, 400, now))

    async def scenario() -> list[str]:
        async with site(settings, server_dir) as ((lost, _), here, nc):
            async with pipeline.database(here) as conn, conn.transaction():
                await conn.execute("LOCK TABLE anlyt.metrics_daily IN EXCLUSIVE MODE")
                await pipeline.publish_through_outages(nc, here, copies[:300])
                async with pipeline.database(here) as other:

                    async def both_wait() -> bool:
                        return await other.fetchval(HOSTS_THAT_WAIT) == 2

                    await wait_until(both_wait, LIMIT_S, what="a statement of each host waits")
                lost.cut(cut)
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            lost.mend(cut)
            await pipeline.publish_through_outages(nc, here, copies[300:])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            return await pipeline.differences(here, await pipeline.stored_copies(nc, here, copies), now)

    assert run(scenario(), 3 * LIMIT_S) == []


@pytest.mark.long
def test_exact_over_lines_that_are_cut_and_mended_again_and_again(settings: Settings, server_dir: Path) -> None:
    now, rng = datetime.now(UTC), random.Random(43)
    copies = pipeline.copies_of(rng, oracle.generate(43, 900, now))

    async def scenario() -> list[str]:
        async with site(settings, server_dir) as (both, here, nc):
            for turn in range(CUTS):
                host, cut = rng.choice(both), rng.choice(list(hosts.Cut))
                host.cut(cut)
                before = await pipeline.progress(here)
                await pipeline.publish_through_outages(nc, here, copies[turn::CUTS])
                await wait_until(lambda b=before: further(here, b), LIMIT_S, what="somebody counts")
                host.mend(cut)
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            return await pipeline.differences(here, await pipeline.stored_copies(nc, here, copies), now)

    assert run(scenario(), 3 * LIMIT_S) == []


@pytest.mark.long
def test_exact_over_lines_that_lose_three_of_ten_packets(settings: Settings, server_dir: Path) -> None:
    """Each way and on both lines: slow, and some sessions are given up, but nothing is lost that was acknowledged."""
    now, rng = datetime.now(UTC), random.Random(44)
    copies = pipeline.copies_of(rng, oracle.generate(44, 600, now))

    async def scenario() -> list[str]:
        async with site(settings, server_dir) as (both, here, nc):
            for host in both:
                host.lose(LOST_PERCENT)
            for part in range(LOSSY_PARTS):
                before = await pipeline.progress(here)
                await pipeline.publish_through_outages(nc, here, copies[part :: LOSSY_PARTS + 1])
                await wait_until(lambda b=before: further(here, b), LIMIT_S, what="somebody counts")
            for host in both:
                host.lose_nothing()
            await pipeline.publish_through_outages(nc, here, copies[LOSSY_PARTS :: LOSSY_PARTS + 1])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            return await pipeline.differences(here, await pipeline.stored_copies(nc, here, copies), now)

    assert run(scenario(), 3 * LIMIT_S) == []


async def further(here: Settings, before: float) -> bool:
    """Whether somebody has counted more."""
    return await pipeline.progress(here) > before
