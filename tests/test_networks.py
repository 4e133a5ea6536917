"""Workers on hosts of their own, one of which is cut off: the others take over, and nothing is counted twice."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
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
    from pathlib import Path

    from anlyt.settings import Settings

LIMIT_S = 240
pytestmark = [pytest.mark.timeout(900), pytest.mark.long]


@pytest.mark.parametrize("cut", hosts.Cut)
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
