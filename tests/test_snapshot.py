"""Row-level security: what a Grant must not see is not there, even when the API forgets to filter."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from anlyt import postgres, reports, summaries
from anlyt.access import PLATFORM_ID, SCOPES, Visible, make_grant
from anlyt.cold import NO_SUMS
from anlyt.postgres import connect, ensure_partitions, session, sql
from anlyt.snapshot import GUARDED_TABLES, STAFF, STAFF_ROLE, TENANT_ROLE, snapshot
from databases import empty_database, execute, login_role, read_catalogue
from serving import key_for, service
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from anlyt.access import Grant
    from anlyt.embedded import EmbeddedPostgres

NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
DAY = HOUR.replace(hour=0)
PERIOD = (DAY - timedelta(days=1), NOW + timedelta(days=1), DAY - timedelta(days=2))
NIL = "00000000-0000-0000-0000-000000000000"
OPERATORS = ["0b1d6f2e-0000-4000-8000-0000000000e1", "0b1d6f2e-0000-4000-8000-0000000000e2"]
ACCOUNTS = ["0b1d6f2e-0000-4000-8000-00000000acc1", "0b1d6f2e-0000-4000-8000-00000000acc2"]
TENANT = make_grant("ACCOUNT", ACCOUNTS[:1], ["metrics:read"])
OTHER = make_grant("ACCOUNT", ACCOUNTS[1:], ["metrics:read"])
OPERATOR = make_grant("OPERATOR", OPERATORS[:1], ["metrics:read"])


@asynccontextmanager
async def database(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A session of the service, and a row of everybody in every table."""
    conn = await connect(url, application="anlyt-tests")
    try:
        await fill(conn)
        yield conn
    finally:
        await conn.close()


async def fill(conn: asyncpg.Connection[Any]) -> None:
    await ensure_partitions(conn, [HOUR])
    everybody = [("PLATFORM", PLATFORM_ID), *(("OPERATOR", i) for i in OPERATORS), *(("ACCOUNT", i) for i in ACCOUNTS)]
    for scope, scope_id in everybody:
        await conn.execute("INSERT INTO anlyt.metrics_hourly VALUES ($1, $2, $3, 7)", HOUR, scope, scope_id)
        await conn.execute("INSERT INTO anlyt.metrics_daily VALUES ($1, $2, $3, 7)", DAY, scope, scope_id)
    for scope_id in OPERATORS:
        await conn.execute("INSERT INTO anlyt.operator_performance VALUES ($1, $2, 7)", HOUR, scope_id)
        await conn.execute("INSERT INTO anlyt.latency_histograms VALUES ($1, $2, 0, '{5}', '{7}')", HOUR, scope_id)
        await conn.execute("INSERT INTO anlyt.latency_days VALUES ($1, $2, '{5}', '{7}')", DAY, scope_id)
        await conn.execute("INSERT INTO anlyt.latency_weeks VALUES ($1, $2, '{5}', '{7}')", DAY, scope_id)
    for scope_id in ACCOUNTS:
        await conn.execute("INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, 7)", DAY, scope_id)


SEEN = {
    "metrics_hourly": "SELECT scope_id FROM anlyt.metrics_hourly",
    "metrics_daily": "SELECT scope_id FROM anlyt.metrics_daily",
    "operator_performance": "SELECT operator_id::TEXT FROM anlyt.operator_performance",
    "account_usage_daily": "SELECT account_id::TEXT FROM anlyt.account_usage_daily",
    "latency_histograms": "SELECT operator_id::TEXT FROM anlyt.latency_histograms",
    "latency_days": "SELECT operator_id::TEXT FROM anlyt.latency_days",
    "latency_weeks": "SELECT operator_id::TEXT FROM anlyt.latency_weeks",
}


async def seen(conn: asyncpg.Connection[Any], grant: Grant) -> dict[str, set[str]]:
    """The ids whose rows a Grant finds when nothing at all is filtered."""
    async with snapshot(conn, grant):
        return {table: {row[0] for row in await conn.fetch(query)} for table, query in SEEN.items()}


# ------------------------------------------------------------------------------------------------------- who sees what


