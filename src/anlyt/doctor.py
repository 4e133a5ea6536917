"""`anlyt doctor`: look at everything the service depends on and say what to do about what is wrong.

In: settings with both addresses. Out: findings, each ok, a warning or a problem, with a remedy. Reads only.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import httpx2
import msgspec
from msgspec import Struct

from anlyt import jetstream, jobs, postgres, slots
from anlyt.breaker import REFUSED_EVENTS_MAX
from anlyt.clickhouse import TABLES, statement
from anlyt.credentials import LOOPBACK_HOSTS, plain_hosts
from anlyt.errors import AnlytError, ArchiveUnavailable, ConfigurationError, Retry
from anlyt.events import DEDUPE_WINDOW_US, SECOND_US, parse_instant
from anlyt.postgres import sql
from anlyt.settings import format_duration
from anlyt.snapshot import GUARDED_TABLES, STAFF_ROLE, TENANT_ROLE

if TYPE_CHECKING:
    from asyncpg import Connection, Record

    from anlyt.clickhouse import ClickHouse
    from anlyt.settings import Settings

POSTGRES_VERSION_MIN: Final = 180_000  # what the tests run on
NATS_VERSION_MIN: Final = (2, 12, 6)  # earlier ones let restores overwrite other streams (CVE-2026-33222)
CLOCK_SKEW_MAX_S: Final = 60.0  # the exactly-once window leaves 10 min
RUNWAY_MIN: Final = timedelta(days=31)
LAG_MAX_S: Final = 60.0
LETTERS_MANY: Final = 10  # in an hour; fewer are told, but are no growth
LETTERS_GROWTH: Final = 3  # times the mean of the hours before
FULL_SHARE: Final = 0.9
TRANSACTION_AGE_MAX: Final = timedelta(minutes=10)  # no session of anlyt's own but a long job's has one so long
MONITOR_TIMEOUT_S: Final = 5.0
MONITOR_BYTES_MAX: Final = 2**20
REPLICAS_SAFE: Final = 3  # not all of them lose their power at once, if they stand apart
WINDOW: Final = timedelta(microseconds=DEDUPE_WINDOW_US)
ROOM_SPAN_MIN: Final = timedelta(minutes=10)  # less says nothing about a rate
DAY_NS: Final = 86_400_000_000_000

Level = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    level: Level
    finding: str
    remedy: str = ""


class _Storage(Struct):
    sync_always: bool = False


class _JetStream(Struct):
    config: _Storage


class _Varz(Struct):
    """What a server says of itself, as far as it matters here."""

    jetstream: _JetStream


async def examine(settings: Settings, clickhouse: ClickHouse | None = None, *, embedded: bool = False) -> list[Finding]:
    """Every finding. A server that cannot be reached is a problem, not an error. `embedded`: they are ours."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    clocks: dict[str, float] = {}
    findings = await _examine_postgres(settings, settings.database_url.get_secret_value(), clocks)
    findings += await _examine_nats(settings, clocks, embedded=embedded)
    findings += await _examine_archive(clickhouse)
    return [*findings, *_compare_clocks(clocks), *_check_transport(settings)]


def _check_transport(settings: Settings) -> list[Finding]:
    """Addresses over which somebody on the way could read along, or be taken for the server."""
    remedies = {
        "ANLYT_DATABASE_URL": "add ?sslmode=verify-full&sslrootcert=/path/ca.pem to it",
        "ANLYT_NATS_URL": "use tls:// addresses, and ANLYT_NATS_CA_FILE where the authority is your own",
        "ANLYT_ARCHIVE_URL": "use clickhouses://",
    }
    findings = [
        Finding("transport", "warning", f"{name} leads to {', '.join(hosts)} without verified TLS", remedies[name])
        for name, hosts in plain_hosts(settings).items()
    ]
    if settings.http_host not in LOOPBACK_HOSTS:
        text = f"the API takes plain HTTP on {settings.http_host}"
        findings.append(Finding("transport", "warning", text, "let only a proxy that speaks TLS reach this port"))
    return findings or [Finding("transport", "ok", "every connection that leaves this machine is encrypted")]


async def _examine_archive(clickhouse: ClickHouse | None) -> list[Finding]:
    if clickhouse is None:
        return [Finding("archive", "ok", "none is configured: rows past their retention are deleted")]
    try:
        tables = {"tables": [table.name for table in TABLES]}
        (row,) = await clickhouse.fetch(statement("doctor/read_archive", None), tables)
    except ArchiveUnavailable as error:
        if "no tables of anlyt yet" in str(error):
            return [Finding("archive", "warning", str(error), "anlyt jobs run archive")]
        return [Finding("archive", "problem", str(error), "start ClickHouse or correct ANLYT_ARCHIVE_URL")]
    if row["found"] < len(TABLES):
        remedy = "run: anlyt jobs run archive"
        return [Finding("archive", "warning", f"ClickHouse {row['version']} has no tables of anlyt yet", remedy)]
    return [Finding("archive", "ok", f"ClickHouse {row['version']} at {clickhouse.address.shown}")]


