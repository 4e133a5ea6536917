"""The archive killed at any step, and its owner too: the next run ends with exactly the rows of PostgreSQL."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from anlyt import chdb_owner, jobs
from anlyt.crash import CRASH_POINTS, CrashPoints
from anlyt.postgres import session, sql
from archives import DAY, archive_directory, archive_in, assert_same_rows
from support import run, wait_until
from test_archive import TODAY, UUIDS, add_day

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncpg import Connection

    from anlyt.clickhouse import ClickHouse

POINTS = [point for point in CRASH_POINTS if point.startswith("job-archive-")]
ROUNDS_SHORT, ROUNDS_LONG = 4, 50
RUN_JOB = """
import asyncio, sys
import msgspec
from anlyt import archive, jobs
from anlyt.clickhouse import ClickHouse
from anlyt.crash import CrashPoints
archive.PIECE_BYTES_MAX = 200
clickhouse = ClickHouse(sys.argv[2])
clickhouse.address = msgspec.structs.replace(clickhouse.address, database=sys.argv[3])
asyncio.run(jobs.run_job(sys.argv[1], "archive", CrashPoints.parse(sys.argv[4]), clickhouse=clickhouse))
"""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with archive_directory() as path:
        yield path


@pytest.fixture
def clickhouse(directory: Path) -> Iterator[ClickHouse]:
    made = archive_in(directory)
    yield made
    run(made.close())


def copy_and_die(url: str, clickhouse: ClickHouse, points: str) -> tuple[int, str]:
    """Run the job in a process of its own; its exit code and what it said."""
    words = [url, f"chdb://{clickhouse.address.directory}", clickhouse.address.database, points]
    done = subprocess.run(
        [sys.executable, "-c", RUN_JOB, *words], check=False, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stderr


async def copy_after(conn: Connection, url: str, clickhouse: ClickHouse) -> None:
    await wait_until(lambda: conn.fetchval(sql("jobs/lock_job"), "archive"), what="the dead runner's lock is free")
    await conn.execute("SELECT pg_advisory_unlock_all()")
    await jobs.run_job(url, "archive", CrashPoints(), clickhouse=clickhouse)
    await assert_same_rows(conn, clickhouse)
    again = await jobs.run_job(url, "archive", CrashPoints(), clickhouse=clickhouse)
    assert not any(again.values())


async def change(conn: Connection, rng: random.Random) -> None:
    """New days, changed rows, rows that go: what happens between two nights."""
    day = TODAY - rng.randrange(1, 70) * DAY
    if not await conn.fetchval("SELECT count(*) FROM anlyt.metrics_daily WHERE day_bucket = $1", day):
        await add_day(conn, day, ids=rng.randrange(1, 6))
    for table, share in (("metrics_daily", 0.3), ("metrics_hourly", 0.2), ("operator_performance", 0.2)):
        await conn.execute(
            f"UPDATE anlyt.{table} SET failed_messages = failed_messages - 1, updated_at = clock_timestamp()"  # noqa: S608 - our tables
            f" WHERE random() < {share}"
        )
    # Not the last row of a day: such a day stays in the archive.
    await conn.execute("DELETE FROM anlyt.account_usage_daily WHERE random() < 0.05 AND account_id <> $1", UUIDS[0])


@pytest.mark.parametrize("point", POINTS)
def test_a_run_killed_at_this_step_is_finished_by_the_next(
    database_url: str, clickhouse: ClickHouse, point: str
) -> None:
    async def prepare() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - 40 * DAY)
            await jobs.run_job(database_url, "archive", CrashPoints(), clickhouse=clickhouse)
            await add_day(conn, TODAY - 39 * DAY)
            await conn.execute("UPDATE anlyt.metrics_daily SET failed_messages = failed_messages + 1")

    async def finish() -> None:
        async with session(database_url, application="test") as conn:
            await copy_after(conn, database_url, clickhouse)

    run(prepare())
    assert copy_and_die(database_url, clickhouse, f"{point}=1") == (-signal.SIGKILL, f"crash point {point}\n")
    run(finish())


@pytest.mark.parametrize("rounds", [ROUNDS_SHORT, pytest.param(ROUNDS_LONG, marks=pytest.mark.long)])
@pytest.mark.timeout(900)
def test_killed_at_random_with_its_owner_or_without_it_ends_equal_every_time(
    database_url: str, clickhouse: ClickHouse, rounds: int
) -> None:
    rng = random.Random(rounds)
    killed = 0

    async def before() -> None:
        async with session(database_url, application="test") as conn:
            await change(conn, rng)

    async def after() -> None:
        async with session(database_url, application="test") as conn:
            await copy_after(conn, database_url, clickhouse)

    for number in range(10 * rounds):
        run(before())
        code, said = copy_and_die(database_url, clickhouse, "*=0.05")
        assert code in {0, -signal.SIGKILL}, said
        killed += code != 0
        assert clickhouse.address.directory is not None
        owner = chdb_owner.find(clickhouse.address.directory)
        if owner is not None and number % 3 == 0:
            os.kill(owner.pid, signal.SIGKILL)
        run(after())
        if killed == rounds:
            break

    assert killed == rounds
