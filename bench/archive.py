"""How fast the archive takes rows, beside what PostgreSQL can give and chDB can take alone.

Fills the four tables of a fresh embedded PostgreSQL, runs `anlyt jobs run archive` as a process of its own into an
empty embedded archive, then once more with nothing to copy, and once after a day has changed. Rows/s are those of the
whole run as the job records it: adding up both sides, copying, adding up the staging tables, replacing, receipts. Its
process also takes a while to start, which a loop of jobs does once.

    python bench/archive.py [--days 90] [--accounts 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anlyt import chdb_owner, postgres
from anlyt.archive import PIECE_BYTES_MAX, STATEMENTS, make_tables
from anlyt.clickhouse import TABLES, ClickHouse
from anlyt.columns import read_piece
from anlyt.embedded import EmbeddedPostgres
from anlyt.postgres import ensure_partitions, session, sql

if TYPE_CHECKING:
    from asyncpg import Connection, Record

DAY = timedelta(days=1)
MIB = 2**20
SECONDS_MAX = 900.0
RECORDED = "SELECT date_part('epoch', finished_at - started_at) FROM anlyt.job_runs ORDER BY started_at DESC LIMIT 1"
WHO = """
    SELECT 'PLATFORM' AS scope, 'platform' AS who
    UNION ALL SELECT 'OPERATOR', md5('o' || n)::UUID::TEXT FROM generate_series(1, $3::INTEGER) AS n
    UNION ALL SELECT 'ACCOUNT', md5('a' || n)::UUID::TEXT FROM generate_series(1, $4::INTEGER) AS n"""
FILL = {
    "metrics_hourly": f"""
        INSERT INTO anlyt.metrics_hourly
        SELECT bucket, scope, who, n, n - 9, 4, 5, n * 0.0123, n * 431, n, n % 90, now() - random() * INTERVAL '1 day'
        FROM generate_series($1::TIMESTAMPTZ, $2::TIMESTAMPTZ - INTERVAL '1 hour', INTERVAL '1 hour') AS bucket
        CROSS JOIN ({WHO}) AS w CROSS JOIN LATERAL (SELECT (random() * 90000)::BIGINT AS n) AS r""",  # noqa: S608 - above
    "metrics_daily": f"""
        INSERT INTO anlyt.metrics_daily
        SELECT bucket, scope, who, n, n - 9, 4, 5, n * 0.0123, n * 431, n, n % 90, now() - random() * INTERVAL '1 day'
        FROM generate_series($1::TIMESTAMPTZ, $2::TIMESTAMPTZ - INTERVAL '1 day', INTERVAL '1 day') AS bucket
        CROSS JOIN ({WHO}) AS w CROSS JOIN LATERAL (SELECT (random() * 90000)::BIGINT AS n) AS r""",  # noqa: S608 - above
    "operator_performance": """
        INSERT INTO anlyt.operator_performance
        SELECT hour_bucket, scope_id::UUID, total_messages, delivered_messages, 4, latency_sum_ms, latency_sample_count,
            nullif(total_messages % 5000, 7), peak_tps, 4, updated_at
        FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR'""",
    "account_usage_daily": """
        INSERT INTO anlyt.account_usage_daily
        SELECT day_bucket, scope_id::UUID, total_messages, delivered_messages, 4, total_cost, total_messages, updated_at
        FROM anlyt.metrics_daily WHERE scope = 'ACCOUNT'""",
}


async def fill(conn: Connection[Record], *, days: int, operators: int, accounts: int) -> int:
    """Hours of `days` days and days of a year, all over; the number of rows."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await ensure_partitions(conn, [today - n * DAY for n in range(days + 1)])
    who = (operators, accounts)
    await conn.execute(FILL["metrics_hourly"], today - days * DAY, today, *who, timeout=SECONDS_MAX)
    await conn.execute(FILL["metrics_daily"], today - 364 * DAY, today, *who, timeout=SECONDS_MAX)
    for name in ("operator_performance", "account_usage_daily"):
        await conn.execute(FILL[name], timeout=SECONDS_MAX)
    await conn.execute("VACUUM ANALYZE", timeout=SECONDS_MAX)
    return sum([await conn.fetchval(f"SELECT count(*) FROM anlyt.{table.name}") for table in TABLES])  # noqa: S608 - our tables


async def run_job(url: str, archive_url: str) -> tuple[dict[str, int], float, float]:
    """What one run copied, its seconds, and the peak memory of its process in MiB."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANLYT_")}
    environment = kept | {
        "ANLYT_DATABASE_URL": url,
        "ANLYT_ARCHIVE_URL": archive_url,
        "ANLYT_NATS_URL": "nats://x:4222",
    }
    command = [sys.executable, "-m", "anlyt", "jobs", "run", "archive", "--json"]
    begun = time.monotonic()
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    peak = 0.0
    reading = asyncio.create_task(process.communicate())
    while not reading.done():
        await asyncio.wait([reading], timeout=0.05)
        peak = max(peak, memory_mib(process.pid))
    out, _ = await reading
    if process.returncode:
        raise SystemExit(f"the job ended with {process.returncode}")
    return json.loads(out), time.monotonic() - begun, peak


