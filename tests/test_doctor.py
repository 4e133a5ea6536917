"""doctor: each finding names what is wrong and what to do; a server that is away is a finding, not an error."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

import databases
from anlyt import doctor, jetstream, jobs, up
from anlyt.archive import make_tables
from anlyt.clickhouse import ClickHouse
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedNats
from anlyt.postgres import PARTITIONED_TABLES, session
from archives import archive_directory, archive_in
from commands import anlyt, environment, environment_of
from databases import login_role
from support import free_port, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from anlyt.doctor import Finding
    from anlyt.embedded import EmbeddedPostgres
    from anlyt.settings import Settings


def found(settings: Settings) -> dict[str, Finding]:
    """What doctor finds, by check; the worst of each."""
    worst = {"ok": 0, "warning": 1, "problem": 2}
    findings = sorted(run(doctor.examine(settings)), key=lambda finding: worst[finding.level])
    return {finding.check: finding for finding in findings}


async def execute(settings: Settings, *statements: str) -> None:
    assert settings.database_url is not None
    async with session(settings.database_url.get_secret_value(), application="test") as conn:
        for statement in statements:
            await conn.execute(statement)


@pytest.fixture
def ready(settings: Settings) -> Settings:
    """Settings whose servers are prepared."""
    run(up.prepare(settings))
    return settings


def counted(settings: Settings, *, ago_s: int, lost: int = 0) -> str:
    return f"""
        INSERT INTO anlyt.stream_positions (stream, slot, stream_created_at, last_seq, complete_through, lost_messages)
        SELECT '{settings.stream}', slot, now(), 0, now() - make_interval(secs => {ago_s}), {lost}
        FROM generate_series(0, 15) AS slot
    """  # noqa: S608 - a test's own


def test_what_is_well_is_said_to_be_well(ready: Settings) -> None:
    run(execute(ready, counted(ready, ago_s=1)))
    run(run_jobs(ready))
    findings = found(ready)

    assert {finding.check for finding in findings.values() if finding.level == "ok"} == {
        "PostgreSQL version",
        "PostgreSQL clock",
        "PostgreSQL rights",
        "NATS and PostgreSQL clocks",
        "schema",
        "reading",
        "partitions",
        "transactions",
        "counting",
        "jobs",
        "NATS version",
        "NATS clock",
        "NATS permissions",
        "stream",
        "archive",
        "transport",
    }


async def run_jobs(settings: Settings) -> None:
    assert settings.database_url is not None
    for job in jobs.jobs_of(archived=False):
        await jobs.run_job(settings.database_url.get_secret_value(), job.name, CrashPoints())


@pytest.mark.parametrize(
    ("change", "level", "text", "remedy"),
    [
        ("DELETE FROM anlyt.job_runs WHERE job = 'purge'", "warning", "purge has never run", "anlyt jobs loop"),
        (
            (
                "UPDATE anlyt.job_runs SET (started_at, finished_at) ="
                " (started_at - INTERVAL '6 min', finished_at - INTERVAL '6 min') WHERE job = 'purge'"
            ),
            "problem",
            "purge has not ended well since",
            "keep anlyt jobs loop running",
        ),
        (
            """UPDATE anlyt.job_runs SET outcome = 'failed', detail = '{"error": "no disk"}' WHERE job = 'purge'""",
            "problem",
            "purge failed: no disk",
            "anlyt jobs run purge",
        ),
        (
            (
                "UPDATE anlyt.job_runs SET (outcome, finished_at, started_at) ="
                " (NULL, NULL, started_at - INTERVAL '6 min') WHERE job = 'purge'"
            ),
            "problem",
            "purge has not ended well ever",
            "keep anlyt jobs loop running",
        ),
    ],
    ids=["never ran", "overdue", "failed", "killed"],
)
def test_a_job_that_does_not_do_its_work_is_found(
    ready: Settings, *, change: str, level: str, text: str, remedy: str
) -> None:
    run(run_jobs(ready))
    run(execute(ready, change))
    finding = found(ready)["jobs"]

    assert level == finding.level
    assert text in finding.finding
    assert remedy in finding.remedy


def test_a_stream_that_nobody_counts_any_more_is_named_with_the_way_to_forget_it(ready: Settings) -> None:
    old = counted(ready, ago_s=60).replace(ready.stream, "OLD")
    run(execute(ready, counted(ready, ago_s=1), old))
    assert "streams" not in found(ready)  # somebody may be counting it

    run(execute(ready, "UPDATE anlyt.stream_positions SET updated_at = now() - INTERVAL '61 min'"))
    finding = found(ready)["streams"]
    assert (finding.level, finding.finding[:7]) == ("problem", "OLD was")
    assert finding.remedy.endswith("anlyt jobs forget-stream OLD")

    result = anlyt(*finding.remedy.rpartition("run: anlyt ")[2].split(), "--yes", env=environment_of(ready))
    assert result.code == 0, result.err
    assert "streams" not in found(ready)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["OLD"], "add --yes"), (["OLD", "--yes"], "wait 60 min"), (["OLDER", "--yes"], "stream OLDER is not known")],
    ids=["not confirmed", "being counted", "unknown"],
)
def test_a_stream_is_not_forgotten_in_passing(ready: Settings, arguments: list[str], told: str) -> None:
    run(execute(ready, counted(ready, ago_s=1).replace(ready.stream, "OLD")))
    result = anlyt("jobs", "forget-stream", *arguments, env=environment_of(ready))

    assert result.code in {1, 2}
    assert told in result.err


def test_a_server_that_may_lose_a_commit_is_a_problem(ready: Settings) -> None:
    """The tests' own server runs with fsync off."""
    finding = found(ready)["PostgreSQL durability"]

    assert (finding.level, finding.finding) == ("problem", "fsync is off: a committed batch may be lost")
    assert finding.remedy == "set fsync = on"


