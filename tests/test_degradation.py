"""While something it needs is away, slow or full: the service says so, stays alive, and goes on by itself, exact."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import time
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import nats.js.errors
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

import fleet
import pipeline
from anlyt import jetstream, reports, worker
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedNats
from anlyt.errors import Retry
from anlyt.postgres import session
from anlyt.telemetry import Telemetry
from databases import execute
from serving import service
from support import pause, run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anlyt.embedded import EmbeddedPostgres
    from anlyt.frames import Client
    from anlyt.settings import Settings

LIMIT_S = 90.0  # for everything that is waited for; a busy machine may need much of it
pytestmark = pytest.mark.timeout(400)


@asynccontextmanager
async def working(settings: Settings) -> AsyncGenerator[Telemetry]:
    """A worker in this process, and how it says it is."""
    telemetry, stop = Telemetry(), asyncio.Event()
    telemetry.ready("the worker is starting")
    running = asyncio.create_task(run_worker(settings, telemetry, stop))
    try:
        await wait_until(lambda: says(telemetry, "/readyz") == "ready", LIMIT_S, what="the worker is ready")
        yield telemetry
    finally:
        stop.set()
        await running


async def run_worker(settings: Settings, telemetry: Telemetry, stop: asyncio.Event) -> None:
    """A worker, started again when a busy server had no time for its first connection."""
    while not stop.is_set():
        with suppress(Retry):
            await worker.run(settings, telemetry=telemetry, crash=CrashPoints(), stop=stop)


async def worker_process(settings: Settings) -> fleet.WorkerProcess:
    """A worker process that counts, started again when a busy server had no time for its first connection."""
    while True:
        process = fleet.WorkerProcess(settings, until_idle=False)

        def begun(process: fleet.WorkerProcess = process) -> bool:
            return "partition-owned" in process.said or process.poll() is not None

        await wait_until(begun, LIMIT_S, what="the worker counts")
        if process.poll() is None:
            return process
        assert process.poll() == Retry.exit_code, process.said


def says(telemetry: Telemetry, path: str) -> str:
    """The answer of the metrics port."""
    return b"".join(telemetry.answer(path, lambda *_: None, now_s=time.monotonic())).decode().strip()


async def becomes(telemetry: Telemetry, *, ready: bool) -> str:
    """Wait until the worker is ready, or is not; what it says."""

    def so() -> str | None:
        said = says(telemetry, "/readyz")
        return said if (said == "ready") == ready else None

    return await wait_until(so, LIMIT_S, what=f"ready is {ready}")


def copies(number: int) -> list[pipeline.Copy]:
    """So many submitted messages."""
    bodies = [pipeline.submitted(datetime.now(UTC)) for _ in range(number)]
    return [pipeline.Copy(body, body, {}, str(index)) for index, body in enumerate(bodies)]


async def exact(settings: Settings, stored: list[bytes]) -> list[str]:
    """Wait until all of it is counted; what is not as it should be."""

    async def counted() -> bool:
        async with pipeline.database(settings) as conn:
            return await conn.fetchval("SELECT count(*) FROM anlyt.processed_events") >= len(stored)

    await wait_until(counted, LIMIT_S, what=f"{len(stored)} counted")
    return await pipeline.differences(settings, stored, datetime.now(UTC), totals=False)


# ------------------------------------------------------------------------------------------------------ servers away


def test_a_worker_without_nats_is_alive_and_not_ready_until_it_is_back(settings: Settings, server_dir: Path) -> None:
    async def scenario() -> list[str]:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as server:
            here = settings.model_copy(update={"nats_url": SecretStr(server.url)})
            async with pipeline.stream_of(here) as nc, working(here) as telemetry:
                stored = await pipeline.publish(nc, here, copies(5))
                server.kill()
                assert "cannot count partition" in await becomes(telemetry, ready=False)
                assert says(telemetry, "/livez") == "alive"
                await server.start()
                await becomes(telemetry, ready=True)
                more = copies(5)
                await pipeline.publish_through_outages(nc, here, more)
                return await exact(here, stored + [copy.told for copy in more])

    assert run(scenario(), 300) == []


@pytest.mark.parametrize("refusal", ["ALLOW_CONNECTIONS", "CONNECTION LIMIT"])
def test_a_worker_and_an_api_whom_postgresql_refuses_say_so_until_it_takes_them(
    settings: Settings, postgres_server: EmbeddedPostgres, refusal: str
) -> None:
    """It does not take anybody, or as many sessions as it may have are in use."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    database = url.rpartition("/")[2]
    off, on = {"ALLOW_CONNECTIONS": ("false", "true"), "CONNECTION LIMIT": ("0", "-1")}[refusal]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"  # noqa: S608 - ours

    async def scenario() -> list[str]:
        async with (
            pipeline.stream_of(settings) as nc,
            working(settings) as telemetry,
            service(url, settings=settings) as (client, _),
        ):
            assert (await client.get("/readyz")).status_code == 200
            await execute(postgres_server.admin_url, f"ALTER DATABASE {database} {refusal} {off}")
            await execute(postgres_server.admin_url, end)
            stored = await pipeline.publish(nc, settings, copies(20))
            await becomes(telemetry, ready=False)
            assert says(telemetry, "/livez") == "alive"
            refused = await client.get("/readyz")
            assert (await client.get("/livez")).status_code == 200
            await execute(postgres_server.admin_url, f"ALTER DATABASE {database} {refusal} {on}")
            await becomes(telemetry, ready=True)

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await wait_until(ready, LIMIT_S, what="the API is ready")
            found = await exact(settings, stored)
        assert refused.status_code == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert database not in refused.text
        return found

    assert run(scenario(), 300) == []