# ---------------------------------------------------------------------------------------------------------- PostgreSQL


async def _examine_postgres(settings: Settings, url: str, clocks: dict[str, float]) -> list[Finding]:
    try:
        async with postgres.session(url, application="anlyt-doctor") as conn:
            findings = [await _check_version(conn), *await _check_durability(conn), await _check_clock(conn, clocks)]
            rights = await _check_rights(conn)
            findings += rights
            if any(finding.level == "problem" for finding in rights):
                return findings
            schema = await _check_schema(conn)
            findings.append(schema)
            if schema.level == "ok":
                findings += [await _check_reading(conn), await _check_runway(conn), await _check_transactions(conn)]
                findings += [*await _check_counting(conn, settings), *await _check_letters(conn, settings)]
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


async def _check_clock(conn: Connection[Record], clocks: dict[str, float]) -> Finding:
    before = time.time()
    theirs: datetime = await conn.fetchval(sql("doctor/read_clock"))
    ours = (before + time.time()) / 2
    clocks["PostgreSQL"] = theirs.timestamp() - ours
    return _clock("PostgreSQL clock", clocks["PostgreSQL"])


def _compare_clocks(clocks: dict[str, float]) -> list[Finding]:
    """What each is away from this machine's may be little, and yet much from one another."""
    if len(clocks) < 2:  # noqa: PLR2004 - PostgreSQL and NATS
        return []
    return [_clock("NATS and PostgreSQL clocks", clocks["NATS"] - clocks["PostgreSQL"], other="one another")]


def _clock(check: str, skew_s: float, *, other: str = "this machine's clock") -> Finding:
    text = f"{abs(skew_s):.1f} s from {other}"
    if abs(skew_s) > CLOCK_SKEW_MAX_S:
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


async def _check_transactions(conn: Connection[Record]) -> Finding:
    row = await conn.fetchrow(sql("doctor/find_oldest_transaction"))
    if row is None or row["age"] <= TRANSACTION_AGE_MAX:
        return Finding(
            "transactions", "ok", f"none that can be seen is older than {format_duration(TRANSACTION_AGE_MAX)}"
        )
    who = f"{row['application'] or 'a session'} ({row['role']}, process {row['pid']})"
    text = f"{who} has had one open for {_roughly(row['age'])}: what is deleted meanwhile takes room until it ends"
    return Finding("transactions", "warning", text, f"end it: pg_terminate_backend({row['pid']})")


async def _check_rights(conn: Connection[Record]) -> list[Finding]:
    """Nothing when the schema is not there yet."""
    row = await conn.fetchrow(sql("doctor/list_missing_rights"), list(postgres.PARTITIONED_TABLES))
    if row is None:
        return []
    remedy = "connect as the role that owns the schema, or give schema and tables to this role"
    if not row["may_enter"]:
        return [Finding("PostgreSQL rights", "problem", "this role may not use the schema anlyt", remedy)]
    if row["not_writable"]:
        text = f"this role may not read and write {', '.join(row['not_writable'])}"
        return [Finding("PostgreSQL rights", "problem", text, remedy)]
    if row["not_owned"]:
        text = f"this role does not own {', '.join(row['not_owned'])}, so it can make no partitions"
        return [Finding("PostgreSQL rights", "problem", text, remedy)]
    return [Finding("PostgreSQL rights", "ok", "this role may do what the service has to")]


async def _check_counting(conn: Connection[Record], settings: Settings) -> list[Finding]:
    row = await conn.fetchrow(sql("doctor/read_counting"), settings.stream)
    assert row is not None
    findings = [_counting(row["complete_through"], row["worker_sessions"])]
    if row["lost_messages"]:
        text = f"the stream dropped {row['lost_messages']} messages before they were counted"
        findings.append(Finding("lost messages", "problem", text, "raise the stream's limits; publish them again"))
    if row["refused_events"] >= REFUSED_EVENTS_MAX:
        text = "next to nothing of the last events could be understood: workers stop before more become dead letters"
        remedy = (
            "look: anlyt dead-letters list; mend the producers, or ANLYT_CURRENCY, ANLYT_STREAM and ANLYT_SUBJECTS, "
            "then start the workers again; ANLYT_DEAD_LETTER_SHARE_MAX=1 lets them go on"
        )
        findings.append(Finding("dead letters", "problem", text, remedy))
    return findings