def test_a_stream_that_is_missing_is_a_problem(settings: Settings) -> None:
    finding = found(settings)["stream"]

    assert (finding.level, finding.remedy) == ("problem", "run: anlyt migrate")


def test_partitions_that_are_missing_are_a_problem(settings: Settings) -> None:
    finding = found(settings)["partitions"]

    assert (finding.level, finding.remedy) == ("problem", "run: anlyt jobs run partitions")


HARMS = {
    "may not read as anlyt_tenant": (
        "REVOKE anlyt_tenant FROM anlyt GRANTED BY anlyt",
        "SET ROLE anlyt; GRANT anlyt_tenant TO anlyt",
    ),
    "sees every row, whoever asks": (
        "ALTER ROLE anlyt_tenant BYPASSRLS",
        "ALTER ROLE anlyt_tenant NOBYPASSRLS",
    ),
    "off on metrics_daily": (
        "ALTER TABLE anlyt.metrics_daily DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE anlyt.metrics_daily ENABLE ROW LEVEL SECURITY",
    ),
}


@pytest.mark.parametrize("text", HARMS)
def test_a_reading_role_that_cannot_read_or_sees_too_much_is_a_problem(
    ready: Settings, postgres_server: EmbeddedPostgres, text: str
) -> None:
    assert ready.database_url is not None
    name = ready.database_url.get_secret_value().rpartition("/")[2]
    admin_url = f"{postgres_server.admin_url.rpartition('/')[0]}/{name}"
    harm, mend = HARMS[text]
    before = found(ready)["reading"].level
    run(databases.execute(admin_url, harm))
    try:
        finding = found(ready)["reading"]
    finally:
        run(databases.execute(admin_url, mend))  # roles belong to the cluster, which other tests use too

    assert (before, finding.level, found(ready)["reading"].level) == ("ok", "problem", "ok")
    assert text in finding.finding
    assert finding.remedy


def test_a_stream_nobody_counts_is_a_warning_and_one_left_behind_a_problem(ready: Settings) -> None:
    before = found(ready)["counting"]
    run(execute(ready, counted(ready, ago_s=3600, lost=7)))
    after = found(ready)

    assert (before.level, before.remedy) == ("warning", "run: anlyt worker")
    assert after["counting"].level == "problem"
    assert after["lost messages"].finding == "the stream dropped 7 messages before they were counted"


