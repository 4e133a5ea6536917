"""Jobs: p95 is exact whatever the segments, nothing is lost beside a running worker, one runner at a time."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from anlyt import jobs
from anlyt.crash import CRASH_POINTS, CrashPoints
from anlyt.errors import DatabaseUnavailable, UsageError
from anlyt.postgres import PARTITIONED_TABLES, ensure_partitions, migrate, session, sql
from anlyt.rollup import latency_bucket, latency_value
from anlyt.telemetry import Telemetry
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Connection

HOUR = datetime(2026, 3, 31, 22, tzinfo=UTC)
OPERATOR = uuid.UUID("00000000-0000-4000-8000-000000000001")
NOT_ARMED = CrashPoints()


def as_array(values: Iterable[int]) -> str:
    """As PostgreSQL writes an array."""
    return f"{{{','.join(map(str, values))}}}"


async def add_samples(
    conn: Connection, samples: Iterable[int], *, hour: datetime = HOUR, operator: uuid.UUID = OPERATOR
) -> None:
    """What a worker writes for one batch: a segment, and the operator's row, in one transaction."""
    counts: dict[int, int] = {}
    for sample in samples:
        counts[latency_bucket(sample)] = counts.get(latency_bucket(sample), 0) + 1
    second, who = int(hour.timestamp()), str(operator)
    buckets = sorted(counts)
    arrays = [as_array(buckets)], [as_array(counts[bucket] for bucket in buckets)]
    async with conn.transaction():
        if buckets:
            await conn.execute(sql("ingest/add_latency_histograms"), [second], [who], *arrays)
        row = [second], [who], *[[0]] * 4, [sum(counts.values())], [0], [0]
        await conn.execute(sql("ingest/add_operator_performance"), *row)


async def read_p95(conn: Connection, hour: datetime = HOUR, operator: uuid.UUID = OPERATOR) -> int | None:
    return await conn.fetchval(
        "SELECT latency_p95_ms FROM anlyt.operator_performance WHERE hour_bucket = $1 AND operator_id = $2",
        hour,
        operator,
    )


async def read_segments(conn: Connection) -> list[tuple[int, list[int], list[int]]]:
    rows = await conn.fetch("SELECT segment, buckets, sample_counts FROM anlyt.latency_histograms ORDER BY 1")
    return [tuple(row) for row in rows]


