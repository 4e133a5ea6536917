"""Periodic jobs: a literal table, one runner a job at a time across all machines, every run recorded.

In: what the workers left to do (histogram segments, old ids and rows, missing partitions). Out: the same facts, tidied,
and rows in anlyt.job_runs. A job is idempotent: killed anywhere it is run again and nothing is missing or doubled. A
job's lock is held by the session that does its work, so a runner that lost its session has lost its transaction with
it. Rows are locked in the order the workers lock them (I5).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import asyncpg
import structlog
from msgspec import Struct

from anlyt import archive as archive_module
from anlyt import store
from anlyt.clickhouse import TABLES as ARCHIVE_TABLES
from anlyt.clickhouse import ClickHouse
from anlyt.crash import CrashPoints  # noqa: TC001 - the same
from anlyt.errors import AnlytError, ConfigurationError, Retry, UsageError
from anlyt.events import HOT_RETENTION_US
from anlyt.postgres import PARTITIONED_TABLES, ensure_partitions, session, sql
from anlyt.settings import format_duration
from anlyt.terminal import is_watched, progress

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from asyncpg import Connection, Record

    from anlyt.clickhouse import ArchiveTable
    from anlyt.postgres import AnyConnection
    from anlyt.telemetry import Telemetry
    from anlyt.terminal import Advance

State = Literal["ok", "failed", "overdue", "running", "never ran"]

JOB_TIMEOUT_S: Final = 900
WAIT_MIN_S: Final = 1.0  # between two looks at what is due
WAIT_MAX_S: Final = 10.0
SEGMENTS_MAX: Final = 2_000  # merged in one transaction
PARTITION_MONTHS_AHEAD: Final = 3
PURGE_ROWS_MAX: Final = 10_000  # deleted in one transaction
HOURLY_RETENTION: Final = timedelta(microseconds=HOT_RETENTION_US)
DAILY_RETENTION: Final = timedelta(days=365)
HOURLY_TABLES: Final = tuple(table for table in ARCHIVE_TABLES if table.bucket == "hour_bucket")
DAILY_TABLES: Final = tuple(table for table in ARCHIVE_TABLES if table.bucket == "day_bucket")
CHANGES_RETENTION: Final = timedelta(minutes=30)  # a multiple of how far back live readers may resume
STEP_LOCK_TIMEOUT_S: Final = 5.0  # a step waits for old transactions this long; nobody waits behind it
STEP_ATTEMPTS_MAX: Final = 5
STEP_RETRY_S: Final = 1.0
OVERDUE_PERIODS: Final = 3  # without a success, and a job is overdue
OVERDUE_MIN: Final = timedelta(minutes=5)  # but never sooner
STREAM_IDLE: Final = timedelta(hours=1)  # a stream whose position stood still this long is not being counted

log = structlog.get_logger("anlyt.jobs")


async def percentiles(conn: Connection[Record], means: Means) -> dict[str, int]:
    """Merge new histogram segments and write latency_p95_ms of their hours, SEGMENTS_MAX in one transaction.

    An hour whose segments do not fit into one transaction has the percentile of those merged until the next commits.
    """
    with progress("merging histograms", unit="segments", quiet=means.quiet) as advance:
        advance(0, await _size(conn, means, "jobs/count_segments"))
        return await _merge_histograms(conn, means, advance)


async def _merge_histograms(conn: Connection[Record], means: Means, advance: Advance) -> dict[str, int]:
    merged = changed = 0
    taken = SEGMENTS_MAX
    while taken == SEGMENTS_MAX:
        async with conn.transaction():
            rows = await conn.fetch(sql("jobs/merge_histograms"), SEGMENTS_MAX)
            means.crash.reach("job-percentiles-merged")
            hours = [row["hour_bucket"] for row in rows], [row["operator_id"] for row in rows]
            await conn.execute(sql("jobs/lock_operator_hours"), *hours)
            written = await conn.fetch(sql("jobs/write_percentiles"), *hours)
            await conn.execute(sql("jobs/merge_days"), *hours)
            await conn.execute(sql("jobs/merge_weeks"), *hours)
            await store.add_changed_hours(conn, {int(row["hour_bucket"].timestamp()) for row in written})
            means.crash.reach("job-percentiles-written")
        means.crash.reach("job-percentiles-committed")
        taken = rows[0]["segments"] if rows else 0
        merged += taken
        advance(merged)
        changed += len(written)
    return {"segments_merged": merged, "percentiles_changed": changed}


async def partitions(conn: Connection[Record], means: Means) -> dict[str, int]:
    """Make the partitions of this month and the next PARTITION_MONTHS_AHEAD, where they are missing."""
    made = await ensure_partitions(conn, months_ahead(datetime.now(UTC)))
    means.crash.reach("job-partitions-made")
    return {"partitions_made": made}


async def purge(conn: Connection[Record], means: Means) -> dict[str, int]:
    """Forget event ids behind the exactly-once window, and seconds whose peak is settled; PURGE_ROWS_MAX at a time."""

    def committed(_: int) -> None:
        means.crash.reach("job-purge-committed")

    return {
        "events_purged": await _purge_events(conn, means, committed),
        "changes_purged": await _delete(conn, sql("jobs/purge_changed_hours"), CHANGES_RETENTION, committed=committed),
        "seconds_purged": await _delete(conn, sql("jobs/purge_second_counts"), committed=committed),
    }


async def _purge_events(conn: Connection[Record], means: Means, committed: Callable[[int], None]) -> int:
    total = 0
    deleted = PURGE_ROWS_MAX
    with progress("forgetting ids", unit="ids", quiet=means.quiet) as advance:
        advance(0, await _size(conn, means, "jobs/count_old_events"))
        while deleted == PURGE_ROWS_MAX:
            deleted = await conn.fetchval(sql("jobs/purge_events"), PURGE_ROWS_MAX)  # a transaction of its own
            committed(deleted)
            total += deleted
            advance(total)
    return total


async def _size(conn: Connection[Record], means: Means, statement: str, *values: object) -> int | None:
    """How much a job has to do, for its progress bar; counting costs something, so only when somebody looks at one."""
    return await conn.fetchval(sql(statement), *values) if is_watched(quiet=means.quiet) else None


async def _delete(conn: Connection[Record], statement: str, *values: object, committed: Callable[[int], None]) -> int:
    total = 0
    deleted = PURGE_ROWS_MAX
    while deleted == PURGE_ROWS_MAX:
        status = await conn.execute(statement, PURGE_ROWS_MAX, *values)  # a transaction of its own
        deleted = int(status.split()[-1])
        committed(deleted)
        total += deleted
    return total


async def retention(conn: Connection[Record], means: Means) -> dict[str, int]:
    """Take away months and days that are past hot retention, and that the archive has, if there is one.

    Measured from what has been counted, not from the clock: behind a backlog nothing leaves that may still be added to.
    Dead letters stay.
    """
    counted_through = await conn.fetchval(sql("jobs/read_counted_through"))
    if counted_through is None:
        return {"partitions_dropped": 0, "days_deleted": 0}

    months_until = await _confirm(conn, means, HOURLY_TABLES, first_month_to_stay(counted_through))
    dropped = await _drop_months(conn, months_until, means.crash)
    # A day may go when its end is past retention, too.
    days_until = midnight(counted_through - DAILY_RETENTION)
    days_until = await _confirm(conn, means, DAILY_TABLES, days_until)
    return {"partitions_dropped": dropped, "days_deleted": await _delete_days(conn, means, days_until)}


async def _delete_days(conn: Connection[Record], means: Means, until: datetime) -> int:
    total = 0
    with progress("deleting days", unit="rows", quiet=means.quiet) as advance:

        def committed(deleted: int) -> None:
            nonlocal total
            means.crash.reach("job-retention-rows-deleted")
            total += deleted
            advance(total)

        advance(0, await _size(conn, means, "jobs/count_old_days", until))
        await _delete(conn, sql("jobs/delete_metrics_daily"), until, committed=committed)
        await _delete(conn, sql("jobs/delete_latency_weeks"), until, committed=committed)
        await _delete(conn, sql("jobs/delete_latency_days"), until, committed=committed)
        await _delete(conn, sql("jobs/delete_account_usage_daily"), until, committed=committed)
    return total


async def _confirm(conn: Connection[Record], means: Means, tables: Sequence[ArchiveTable], until: datetime) -> datetime:
    """Until when rows of these tables may leave: `until`, or where the archive does not have them. Moves the border."""
    if means.clickhouse is not None:
        for table in tables:
            until = await archive_module.confirmed_until(conn, means.clickhouse, table, until=until)
    await archive_module.move_border(conn, tables, until)
    means.crash.reach("job-retention-border-moved")
    return until


def first_month_to_stay(counted_through: datetime) -> datetime:
    """The first month that is not past hot retention as a whole."""
    return midnight(counted_through - HOURLY_RETENTION).replace(day=1)


def midnight(moment: datetime) -> datetime:
    """The start of its UTC day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _month_behind(month: datetime) -> datetime:
    return datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