def test_a_stream_that_forgets_too_soon_is_a_problem(settings: Settings) -> None:
    async def make() -> None:
        assert settings.nats_url is not None
        nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="test")
        body = {
            "name": settings.stream,
            "subjects": [settings.subjects],
            "storage": "file",
            "max_age": 3_600_000_000_000,
        }
        await jetstream.request(nc, f"STREAM.CREATE.{settings.stream}", body)
        await nc.close()

    run(make())
    finding = found(settings)["stream"]

    assert finding.level in {"warning", "problem"}
    assert settings.stream in finding.finding
    assert "max_age" in finding.finding or "age" in finding.finding
    assert finding.remedy.startswith("nats stream edit")


def test_servers_that_are_away_are_findings_without_their_passwords(settings: Settings) -> None:
    away = settings.model_copy(
        update={
            "database_url": SecretStr("postgresql://anlyt:CANARY@127.0.0.1:9/anlyt"),
            "nats_url": SecretStr("nats://anlyt:CANARY@127.0.0.1:9"),
        }
    )
    findings = found(away)

    assert {name: finding.level for name, finding in findings.items()} == {
        "PostgreSQL": "problem",
        "NATS": "problem",
        "archive": "ok",  # there is none
        "transport": "ok",
    }
    assert "CANARY" not in str(findings)


def test_the_command_prints_findings_with_remedies_and_fails_on_a_problem(ready: Settings) -> None:
    env = environment_of(ready)
    text = anlyt("doctor", env=env)
    document: list[dict[str, Any]] = json.loads(anlyt("doctor", "--json", env=env).out)

    assert text.code == 1  # fsync is off
    assert "problem  PostgreSQL durability: fsync is off" in text.out
    assert "-> set fsync = on" in text.out
    assert {tuple(finding) for finding in document} == {("check", "level", "finding", "remedy")}


def test_without_addresses_it_says_which_setting_is_missing() -> None:
    result = anlyt("doctor", env=environment(data_dir="/nonexistent"))

    assert result.code == 3
    assert "ANLYT_DATABASE_URL is not set" in result.err


# -------------------------------------------------------------------------------------------------- faults, one by one


def in_front_of_the_catalogue(settings: Settings, *functions: str) -> None:
    """Let the database find these functions before PostgreSQL's own, as a server with other values would answer."""
    assert settings.database_url is not None
    name = settings.database_url.get_secret_value().rpartition("/")[2]
    run(execute(settings, "CREATE SCHEMA fault", *functions))
    run(execute(settings, f"ALTER DATABASE {name} SET search_path = fault, pg_catalog, public"))