def test_a_lock_that_somebody_holds_makes_counting_wait_and_reading_not(settings: Settings) -> None:
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    hasty = settings.model_copy(update={"batch_deadline_s": 3.0})

    async def scenario() -> list[str]:
        async with (
            pipeline.stream_of(settings) as nc,
            working(hasty) as telemetry,
            service(url, settings=settings) as (client, conn),
        ):
            async with conn.transaction():
                await conn.execute("LOCK TABLE anlyt.processed_events IN EXCLUSIVE MODE")
                stored = await pipeline.publish(nc, settings, copies(20))
                await becomes(telemetry, ready=False)
                assert says(telemetry, "/livez") == "alive"
                assert (await client.get("/readyz")).status_code == 200
            # What a hasty worker cannot do in time on a busy machine is tried again; the numbers stay right.
            return await exact(settings, stored)

    assert run(scenario(), 300) == []


# --------------------------------------------------------------------------------------------------- nothing is left


def test_a_worker_without_file_descriptors_goes_on_when_there_are_some(settings: Settings) -> None:
    async def scenario() -> list[str]:
        process = await worker_process(settings)
        try:
            async with pipeline.stream_of(settings) as nc:
                stored = await pipeline.publish(nc, settings, copies(20))
                await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
                _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, hard))
                async with pipeline.database(settings) as conn:
                    await conn.fetch(fleet.END_SESSIONS)
                stored += await pipeline.publish(nc, settings, copies(20))
                await wait_until(lambda: "Too many open files" in process.said, LIMIT_S, what="it finds none")
                resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))
                found = await exact(settings, stored)
                assert process.poll() is None, process.said
                return found
        finally:
            process.close()

    assert run(scenario(), 300) == []