def test_whole_tables_hold_only_the_rows_of_the_grant_that_reads_them(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            everybody = {PLATFORM_ID, *OPERATORS, *ACCOUNTS}

            assert await seen(conn, STAFF) == {
                "metrics_hourly": everybody,
                "metrics_daily": everybody,
                "operator_performance": set(OPERATORS),
                "account_usage_daily": set(ACCOUNTS),
                "latency_histograms": set(OPERATORS),
                "latency_days": set(OPERATORS),
                "latency_weeks": set(OPERATORS),
            }
            assert await seen(conn, TENANT) == {
                "metrics_hourly": {ACCOUNTS[0]},
                "metrics_daily": {ACCOUNTS[0]},
                "operator_performance": set(),
                "account_usage_daily": {ACCOUNTS[0]},
                "latency_histograms": set(),
                "latency_days": set(),
                "latency_weeks": set(),
            }
            assert await seen(conn, OPERATOR) == {
                "metrics_hourly": {OPERATORS[0]},
                "metrics_daily": {OPERATORS[0]},
                "operator_performance": {OPERATORS[0]},
                "account_usage_daily": set(),
                "latency_histograms": {OPERATORS[0]},
                "latency_days": {OPERATORS[0]},
                "latency_weeks": {OPERATORS[0]},
            }

    run(story())


def test_an_account_with_the_id_of_an_operator_sees_only_the_account(database_url: str) -> None:
    """Ids of different scopes may coincide; the scope counts in every table."""

    async def story() -> None:
        twin = make_grant("ACCOUNT", OPERATORS[:1], ["metrics:read"])
        async with database(database_url) as conn:
            await conn.execute("INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, 9)", DAY, OPERATORS[0])

            assert await seen(conn, twin) == {table: set() for table in GUARDED_TABLES} | {
                "account_usage_daily": {OPERATORS[0]}
            }

    run(story())


STATEMENTS = {
    "list_hourly": (*PERIOD, "", NIL, list(SCOPES), 1000),
    "list_hourly_of_ids": (*PERIOD, "", NIL, list(SCOPES), [PLATFORM_ID, *OPERATORS, *ACCOUNTS], 1000),
    "list_daily": (*PERIOD, "", NIL, list(SCOPES), 1000),
    "list_daily_of_ids": (*PERIOD, "", NIL, list(SCOPES), [PLATFORM_ID, *OPERATORS, *ACCOUNTS], 1000),
    "list_operators": (*PERIOD, NIL, OPERATORS, 1000),
    "list_accounts": (*PERIOD, NIL, 1000),
    "list_accounts_of_ids": (*PERIOD, NIL, ACCOUNTS, 1000),
    "sum_ids": ([HOUR], [], "ACCOUNT", None, "totalMessages", True, 1000, *NO_SUMS.values),
    "sum_spans": ([HOUR], [0], [1], [], [], [], "ACCOUNT", None, *NO_SUMS.values),
    "find_peaks": ([HOUR], [0], "ACCOUNT", None),
    "merge_latencies": ([HOUR], [0], [1], [DAY], [1], [DAY], [2], OPERATORS, True),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_that_asks_for_everybody_gets_only_what_the_grant_may_see(database_url: str, name: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            found: dict[str, list[asyncpg.Record]] = {}
            for who, grant in {"staff": STAFF, "account": TENANT, "operator": OPERATOR, "other": OTHER}.items():
                async with snapshot(conn, grant):  # one session: its prepared statement serves all of them in turn
                    found[who] = await conn.fetch(sql(f"read/{name}"), *STATEMENTS[name])
            texts = {who: str(rows) for who, rows in found.items()}

            assert len(found["staff"]) > 0
            for who, own in {"account": ACCOUNTS[0], "operator": OPERATORS[0], "other": ACCOUNTS[1]}.items():
                foreign = {PLATFORM_ID, *OPERATORS, *ACCOUNTS} - {own}
                assert [scope_id for scope_id in foreign if f"'{scope_id}'" in texts[who]] == []
                assert all(row["total_messages"] == 7 for row in found[who] if "total_messages" in row)
            assert sum(len(rows) for rows in found.values()) > len(found["staff"]), "nobody sees his own"

    run(story())


ROUTES = {
    "/v1/metrics/hourly": {"from": "-3d"},
    "/v1/metrics/daily": {"from": "-3d"},
    "/v1/operators/performance": {"from": "-3d"},
    "/v1/accounts/usage": {"from": "-3d"},
    "/v1/metrics/hourly?format=csv": {"from": "-3d", "format": "csv"},
    "/v1/summary": {"from": "-3d", "groupBy": "scopeId"},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("grant", [TENANT, OPERATOR], ids=["account", "operator"])
def test_an_api_that_forgot_to_filter_still_shows_nothing_foreign(
    database_url: str, monkeypatch: pytest.MonkeyPatch, route: str, grant: Grant
) -> None:
    """The planted mistake: everybody may ask for anything. Only PostgreSQL is left to decide."""

    def see_everything(_: Grant, scope: Any, ids: Any, *, parameter: str) -> Visible:
        assert parameter
        return Visible(scope, ids)

    monkeypatch.setattr(reports, "see", see_everything)
    monkeypatch.setattr(summaries, "see", see_everything)
    (own,) = grant.scope_ids

    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn)
            for scope, headers in {
                "PLATFORM": await key_for(conn, "PLATFORM"),
                grant.scope: await key_for(conn, grant.scope, own),
            }.items():
                parameters = ROUTES[route] | ({"scope": grant.scope} if "groupBy" in ROUTES[route] else {})
                response = await client.get(route.partition("?")[0], params=parameters, headers=headers)
                foreign = {PLATFORM_ID, *OPERATORS, *ACCOUNTS} - {own}
                shown = [scope_id for scope_id in foreign if scope_id in response.text]

                assert response.status_code == 200
                assert bool(shown) == (scope == "PLATFORM"), "the mistake shows nothing even to staff"

    run(story())


# --------------------------------------------------------------------------------------------------------------- rights


def test_who_reads_for_tenants_without_saying_for_whom_sees_nothing(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def story() -> None:
        async with database(database_url), login_role(postgres_server, database_url, member_of=TENANT_ROLE) as url:
            conn = await asyncpg.connect(url)
            for settings in ({}, {"anlyt.scope": "ACCOUNT"}, {"anlyt.ids": ACCOUNTS[0]}, {"anlyt.scope": "PLATFORM"}):
                async with conn.transaction():
                    for name, value in settings.items():
                        await conn.execute("SELECT set_config($1, $2, TRUE)", name, value)
                    for query in SEEN.values():
                        assert await conn.fetch(query) == [], (settings, query)
            await conn.close()

    run(story())


HIDDEN = {
    STAFF_ROLE: ["api_keys", "processed_events", "second_counts", "migrations"],
    TENANT_ROLE: [
        *("api_keys", "processed_events", "second_counts", "migrations"),
        *("dead_letters", "ingest_totals", "backfills", "job_runs"),
    ],
}


@pytest.mark.parametrize("role", HIDDEN)
def test_the_reading_roles_write_nothing_and_see_no_other_table_and_no_partition(database_url: str, role: str) -> None:
    async def refused(conn: asyncpg.Connection[Any], statement: str) -> None:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(f"BEGIN; SET LOCAL ROLE {role}; {statement}")
        await conn.execute("ROLLBACK")

    async def story() -> None:
        async with database(database_url) as conn:
            for table in HIDDEN[role]:
                await refused(conn, f"SELECT FROM anlyt.{table}")
            await refused(conn, f"SELECT FROM anlyt.metrics_hourly_y{HOUR:%Ym%m}")
            await refused(conn, "SELECT body FROM anlyt.dead_letters")
            for table in await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'anlyt'"):
                await refused(conn, f"INSERT INTO anlyt.{table['tablename']} DEFAULT VALUES")
                await refused(conn, f"DELETE FROM anlyt.{table['tablename']}")  # noqa: S608 - our own names
            await refused(conn, "SELECT anlyt.ensure_partition('metrics_hourly', now())")

    run(story())


def test_every_table_that_is_read_for_tenants_decides_by_row(database_url: str) -> None:
    """A table that is added later and granted to tenants without a policy fails here."""

    async def story() -> None:
        policies = (await read_catalogue(database_url))["policies"]
        conn = await connect(database_url, application="anlyt-tests")
        granted = await conn.fetch(
            "SELECT relname FROM pg_class WHERE relnamespace = 'anlyt'::REGNAMESPACE AND relkind = ANY ('{r,p,v,m}')"
            " AND has_any_column_privilege($1, oid, 'SELECT')",
            TENANT_ROLE,
        )
        await conn.close()
        guarded = {
            table
            for table, enabled, _, _, _, _, roles, condition, _ in policies
            if enabled and roles == [TENANT_ROLE] and "anlyt.ids" in condition
        }

        assert {row["relname"] for row in granted} - guarded == {"stream_positions", "archive_borders"}  # nobody's data
        assert guarded == set(GUARDED_TABLES)

    run(story())


def test_a_session_keeps_nothing_of_a_snapshot(database_url: str) -> None:
    async def story() -> None:
        query = "SELECT current_user::TEXT, current_setting('anlyt.scope', TRUE), current_setting('anlyt.ids', TRUE)"
        async with database(database_url) as conn:
            before = await conn.fetchval("SELECT current_user::TEXT")
            async with snapshot(conn, TENANT):
                inside = tuple(await conn.fetchrow(query))
            after = tuple(await conn.fetchrow(query))
            with pytest.raises(asyncpg.DivisionByZeroError):
                async with snapshot(conn, TENANT):
                    await conn.execute("SELECT 1 / 0")
            broken = tuple(await conn.fetchrow(query))

            assert inside == (TENANT_ROLE, "ACCOUNT", ACCOUNTS[0])
            assert after == broken == (before, "", "")

    run(story())


# ----------------------------------------------------------------------------------------------------------- migrating


def test_an_owner_that_may_not_make_roles_migrates_once_they_are_there(postgres_server: EmbeddedPostgres) -> None:
    async def story() -> None:
        async with empty_database(postgres_server) as url, login_role(postgres_server, url) as owner_url:
            owner = owner_url.split("/")[2].partition(":")[0]
            database_name = url.rpartition("/")[2]
            await execute(postgres_server.admin_url, f"ALTER DATABASE {database_name} OWNER TO {owner}")
            with pytest.raises(postgres.ConfigurationError, match="GRANT anlyt_staff, anlyt_tenant"):
                await postgres.migrate(owner_url)
            await execute(postgres_server.admin_url, f"GRANT anlyt_staff, anlyt_tenant TO {owner}")

            assert await postgres.migrate(owner_url)
            async with session(owner_url, application="anlyt-tests") as conn, snapshot(conn, TENANT):
                assert await conn.fetch("SELECT * FROM anlyt.metrics_hourly") == []
            await execute(postgres_server.admin_url, f"ALTER DATABASE {database_name} OWNER TO postgres")
            await execute(owner_url, "DROP SCHEMA anlyt CASCADE")

    run(story())