@asynccontextmanager
async def rewritten(settings: Settings, pattern: bytes, instead: bytes) -> AsyncIterator[Settings]:
    """Settings that lead to nats-server through a proxy which changes what it says, without changing its length."""
    assert settings.nats_url is not None
    address = urlsplit(settings.nats_url.get_secret_value())

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, change: bool) -> None:
        while piece := await reader.read(65_536):
            writer.write(re.sub(pattern, instead, piece) if change else piece)

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(address.hostname, address.port)
        await asyncio.wait(
            [
                asyncio.create_task(copy(theirs, writer, change=True)),
                asyncio.create_task(copy(reader, ours, change=False)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        ours.transport.abort()
        writer.transport.abort()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    url = f"nats://{address.username}:{address.password}@127.0.0.1:{port}"
    async with server:
        yield settings.model_copy(update={"nats_url": SecretStr(url)})


def found_through(settings: Settings, pattern: bytes, instead: bytes) -> dict[str, Finding]:
    async def examine() -> list[Finding]:
        async with rewritten(settings, pattern, instead) as behind:
            return await doctor.examine(behind)

    return {finding.check: finding for finding in run(examine())}


def test_an_old_postgresql_is_a_warning(ready: Settings) -> None:
    in_front_of_the_catalogue(
        ready,
        """
        CREATE FUNCTION fault.current_setting(name TEXT) RETURNS TEXT LANGUAGE sql RETURN
        CASE name
            WHEN 'server_version_num' THEN '160004'
            WHEN 'server_version' THEN '16.4'
            ELSE pg_catalog.current_setting(name)
        END
        """,
    )
    finding = found(ready)["PostgreSQL version"]

    assert (finding.level, finding.finding) == ("warning", "PostgreSQL 16.4")
    assert finding.remedy == "use PostgreSQL 18, which anlyt is tested with"


def test_an_old_nats_server_is_a_problem(ready: Settings) -> None:
    finding = found_through(ready, rb'"version":"2\.15', b'"version":"2.10')["NATS version"]

    assert (finding.level, finding.remedy) == ("problem", "upgrade it")
    assert finding.finding.startswith("nats-server 2.10.")


def test_clocks_that_differ_are_a_problem_also_from_one_another(ready: Settings) -> None:
    in_front_of_the_catalogue(
        ready,
        "CREATE FUNCTION fault.clock_timestamp() RETURNS TIMESTAMPTZ LANGUAGE sql "
        "RETURN pg_catalog.clock_timestamp() + make_interval(mins => 5)",
    )
    behind = found_through(ready, rb'"ts":"20\d\d', b'"ts":"2019')
    ahead = found(ready)

    assert (ahead["PostgreSQL clock"].level, ahead["NATS clock"].level) == ("problem", "ok")
    assert ahead["PostgreSQL clock"].finding.startswith(("299.", "300."))
    assert ahead["NATS and PostgreSQL clocks"].level == "problem"
    assert "NTP" in ahead["NATS and PostgreSQL clocks"].remedy
    assert behind["NATS clock"].level == "problem"


def test_a_role_without_rights_is_a_problem(ready: Settings, postgres_server: EmbeddedPostgres) -> None:
    assert ready.database_url is not None
    url = ready.database_url.get_secret_value()

    async def examine() -> list[Finding]:
        async with login_role(postgres_server, url) as stranger:
            return await doctor.examine(ready.model_copy(update={"database_url": SecretStr(stranger)}))

    async def examine_reader() -> list[Finding]:
        async with login_role(postgres_server, url, member_of="anlyt_reader") as reader:
            return await doctor.examine(ready.model_copy(update={"database_url": SecretStr(reader)}))

    stranger, reader = (
        {finding.check: finding for finding in run(work())}["PostgreSQL rights"] for work in (examine, examine_reader)
    )

    assert (stranger.level, stranger.finding) == ("problem", "this role may not use the schema anlyt")
    assert reader.level == "problem"
    assert "may not read and write account_usage_daily" in reader.finding
    assert "connect as the role that owns the schema" in reader.remedy


def test_a_role_that_owns_no_table_can_make_no_partitions(ready: Settings, postgres_server: EmbeddedPostgres) -> None:
    assert ready.database_url is not None
    url = ready.database_url.get_secret_value()

    async def examine() -> list[Finding]:
        async with login_role(postgres_server, url) as other:
            role = urlsplit(other).username
            await execute(
                ready,
                f"GRANT USAGE ON SCHEMA anlyt TO {role}",
                f"GRANT ALL ON ALL TABLES IN SCHEMA anlyt TO {role}",
            )
            findings = await doctor.examine(ready.model_copy(update={"database_url": SecretStr(other)}))
            await execute(
                ready,
                f"REVOKE ALL ON ALL TABLES IN SCHEMA anlyt FROM {role}",
                f"REVOKE ALL ON SCHEMA anlyt FROM {role}",
            )
            return findings

    finding = {finding.check: finding for finding in run(examine())}["PostgreSQL rights"]

    assert finding.level == "problem"
    assert "does not own latency_histograms, metrics_hourly, operator_performance" in finding.finding


def test_partitions_that_run_out_are_a_warning(ready: Settings) -> None:
    later = jobs.months_ahead(datetime.now(UTC))[1:]
    run(
        execute(
            ready,
            *(f"DROP TABLE anlyt.{table}_{month:y%Ym%m}" for table in PARTITIONED_TABLES for month in later),
        )
    )
    finding = found(ready)["partitions"]

    assert finding.level == "warning"
    assert finding.remedy == "run: anlyt jobs run partitions, and keep anlyt jobs loop running"


def test_a_worker_that_fell_behind_is_told_from_one_that_is_not_there(ready: Settings) -> None:
    run(execute(ready, counted(ready, ago_s=7_300)))
    nobody = found(ready)["counting"]

    async def with_a_worker() -> list[Finding]:
        assert ready.database_url is not None
        async with session(ready.database_url.get_secret_value(), application="anlyt-worker"):
            return await doctor.examine(ready)

    behind = {finding.check: finding for finding in run(with_a_worker())}["counting"]

    assert nobody.finding.endswith("2 h ago, and no worker is connected")
    assert nobody.remedy == "run: anlyt worker"
    assert behind.level == "problem"
    assert behind.finding.endswith("2 h ago, though workers are connected: they fall behind")
    assert "ANLYT_PARTITIONS" in behind.remedy


def letters(settings: Settings, number: int, *, hours_ago: int, reason: str, load: str | None = None) -> str:
    headers = "{}" if load is None else f'{{"Anlyt-Backfill": "{load}"}}'
    return f"""
        INSERT INTO anlyt.dead_letters (stream, sequence, batch_index, published_at, reason, detail, subject, headers,
                                        body, recorded_at)
        SELECT '{settings.stream}', {hours_ago} * 1000 + n, 0, now(), '{reason}', 'x', 's', '{headers}', '',
               now() - make_interval(hours => {hours_ago}, mins => 1)
        FROM generate_series(1, {number}) AS n
    """  # noqa: S608 - a test's own


def test_dead_letters_are_told_by_reason_and_are_a_problem_when_they_grow(ready: Settings) -> None:
    assert "dead letters" not in found(ready)

    run(execute(ready, *(letters(ready, 12, hours_ago=hours, reason="stale") for hours in range(1, 23))))
    steady = found(ready)["dead letters"]
    run(execute(ready, letters(ready, 300, hours_ago=0, reason="unknown_type")))
    growing = found(ready)["dead letters"]

    assert (steady.level, steady.remedy) == ("warning", "look: anlyt dead-letters list --reason stale")
    assert steady.finding == "264 open ones in the last 24 h (264 stale), 0 of them in the last hour"
    assert growing.level == "problem"
    assert growing.finding.startswith("they grow: 564 open ones in the last 24 h (300 unknown_type, 264 stale), 300")
    assert growing.remedy.startswith("look: anlyt dead-letters list --reason unknown_type")


def test_the_dead_letters_of_a_load_are_told_and_are_no_growth(ready: Settings) -> None:
    run(execute(ready, letters(ready, 600, hours_ago=0, reason="malformed", load="history")))
    loaded = found(ready)["dead letters"]
    run(execute(ready, letters(ready, 20, hours_ago=0, reason="stale").replace("0 * 1000", "5000")))
    growing = found(ready)["dead letters"]

    assert loaded.level == "warning"
    assert loaded.finding == (
        "600 open ones in the last 24 h (600 malformed), 600 of them of backfills, 0 others in the last hour"
    )
    assert growing.level == "problem"
    assert growing.finding.startswith("they grow: 620 open ones in the last 24 h (600 malformed, 20 stale), 600 of")
    assert growing.remedy == "look: anlyt dead-letters list --reason stale, and tell its producer"


def test_a_stream_that_is_nearly_full_or_too_small_for_the_window_is_found(settings: Settings) -> None:
    full = run(fill(settings, {"max_msgs": 10, "discard": "new"}, messages=9))
    findings = found(settings)

    assert full == 9
    assert findings["stream room"].level == "problem"
    assert "is 90% full (max_msgs 10); when it is full it refuses new events" in findings["stream room"].finding
    assert findings["stream room"].remedy.startswith("raise max_msgs: nats stream edit")


def test_limits_that_hold_less_than_the_window_at_the_present_rate_are_a_warning(settings: Settings) -> None:
    run(fill(settings, {"max_msgs": 100, "discard": "new"}, messages=20))
    hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat()[:19].encode()
    finding = found_through(settings, rb'"first_ts":"[^"]{19}', b'"first_ts":"' + hour_ago)["stream room"]

    assert finding.level == "warning"
    assert "max_msgs 100 of " in finding.finding
    assert finding.finding.endswith("holds 5 h at the present rate")
    assert "raise max_msgs to what 48 h need" in finding.remedy


async def fill(settings: Settings, limits: dict[str, Any], *, messages: int) -> int:
    """A stream with limits and so many messages; how many it holds."""
    assert settings.nats_url is not None
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="test")
    body = {"name": settings.stream, "subjects": [settings.subjects], "storage": "file"} | limits
    await jetstream.request(nc, f"STREAM.CREATE.{settings.stream}", body)
    for number in range(messages):
        await nc.jetstream().publish(settings.subjects.removesuffix(">") + "x", str(number).encode())
    info = await jetstream.stream_info(nc, settings.stream)
    await nc.close()
    return info.messages


def test_the_archive_is_looked_at(ready: Settings) -> None:
    async def finding(clickhouse: ClickHouse | None) -> Finding:
        return next(each for each in await doctor.examine(ready, clickhouse) if each.check == "archive")

    async def scenario(path: Path) -> None:
        assert (await finding(None)).level == "ok"

        away = await finding(ClickHouse("clickhouse://x@127.0.0.1:1/x"))
        assert away.level == "problem"
        assert "ANLYT_ARCHIVE_URL" in away.remedy

        clickhouse = archive_in(path)
        empty = await finding(clickhouse)
        assert empty.level == "warning"
        assert "anlyt jobs run archive" in empty.remedy

        await make_tables(clickhouse)
        there = await finding(clickhouse)
        assert there.level == "ok"
        assert there.finding.startswith("ClickHouse ")
        await clickhouse.close()

    with archive_directory() as path:
        run(scenario(path))


# ------------------------------------------------------------------------------------------------------- NATS's disks


class MonitoredNats(EmbeddedNats):
    """One with a monitoring port."""

    port = 0

    def _configuration(self) -> str:
        self.port = self.port or free_port()
        return f'http: "127.0.0.1:{self.port}"\n{super()._configuration()}'


@pytest.mark.parametrize(
    ("sync_interval", "level", "text"),
    [("always", "ok", "what is acknowledged is on disk"), ("2m", "problem", "a power cut takes acknowledged events")],
)
def test_whether_what_nats_acknowledges_is_on_disk_is_asked(
    settings: Settings, server_dir: Path, sync_interval: str, level: str, text: str
) -> None:
    async def scenario() -> dict[str, Finding]:
        async with MonitoredNats(server_dir / "nats", sync_interval=sync_interval) as server:
            urls = {"nats_url": SecretStr(server.url), "nats_monitor_urls": (f"http://127.0.0.1:{server.port}",)}
            here = settings.model_copy(update=urls)
            await up.prepare(here)
            return {finding.check: finding for finding in await doctor.examine(here)}

    finding = run(scenario())["NATS durability"]
    assert (finding.level, text in finding.finding) == (level, True), finding


def test_what_nobody_tells_about_the_disks_of_nats_is_a_warning_with_the_way_to_know(ready: Settings) -> None:
    finding = found(ready)["NATS durability"]
    assert (finding.level, "ANLYT_NATS_MONITOR_URLS" in finding.remedy) == ("warning", True)
    silent = ready.model_copy(update={"nats_monitor_urls": (f"http://127.0.0.1:{free_port()}",)})
    finding = found(silent)["NATS durability"]
    assert (finding.level, "did not say" in finding.finding) == ("warning", True)
    ours = {finding.check: finding for finding in run(doctor.examine(ready, embedded=True))}["NATS durability"]
    assert (ours.level, ours.finding) == ("ok", "what is acknowledged is on disk")


def test_a_transaction_that_is_open_for_long_is_a_warning(ready: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TRANSACTION_AGE_MAX", timedelta(0))
    assert ready.database_url is not None
    url = ready.database_url.get_secret_value()

    async def scenario() -> tuple[Finding, int]:
        async with session(url, application="a report") as conn, conn.transaction():
            pid = await conn.fetchval("SELECT pg_backend_pid()")
            return {finding.check: finding for finding in await doctor.examine(ready)}["transactions"], pid

    finding, pid = run(scenario())
    assert finding.level == "warning"
    assert f"a report (anlyt, process {pid}) has had one open" in finding.finding
    assert finding.remedy == f"end it: pg_terminate_backend({pid})"