def test_a_worker_that_gets_a_tenth_of_its_turns_counts_on_exactly(settings: Settings) -> None:
    """Stopped for 90 ms of every 100, as on a machine that is far too small: slow, and nothing else."""

    async def starve(process: fleet.WorkerProcess) -> None:
        while True:
            process.send(signal.SIGSTOP)
            await pause(0.09)
            process.send(signal.SIGCONT)
            await pause(0.01)

    async def scenario() -> list[str]:
        process = await worker_process(settings.model_copy(update={"batch_events_max": 20}))
        starving = asyncio.create_task(starve(process))
        try:
            async with pipeline.stream_of(settings) as nc:
                stored = await pipeline.publish(nc, settings, copies(200))
                found = await exact(settings, stored)
                assert process.poll() is None, process.said
                return found
        finally:
            starving.cancel()
            process.send(signal.SIGCONT)
            process.close()

    assert run(scenario(), 300) == []


def test_a_stream_that_is_full_refuses_its_publishers_and_is_counted_to_the_end(settings: Settings) -> None:
    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc, working(settings) as telemetry:
            limits = (await jetstream.stream_info(nc, settings.stream)).config
            await jetstream.request(nc, f"STREAM.UPDATE.{settings.stream}", limits | {"max_bytes": 65_536})
            stored = list[bytes]()
            with pytest.raises(nats.js.errors.APIError, match="maximum bytes exceeded"):
                await publish_one_by_one(nc, settings, stored)
            await jetstream.request(nc, f"STREAM.UPDATE.{settings.stream}", limits)
            stored += await pipeline.publish(nc, settings, copies(5))
            assert says(telemetry, "/livez") == "alive"
            return await exact(settings, stored)

    assert run(scenario(), 300) == []


async def publish_one_by_one(nc: Client, settings: Settings, stored: list[bytes]) -> None:
    for copy in copies(1_000):
        await nc.jetstream(timeout=30).publish(settings.subjects.replace(">", "any"), copy.body)
        stored.append(copy.told)


# -------------------------------------------------------------------------------------------------------------- alarms


def test_ids_that_stand_for_events_of_two_types_are_told_in_one_batch_and_in_two(settings: Settings) -> None:
    """The first is counted; a copy of the same type is no conflict."""
    now = datetime.now(UTC)
    first = pipeline.submitted(now, event_id="twice")
    other = json.dumps(
        json.loads(first)
        | {
            "type": "message.failed",
            "data": {"messageId": "m", "accountId": pipeline.ACCOUNT, "submittedAt": now.isoformat()},
        }
    ).encode()

    async def scenario() -> tuple[list[dict[str, Any]], float, list[str]]:
        telemetry = Telemetry()
        async with pipeline.stream_of(settings) as nc:
            stored = list[bytes]()
            with capture_logs() as log:
                for bodies in ([first, first, other], [other, first]):
                    stored += await pipeline.publish(
                        nc, settings, [pipeline.Copy(each, each, {}, "") for each in bodies]
                    )
                    await worker.run(
                        settings, telemetry=telemetry, crash=CrashPoints(), stop=asyncio.Event(), until_idle=True
                    )
        told = [dict(line) for line in log if line["event"] == "id-conflicts"]
        total = telemetry.registry.get_sample_value("anlyt_id_conflicts_total") or 0.0
        return told, total, await pipeline.differences(settings, stored, now)

    told, total, found = run(scenario())

    assert found == []
    assert total == 2
    assert [(line["copies"], line["event_id"]) for line in told] == [(1, "twice /gateway/1")] * 2


def test_how_many_accounts_have_numbers_of_today_and_yesterday_is_known(settings: Settings) -> None:
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    fill = """
        INSERT INTO anlyt.account_usage_daily (day_bucket, account_id)
        SELECT date_trunc('day', now(), 'UTC') - make_interval(days => ago), gen_random_uuid()
        FROM unnest('{0, 0, 0, 1, 1, 2}'::INTEGER[]) AS ago"""

    async def scenario() -> dict[str, int]:
        async with session(url, application="test") as conn:
            await conn.execute(fill)
            return (await reports.read_totals(conn, settings=settings)).accounts

    # The second if midnight (UTC) comes in between.
    assert run(scenario()) in ({"today": 3, "yesterday": 2}, {"today": 0, "yesterday": 3})
