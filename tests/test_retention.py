"""Retention: months and days leave when all of them is past, no writer waits, and what was cut short is finished."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import asyncpg
import pytest

from anlyt import jobs
from anlyt.crash import CrashPoints
from anlyt.errors import DatabaseUnavailable
from anlyt.postgres import PARTITIONED_TABLES, ensure_partitions, session
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg import Connection

    Isolation = Literal["read_committed", "repeatable_read"]

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
OLD = NOW - 130 * DAY  # all of its month is past
NOT_ARMED = CrashPoints()


def month_of(moment: datetime) -> str:
    return moment.strftime("y%Ym%m")


async def add_hour(conn: Connection, hour: datetime, *, who: str = "x") -> None:
    await conn.execute(
        "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, 'OPERATOR', $2)",
        hour.replace(minute=0, second=0, microsecond=0),
        who,
    )


async def list_partitions(conn: Connection) -> dict[str, str]:
    """Every monthly table, and whether it is attached, detaching or a table of its own."""
    rows = await conn.fetch(
        "SELECT relname, CASE WHEN inhrelid IS NULL THEN 'own' WHEN inhdetachpending THEN 'detaching' ELSE 'attached'"
        " END AS state FROM pg_class LEFT JOIN pg_inherits ON inhrelid = oid"
        " WHERE relnamespace = 'anlyt'::REGNAMESPACE AND relkind = 'r' AND relname ~ '_y[0-9]{4}m[0-9]{2}$'"
    )
    return {row["relname"]: row["state"] for row in rows}


def named(*moments: datetime) -> set[str]:
    return {f"{table}_{month_of(moment)}" for table in PARTITIONED_TABLES for moment in moments}


async def retain(url: str) -> dict[str, int]:
    return await jobs.run_job(url, "retention", NOT_ARMED)


@asynccontextmanager
async def writing(url: str, hour: datetime, *, isolation: Isolation = "read_committed") -> AsyncGenerator[None]:
    """A worker in the middle of a batch, for the length of the block; or somebody with a snapshot of that time."""
    async with session(url, application="worker") as conn, conn.transaction(isolation=isolation):
        await add_hour(conn, hour, who="writing")
        yield


# --------------------------------------------------------------------------------------------------------------- months


@pytest.mark.parametrize(
    ("month", "leaves"),
    [
        (datetime(2026, 8, 1, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)),
        (datetime(2025, 12, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)),
        (datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 5, 30, tzinfo=UTC)),
    ],
    ids=["thirty-one days", "the last of the year", "a leap year's February"],
)
def test_a_month_leaves_ninety_days_after_its_last_moment(month: datetime, leaves: datetime) -> None:
    assert jobs.first_month_to_stay(leaves - timedelta(microseconds=1)) == month
    assert jobs.first_month_to_stay(leaves) > month


def test_months_that_are_past_leave_all_tables_and_the_others_stay_with_their_rows(database_url: str) -> None:
    kept = [NOW - n * DAY for n in (0, 30, 60, 89)]

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [OLD, OLD - 40 * DAY, *kept])
            for moment in (OLD, *kept):
                await add_hour(conn, moment)

            assert await retain(database_url) == {"partitions_dropped": 6, "days_deleted": 0}
            assert await list_partitions(conn) == dict.fromkeys(named(*kept), "attached")
            assert await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly") == len(kept)
            assert await retain(database_url) == {"partitions_dropped": 0, "days_deleted": 0}

    run(scenario())


def test_a_month_made_for_a_backfill_inside_ninety_days_stays(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [NOW - 90 * DAY + timedelta(minutes=1)])

            assert (await retain(database_url))["partitions_dropped"] == 0
            assert len(await list_partitions(conn)) == len(PARTITIONED_TABLES)

    run(scenario())


@pytest.mark.parametrize(
    ("lags", "dropped"),
    [([0, 1], 3), ([0, 60], 0), ([0, None], 0), ([], 3)],
    ids=["up to date", "a slot 60 days behind", "a slot never read", "no stream yet"],
)
def test_behind_a_backlog_no_month_leaves_that_may_still_be_added_to(
    database_url: str, lags: list[int | None], dropped: int
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [OLD])
            for slot, lag in enumerate(lags):
                await conn.execute(
                    "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at, complete_through)"
                    " VALUES ('S', $1, 1, now(), now() - $2::INTERVAL)",
                    slot,
                    None if lag is None else lag * DAY,
                )

            assert (await retain(database_url))["partitions_dropped"] == dropped

    run(scenario())


@pytest.mark.parametrize("isolation", ["read_committed", "repeatable_read"])
def test_no_writer_waits_while_a_month_leaves_behind_an_open_transaction(
    database_url: str, monkeypatch: pytest.MonkeyPatch, isolation: Isolation
) -> None:
    """An old snapshot makes the job give up after its limit, with a detach half done that the next run finishes."""
    monkeypatch.setattr(jobs, "STEP_LOCK_TIMEOUT_S", 1.5)
    monkeypatch.setattr(jobs, "STEP_ATTEMPTS_MAX", 2)
    monkeypatch.setattr(jobs, "STEP_RETRY_S", 0.05)

    async def write(conn: Connection, running: asyncio.Task[dict[str, int]]) -> int:
        """Write until the job ends; whoever stood in the queue behind it would wait as long as it does, and fails."""
        await conn.execute("SET lock_timeout = '1s'")
        written = 0
        while not running.done():
            await add_hour(conn, NOW, who=f"w{written}")
            await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly")
            written += 1
        return written

    async def scenario() -> None:
        async with (
            session(database_url, application="test") as conn,
            session(database_url, application="worker") as worker,
        ):
            await ensure_partitions(conn, [OLD, NOW])
            async with writing(database_url, NOW, isolation=isolation):
                running = asyncio.create_task(retain(database_url))
                written = await write(worker, running)
                if isolation == "repeatable_read":
                    with pytest.raises(DatabaseUnavailable, match="lock timeout"):
                        await running
                    assert await is_detaching(conn)
                else:
                    assert (await running)["partitions_dropped"] == len(PARTITIONED_TABLES)
            await retain(database_url)

            assert await list_partitions(conn) == dict.fromkeys(named(NOW), "attached")
            assert await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly") == written + 1

    run(scenario())


def test_the_job_waits_for_a_short_transaction_and_then_goes_on_by_itself(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [OLD, NOW])
            async with writing(database_url, NOW):
                running = asyncio.create_task(retain(database_url))
                await wait_until(lambda: is_detaching(conn), what="the detach waits for the writer")

            assert (await running)["partitions_dropped"] == len(PARTITIONED_TABLES)

    run(scenario())


async def is_detaching(conn: Connection) -> bool:
    return "detaching" in (await list_partitions(conn)).values()


async def leave_detaching(url: str, conn: Connection) -> None:
    """A DETACH CONCURRENTLY that was interrupted half way, as a killed runner leaves it."""
    table = f"anlyt.metrics_hourly_{month_of(OLD)}"
    async with writing(url, NOW), session(url, application="killed") as killed:
        await killed.execute("SET lock_timeout = '50ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await killed.execute(f"ALTER TABLE anlyt.metrics_hourly DETACH PARTITION {table} CONCURRENTLY")
    assert await is_detaching(conn)


def test_an_interrupted_detach_is_finished_by_the_next_run(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [OLD, NOW])
            await leave_detaching(database_url, conn)

            assert (await retain(database_url))["partitions_dropped"] == len(PARTITIONED_TABLES)
            assert await list_partitions(conn) == dict.fromkeys(named(NOW), "attached")

    run(scenario())


@pytest.mark.parametrize("how_far", ["detaching", "detached"])
def test_a_row_for_a_month_on_its_way_out_brings_the_month_back_whole(database_url: str, how_far: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [OLD, NOW])
            await add_hour(conn, OLD, who="before")
            if how_far == "detaching":
                await leave_detaching(database_url, conn)
            else:
                table = f"anlyt.metrics_hourly_{month_of(OLD)}"
                await conn.execute(f"ALTER TABLE anlyt.metrics_hourly DETACH PARTITION {table} CONCURRENTLY")

            assert await ensure_partitions(conn, [OLD]) == 1
            await add_hour(conn, OLD, who="after")
            rows = await conn.fetch("SELECT scope_id FROM anlyt.metrics_hourly WHERE hour_bucket < $1 ORDER BY 1", NOW)
            assert [row["scope_id"] for row in rows if row["scope_id"] != "writing"] == ["after", "before"]
            assert await ensure_partitions(conn, [OLD]) == 0
            assert (await retain(database_url))["partitions_dropped"] == len(PARTITIONED_TABLES)

    run(scenario())


# ----------------------------------------------------------------------------------------------------------------- days


async def add_days(conn: Connection, days: list[int], *, accounts: int = 1) -> None:
    for ago in days:
        await conn.execute(
            "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id)"
            " SELECT $1, 'ACCOUNT', n::TEXT FROM generate_series(1, $2) AS n",
            TODAY - ago * DAY,
            accounts,
        )
        await conn.execute(
            "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id)"
            " SELECT $1, gen_random_uuid() FROM generate_series(1, $2)",
            TODAY - ago * DAY,
            accounts,
        )


def test_days_leave_when_all_of_them_is_older_than_a_year(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_days(conn, [800, 367, 366, 365, 364, 0])

            assert await retain(database_url) == {"partitions_dropped": 0, "days_deleted": 2 * 3}
            for table in ("metrics_daily", "account_usage_daily"):
                rows = await conn.fetch(f"SELECT day_bucket FROM anlyt.{table} ORDER BY 1")  # noqa: S608 - our own tables
                assert [TODAY - n * DAY for n in (365, 364, 0)] == [row["day_bucket"] for row in rows]

    run(scenario())


def test_histograms_leave_with_their_days_and_weeks_with_the_first_of_theirs(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_days(conn, [0])
            await conn.execute(
                "INSERT INTO anlyt.latency_days"
                " SELECT $1::TIMESTAMPTZ - n * INTERVAL '1 day', gen_random_uuid(), '{1}', '{1}'"
                " FROM generate_series(350, 380) AS n",
                TODAY,
            )
            await conn.execute(
                "INSERT INTO anlyt.latency_weeks SELECT DISTINCT date_trunc('week', day_bucket, 'UTC'),"
                " gen_random_uuid(), '{1}'::SMALLINT[], '{7}'::BIGINT[] FROM anlyt.latency_days"
            )
            await retain(database_url)
            days = await conn.fetch("SELECT DISTINCT day_bucket FROM anlyt.latency_days ORDER BY 1")
            weeks = await conn.fetch("SELECT DISTINCT week_bucket FROM anlyt.latency_weeks ORDER BY 1")

            kept = [TODAY - n * DAY for n in range(365, 349, -1)]
            assert [row[0] for row in days] == kept
            assert [row[0] for row in weeks] == [day for day in kept if day.isoweekday() == 1]

    run(scenario())


def test_days_are_deleted_in_bounded_transactions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PURGE_ROWS_MAX", 100)
    reached: list[str] = []

    class Counting(CrashPoints):
        def reach(self, name: str) -> None:
            reached.append(name)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_days(conn, [400, 401], accounts=175)
            counts = await jobs.run_job(database_url, "retention", Counting())

            assert counts["days_deleted"] == 700
            assert reached.count("job-retention-rows-deleted") == 2 * 4 + 2  # no day and no week of histograms

    run(scenario())


def test_dead_letters_stay(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute(
                "INSERT INTO anlyt.dead_letters"
                " VALUES ('S', 1, 0, now() - $1::INTERVAL, 'stale', 'x', 's', '{}', '', now() - $1::INTERVAL)",
                900 * DAY,
            )
            await retain(database_url)

            assert await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters") == 1

    run(scenario())


def test_a_table_that_only_looks_like_a_month_is_left_alone(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute('CREATE TABLE anlyt."metrics_hourly_y2020m01; DROP" (a INTEGER)')
            await conn.execute("CREATE TABLE anlyt.metrics_hourly_mine (a INTEGER)")

            assert (await retain(database_url))["partitions_dropped"] == 0
            assert await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly_mine") == 0

    run(scenario())