async def check_days(conn: Connection) -> None:
    """Every day's histogram is the sum of segment 0 of its hours, every week's that of its days."""
    merged = """
        SELECT {} AS day, operator_id, bucket, sum(n)::BIGINT AS samples
        FROM anlyt.{}, unnest(buckets, sample_counts) AS sample (bucket, n) {} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""
    hours = merged.format("date_trunc('day', hour_bucket, 'UTC')", "latency_histograms", "WHERE segment = 0")

    weeks = merged.format("date_trunc('week', day_bucket, 'UTC')", "latency_days", "")

    assert await conn.fetch(merged.format("day_bucket", "latency_days", "")) == await conn.fetch(hours)
    assert await conn.fetch(merged.format("week_bucket", "latency_weeks", "")) == await conn.fetch(weeks)


def nearest_rank(samples: list[int]) -> int:
    return sorted(samples)[-(-95 * len(samples) // 100) - 1]


async def count_runs(conn: Connection, job: str) -> list[str | None]:
    return [
        row["outcome"]
        for row in await conn.fetch("SELECT outcome FROM anlyt.job_runs WHERE job = $1 ORDER BY run_id", job)
    ]


# --------------------------------------------------------------------------------------------------------- percentiles


@pytest.mark.parametrize("seed", range(8))
def test_p95_is_the_nearest_rank_within_one_percent(database_url: str, seed: int) -> None:
    rng = random.Random(seed)
    everything = {
        (HOUR + timedelta(hours=h), uuid.UUID(int=o)): [
            min(2**31 - 1, int(rng.lognormvariate(rng.uniform(0, 12), 1.5)))
            for _ in range(rng.choice([1, 2, 19, 20, 21, 400]))
        ]
        for h in range(4)  # across the end of a month
        for o in range(3)
    }

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, {hour for hour, _ in everything})
            for (hour, operator), samples in everything.items():
                cuts = sorted(rng.sample(range(len(samples) + 1), min(3, len(samples))))
                for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
                    await add_samples(conn, samples[start:end], hour=hour, operator=operator)
                if rng.random() < 0.3:
                    await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)

            for (hour, operator), samples in everything.items():
                exact = nearest_rank(samples)
                assert abs(exact - await read_p95(conn, hour, operator)) <= max(1, exact / 100)
                assert latency_value(latency_bucket(exact)) == await read_p95(conn, hour, operator)

    run(scenario())


def test_the_order_and_the_cuts_of_the_samples_do_not_change_p95(database_url: str) -> None:
    samples = [random.Random(5).randrange(5_000) for _ in range(300)]

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            whole, cut = uuid.UUID(int=1), uuid.UUID(int=2)
            await add_samples(conn, samples, operator=whole)
            for sample in reversed(samples):
                await add_samples(conn, [sample], operator=cut)
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)

            assert await read_p95(conn, operator=whole) == await read_p95(conn, operator=cut)
            first, second = await read_segments(conn)
            assert first == second

    run(scenario())


def test_merging_keeps_every_sample_in_one_segment_with_ascending_buckets(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            for samples in ([7, 7, 300], [2], [7, 70_000]):
                await add_samples(conn, samples)
            assert await jobs.run_job(database_url, "percentiles", NOT_ARMED) == {
                "segments_merged": 3,
                "percentiles_changed": 1,
            }
            await add_samples(conn, [2])
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)

            buckets = [2, 7, latency_bucket(300), latency_bucket(70_000)]
            assert [(0, buckets, [2, 3, 1, 1])] == await read_segments(conn)
            await check_days(conn)

    run(scenario())


def test_an_hour_without_new_samples_is_left_alone(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            await add_samples(conn, [10, 20])
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            before = await conn.fetch("SELECT ctid, * FROM anlyt.operator_performance")

            assert await jobs.run_job(database_url, "percentiles", NOT_ARMED) == {
                "segments_merged": 0,
                "percentiles_changed": 0,
            }
            await add_samples(conn, [20])  # p95 stays 20
            touched = await conn.fetchval("SELECT updated_at FROM anlyt.operator_performance")
            assert await jobs.run_job(database_url, "percentiles", NOT_ARMED) == {
                "segments_merged": 1,
                "percentiles_changed": 0,
            }

            assert touched == await conn.fetchval("SELECT updated_at FROM anlyt.operator_performance")
            assert before[0]["latency_p95_ms"] == await read_p95(conn) == 20

    run(scenario())


def test_a_backlog_of_segments_is_merged_in_bounded_transactions(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "SEGMENTS_MAX", 7)  # a limit, not behaviour
    samples = list(range(100, 140))

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            for sample in samples:
                await add_samples(conn, [sample])
            before = await conn.fetchval("SELECT pg_current_xact_id()::TEXT::BIGINT")
            counts = await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            after = await conn.fetchval("SELECT pg_current_xact_id()::TEXT::BIGINT")

            assert len(samples) == counts["segments_merged"]
            assert after - before >= len(samples) // 7
            assert nearest_rank(samples) == await read_p95(conn)
            await check_days(conn)

    run(scenario())


def test_a_day_is_merged_from_its_hours_again_with_every_late_sample(database_url: str) -> None:
    rng = random.Random(11)
    others = [OPERATOR, uuid.UUID("00000000-0000-4000-8000-000000000002")]

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR, HOUR + timedelta(days=1)])
            for _ in range(12):
                for _ in range(rng.randrange(6)):
                    hour = HOUR + timedelta(hours=rng.randrange(-30, 8))
                    await add_samples(conn, [rng.randrange(500)], hour=hour, operator=rng.choice(others))
                await jobs.run_job(database_url, "percentiles", NOT_ARMED)
                await check_days(conn)

            days = (
                "SELECT count(DISTINCT day_bucket), count(*), sum(n) FROM anlyt.latency_days, unnest(sample_counts) n"
            )
            total = await conn.fetchval("SELECT sum(latency_sample_count) FROM anlyt.operator_performance")
            assert total > 10
            assert (await conn.fetchrow(days))["sum"] == total

    run(scenario())


def test_weeks_of_a_database_that_had_none_are_merged_by_the_migration(database_url: str) -> None:
    rng = random.Random(6)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR, HOUR + timedelta(days=1)])
            for _ in range(12):
                hour, operator = HOUR - timedelta(hours=rng.randrange(400)), uuid.UUID(int=rng.randrange(2))
                await ensure_partitions(conn, [hour])
                await add_samples(conn, [rng.randrange(500)], hour=hour, operator=operator)
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            await conn.execute("DROP TABLE anlyt.latency_weeks")
            await conn.execute("DELETE FROM anlyt.migrations WHERE name = '0010_latency_weeks'")

            assert await migrate(database_url) == ["0010_latency_weeks"]
            await check_days(conn)
            assert await conn.fetchval("SELECT count(DISTINCT week_bucket) FROM anlyt.latency_weeks") > 1

    run(scenario())


def test_segments_a_worker_adds_while_the_job_runs_are_not_lost(database_url: str) -> None:
    batches = 150
    rng = random.Random(3)
    samples = [[rng.randrange(1_000) for _ in range(20)] for _ in range(batches)]

    async def work(part: list[list[int]]) -> None:
        async with session(database_url, application="test") as conn:
            for batch in part:
                await add_samples(conn, batch)

    async def merge(done: asyncio.Event) -> int:
        runs = 0
        while not done.is_set():
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            runs += 1
        return runs

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            done = asyncio.Event()
            merging = asyncio.create_task(merge(done))
            await asyncio.gather(work(samples[::2]), work(samples[1::2]))
            done.set()
            assert await merging > 1
            await jobs.run_job(database_url, "percentiles", NOT_ARMED)

            [(segment, _, counts)] = await read_segments(conn)
            assert (0, 20 * batches) == (segment, sum(counts))
            exact = nearest_rank([sample for batch in samples for sample in batch])
            assert latency_value(latency_bucket(exact)) == await read_p95(conn)

    run(scenario())


def test_a_segment_that_is_not_committed_yet_holds_nobody_up_and_is_merged_later(database_url: str) -> None:
    async def scenario() -> None:
        async with (
            session(database_url, application="test") as conn,
            session(database_url, application="worker") as worker,
        ):
            await ensure_partitions(conn, [HOUR])
            await add_samples(conn, [100])
            transaction = worker.transaction()
            await transaction.start()
            # The worker has appended its segment and has not come to operator_performance yet.
            second = int(HOUR.timestamp())
            await worker.execute(sql("ingest/add_latency_histograms"), [second], [str(OPERATOR)], ["{50}"], ["{99}"])
            assert (await jobs.run_job(database_url, "percentiles", NOT_ARMED))["segments_merged"] == 1
            assert await read_p95(conn) == 100
            await transaction.commit()
            assert (await jobs.run_job(database_url, "percentiles", NOT_ARMED))["segments_merged"] == 1
            assert await read_p95(conn) == 50

    run(scenario())


def test_sql_and_python_give_a_bucket_the_same_value(database_url: str) -> None:
    edges = {v + d for e in range(32) for v in (2**e, 127 * 2**e) for d in (-1, 0, 1)}
    buckets = sorted({latency_bucket(v) for v in edges if 0 <= v < 2**31})

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            found = await conn.fetch("SELECT anlyt.latency_value(b) FROM unnest($1::INTEGER[]) AS b", buckets)

            assert [latency_value(bucket) for bucket in buckets] == [row[0] for row in found]

    run(scenario())


def test_the_search_for_new_segments_uses_its_index_and_never_reads_merged_hours(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            await conn.execute(
                "INSERT INTO anlyt.latency_histograms "
                "SELECT $1, gen_random_uuid(), 0, '{1}', '{1}' FROM generate_series(1, 5000)",
                HOUR,
            )
            await add_samples(conn, [1])
            await conn.execute("ANALYZE anlyt.latency_histograms")
            async with conn.transaction():
                text = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql('jobs/merge_histograms')}", 100)
            nodes = list(walk(json.loads(text)[0]["Plan"]))
            reads = [node for node in nodes if node.get("Relation Name", "").startswith("latency_histograms_")]
            searches = [node for node in nodes if "hour_bucket_operator_id_idx" in node.get("Index Name", "")]

            assert searches  # the partitions' copies of ix_anlyt_latency_unmerged
            assert all("Index" in node["Node Type"] or node["Node Type"] == "ModifyTable" for node in reads), reads
            assert (
                sum(node["Actual Rows"] * node["Actual Loops"] for node in reads if node["Node Type"] != "ModifyTable")
                <= 10
            )

    run(scenario())


def walk(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from walk(child)


# ---------------------------------------------------------------------------------------------------------- partitions


def test_partitions_reach_three_months_ahead_and_a_second_run_makes_none(database_url: str) -> None:
    async def scenario() -> None:
        made = len(PARTITIONED_TABLES) * (1 + jobs.PARTITION_MONTHS_AHEAD)
        assert {"partitions_made": made} == await jobs.run_job(database_url, "partitions", NOT_ARMED)
        assert await jobs.run_job(database_url, "partitions", NOT_ARMED) == {"partitions_made": 0}

    run(scenario())


@pytest.mark.parametrize(
    ("now", "months"),
    [
        (datetime(2026, 1, 31, 23, 59, tzinfo=UTC), ["2026-01", "2026-02", "2026-03", "2026-04"]),
        (datetime(2027, 11, 1, tzinfo=UTC), ["2027-11", "2027-12", "2028-01", "2028-02"]),
    ],
)
def test_months_ahead_follow_the_calendar(now: datetime, months: list[str]) -> None:
    assert months == [month.strftime("%Y-%m") for month in jobs.months_ahead(now)]


# ---------------------------------------------------------------------------------------------------- runs and the loop


def test_a_run_is_recorded_with_its_counts(database_url: str) -> None:
    async def scenario() -> None:
        await jobs.run_job(database_url, "percentiles", NOT_ARMED)
        row = {row["job"]: row for row in await jobs.list_jobs(database_url)}

        assert row["percentiles"]["outcome"] == "ok"
        assert row["percentiles"]["detail"] == {"segments_merged": 0, "percentiles_changed": 0}
        assert row["percentiles"]["last_start"] is not None
        assert row["partitions"]["last_start"] is None

    run(scenario())


def test_a_job_that_somebody_else_runs_is_skipped_and_not_recorded(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="other") as other:
            assert await other.fetchval(sql("jobs/lock_job"), "percentiles")
            assert await jobs.run_job(database_url, "percentiles", NOT_ARMED) == {"skipped": "someone else runs it"}
            assert "skipped" not in await jobs.run_job(database_url, "partitions", NOT_ARMED)
            assert await count_runs(other, "percentiles") == []

    run(scenario())


def test_an_unknown_job_is_refused_with_the_names_there_are(database_url: str) -> None:
    with pytest.raises(UsageError, match="there is no job 'purgee'; the jobs are percentiles, purge, partitions"):
        run(jobs.run_job(database_url, "purgee", NOT_ARMED))


def test_a_failure_is_recorded_and_raised(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute("ALTER TABLE anlyt.latency_histograms RENAME TO elsewhere")
            with pytest.raises(Exception, match="latency_histograms"):
                await jobs.run_job(database_url, "percentiles", NOT_ARMED)
            row = {row["job"]: row for row in await jobs.list_jobs(database_url)}["percentiles"]

            assert row["outcome"] == "failed"
            assert "latency_histograms" in row["detail"]["error"]

    run(scenario())


def test_the_loop_goes_on_after_a_failure_and_stops_when_told(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = tuple(replace(job, period=timedelta(0)) for job in jobs.JOBS)
    monkeypatch.setattr(jobs, "JOBS", often)
    monkeypatch.setattr(jobs, "WAIT_MIN_S", 0.01)
    telemetry = Telemetry()

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute("ALTER TABLE anlyt.latency_histograms RENAME TO elsewhere")
            stop = asyncio.Event()
            loop = asyncio.create_task(jobs.run_loop(database_url, telemetry=telemetry, crash=NOT_ARMED, stop=stop))
            await wait_until(lambda: ran("percentiles", "failed") >= 2, what="two failures")
            await conn.execute("ALTER TABLE anlyt.elsewhere RENAME TO latency_histograms")
            await wait_until(
                lambda: ran("percentiles", "ok") >= 1 and ran("partitions", "ok") >= 1, what="both jobs ran"
            )
            stop.set()
            await asyncio.wait_for(loop, 5)

    def ran(job: str, outcome: str) -> float:
        return telemetry.registry.get_sample_value("anlyt_job_runs_total", {"job": job, "outcome": outcome}) or 0

    run(scenario())


def test_the_loop_waits_while_postgres_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "WAIT_MIN_S", 0.01)

    async def scenario() -> None:
        stop = asyncio.Event()
        address = "postgresql://anlyt@127.0.0.1:1/anlyt"
        with pytest.raises(DatabaseUnavailable):
            await jobs.run_job(address, "percentiles", NOT_ARMED)
        loop = asyncio.create_task(jobs.run_loop(address, telemetry=Telemetry(), crash=NOT_ARMED, stop=stop))
        asyncio.get_running_loop().call_later(0.2, stop.set)
        await asyncio.wait_for(loop, 5)

    run(scenario())


def test_a_job_is_due_when_its_period_has_passed_since_its_last_start_anywhere(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            assert list(jobs.JOBS) == (await jobs._find_due(database_url))[0]
            for job in jobs.JOBS:
                await conn.execute(sql("jobs/start_run"), job.name)  # also one that was killed counts as a start
            due, wait_s = await jobs._find_due(database_url)
            assert due == []
            assert 0 < wait_s <= jobs.WAIT_MAX_S
            await conn.execute("UPDATE anlyt.job_runs SET started_at = now() - INTERVAL '11 s'")
            assert [job.name for job in (await jobs._find_due(database_url))[0]] == ["percentiles"]

    run(scenario())


# ---------------------------------------------------------------------------------------------------------------- dying

# test_archive_kills.py kills the archive.
JOB_POINTS = [point for point in CRASH_POINTS if point.startswith("job-") and not point.startswith("job-archive-")]
RUN_JOB = """
import asyncio, sys
from anlyt import jobs
from anlyt.crash import CrashPoints
asyncio.run(jobs.run_job(sys.argv[1], sys.argv[2], CrashPoints.parse(sys.argv[3])))
"""


@pytest.mark.parametrize("point", JOB_POINTS)
def test_a_job_killed_at_any_step_loses_nothing_and_the_next_run_finishes(database_url: str, point: str) -> None:
    async def prepare() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [HOUR])
            for batch in range(3):
                await add_samples(conn, range(batch * 100, batch * 100 + 100))

    async def check() -> None:
        async with session(database_url, application="test") as conn:
            await wait_until(lambda: conn.fetchval(sql("jobs/lock_job"), job), what="the dead runner's lock is free")
            await conn.execute("SELECT pg_advisory_unlock_all()")
            await jobs.run_job(database_url, job, NOT_ARMED)
            assert await count_runs(conn, job) == [None, "ok"]
            await check_days(conn)
            if job == "percentiles":
                [(segment, _, counts)] = await read_segments(conn)
                assert (segment, sum(counts)) == (0, 300)
                assert latency_value(latency_bucket(284)) == await read_p95(conn)
            else:
                assert not any((await jobs.run_job(database_url, job, NOT_ARMED)).values())

    job = point.split("-")[1]
    run(prepare())
    died = subprocess.run(
        [sys.executable, "-c", RUN_JOB, database_url, job, f"{point}=1"],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (-signal.SIGKILL, f"crash point {point}\n") == (died.returncode, died.stderr)
    run(check())
