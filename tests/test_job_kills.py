"""Each job killed again and again, at named lines and at any moment: the run after leaves what one whole run would."""

from __future__ import annotations

import random
import subprocess
import sys
import uuid
from collections import defaultdict
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from anlyt import jobs
from anlyt.crash import CrashPoints
from anlyt.postgres import PARTITIONED_TABLES, ensure_partitions, session, sql
from anlyt.rollup import latency_bucket, latency_value
from support import run, wait_until
from test_jobs import add_samples, nearest_rank, read_p95
from test_retention import DAY, NOW, OLD, TODAY, add_hour, list_partitions, named

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Connection

KILLS_SHORT, KILLS_LONG = 2, 50
ROUNDS_MAX: Final = 20  # for each kill that is wanted
KILLS_MAX: Final = 3  # in a row, before the job may end
MOMENT_MAX_S: Final = 0.2  # after its start, for kills at any moment
HOUR: Final = timedelta(hours=1)
RUN_JOB: Final = """
import asyncio, sys
from anlyt import jobs
from anlyt.crash import CrashPoints
jobs.SEGMENTS_MAX, jobs.PURGE_ROWS_MAX = 7, 20
print("ready", flush=True)
asyncio.run(jobs.run_job(sys.argv[1], sys.argv[2], CrashPoints.parse(sys.argv[3])))
"""

State = defaultdict[Any, Any]


