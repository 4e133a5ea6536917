"""Keeping house: the jobs and reconcile over 90 days of 20 operators and 1,000 accounts, and tables that stay flat.

Everything is measured through the jobs as they run (jobs.run_job), on a PostgreSQL of its own. The churn tables say how
large a working table and its indexes are after many cycles of coming and going, beside what they were when the window
was first full. A cycle stands for an hour of ids, or for a minute of the others, in which autovacuum comes at least
once by the settings of the schema; cycles here are so much quicker than life that a VACUUM in each stands for that.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from anlyt import jobs, postgres, reconcile
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedPostgres
from anlyt.postgres import ensure_partitions, session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from pathlib import Path

    from asyncpg import Connection

NOT_ARMED: Final = CrashPoints()
DAY: Final = timedelta(days=1)
OPERATORS: Final = 20
WINDOW_CYCLES: Final = 48  # an hour each: what the purge keeps
MB: Final = 2**20

FILL_HOURLY: Final = """
    INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages,
        total_cost, latency_sum_ms, latency_sample_count, peak_tps)
    SELECT $1::TIMESTAMPTZ + h * INTERVAL '1 hour', scope, scope_id, 10 * n, 9 * n, n, 0.1 * n, 900 * n, 9 * n, 1
    FROM generate_series(0, 24 * $2::INTEGER - 1) AS h
    CROSS JOIN (
        SELECT 'PLATFORM' AS scope, 'platform' AS scope_id, $3::INTEGER AS n
        UNION ALL SELECT 'OPERATOR', md5('o' || o)::UUID::TEXT, 1 FROM generate_series(1, $4::INTEGER) AS o
        UNION ALL SELECT 'ACCOUNT', md5('a' || a)::UUID::TEXT, 1 FROM generate_series(1, $3::INTEGER) AS a
    ) AS who"""
FILL_REST: Final = (
    """INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages, delivered_messages,
        failed_messages, total_cost, latency_sum_ms, latency_sample_count, peak_tps)
    SELECT date_trunc('day', hour_bucket, 'UTC'), scope, scope_id, sum(total_messages), sum(delivered_messages),
        sum(failed_messages), sum(total_cost), sum(latency_sum_ms), sum(latency_sample_count), max(peak_tps)
    FROM anlyt.metrics_hourly GROUP BY 1, 2, 3""",
    """INSERT INTO anlyt.operator_performance (hour_bucket, operator_id, total_messages, delivered_messages,
        failed_messages, latency_sum_ms, latency_sample_count, peak_tps)
    SELECT hour_bucket, scope_id::UUID, total_messages, delivered_messages, failed_messages, latency_sum_ms,
        latency_sample_count, peak_tps
    FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR'""",
    """INSERT INTO anlyt.latency_histograms
    SELECT hour_bucket, operator_id, 0, '{100}', ARRAY[latency_sample_count] FROM anlyt.operator_performance""",
    """INSERT INTO anlyt.latency_days
    SELECT date_trunc('day', hour_bucket, 'UTC'), operator_id, '{100}', ARRAY[sum(latency_sample_count)]
    FROM anlyt.operator_performance GROUP BY 1, 2""",
    """INSERT INTO anlyt.latency_weeks
    SELECT date_trunc('week', hour_bucket, 'UTC'), operator_id, '{100}', ARRAY[sum(latency_sample_count)]
    FROM anlyt.operator_performance GROUP BY 1, 2""",
    """INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, messages_sent, messages_delivered,
        messages_failed, total_cost, total_segments)
    SELECT day_bucket, scope_id::UUID, total_messages, delivered_messages, failed_messages, total_cost, total_messages
    FROM anlyt.metrics_daily WHERE scope = 'ACCOUNT'""",
)
# Samples of one hour as batches leave them: each batch a segment for each operator, of some hundred buckets.
ADD_SEGMENTS: Final = """
    INSERT INTO anlyt.latency_histograms
    SELECT $1, md5('o' || o)::UUID, nextval('anlyt.latency_segments'), buckets,
        array_fill(1::BIGINT, ARRAY[$4::INTEGER])
    FROM generate_series(1, $2::INTEGER) AS o
    CROSS JOIN generate_series(1, $3::INTEGER) AS s
    CROSS JOIN LATERAL (
        SELECT array_agg(((b * 7 + s * 13 + o) % 900)::SMALLINT ORDER BY (b * 7 + s * 13 + o) % 900) AS buckets
        FROM generate_series(1, $4::INTEGER) AS b
    ) AS drawn"""