async def _drop_months(conn: Connection[Record], until: datetime, crash: CrashPoints) -> int:
    """Detach and drop the partitions of whole months before `until`, oldest first, without holding up a writer."""
    rows = await conn.fetch(sql("jobs/list_months"), PARTITIONED_TABLES)
    leaving = [row["month"] for row in rows if _month_behind(row["month"]) <= until]
    await conn.execute(sql("jobs/limit_lock_waits"), f"{STEP_LOCK_TIMEOUT_S * 1000:.0f}ms")
    dropped = 0
    while step := await _take_patiently(conn, leaving):
        if step == "drop":
            dropped += 1
            crash.reach("job-retention-dropped")
        else:
            crash.reach("job-retention-detached")
    return dropped


async def _take_patiently(conn: Connection[Record], months: list[datetime]) -> str | None:
    """The step that was taken; None when there is none left. Raises LockNotAvailableError in the end.

    A DETACH that waited too long for an old transaction is finished by the next attempt, or by the next run.
    """
    for attempt in range(1, STEP_ATTEMPTS_MAX + 1):
        try:
            return await _take_step(conn, months)
        except asyncpg.LockNotAvailableError:
            if attempt == STEP_ATTEMPTS_MAX:
                raise
            await asyncio.sleep(STEP_RETRY_S * attempt)
    raise AssertionError("the last attempt returns or raises")


