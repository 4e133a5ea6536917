"""What a PostgreSQL of one's own can do to the count: lose sessions, restart, refuse writes, run full, jump in time.

After each the tables are what the oracle says, and nothing has become a dead letter that was not one before.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import pytest
from pydantic import SecretStr

import debian
import fleet
import nursery
import oracle
import pipeline
import power
from anlyt import jetstream, jobs, keeper, postgres
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedPostgres
from anlyt.errors import Retry
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from anlyt.frames import Client
    from anlyt.settings import Settings

LIMIT_S = 120.0  # for everything that is waited for; a busy machine may need much of it
DAY_S = 86_400
SMALL = {"fsync": "off", "shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "128MB"}
SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'anlyt-worker%'"
SESSIONS_MAX = 20  # of two workers with two partitions
BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'anlyt-worker' ORDER BY random() LIMIT 1"
pytestmark = pytest.mark.timeout(600)


@asynccontextmanager
async def own_server(settings: Settings, directory: Path) -> AsyncGenerator[tuple[EmbeddedPostgres, Settings, Client]]:
    """A PostgreSQL that may be hurt, and a stream; nobody counts yet."""
    async with EmbeddedPostgres(directory / "postgres", settings=SMALL) as server:
        await postgres.migrate(server.url)
        small = {"database_url": SecretStr(server.url), "partitions": 2, "batch_events_max": 20}
        here = settings.model_copy(update=small)
        async with pipeline.stream_of(here) as nc:
            yield server, here, nc


def traffic(seed: int, events: int = 600) -> list[pipeline.Copy]:
    """Copies to publish, good and bad, most of them once."""
    return pipeline.copies_of(random.Random(seed), oracle.generate(seed, events, datetime.now(UTC)), most=2)


async def admin(server: EmbeddedPostgres, *statements: str) -> None:
    """Run statements as the superuser in the database that is counted into, each in a transaction of its own."""
    conn = await asyncpg.connect(server.admin_url.removesuffix("/postgres") + "/anlyt")
    try:
        for statement in statements:
            await conn.execute(statement)
    finally:
        await conn.close()


async def further(settings: Settings, before: float) -> bool:
    """Whether more is counted than before."""
    return await pipeline.progress(settings) > before


# ------------------------------------------------------------------------------------------------ sessions and restarts


def test_a_backend_that_is_killed_takes_every_session_with_it_and_the_count_goes_on(
    settings: Settings, server_dir: Path
) -> None:
    """PostgreSQL ends all sessions then, and recovers as after a crash."""
    copies = traffic(51)

    async def scenario() -> list[str]:
        async with own_server(settings, server_dir) as (_, here, nc), pipeline.counting(here, workers=2):
            stored: list[bytes] = []
            for part in range(4):
                before = await pipeline.progress(here)
                stored += await pipeline.publish(nc, here, copies[part::4])
                await wait_until(lambda b=before: further(here, b), LIMIT_S, what="somebody counts")
                os.kill(await wait_until(lambda: a_backend(here), LIMIT_S, what="a worker's session"), signal.SIGKILL)
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            assert "was terminated by signal 9" in (server_dir / "postgres" / "log").read_text(encoding="utf-8")
            return await pipeline.differences(here, stored, datetime.now(UTC))

    assert run(scenario(), 4 * LIMIT_S) == []


async def a_backend(settings: Settings) -> int | None:
    """The process of some session of a worker; None while there is none."""
    assert settings.database_url is not None
    try:
        async with postgres.session(settings.database_url.get_secret_value(), application="test") as conn:
            return await conn.fetchval(BACKEND)
    except Retry:
        return None


@pytest.mark.parametrize("restarts", [3, pytest.param(20, marks=pytest.mark.long)])
def test_exact_over_restarts_that_end_sessions_at_once_and_no_session_is_left_over(
    settings: Settings, server_dir: Path, restarts: int
) -> None:
    copies = traffic(52)

    async def scenario() -> list[str]:
        async with own_server(settings, server_dir) as (server, here, nc), pipeline.counting(here, workers=2):
            stored: list[bytes] = []
            for part in range(restarts):
                before = await pipeline.progress(here)
                stored += await pipeline.publish(nc, here, copies[part::restarts])
                await wait_until(lambda b=before: further(here, b), LIMIT_S, what="somebody counts")
                server.kill()
                await server.start()
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            async with pipeline.database(here) as conn:
                assert 0 < await conn.fetchval(SESSIONS) <= SESSIONS_MAX
            return await pipeline.differences(here, stored, datetime.now(UTC))

    assert run(scenario(), 4 * LIMIT_S) == []


def test_a_server_that_stops_taking_writes_is_left_and_counted_into_when_it_takes_them(
    settings: Settings, server_dir: Path
) -> None:
    """A primary that becomes a standby refuses (25006) in sessions that are open, too."""
    copies = traffic(53)

    async def scenario() -> list[str]:
        async with own_server(settings, server_dir) as (server, here, nc), pipeline.counting(here, workers=2):
            stored = await pipeline.publish(nc, here, copies[:300])
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            await admin(server, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            stored += await pipeline.publish(nc, here, copies[300:])
            await wait_until(lambda: refused(server_dir), LIMIT_S, what="a write is refused")
            undone = ("SET default_transaction_read_only = off", "ALTER SYSTEM RESET default_transaction_read_only")
            await admin(server, *undone, "SELECT pg_reload_conf()")
            await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            return await pipeline.differences(here, stored, datetime.now(UTC))

    assert run(scenario(), 4 * LIMIT_S) == []


def refused(directory: Path) -> bool:
    """Whether PostgreSQL has refused a write."""
    return "in a read-only transaction" in (directory / "postgres" / "log").read_text(encoding="utf-8")


def test_a_job_whose_session_is_ended_in_the_middle_stops_and_the_next_runner_finishes(database_url: str) -> None:
    """Its lock is gone with the session, so nobody waits for a runner that is not there."""
    waiting = "SELECT pid FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"

    async def scenario() -> None:
        async with postgres.session(database_url, application="test") as conn:
            async with conn.transaction():
                await conn.execute("LOCK TABLE anlyt.processed_events IN ACCESS EXCLUSIVE MODE")
                first = asyncio.create_task(jobs.run_job(database_url, "purge", CrashPoints()))
                async with postgres.session(database_url, application="other") as other:
                    pid = await wait_until(
                        lambda: other.fetchval(waiting, "anlyt-job-purge"), LIMIT_S, what="the job is at work"
                    )
                    assert await jobs.run_job(database_url, "purge", CrashPoints()) == {
                        "skipped": "someone else runs it"
                    }
                    await other.execute("SELECT pg_terminate_backend($1)", pid)
                    with pytest.raises(Retry):
                        await first
            done = await jobs.run_job(database_url, "purge", CrashPoints())
            assert done == {"events_purged": 0, "changes_purged": 0, "seconds_purged": 0}
            outcomes = await conn.fetch("SELECT outcome FROM anlyt.job_runs WHERE job = 'purge' ORDER BY started_at")
            assert [row["outcome"] for row in outcomes] == [None, "ok"]

    run(scenario(), 2 * LIMIT_S)


# --------------------------------------------------------------------------------------------------------- dead letters


REFUSE = """
    CREATE FUNCTION anlyt.refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'no room for letters' USING ERRCODE = 'disk_full'; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON anlyt.dead_letters FOR EACH ROW EXECUTE FUNCTION anlyt.refuse()"""


def test_nothing_of_a_batch_counts_whose_dead_letters_cannot_be_written(settings: Settings) -> None:
    """A bad event that is neither counted nor kept would be lost: its batch waits, position and all."""
    settings = settings.model_copy(update={"partitions": 1})
    good, bad = pipeline.submitted(datetime.now(UTC)), b"{"
    copies = [pipeline.Copy(body, body, {}, str(index)) for index, body in enumerate((good, bad))]

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc, pipeline.database(settings) as conn:
            await conn.execute(REFUSE)
            stored = await pipeline.publish(nc, settings, copies)
            process = fleet.WorkerProcess(settings, until_idle=False)
            try:
                await wait_until(lambda: "no room for letters" in process.said, LIMIT_S, what="it cannot be kept")
                assert await conn.fetchval("SELECT count(*) FROM anlyt.processed_events") == 0
                assert await conn.fetchval("SELECT max(last_seq) FROM anlyt.stream_positions") == 0
                await conn.execute("DROP FUNCTION anlyt.refuse() CASCADE")
                await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
                assert process.poll() is None, process.said
            finally:
                process.close()
            return await pipeline.differences(settings, stored, datetime.now(UTC))

    assert run(scenario(), 3 * LIMIT_S) == []


# ---------------------------------------------------------------------------------------------------- room and the time


@pytest.mark.long
def test_a_table_without_room_stops_the_count_and_room_lets_it_go_on_exactly(
    settings: Settings, server_dir: Path
) -> None:
    """The disk of the tables is full (53100), the one of the write-ahead log is not: PostgreSQL stays up."""
    copies = traffic(54, 3_000)

    async def scenario() -> list[str]:
        async with own_server(settings, server_dir) as (server, here, nc):
            place = server_dir / "small" / "space"
            place.mkdir(mode=0o700)
            owner = (server_dir / "postgres" / "data").stat()
            os.chown(place, owner.st_uid, owner.st_gid)
            await admin(
                server,
                f"CREATE TABLESPACE small LOCATION '{place}'",
                "ALTER TABLE anlyt.processed_events SET TABLESPACE small",
                "ALTER TABLE anlyt.dead_letters SET TABLESPACE small",
            )
            power.fill(server_dir / "small" / "filler")
            stored = await pipeline.publish(nc, here, copies)
            async with pipeline.counting(here, workers=2):
                await wait_until(lambda: no_room(server_dir), LIMIT_S, what="PostgreSQL finds no room")
                power.grow(server_dir / "small", "200m")
                await pipeline.all_counted(nc, here, limit_s=LIMIT_S)
            return await pipeline.differences(here, stored, datetime.now(UTC))

    with power.small_disk(server_dir / "small", "1m"):
        assert run(scenario(), 4 * LIMIT_S) == []


def no_room(directory: Path) -> bool:
    """Whether PostgreSQL said so, and still runs."""
    said = (directory / "postgres" / "log").read_text(encoding="utf-8")
    assert "PANIC" not in said
    return "No space left on device" in said


@pytest.mark.long
def test_a_clock_of_postgresql_days_ahead_forgets_no_id_that_may_still_be_met(
    settings: Settings, server_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What may go is measured from what was published and counted, not from the clock of the server alone."""
    debian.need("faketime", nursery.clock_can_be_off)
    copies = traffic(55)

    async def scenario() -> list[str]:
        async with own_server(settings, server_dir) as (server, here, nc):
            stored = await pipeline.publish(nc, here, copies)
            await pipeline.count(here)
            await server.stop()
            monkeypatch.setattr(keeper, "ENVIRONMENT", keeper.ENVIRONMENT | nursery.clock_off(3 * DAY_S))
            await server.start()
            async with pipeline.database(here) as conn:
                ahead = await conn.fetchval("SELECT now()") - datetime.now(UTC)
                assert ahead > timedelta(days=2)
            purged = await jobs.run_job(server.url, "purge", CrashPoints())
            assert purged["events_purged"] == 0
            again = await pipeline.publish(nc, here, copies)
            await pipeline.count(here)
            assert (await jobs.run_job(server.url, "purge", CrashPoints()))["events_purged"] == 0
            assert (await jetstream.stream_info(nc, here.stream)).last_seq == len(stored) + len(again)
            return await pipeline.differences(here, stored + again, datetime.now(UTC))

    assert run(scenario(), 3 * LIMIT_S) == []
