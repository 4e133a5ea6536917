"""doctor: each finding names what is wrong and what to do; a server that is away is a finding, not an error."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

import databases
from anlyt import doctor, jetstream, jobs, up
from anlyt.crash import CrashPoints
from anlyt.postgres import session
from commands import anlyt, environment, environment_of
from support import run

if TYPE_CHECKING:
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
        "schema",
        "reading",
        "partitions",
        "counting",
        "jobs",
        "NATS version",
        "NATS clock",
        "stream",
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

    assert {name: finding.level for name, finding in findings.items()} == {"PostgreSQL": "problem", "NATS": "problem"}
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
