"""`anlyt doctor`: look at everything the service depends on and say what to do about what is wrong.

In: settings with both addresses. Out: findings, each ok, a warning or a problem, with a remedy. Reads only.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import Struct

from anlyt import jetstream, jobs, postgres
from anlyt.errors import AnlytError, ConfigurationError, Retry
from anlyt.events import SECOND_US
from anlyt.postgres import sql
from anlyt.settings import format_duration
from anlyt.snapshot import GUARDED_TABLES, STAFF_ROLE, TENANT_ROLE

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from anlyt.settings import Settings

POSTGRES_VERSION_MIN: Final = 180_000  # what the tests run on
NATS_VERSION_MIN: Final = (2, 12, 6)  # earlier ones let restores overwrite other streams (CVE-2026-33222)
CLOCK_SKEW_MAX_S: Final = 60.0  # the exactly-once window leaves 10 min
RUNWAY_MIN: Final = timedelta(days=31)
LAG_MAX_S: Final = 60.0
DAY_NS: Final = 86_400_000_000_000

Level = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    level: Level
    finding: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Every finding. A server that cannot be reached is a problem, not an error."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    findings = await _examine_postgres(settings, settings.database_url.get_secret_value())
    findings += await _examine_nats(settings, settings.nats_url.get_secret_value())
    return findings


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


async def _examine_postgres(settings: Settings, url: str) -> list[Finding]:
    try:
        async with postgres.session(url, application="anlyt-doctor") as conn:
            findings = [await _check_version(conn), *await _check_durability(conn), await _check_clock(conn)]
            schema = await _check_schema(conn)
            findings.append(schema)
            if schema.level == "ok":
                findings += [await _check_reading(conn), await _check_runway(conn)]
                findings += await _check_counting(conn, settings)
                findings += [*await _check_jobs(conn, settings), *await _check_streams(conn, settings)]
            return findings
    except (Retry, ConfigurationError) as error:
        return [Finding("PostgreSQL", "problem", str(error), "start the server or correct ANLYT_DATABASE_URL")]


async def _check_version(conn: Connection[Record]) -> Finding:
    row = await conn.fetchrow(sql("doctor/read_server"))
    assert row is not None
    if row["version_number"] < POSTGRES_VERSION_MIN:
        remedy = "use PostgreSQL 18, which anlyt is tested with"
        return Finding("PostgreSQL version", "warning", f"PostgreSQL {row['version']}", remedy)
    return Finding("PostgreSQL version", "ok", f"PostgreSQL {row['version']}")


async def _check_durability(conn: Connection[Record]) -> list[Finding]:
    row = await conn.fetchrow(sql("doctor/read_durability"))
    assert row is not None
    off = [name for name, value in row.items() if value == "off"]
    if not off:
        return [Finding("PostgreSQL durability", "ok", "fsync, synchronous_commit and full_page_writes are on")]
    return [
        Finding("PostgreSQL durability", "problem", f"{name} is off: a committed batch may be lost", f"set {name} = on")
        for name in off
    ]


async def _check_clock(conn: Connection[Record]) -> Finding:
    before = time.time()
    theirs: datetime = await conn.fetchval(sql("doctor/read_clock"))
    ours = (before + time.time()) / 2
    return _clock("PostgreSQL clock", abs(theirs.timestamp() - ours))


def _clock(check: str, skew_s: float) -> Finding:
    text = f"{skew_s:.1f} s from this machine's clock"
    if skew_s > CLOCK_SKEW_MAX_S:
        return Finding(check, "problem", text, "synchronise the clocks (NTP): the exactly-once window relies on them")
    return Finding(check, "ok", text)


async def _check_schema(conn: Connection[Record]) -> Finding:
    pending = await postgres.pending_migrations(conn)
    if pending:
        return Finding("schema", "problem", f"{len(pending)} migrations are missing", "run: anlyt migrate")
    return Finding("schema", "ok", "up to date")


async def _check_reading(conn: Connection[Record]) -> Finding:
    """Whether the API can read as its two roles, and the one of tenants is held to its rows."""
    for role in (STAFF_ROLE, TENANT_ROLE):
        row = await conn.fetchrow(sql("doctor/read_reading_roles"), role, GUARDED_TABLES)
        assert row is not None
        if not row["allowed"]:
            text, remedy = f"this role may not read as {role}, so the API cannot answer", f"GRANT {role} TO it"
        elif row["unbounded"]:
            text, remedy = f"{role} sees every row, whoever asks", f"ALTER ROLE {role} NOSUPERUSER NOBYPASSRLS"
        elif row["unguarded"]:
            text = f"row-level security is off on {', '.join(row['unguarded'])}"
            remedy = "enable row level security on it, as sql/schema.sql does"
        else:
            continue
        return Finding("reading", "problem", text, remedy)
    return Finding("reading", "ok", f"as {STAFF_ROLE} and {TENANT_ROLE}; PostgreSQL shows tenants their own rows only")


async def _check_runway(conn: Connection[Record]) -> Finding:
    rows = await conn.fetch(sql("read/list_runways"))
    ends = {row["table_name"]: row["covered_until"] for row in rows}
    missing = [name for name in postgres.PARTITIONED_TABLES if ends.get(name) is None]
    first = min((end for end in ends.values() if end is not None), default=None)
    if missing or first is None:
        return Finding("partitions", "problem", f"none for {', '.join(missing)}", "run: anlyt jobs run partitions")
    level: Level = "ok" if first - datetime.now(UTC) >= RUNWAY_MIN else "warning"
    remedy = "" if level == "ok" else "run: anlyt jobs run partitions, and keep anlyt jobs loop running"
    return Finding("partitions", level, f"there are partitions until {first:%Y-%m-%d}", remedy)


async def _check_counting(conn: Connection[Record], settings: Settings) -> list[Finding]:
    row = await conn.fetchrow(sql("doctor/read_counting"), settings.stream)
    assert row is not None
    findings: list[Finding] = []
    if row["complete_through"] is None:
        findings.append(Finding("counting", "warning", "nothing has been counted yet", "run: anlyt worker"))
    else:
        lag = (datetime.now(UTC) - row["complete_through"]).total_seconds()
        level: Level = "ok" if lag <= LAG_MAX_S else "problem"
        remedy = "" if level == "ok" else "start anlyt worker, or more of them with a higher ANLYT_PARTITIONS"
        findings.append(Finding("counting", level, f"complete through {row['complete_through']:%F %T} UTC", remedy))
    if row["lost_messages"]:
        text = f"the stream dropped {row['lost_messages']} messages before they were counted"
        findings.append(Finding("lost messages", "problem", text, "raise the stream's limits; publish them again"))
    if row["dead_letters"]:
        text = f"{row['dead_letters']} in the last 24 h"
        findings.append(Finding("dead letters", "warning", text, "look: anlyt dead-letters list"))
    return findings


async def _check_jobs(conn: Connection[Record], settings: Settings) -> list[Finding]:
    last = await jobs.read_last_runs(conn)
    due = jobs.jobs_of(archived=settings.archive_url is not None)
    findings: list[Finding] = []
    for job in due:
        run = last.get(job.name)
        match jobs.judge_run(job, run):
            case "ok" | "running":
                continue
            case "never ran":
                findings.append(Finding("jobs", "warning", f"{job.name} has never run", "run: anlyt jobs loop"))
            case "failed":
                assert run is not None
                cause = json.loads(run["detail"]).get("error", "no cause was recorded")
                remedy = f"mend the cause, then: anlyt jobs run {job.name}"
                findings.append(Finding("jobs", "problem", f"{job.name} failed: {cause}", remedy))
            case "overdue":
                assert run is not None
                since = f"since {run['succeeded_at']:%F %T} UTC" if run["succeeded_at"] else "ever"
                text = f"{job.name} has not ended well {since}, but is due every {format_duration(job.period)}"
                findings.append(Finding("jobs", "problem", text, "keep anlyt jobs loop running, on any machine"))
    return findings or [Finding("jobs", "ok", f"all {len(due)} ran on time")]


async def _check_streams(conn: Connection[Record], settings: Settings) -> list[Finding]:
    """Streams other than ours that are known and that nobody counts: the purge and retention wait for them."""
    return [
        Finding(
            "streams",
            "problem",
            f"{row['stream']} was last counted at {row['updated_at']:%F %T} UTC; purge and retention wait for it",
            f"start a worker with ANLYT_STREAM={row['stream']}, or, when it is gone for good, run: "
            f"anlyt jobs forget-stream {row['stream']}",
        )
        for row in await conn.fetch(sql("jobs/find_idle_streams"), jobs.STREAM_IDLE)
        if row["stream"] != settings.stream
    ]


# ---------------------------------------------------------------------------------------------------------------- NATS


async def _examine_nats(settings: Settings, url: str) -> list[Finding]:
    try:
        nc = await jetstream.connect(url, name="anlyt-doctor")
    except Retry as error:
        return [Finding("NATS", "problem", str(error), "start the server or correct ANLYT_NATS_URL")]
    try:
        version = nc.connected_server_version
        found = f"nats-server {version.major}.{version.minor}.{version.patch}"
        new_enough = (version.major, version.minor, version.patch) >= NATS_VERSION_MIN
        findings = [
            Finding("NATS version", "ok" if new_enough else "problem", found, "" if new_enough else "upgrade it")
        ]
        return [*findings, *await _check_stream(nc, settings)]
    except AnlytError as error:
        return [Finding("stream", "problem", str(error), "run: anlyt migrate")]
    finally:
        await nc.close()


async def _check_stream(nc: jetstream.Client, settings: Settings) -> list[Finding]:
    info = await jetstream.stream_info(nc, settings.stream)
    findings = [_clock("NATS clock", abs(time.time() - info.now / SECOND_US))]
    problems = jetstream.stream_problems(info.config, settings.subjects)
    for problem in problems:
        level: Level = "problem" if problem.startswith("must") else "warning"
        findings.append(Finding("stream", level, f"{settings.stream} {problem}", _remedy(info.config)))
    if not jetstream.has_slots(info.config, settings.subjects):
        transform = json.dumps(jetstream.slot_transform(settings.subjects))
        text = f"{settings.stream} can only be counted as one partition: it puts no slots into its subjects"
        findings.append(Finding("partitions", "warning", text, f"set its subject_transform to {transform}"))
    if not problems:
        age = info.config.get("max_age", 0)
        kept = f"{age / DAY_NS:.1f} days" if age else "without end"
        findings.append(Finding("stream", "ok", f"{settings.stream} holds {info.messages:,} messages, kept {kept}"))
    return findings


def _remedy(config: dict[str, Any]) -> str:
    return f"nats stream edit {config.get('name')}, or let anlyt make a stream of another name (ANLYT_STREAM)"
