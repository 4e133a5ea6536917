"""The roles of deploy/postgres/roles.sql: the service works under them, and they may do nothing else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import pytest
from pydantic import SecretStr

import pipeline
from anlyt import api, jobs
from anlyt.crash import CrashPoints
from anlyt.postgres import connect, open_pool
from anlyt.telemetry import Telemetry
from databases import execute, login_role
from serving import key_for, problem_of
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anlyt.embedded import EmbeddedPostgres
    from anlyt.settings import Settings

SCRIPT = (Path(__file__).parents[1] / "deploy" / "postgres" / "roles.sql").read_text()
LETTER = "/v1/dead-letters/MESSAGING/1/0"


@asynccontextmanager
async def roles(server: EmbeddedPostgres, url: str) -> AsyncGenerator[tuple[str, str]]:
    """The addresses of a worker's and of the API's own user of the database at `url`."""
    admin = server.admin_url.rpartition("/")[0] + "/" + url.rpartition("/")[2]
    for _ in range(2):  # a second time changes nothing
        await execute(admin, SCRIPT)
    async with (
        login_role(server, url, member_of="anlyt_writer") as worker,
        login_role(server, url, member_of="anlyt_api") as web,
    ):
        yield worker, web


def test_workers_count_under_their_role_and_make_a_month_that_is_missing(
    postgres_server: EmbeddedPostgres, settings: Settings
) -> None:
    """And what they did is what jobs of the owner then go on with."""
    now = datetime.now(UTC)
    bodies = [pipeline.submitted(now), pipeline.submitted(now), b"nonsense"]
    old = pipeline.submitted(now - timedelta(days=50))

    async def story() -> tuple[Any, ...]:
        assert settings.database_url is not None
        url = settings.database_url.get_secret_value()
        async with roles(postgres_server, url) as (worker, _), pipeline.stream_of(settings) as nc:
            subject = settings.subjects.replace(">", "x")
            for body in [*bodies, bodies[0]]:
                await nc.jetstream().publish(subject, body)
            await nc.jetstream().publish(subject, old, headers={"Anlyt-Backfill": "old"})
            await pipeline.count(settings.model_copy(update={"database_url": SecretStr(worker)}))
            for job in jobs.jobs_of(archived=False):
                await jobs.run_job(url, job.name, CrashPoints())
        async with pipeline.database(settings) as conn:
            assert await pipeline.broken_identities(conn) == []
            return tuple(
                await conn.fetchrow(
                    "SELECT (SELECT sum(messages_sent) FROM anlyt.account_usage_daily)::INT,"
                    " (SELECT count(*) FROM anlyt.dead_letters)::INT,"
                    " (SELECT sum(duplicate_events) FROM anlyt.ingest_totals)::INT"
                )
            )

    assert run(story()) == (3, 1, 1)


def test_the_api_answers_under_its_role(postgres_server: EmbeddedPostgres, settings: Settings) -> None:
    async def story() -> None:
        assert settings.database_url is not None
        url = settings.database_url.get_secret_value()
        async with roles(postgres_server, url) as (_, web), pipeline.stream_of(settings) as nc:
            for body in (pipeline.submitted(datetime.now(UTC)), b"nonsense"):
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), body)
            await pipeline.count(settings)
            owner = await connect(url, application="anlyt-tests")
            staff = await key_for(owner, "PLATFORM", permission="admin")
            reader = await key_for(owner, "PLATFORM")
            tenant = await key_for(owner, "ACCOUNT", pipeline.ACCOUNT)
            given = settings.model_copy(update={"database_url": SecretStr(web)})
            pool = await open_pool(web, application="anlyt-api", size_max=4, statement_timeout_s=5)
            app = api.build_app(pool=pool, settings=given, telemetry=Telemetry())
            transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
            try:
                async with httpx2.AsyncClient(transport=transport, base_url="http://anlyt") as client:
                    for path in (
                        "metrics/hourly",
                        "metrics/daily",
                        "accounts/usage",
                        "operators/performance",
                        "summary",
                        "status",
                    ):
                        assert (await client.get(f"/v1/{path}", headers=reader)).status_code == 200, path
                    rows = (await client.get("/v1/metrics/hourly", headers=tenant)).json()["data"]
                    assert [row["scopeId"] for row in rows] == [pipeline.ACCOUNT]
                    assert (await client.get("/v1/dead-letters", headers=staff)).json()["data"][0][
                        "reason"
                    ] == "malformed"
                    for path in ("/readyz", "/metrics", "/v1/session"):
                        assert (await client.get(path, headers=reader)).status_code == 200, path
                    refused = await client.post("/v1/dead-letters/discard", headers=staff, json={"reason": "malformed"})
                    assert (refused.status_code, problem_of(refused)["title"]) == (403, "The key lacks a permission")
                    assert await owner.fetchval("SELECT count(*) FROM anlyt.dead_letters WHERE resolution IS NULL") == 1
                    assert await owner.fetchval("SELECT count(last_used_at) FROM anlyt.api_keys") == 3
            finally:
                pool.terminate()
                await owner.close()

    run(story())


# a statement, and whether a worker and the API may run it
STATEMENTS: list[tuple[str, bool, bool]] = [
    ("SELECT FROM anlyt.metrics_hourly", True, True),
    ("SELECT FROM anlyt.dead_letters", True, True),
    ("SELECT FROM anlyt.api_keys", False, True),
    ("SELECT FROM anlyt.job_runs", False, True),
    ("SELECT FROM anlyt.processed_events", True, False),
    ("UPDATE anlyt.metrics_hourly SET total_messages = total_messages", True, False),
    ("UPDATE anlyt.stream_positions SET last_seq = last_seq", True, False),
    ("UPDATE anlyt.dead_letters SET resolution = resolution", True, False),
    ("UPDATE anlyt.api_keys SET last_used_at = now()", False, True),
    ("UPDATE anlyt.api_keys SET permissions = '{admin}'", False, False),
    ("UPDATE anlyt.api_keys SET revoked_at = NULL", False, False),
    ("UPDATE anlyt.processed_events SET event_id = event_id", False, False),
    ("INSERT INTO anlyt.api_keys DEFAULT VALUES", False, False),
    ("INSERT INTO anlyt.migrations DEFAULT VALUES", False, False),
    ("DELETE FROM anlyt.processed_events", False, False),
    ("DELETE FROM anlyt.metrics_hourly", False, False),
    ("DELETE FROM anlyt.dead_letters", False, False),
    ("TRUNCATE anlyt.metrics_daily", False, False),
    ("DROP TABLE anlyt.metrics_daily", False, False),
    ("ALTER TABLE anlyt.metrics_daily DISABLE ROW LEVEL SECURITY", False, False),
    ("CREATE TABLE anlyt.mine (a INT)", False, False),
    ("CREATE TABLE public.mine (a INT)", False, False),
    ("CREATE FUNCTION anlyt.mine() RETURNS INT LANGUAGE sql AS 'SELECT 1'", False, False),
    ("CREATE ROLE mine", False, False),
    ("SET ROLE anlyt", False, False),
    ("SET ROLE postgres", False, False),
    ("SET ROLE anlyt_tenant", False, True),
    ("SET SESSION AUTHORIZATION postgres", False, False),
    ("COPY anlyt.metrics_daily TO PROGRAM 'cat'", False, False),
    ("COPY anlyt.metrics_daily TO '/tmp/mine'", False, False),
    ("SELECT pg_read_file('/etc/passwd')", False, False),
    ("SELECT pg_ls_dir('/')", False, False),
    ("SELECT anlyt.ensure_partition('metrics_hourly', '2031-01-01')", True, False),
]


def test_no_role_may_do_more_than_its_work(postgres_server: EmbeddedPostgres, database_url: str) -> None:
    async def may(url: str, statement: str) -> bool:
        conn = await asyncpg.connect(url)
        try:
            await conn.execute(f"BEGIN; {statement}")
        except asyncpg.InsufficientPrivilegeError:
            return False
        finally:
            await conn.close()
        return True

    async def story() -> list[tuple[str, bool, bool]]:
        async with roles(postgres_server, database_url) as (worker, web):
            return [
                (statement, await may(worker, statement), await may(web, statement)) for statement, _, _ in STATEMENTS
            ]

    assert run(story()) == STATEMENTS


def test_only_the_function_on_the_list_runs_with_other_rights_and_its_path_is_fixed(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def story() -> list[tuple[str, bool, Any]]:
        query = (
            "SELECT proname, prosecdef, proconfig FROM pg_proc WHERE pronamespace = 'anlyt'::REGNAMESPACE AND prosecdef"
        )
        conn = await asyncpg.connect(database_url)
        try:
            assert await conn.fetch(query) == []  # nothing does, unless roles.sql was run
            async with roles(postgres_server, database_url):
                return [tuple(row) for row in await conn.fetch(query)]
        finally:
            await conn.close()

    assert run(story()) == [("ensure_partition", True, ["search_path=pg_catalog, pg_temp"])]


# Who besides the owner may change what: the list that a new grant has to be added to.
MAY_CHANGE = {
    ("anlyt_writer", "metrics_hourly", "INSERT UPDATE"),
    ("anlyt_writer", "metrics_daily", "INSERT UPDATE"),
    ("anlyt_writer", "operator_performance", "INSERT UPDATE"),
    ("anlyt_writer", "account_usage_daily", "INSERT UPDATE"),
    ("anlyt_writer", "latency_histograms", "INSERT UPDATE"),
    ("anlyt_writer", "second_counts", "INSERT UPDATE"),
    ("anlyt_writer", "stream_positions", "INSERT UPDATE"),
    ("anlyt_writer", "ingest_totals", "INSERT UPDATE"),
    ("anlyt_writer", "changed_hours", "INSERT UPDATE"),
    ("anlyt_writer", "backfills", "INSERT UPDATE"),
    ("anlyt_writer", "dead_letters", "INSERT UPDATE"),
    ("anlyt_writer", "processed_events", "INSERT"),
    ("anlyt_api", "api_keys", "UPDATE"),  # of last_used_at alone, as STATEMENTS shows
}
WRITERS = """
    SELECT grantee, table_name, string_agg(DISTINCT privilege_type, ' ' ORDER BY privilege_type)
    FROM (
        SELECT grantee, table_name, privilege_type FROM information_schema.role_table_grants
        WHERE table_schema = 'anlyt'
        UNION ALL
        SELECT grantee, table_name, privilege_type FROM information_schema.column_privileges
        WHERE table_schema = 'anlyt'
    ) AS granted
    WHERE privilege_type <> ALL ('{SELECT,REFERENCES}') AND grantee <> 'anlyt'
    GROUP BY 1, 2"""


def test_nothing_is_left_to_everybody(postgres_server: EmbeddedPostgres, database_url: str) -> None:
    """Who may write each table, partitions and columns too: a new grant fails here."""

    async def story() -> list[tuple[str, str, str]]:
        conn = await asyncpg.connect(database_url)
        try:
            await conn.execute("SELECT anlyt.ensure_partition('metrics_hourly', '2031-01-01')")
            async with roles(postgres_server, database_url):
                return [tuple(row) for row in await conn.fetch(WRITERS)]
        finally:
            await conn.close()

    assert sorted(MAY_CHANGE) == sorted(run(story()))


@pytest.mark.parametrize("role", ["anlyt_writer", "anlyt_api", "anlyt_staff", "anlyt_tenant"])
def test_a_role_cannot_become_more_than_it_is(postgres_server: EmbeddedPostgres, database_url: str, role: str) -> None:
    async def story() -> tuple[Any, ...]:
        async with roles(postgres_server, database_url):
            conn = await asyncpg.connect(database_url)
            try:
                query = """
                    SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin
                    FROM pg_roles WHERE rolname = $1"""
                return tuple(await conn.fetchrow(query, role))
            finally:
                await conn.close()

    assert run(story()) == (False,) * 6