async def _take_step(conn: Connection[Record], months: list[datetime]) -> str | None:
    found = await conn.fetchrow(sql("jobs/find_month_step"), PARTITIONED_TABLES, months)
    if found is None:
        return None
    if found["step"] != "drop":
        await conn.execute(found["statement"])
        return str(found["step"])
    async with conn.transaction():
        await conn.execute(sql("jobs/lock_partitions"))
        if found == await conn.fetchrow(sql("jobs/find_month_step"), PARTITIONED_TABLES, months):
            await conn.execute(found["statement"])
            return "drop"
    return "none"  # somebody needed the month and has brought it back: look again


def months_ahead(now: datetime) -> list[datetime]:
    """A moment in this month and in each of the PARTITION_MONTHS_AHEAD that follow."""
    return [
        datetime(now.year + (now.month - 1 + n) // 12, (now.month - 1 + n) % 12 + 1, 1, tzinfo=UTC)
        for n in range(PARTITION_MONTHS_AHEAD + 1)
    ]


async def archive(conn: Connection[Record], means: Means) -> dict[str, int]:
    """Copy every day that changed into the archive."""
    assert means.clickhouse is not None, "run_job saw to it"
    return await archive_module.archive(conn, means.url, means.clickhouse, crash=means.crash, quiet=means.quiet)


class Means(Struct, frozen=True):
    """What a job may need beside its session."""

    url: str
    crash: CrashPoints
    clickhouse: ClickHouse | None = None
    quiet: bool = True  # no progress bars


class Job(Struct, frozen=True):
    """A row of the table of jobs."""

    name: str
    period: timedelta
    what: str
    work: Callable[[Connection[Record], Means], Awaitable[dict[str, int]]]


JOBS: Final = (
    Job("percentiles", timedelta(seconds=10), "latency_p95_ms of operator hours that got new samples", percentiles),
    Job("purge", timedelta(minutes=1), "event ids behind the 48 h window, seconds older than 6 h", purge),
    Job("partitions", timedelta(days=1), "monthly partitions, three months ahead", partitions),
    Job("archive", timedelta(days=1), "days that changed, into ClickHouse; only with ANLYT_ARCHIVE_URL", archive),
    Job("retention", timedelta(days=1), "hours older than 90 days, by the month; days older than 365 days", retention),
)


def jobs_of(*, archived: bool) -> list[Job]:
    """The jobs of a deployment, with an archive or without."""
    return [job for job in JOBS if archived or job.work is not archive]


def find_job(name: str) -> Job:
    """The job of that name. Raises UsageError that lists the jobs."""
    for job in JOBS:
        if job.name == name:
            return job
    raise UsageError(f"there is no job {name!r}; the jobs are {', '.join(job.name for job in JOBS)}")


async def run_job(
    url: str, name: str, crash: CrashPoints, *, clickhouse: ClickHouse | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Run one job now, recorded; its counts. {"skipped": ...} when another runner has it. `quiet`: no progress bars.

    Raises ConfigurationError for `archive` where there is none, Retry when PostgreSQL cannot be used, and whatever the
    job raises, after recording it.
    """
    job = find_job(name)
    if job.work is archive and clickhouse is None:
        raise ConfigurationError(
            "there is no archive: set ANLYT_ARCHIVE_URL to clickhouse://user:password@host:8123/database, or to "
            "chdb:///directory for an embedded one"
        )
    async with session(url, application=f"anlyt-job-{name}", statement_timeout_s=JOB_TIMEOUT_S) as conn:
        if not await conn.fetchval(sql("jobs/lock_job"), name):
            return {"skipped": "someone else runs it"}
        run_id: int = await conn.fetchval(sql("jobs/start_run"), name)
        try:
            counts = await job.work(conn, Means(url, crash, clickhouse, quiet))
        except Exception as error:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # it may be what failed
                await conn.execute(sql("jobs/finish_run"), run_id, "failed", json.dumps({"error": str(error)}))
            raise
        await conn.execute(sql("jobs/finish_run"), run_id, "ok", json.dumps(counts))
        await conn.execute(sql("jobs/forget_runs"), name)
        return dict(counts)


async def run_loop(
    url: str, *, telemetry: Telemetry, crash: CrashPoints, stop: asyncio.Event, clickhouse: ClickHouse | None = None
) -> None:
    """Run every job when it is due, until `stop`. A job that fails is recorded, logged and tried again at its time."""
    means = Means(url, crash, clickhouse)
    jobs = jobs_of(archived=clickhouse is not None)
    while not stop.is_set():
        due, wait_s = await _find_due(means.url, jobs)
        for job in due:
            if not stop.is_set():
                await _run_logged(means, job, telemetry)
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_MIN_S if due else wait_s):
                await stop.wait()


def judge_run(job: Job, run: Mapping[str, Any] | None) -> State:
    """How a job does, by its last run: overdue is one that has not ended well for OVERDUE_PERIODS, or OVERDUE_MIN."""
    if run is None:
        return "never ran"
    if run["outcome"] == "failed":
        return "failed"
    well = run["succeeded_at"] or run["started_at"]
    if run["started_at"] - well + timedelta(seconds=run["age_s"]) > max(OVERDUE_PERIODS * job.period, OVERDUE_MIN):
        return "overdue"
    return "ok" if run["outcome"] == "ok" else "running"


async def list_jobs(url: str) -> list[dict[str, Any]]:
    """Every job with its period, how it does, its last run and its last success."""
    async with session(url, application="anlyt-jobs") as conn:
        last = await read_last_runs(conn)
    return [_describe_job(job, last.get(job.name)) for job in JOBS]


def _describe_job(job: Job, run: Mapping[str, Any] | None) -> dict[str, Any]:
    ended = None if run is None else run["finished_at"]
    return {
        "job": job.name,
        "period": format_duration(job.period),
        "what": job.what,
        "state": judge_run(job, run),
        "last_start": run and run["started_at"],
        "seconds": None if run is None or ended is None else (ended - run["started_at"]).total_seconds(),
        "outcome": run and (run["outcome"] or "unfinished"),
        "last_success": run and run["succeeded_at"],
        "detail": run and json.loads(run["detail"]),
    }


async def read_last_runs(conn: AnyConnection) -> dict[str, dict[str, Any]]:
    """The last run of each job that ever ran, by its name."""
    return {row["job"]: dict(row) for row in await conn.fetch(sql("read/list_last_runs"))}


async def forget_stream(url: str, stream: str) -> None:
    """Take away the positions of a stream that is not counted any more: purge and retention stop waiting for it.

    Raises AnlytError when there is none, or when its position has moved within STREAM_IDLE.
    """
    async with session(url, application="anlyt-jobs") as conn:
        if await conn.execute(sql("jobs/forget_stream"), stream, STREAM_IDLE) != "DELETE 0":
            return
        found = await conn.fetchrow(sql("jobs/find_stream"), stream)
    assert found is not None, "an aggregate has one row"
    if found["updated_at"] is None:
        raise AnlytError(f"stream {stream} is not known: nothing waits for it")
    idle = format_duration(STREAM_IDLE)
    raise AnlytError(
        f"stream {stream} was still counted at {found['updated_at']:%F %T} UTC; stop its workers and wait {idle}"
    )


async def _find_due(url: str, jobs: Sequence[Job] | None = None) -> tuple[list[Job], float]:
    """The jobs whose period has passed since their last start, and how long until another one's has."""
    try:
        async with session(url, application="anlyt-jobs") as conn:
            last = await read_last_runs(conn)
    except Retry as error:
        log.warning("jobs-wait", cause=str(error))
        return [], WAIT_MIN_S
    jobs = JOBS if jobs is None else jobs
    left_s = {job: job.period.total_seconds() - last[job.name]["age_s"] if job.name in last else 0.0 for job in jobs}
    return [job for job in jobs if left_s[job] <= 0], min(max(min(left_s.values()), WAIT_MIN_S), WAIT_MAX_S)


async def _run_logged(means: Means, job: Job, telemetry: Telemetry) -> None:
    try:
        counts = await run_job(means.url, job.name, means.crash, clickhouse=means.clickhouse)
    except AnlytError as error:
        telemetry.job_ran(job.name, "failed")
        log.warning("job-failed", job=job.name, cause=str(error))
    except Exception:  # one job's mistake must not stop the others; it is recorded and shown as failed
        telemetry.job_ran(job.name, "failed")
        log.exception("job-failed", job=job.name)
    else:
        if "skipped" in counts:
            return
        telemetry.job_ran(job.name, "ok")
        if any(counts.values()):
            log.info("job-done", job=job.name, **counts)