ADD_OPERATORS: Final = """
    INSERT INTO anlyt.operator_performance (hour_bucket, operator_id)
    SELECT $1, md5('o' || o)::UUID FROM generate_series(1, $2::INTEGER) AS o"""
# Ids as time-ordered ones are (the time leads), and as random ones are.
ADD_IDS: Final = {
    "time-ordered ids": """
    INSERT INTO anlyt.processed_events
    SELECT to_char(extract(EPOCH FROM $1::TIMESTAMPTZ)::BIGINT, 'FM0000000000') || to_char(n, 'FM00000000')
        || left(md5(n::TEXT), 14) || ' /gateway/1', 'message.submitted', $1
    FROM generate_series(1, $2::INTEGER) AS n""",
    "random ids": """
    INSERT INTO anlyt.processed_events
    SELECT gen_random_uuid()::TEXT || ' /gateway/1', 'message.submitted', $1
    FROM generate_series(1, $2::INTEGER) AS n""",
}
SET_POSITION: Final = """
    INSERT INTO anlyt.stream_positions (stream, slot, last_seq, complete_through, stream_created_at)
    VALUES ('S', 0, 1, $1, $1)
    ON CONFLICT (stream, slot) DO UPDATE SET complete_through = excluded.complete_through"""
ADD_SECONDS: Final = """
    INSERT INTO anlyt.second_counts
    SELECT now() - INTERVAL '7 hours' - n * INTERVAL '1 millisecond', 'ACCOUNT', md5(n::TEXT), 1,
        now() - INTERVAL '7 hours'
    FROM generate_series(1, $1::INTEGER) AS n"""
SIZES: Final = """
    SELECT sum(pg_relation_size(c.oid))::BIGINT AS heap, sum(pg_indexes_size(c.oid))::BIGINT AS indexes
    FROM pg_class AS c
    WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND c.relkind = 'r' AND c.relname ~ ('^' || $1::TEXT || '(_y|$)')"""


async def measure(directory: Path, *, quick: bool) -> dict[str, dict[str, float]]:
    """The jobs and reconcile over a quarter, and the sizes of tables that churn."""
    tables: dict[str, dict[str, float]] = {}
    server = EmbeddedPostgres(directory / "postgres")
    async with server:
        async with _database(server, "jobs") as (url, conn):
            tables["jobs"] = await _measure_jobs(url, conn, quick=quick)
        for kind, statement in ADD_IDS.items():
            async with _database(server, f"beside{len(tables)}") as (url, conn):
                tables[f"purge, {kind}"] = await _measure_purge_beside_ingest(url, conn, statement, quick=quick)
            async with _database(server, f"ids{len(tables)}") as (url, conn):
                tables[kind] = await _churn_ids(url, conn, statement, quick=quick)
        async with _database(server, "seconds") as (url, conn):
            tables["seconds"] = await _churn_seconds(url, conn, quick=quick)
        async with _database(server, "segments") as (url, conn):
            tables["histograms"] = await _churn_segments(url, conn, quick=quick)
    return tables