def run_and_kill(url: str, job: str, rng: random.Random) -> bool:
    """Run the job in a process of its own that dies at a named line, or at some moment; whether it died."""
    armed = rng.random() < 0.5
    words = [url, job, f"*={rng.choice((0.05, 0.3, 1))}" if armed else ""]
    command = [sys.executable, "-c", RUN_JOB, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        if not armed:
            with suppress(subprocess.TimeoutExpired):
                child.wait(rng.random() * MOMENT_MAX_S)
            child.kill()
        said = child.communicate(timeout=30)[1]
    assert child.returncode in {0, -9}, said
    return child.returncode == -9


async def leave_samples(conn: Connection, rng: random.Random, state: State) -> None:
    """Segments of some hours and operators, as batches leave them."""
    await ensure_partitions(conn, [TODAY])
    for _ in range(rng.randrange(5, 25)):
        place = TODAY + rng.randrange(3) * HOUR, uuid.UUID(int=rng.randrange(3))
        samples = [rng.randrange(5_000) for _ in range(rng.randrange(1, 40))]
        state[place] = [*(state[place] or []), *samples]
        await add_samples(conn, samples, hour=place[0], operator=place[1])


async def check_samples(conn: Connection, state: State) -> None:
    for (hour, operator), samples in state.items():
        rows = await conn.fetch(
            "SELECT segment, sample_counts FROM anlyt.latency_histograms WHERE hour_bucket = $1 AND operator_id = $2",
            hour,
            operator,
        )
        assert [(0, len(samples))] == [(row["segment"], sum(row["sample_counts"])) for row in rows]
        assert latency_value(latency_bucket(nearest_rank(samples))) == await read_p95(conn, hour, operator)
    for table in ("latency_days", "latency_weeks"):
        rows = await conn.fetch(f"SELECT sample_counts FROM anlyt.{table}")  # noqa: S608 - one of two
        assert sum(map(len, state.values())) == sum(sum(row["sample_counts"]) for row in rows)


async def leave_ids(conn: Connection, rng: random.Random, state: State) -> None:
    """Ids and seconds on both sides of their horizons, and letters of some of the events."""
    await conn.execute(
        "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at, complete_through)"
        " VALUES ('S', 0, 1, now(), now()) ON CONFLICT DO NOTHING"
    )
    for _ in range(rng.randrange(20, 90)):
        key, old = f"{rng.getrandbits(64)} /test", rng.random() < 0.7
        if not old:
            state[key] = True
        await conn.execute(
            "INSERT INTO anlyt.processed_events VALUES ($1, 'x', now() - $2::INTERVAL)", key, (49 if old else 47) * HOUR
        )
        await conn.execute(
            "INSERT INTO anlyt.second_counts VALUES (now() - $2::INTERVAL, 'ACCOUNT', $1, 1, now() - $2::INTERVAL)",
            key,
            (7 if old else 5) * HOUR,
        )
        if rng.random() < 0.1:
            await conn.execute(
                "INSERT INTO anlyt.dead_letters (stream, sequence, batch_index, published_at, reason, detail, subject,"
                " headers, body, event_id) VALUES ('S', $1, 0, now(), 'stale', 'x', 's', '{}', '', $2)",
                rng.getrandbits(40),
                key,
            )


async def check_ids(conn: Connection, state: State) -> None:
    for query in ("SELECT event_id FROM anlyt.processed_events", "SELECT scope_id FROM anlyt.second_counts"):
        assert {row[0] for row in await conn.fetch(query)} == state.keys()
    for row in await conn.fetch("SELECT event_id, resolution FROM anlyt.dead_letters"):
        assert row["resolution"] == (None if row["event_id"] in state else "duplicate")


async def leave_months(conn: Connection, rng: random.Random, state: State) -> None:
    """Months and days on both sides of their retention."""
    old = [OLD - n * 31 * DAY for n in range(rng.randrange(1, 4))]
    await ensure_partitions(conn, [*old, NOW])
    for n in range(rng.randrange(1, 30)):
        state["hours"] = (state["hours"] or 0) + 1
        await add_hour(conn, NOW, who=f"{state['hours']}")
        await add_hour(conn, rng.choice(old), who=f"old {state['hours']}")
        for day in (TODAY - 400 * DAY, TODAY - 3 * DAY):
            for table, who in (("metrics_daily", "'ACCOUNT', gen_random_uuid()"), ("account_usage_daily", "$2::UUID")):
                values = (day,) if table == "metrics_daily" else (day, uuid.UUID(int=state["hours"] * 100 + n))
                await conn.execute(f"INSERT INTO anlyt.{table} VALUES ($1, {who})", *values)  # noqa: S608 - our own tables


async def check_months(conn: Connection, state: State) -> None:
    assert await list_partitions(conn) == dict.fromkeys(named(NOW), "attached")
    assert await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly") == state["hours"]
    for table in ("metrics_daily", "account_usage_daily"):
        days = await conn.fetch(f"SELECT day_bucket, count(*) FROM anlyt.{table} GROUP BY 1")  # noqa: S608 - our own tables
        assert [tuple(row) for row in days] == [(TODAY - 3 * DAY, state["hours"])]


async def leave_gaps(conn: Connection, rng: random.Random, _state: State) -> None:
    """Some of the months ahead are missing."""
    for table in sorted(await list_partitions(conn)):
        if rng.random() < 0.5:
            await conn.execute(f"DROP TABLE anlyt.{table}")


async def check_gaps(conn: Connection, _state: State) -> None:
    months = jobs.months_ahead(datetime.now(UTC))
    assert await list_partitions(conn) == dict.fromkeys(named(*months), "attached")
    assert len(months) * len(PARTITIONED_TABLES) == len(await list_partitions(conn))


WORK: Final[dict[str, tuple[Callable[..., Awaitable[None]], Callable[..., Awaitable[None]]]]] = {
    "percentiles": (leave_samples, check_samples),
    "purge": (leave_ids, check_ids),
    "retention": (leave_months, check_months),
    "partitions": (leave_gaps, check_gaps),
}


def kill_and_check(url: str, job: str, *, kills: int, seed: int) -> int:
    """Rounds of work that is left, kills, and a whole run, until the job died so often; how often it did.

    A quick job may end before it is killed: such a run is checked like the others, and does not count.
    """
    rng = random.Random(seed)
    state: State = defaultdict(lambda: None)
    leave, check = WORK[job]
    deaths = 0

    async def prepare() -> None:
        async with session(url, application="test") as conn:
            await leave(conn, rng, state)

    async def finish() -> None:
        async with session(url, application="test") as conn:
            await wait_until(lambda: conn.fetchval(sql("jobs/lock_job"), job), what="the dead runner's lock is free")
            await conn.execute("SELECT pg_advisory_unlock_all()")
            await jobs.run_job(url, job, CrashPoints())
            await check(conn, state)

    for _ in range(ROUNDS_MAX * kills):
        run(prepare())
        for _ in range(rng.randint(1, KILLS_MAX)):
            deaths += run_and_kill(url, job, rng)
        run(finish())
        if deaths >= kills:
            break
    return deaths


@pytest.mark.parametrize("job", WORK)
def test_a_job_killed_at_some_moments_is_finished_by_the_next_run(database_url: str, job: str) -> None:
    assert kill_and_check(database_url, job, kills=KILLS_SHORT, seed=3) >= KILLS_SHORT


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("job", WORK)
def test_a_job_killed_at_fifty_moments_is_finished_by_the_next_run(database_url: str, job: str) -> None:
    assert kill_and_check(database_url, job, kills=KILLS_LONG, seed=4) >= KILLS_LONG
