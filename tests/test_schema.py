"""The schema: the founding document to the letter, equal by migrations and by definition, written by its owner only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from anlyt import postgres
from databases import empty_database, execute, login_role, read_catalogue
from support import run

if TYPE_CHECKING:
    from anlyt.embedded import EmbeddedPostgres

DOCUMENT = Path(__file__).parent / "data_model.sql"  # the founding document's statements, verbatim
TABLES = ["metrics_hourly", "metrics_daily", "operator_performance", "account_usage_daily", "processed_events"]
ROLL_UPS = TABLES[:4]


def test_the_five_tables_are_the_documents_column_by_column(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as document_url:
            await execute(document_url, f"CREATE SCHEMA anlyt; {DOCUMENT.read_text(encoding='utf-8')}")
            document, live = await read_catalogue(document_url), await read_catalogue(database_url)

        assert sorted(TABLES) == sorted({row[0] for row in document["columns"]})
        for what in ("columns", "constraints", "indexes", "partition keys"):
            of_the_five = [row for row in live[what] if row[0] in TABLES]

            assert document[what] == of_the_five, what

    run(scenario())


def test_the_documents_three_named_indexes_are_there(database_url: str) -> None:
    async def scenario() -> None:
        names = {row[1] for row in (await read_catalogue(database_url))["indexes"]}

        assert {"ix_anlyt_op_perf_operator_hour", "ix_anlyt_acct_usage_account", "ix_anlyt_processed_at"} <= names

    run(scenario())


def test_the_migrations_make_exactly_what_the_definition_says(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as defined_url:
            await execute(defined_url, postgres.sql("schema"))
            defined, migrated = await read_catalogue(defined_url), await read_catalogue(database_url)

        for what, rows in defined.items():
            assert rows == migrated[what], what

    run(scenario())


def test_the_printed_script_makes_what_the_migrations_make_and_records_it(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as url:
            await execute(url, postgres.migration_script())

            assert await postgres.migrate(url) == []
            assert await read_catalogue(url) == await read_catalogue(database_url)

    run(scenario())


def test_everything_in_the_schema_belongs_to_the_service(database_url: str) -> None:
    async def scenario() -> None:
        assert {row[1] for row in (await read_catalogue(database_url))["rights"]} == {"anlyt"}

    run(scenario())


async def refused(conn: asyncpg.Connection, statement: str) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError) as caught:
        await conn.execute(statement)

    assert caught.value.sqlstate == "42501"


async def list_tables(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch(
        "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = (SELECT oid FROM pg_namespace "
        "WHERE nspname = 'anlyt') ORDER BY 1"
    )
    return [row["relname"] for row in rows]


def writes(table: str) -> list[str]:
    return [
        f"INSERT INTO anlyt.{table} DEFAULT VALUES",
        f"DELETE FROM anlyt.{table}",  # noqa: S608 - our own tables
        f"TRUNCATE anlyt.{table}",
        f"DROP TABLE anlyt.{table}",
        f"ALTER TABLE anlyt.{table} ADD COLUMN x INTEGER",
    ]


def test_another_role_can_neither_read_nor_write_anything(postgres_server: EmbeddedPostgres, database_url: str) -> None:
    async def scenario() -> None:
        async with login_role(postgres_server, database_url) as url:
            conn = await asyncpg.connect(url)
            for table in await list_tables(conn):
                await refused(conn, f"SELECT FROM anlyt.{table}")
                for write in writes(table):
                    await refused(conn, write)
            await refused(conn, "SELECT nextval('anlyt.latency_segments')")
            await refused(conn, "SELECT anlyt.ensure_partition('metrics_hourly', now())")
            await refused(conn, "CREATE TABLE anlyt.mine (a INTEGER)")
            await conn.close()

    run(scenario())


def test_the_reader_reads_the_four_roll_ups_and_nothing_else_and_writes_nothing(
    postgres_server: EmbeddedPostgres, database_url: str
) -> None:
    async def scenario() -> None:
        await execute(database_url, "SELECT anlyt.ensure_partition('metrics_hourly', now())")
        async with login_role(postgres_server, database_url, member_of="anlyt_reader") as url:
            conn = await asyncpg.connect(url)
            tables = await list_tables(conn)
            assert set(ROLL_UPS) < set(tables)
            for table in tables:
                if table in ROLL_UPS:
                    await conn.execute(f"TABLE anlyt.{table}")
                else:
                    await refused(conn, f"SELECT FROM anlyt.{table}")
                for write in writes(table):
                    await refused(conn, write)
            await refused(conn, "SELECT anlyt.ensure_partition('metrics_hourly', now())")
            await refused(conn, "CREATE TABLE anlyt.mine (a INTEGER)")
            await conn.close()

    run(scenario())