def _counting(complete_through: datetime | None, sessions: int) -> Finding:
    """How far the counting is, and why it is no further."""
    if complete_through is None:
        return Finding("counting", "warning", "nothing has been counted yet", "run: anlyt worker")
    lag = datetime.now(UTC) - complete_through
    text = f"complete through {complete_through:%F %T} UTC"
    if lag.total_seconds() <= LAG_MAX_S:
        return Finding("counting", "ok", text)
    behind = f"{text}, {_roughly(lag)} ago"
    if not sessions:
        return Finding("counting", "problem", f"{behind}, and no worker is connected", "run: anlyt worker")
    remedy = "look at what the workers log and at the load of PostgreSQL; more workers need a higher ANLYT_PARTITIONS"
    return Finding("counting", "problem", f"{behind}, though workers are connected: they fall behind", remedy)


def _roughly(length: timedelta) -> str:
    """A length of time in whole minutes, hours or days."""
    for unit, size in (("d", timedelta(days=1)), ("h", timedelta(hours=1)), ("min", timedelta(minutes=1))):
        if length >= 2 * size:
            return f"{length // size} {unit}"
    return format_duration(timedelta(seconds=round(length.total_seconds())))


async def _check_letters(conn: Connection[Record], settings: Settings) -> list[Finding]:
    """Dead letters of the last day; a problem when the last hour brought many more than the hours before it.

    Those of a named load came all at once and are over: they are told, but are no growth.
    """
    rows = await conn.fetch(sql("doctor/count_dead_letters"), settings.stream)
    if not rows:
        return []
    day, loads, hour = (sum(row[name] for row in rows) for name in ("day_letters", "load_letters", "hour_letters"))
    reasons = ", ".join(f"{row['day_letters']:,} {row['reason']}" for row in rows)
    latest = f"{loads:,} of them of backfills, {hour:,} others" if loads else f"{hour:,} of them"
    text = f"{day:,} open ones in the last 24 h ({reasons}), {latest} in the last hour"
    if hour < LETTERS_MANY or hour <= LETTERS_GROWTH * (day - loads - hour) / 23:
        look = f"look: anlyt dead-letters list --reason {rows[0]['reason']}"
        return [Finding("dead letters", "warning", text, look)]
    newest = max(rows, key=lambda row: row["hour_letters"])["reason"]
    look = f"look: anlyt dead-letters list --reason {newest}, and tell its producer"
    return [Finding("dead letters", "problem", f"they grow: {text}", look)]


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


async def _examine_nats(settings: Settings, clocks: dict[str, float], *, embedded: bool) -> list[Finding]:
    try:
        nc = await jetstream.connect_as(settings, name="anlyt-doctor")
    except (Retry, ConfigurationError) as error:
        return [Finding("NATS", "problem", str(error), "start the server or correct ANLYT_NATS_URL")]
    try:
        version = nc.connected_server_version
        found = f"nats-server {version.major}.{version.minor}.{version.patch}"
        new_enough = (version.major, version.minor, version.patch) >= NATS_VERSION_MIN
        findings = [
            Finding("NATS version", "ok" if new_enough else "problem", found, "" if new_enough else "upgrade it")
        ]
        findings += [*await _check_stream(nc, settings, clocks), *await _check_room(nc, settings)]
        findings += await _check_disk(nc, settings, embedded=embedded)
        return [*findings, await _check_reader(nc, settings)]
    except AnlytError as error:
        return [Finding("stream", "problem", str(error), "run: anlyt migrate")]
    finally:
        await nc.close()


async def _check_disk(nc: jetstream.Client, settings: Settings, *, embedded: bool) -> list[Finding]:
    """Whether what the servers acknowledge is on disk, which only their monitoring addresses tell."""
    check, remedy = "NATS durability", 'set sync_interval: "always" in the jetstream block of its configuration'
    if embedded:
        return [Finding(check, "ok", "what is acknowledged is on disk")]
    if not settings.nats_monitor_urls:
        text = "not known: whether an acknowledged event is on disk, or up to two minutes later, the default"
        return [Finding(check, "warning", text, f"{remedy}; with ANLYT_NATS_MONITOR_URLS set, this is looked at")]
    replicas = (await jetstream.stream_info(nc, settings.stream)).config.get("num_replicas", 1)
    findings: list[Finding] = []
    for url in settings.nats_monitor_urls:
        try:
            always = await _syncs_always(url)
        except (httpx2.HTTPError, TimeoutError, ValueError) as error:
            text = f"{url} did not say: {error or type(error).__name__}"
            findings.append(Finding(check, "warning", text, "start it, or correct ANLYT_NATS_MONITOR_URLS"))
            continue
        level: Level = "ok" if always else "warning" if replicas >= REPLICAS_SAFE else "problem"
        text = "what is acknowledged is on disk" if always else "a power cut takes acknowledged events with it"
        findings.append(Finding(check, level, f"{url}: {text}", "" if always else remedy))
    return findings