def memory_mib(pid: int) -> float:
    """Peak resident memory of a process; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except FileNotFoundError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, its living children and those it has waited for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    total = 0
    for each in (str(pid), *children):
        with contextlib.suppress(FileNotFoundError):
            total += sum(map(int, Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


async def measure_alone(conn: Connection[Record], archive_url: str) -> dict[str, float]:
    """Rows/s of COPY out of PostgreSQL into nothing, of decoding, and of the same rows into chDB, one after the other.

    That is a month of hours: what the machine could do if each step had it for itself.
    """
    parts: list[bytearray] = [bytearray()]

    async def take(data: bytes) -> None:
        if len(parts[-1]) > PIECE_BYTES_MAX:
            parts.append(bytearray())
        parts[-1] += data

    now = datetime.now(UTC)
    begun = time.monotonic()
    await conn.copy_from_query(
        sql(STATEMENTS["metrics_hourly"].copy), now - 31 * DAY, now, output=take, format="text", timeout=SECONDS_MAX
    )
    read_s = time.monotonic() - begun
    read_piece("metrics_hourly", bytes(parts[0]), stream=False)  # loads the libraries
    begun = time.monotonic()
    pieces = [read_piece("metrics_hourly", bytes(part), stream=True) for part in parts]
    decoded_s = time.monotonic() - begun
    rows = sum(piece.row_count for piece in pieces)
    clickhouse = ClickHouse(archive_url)
    await make_tables(clickhouse)
    begun = time.monotonic()
    for piece in pieces:
        await clickhouse.insert("metrics_hourly", piece.stream)
    written_s = time.monotonic() - begun
    await clickhouse.execute("TRUNCATE TABLE metrics_hourly")
    await clickhouse.close()
    return {
        "copy_out_rows_per_s": rows / read_s,
        "decode_rows_per_s": rows / decoded_s,
        "chdb_insert_rows_per_s": rows / written_s,
    }


async def measure(directory: Path, *, days: int = 90, operators: int = 20, accounts: int = 1_000) -> dict[str, Any]:
    """The figures, in a directory of its own that the caller takes away."""
    archive_url = f"chdb://{directory / 'archive'}"
    async with EmbeddedPostgres(directory / "postgres") as server:
        await postgres.migrate(server.url)
        async with session(server.url, application="bench", statement_timeout_s=SECONDS_MAX) as conn:
            rows = await fill(conn, days=days, operators=operators, accounts=accounts)
            alone = await measure_alone(conn, archive_url)
            owner = chdb_owner.find_or_start(directory / "archive")
            before = cpu_s(server.pid), cpu_s(owner.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
            copied, first_s, job_mib = await run_job(server.url, archive_url)
            after = cpu_s(server.pid), cpu_s(owner.pid), resource.getrusage(resource.RUSAGE_CHILDREN)
            recorded_s: float = await conn.fetchval(RECORDED)
            if copied["rows_copied"] != rows:
                raise SystemExit(f"{rows} rows are there, {copied['rows_copied']} were copied")
            _, again_s, _ = await run_job(server.url, archive_url)
            await conn.execute(
                "UPDATE anlyt.metrics_hourly SET failed_messages = failed_messages + 1 WHERE hour_bucket = $1",
                datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - 3 * DAY,
            )
            changed, changed_s, _ = await run_job(server.url, archive_url)
        owner_mib = memory_mib(owner.pid)
    job_s = after[2].ru_utime + after[2].ru_stime - before[2].ru_utime - before[2].ru_stime
    return {
        "rows": rows,
        "seconds": recorded_s,
        "rows_per_s": rows / recorded_s,
        "with_the_start_s": first_s,
        "ratio_to_chdb_insert": rows / recorded_s / alone["chdb_insert_rows_per_s"],
        "postgres_cpu_us_a_row": (after[0] - before[0]) / rows * 1e6,
        "chdb_cpu_us_a_row": (after[1] - before[1]) / rows * 1e6,
        "job_cpu_us_a_row": job_s / rows * 1e6,
        **alone,
        "nothing_to_copy_s": again_s,
        "one_day_changed_s": changed_s,
        "one_day_rows": changed["rows_copied"],
        "job_peak_mib": job_mib,
        "owner_peak_mib": owner_mib,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--operators", type=int, default=20)
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="anlyt-bench-"))
    directory.chmod(0o711)
    try:
        figures = asyncio.run(
            measure(directory, days=options.days, operators=options.operators, accounts=options.accounts)
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    for name, value in figures.items():
        print(f"{name:<24} {value:>14,.1f}" if isinstance(value, float) else f"{name:<24} {value:>14,}")
    if options.json:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