@asynccontextmanager
async def _database(server: EmbeddedPostgres, name: str) -> AsyncGenerator[tuple[str, Connection[Any]]]:
    """A migrated database, and a session in it."""
    async with session(server.admin_url, application="bench") as admin:
        await admin.execute(f"CREATE DATABASE {name} OWNER anlyt")  # a name given here
    url = server.url.removesuffix("/anlyt") + f"/{name}"
    await postgres.migrate(url)
    async with session(url, application="bench", statement_timeout_s=600) as conn:
        yield url, conn
    async with session(server.admin_url, application="bench") as admin:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def _timed(work: Callable[[], Awaitable[Any]]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = await work()
    return result, time.perf_counter() - begun


async def _measure_jobs(url: str, conn: Connection[Any], *, quick: bool) -> dict[str, float]:
    days, accounts = (9, 200) if quick else (90, 1_000)
    ids = 100_000 if quick else 2_000_000
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    start = today - days * DAY
    await ensure_partitions(conn, [start + n * DAY for n in range(days + 1)])
    await conn.execute(FILL_HOURLY, start, days, accounts, OPERATORS)
    for statement in FILL_REST:
        await conn.execute(statement)
    await conn.execute("ANALYZE")
    rows = await conn.fetchval("SELECT count(*) FROM anlyt.metrics_hourly")
    findings, reconcile_s = await _timed(lambda: reconcile.reconcile(url))
    assert not any(finding.total for finding in findings), findings
    busy = {f"percentile_{name}": value for name, value in (await _measure_percentiles(url, conn, quick=quick)).items()}
    now = datetime.now(UTC)
    await conn.execute(SET_POSITION, now)
    await conn.execute(ADD_IDS["time-ordered ids"], now - 3 * DAY, ids)
    await conn.execute(ADD_IDS["time-ordered ids"], now - DAY, ids)  # these stay
    counts, purge_s = await _timed(lambda: jobs.run_job(url, "purge", NOT_ARMED))
    assert counts["events_purged"] == ids, counts
    _, retention_s = await _timed(lambda: jobs.run_job(url, "retention", NOT_ARMED))
    return {
        "hourly_rows": rows,
        "reconcile_s": reconcile_s,
        "reconcile_rows_per_s": rows / reconcile_s,
        **busy,
        "purged_ids": ids,
        "purged_ids_per_s": ids / purge_s,
        "retention_s": retention_s,
    }


async def _measure_purge_beside_ingest(
    url: str, conn: Connection[Any], statement: str, *, quick: bool
) -> dict[str, float]:
    """Ids coming as fast as one session can add them, alone and while old ones go: the purge must be the faster one."""
    old, batch, batches_alone = (50_000, 1_000, 10) if quick else (1_000_000, 10_000, 30)
    now = datetime.now(UTC)
    await conn.execute(SET_POSITION, now)
    await conn.execute(statement, now - 3 * DAY, old)
    begun = time.perf_counter()
    for n in range(batches_alone):
        await conn.execute(statement, now + n * timedelta(seconds=1), batch)
    alone_s = time.perf_counter() - begun
    begun, added = time.perf_counter(), 0
    purge = asyncio.create_task(jobs.run_job(url, "purge", NOT_ARMED))
    while not purge.done():
        await conn.execute(statement, now + timedelta(minutes=1, seconds=added / batch), batch)
        added += batch
    took_s = time.perf_counter() - begun
    counts = await purge
    assert counts["events_purged"] == old, counts
    return {
        "ids_added_per_s_alone": batches_alone * batch / alone_s,
        "ids_added_per_s_beside_the_purge": added / took_s,
        "ids_purged_per_s_beside_ingest": old / took_s,
        "purged_for_each_added": old / added,
    }


async def _measure_percentiles(url: str, conn: Connection[Any], *, quick: bool) -> dict[str, float]:
    """An hour of a million samples of 50 operators: from all segments at once, and after one more batch."""
    operators, batches, samples = (50, 20, 100) if quick else (50, 200, 100)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await conn.execute(ADD_OPERATORS, hour, operators)
    await conn.execute(ADD_SEGMENTS, hour, operators, batches, samples)
    counts, whole_s = await _timed(lambda: jobs.run_job(url, "percentiles", NOT_ARMED))
    assert counts["segments_merged"] == operators * batches, counts
    await conn.execute(ADD_SEGMENTS, hour, operators, 1, samples)
    counts, again_s = await _timed(lambda: jobs.run_job(url, "percentiles", NOT_ARMED))
    assert counts["segments_merged"] == operators, counts
    return {
        "samples": operators * batches * samples,
        "job_s_all_segments": whole_s,
        "job_s_one_more_batch": again_s,
    }


# --------------------------------------------------------------------------------------------------------------- churn


async def _churn_ids(url: str, conn: Connection[Any], statement: str, *, quick: bool) -> dict[str, float]:
    """Hours of ids come and hours older than 48 go; the clock is how far the stream has been counted."""
    cycles, ids = (2 * WINDOW_CYCLES, 500) if quick else (8 * WINDOW_CYCLES, 10_000)
    begun = datetime.now(UTC) - cycles * timedelta(hours=1)
    full = {}
    for n in range(cycles):
        now = begun + n * timedelta(hours=1)
        await conn.execute(statement, now, ids)
        await conn.execute(SET_POSITION, now)
        await jobs.run_job(url, "purge", NOT_ARMED)
        await conn.execute("VACUUM anlyt.processed_events")
        if n == 2 * WINDOW_CYCLES - 1:
            full = await _sizes(conn, "processed_events")
    kept = await conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
    return {"cycles": cycles, "rows_kept": kept, **_compare(full, await _sizes(conn, "processed_events"))}


async def _churn_seconds(url: str, conn: Connection[Any], *, quick: bool) -> dict[str, float]:
    """All seconds of a cycle go in the next purge."""
    cycles, seconds = (20, 1_000) if quick else (200, 10_000)
    full = {}
    for n in range(cycles):
        await conn.execute(ADD_SECONDS, seconds)
        await jobs.run_job(url, "purge", NOT_ARMED)
        await conn.execute("VACUUM anlyt.second_counts")
        if n == cycles // 4:
            full = await _sizes(conn, "second_counts")
    kept = await conn.fetchval("SELECT count(*) FROM anlyt.second_counts")
    return {"cycles": cycles, "rows_kept": kept, **_compare(full, await _sizes(conn, "second_counts"))}


async def _churn_segments(url: str, conn: Connection[Any], *, quick: bool) -> dict[str, float]:
    """Segments of one hour come, and are merged."""
    cycles, batches = (20, 10) if quick else (200, 50)
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await ensure_partitions(conn, [hour])
    await conn.execute(ADD_OPERATORS, hour, OPERATORS)
    full = {}
    for n in range(cycles):
        await conn.execute(ADD_SEGMENTS, hour, OPERATORS, batches, 100)
        await jobs.run_job(url, "percentiles", NOT_ARMED)
        await conn.execute("VACUUM anlyt.latency_histograms")
        if n == cycles // 4:
            full = await _sizes(conn, "latency_histograms")
    kept = await conn.fetchval("SELECT count(*) FROM anlyt.latency_histograms")
    return {"cycles": cycles, "rows_kept": kept, **_compare(full, await _sizes(conn, "latency_histograms"))}


async def _sizes(conn: Connection[Any], table: str) -> dict[str, int]:
    row = await conn.fetchrow(SIZES, table)
    assert row is not None, "a sum has one row"
    return dict(row)


def _compare(full: dict[str, int], end: dict[str, int]) -> dict[str, float]:
    return {
        "heap_mb_when_full": full["heap"] / MB,
        "heap_mb_at_the_end": end["heap"] / MB,
        "indexes_mb_when_full": full["indexes"] / MB,
        "indexes_mb_at_the_end": end["indexes"] / MB,
    }