async def _syncs_always(url: str) -> bool:
    """Whether a server writes each message to disk before it acknowledges it, by its /varz."""
    body = bytearray()
    async with (
        asyncio.timeout(MONITOR_TIMEOUT_S),
        httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=MONITOR_TIMEOUT_S) as client,
        client.stream("GET", f"{url.rstrip('/')}/varz", headers={"accept-encoding": "identity"}) as response,
    ):
        response.raise_for_status()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MONITOR_BYTES_MAX:
                msg = f"the answer has more than {MONITOR_BYTES_MAX} bytes"
                raise ValueError(msg)
    return msgspec.json.decode(body, type=_Varz).jetstream.config.sync_always


async def _check_reader(nc: jetstream.Client, settings: Settings) -> Finding:
    """Whether this user may do what a worker does to read; a consumer without acks comes and goes without a trace."""
    try:
        info = await jetstream.stream_info(nc, settings.stream)
        reader = await jetstream.open_reader(nc, settings.stream, subject=None, after=info.last_seq)
        await reader.close()
    except AnlytError as error:
        remedy = "grant this user the subjects of its role, see the page on security"
        return Finding("NATS permissions", "problem", str(error), remedy)
    return Finding("NATS permissions", "ok", f"this user may read {settings.stream}")


async def _check_stream(nc: jetstream.Client, settings: Settings, clocks: dict[str, float]) -> list[Finding]:
    info = await jetstream.stream_info(nc, settings.stream)
    clocks["NATS"] = info.now / SECOND_US - time.time()
    findings = [_clock("NATS clock", clocks["NATS"])]
    problems = jetstream.stream_problems(info.config, settings.subjects, replicas=settings.stream_replicas)
    for problem in problems:
        level: Level = "problem" if problem.startswith("must") else "warning"
        findings.append(Finding("stream", level, f"{settings.stream} {problem}", _remedy(info.config)))
    if slots.division_of(info.config, settings.subjects) is None:
        text = (
            f"{settings.stream} can only be counted as one partition: its subjects carry no slots, or not all the same"
        )
        findings.append(Finding("partitions", "warning", text, slots.remedy(info.config, settings.subjects)))
    if not problems:
        age = info.config.get("max_age", 0)
        kept = f"{age / DAY_NS:.1f} days" if age else "without end"
        findings.append(Finding("stream", "ok", f"{settings.stream} holds {info.messages:,} messages, kept {kept}"))
    return findings


async def _check_room(nc: jetstream.Client, settings: Settings) -> list[Finding]:
    """Whether the stream's files are whole, and its limits hold what comes in the window, at the rate of now."""
    answer = await jetstream.request(nc, f"STREAM.INFO.{settings.stream}", {"deleted_details": True})
    config, state = answer["config"], answer["state"]
    findings: list[Finding] = []
    if lost := state.get("lost"):
        text = f"nats-server found {lost['bytes']:,} bytes of {settings.stream} unreadable, and dropped them"
        remedy = "look at its log and its disk; what was not counted before must be published again"
        findings.append(Finding("stream", "problem", text, remedy))
    for limit, held in (("max_bytes", state["bytes"]), ("max_msgs", state["messages"])):
        most = config.get(limit, -1)
        if most <= 0 or not held:
            continue
        span = timedelta(microseconds=parse_instant(state["last_ts"]) - parse_instant(state["first_ts"]))
        if held >= FULL_SHARE * most:
            effect = "refuses new events" if config.get("discard") == "new" else "drops the oldest, counted or not"
            text = f"{settings.stream} is {held / most:.0%} full ({limit} {most:,}); when it is full it {effect}"
            findings.append(Finding("stream room", "problem", text, f"raise {limit}: {_remedy(config)}"))
        elif span >= ROOM_SPAN_MIN and span * (most / held) < WINDOW:
            text = f"{limit} {most:,} of {settings.stream} holds {_roughly(span * (most / held))} at the present rate"
            remedy = f"raise {limit} to what {format_duration(WINDOW)} need: {_remedy(config)}"
            findings.append(Finding("stream room", "warning", text, remedy))
    return findings


def _remedy(config: dict[str, Any]) -> str:
    return f"nats stream edit {config.get('name')}, or let anlyt make a stream of another name (ANLYT_STREAM)"
