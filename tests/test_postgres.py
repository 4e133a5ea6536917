"""Sessions have limits, errors have the right fate, migrations are whole or absent, partitions hold nobody up."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg
import pytest

from anlyt import postgres
from anlyt.errors import ConfigurationError, DatabaseUnavailable
from anlyt.postgres import PARTITIONED_TABLES, Migration, connect, ensure_partitions, session, sql, unavailable
from databases import empty_database, execute, login_role, read_catalogue
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from asyncpg import Connection

    from anlyt.embedded import EmbeddedPostgres

SECRET = "hunter2hunter2"  # noqa: S105 - to be looked for in messages
NOBODY = f"postgresql://anlyt:{SECRET}@127.0.0.1:1/anlyt"


# ------------------------------------------------------------------------------------------------------------ sessions


def test_every_session_is_in_utc_and_has_a_limit_on_every_wait(database_url: str) -> None:
    async def scenario() -> None:
        await execute(database_url, f"ALTER DATABASE {database_url.rpartition('/')[2]} SET timezone = 'Asia/Kolkata'")
        async with session(database_url, application="anlyt-test", statement_timeout_s=2.5) as conn:
            rows = await conn.fetch(
                "SELECT name, setting FROM pg_settings WHERE name IN ('TimeZone', 'application_name', "
                "'client_connection_check_interval', 'idle_in_transaction_session_timeout', 'statement_timeout', "
                "'tcp_user_timeout')"
            )

        assert {row["name"]: row["setting"] for row in rows} == {
            "TimeZone": "UTC",
            "application_name": "anlyt-test",
            "client_connection_check_interval": "5000",
            "idle_in_transaction_session_timeout": "60000",
            "statement_timeout": "2500",
            "tcp_user_timeout": "25000",
        }

    run(scenario())


def test_a_pool_lends_the_same_session_again_without_what_a_transaction_left(database_url: str) -> None:
    async def scenario() -> None:
        pool = await postgres.open_pool(database_url, application="anlyt-test", size_max=2, statement_timeout_s=3)
        async with pool.acquire() as conn:
            first = await conn.fetchval("SELECT pg_backend_pid()")
            async with conn.transaction():
                await conn.execute("SET LOCAL TimeZone = 'Asia/Kolkata'")
                await conn.execute("SET LOCAL ROLE anlyt_tenant")
                await conn.fetchval("SELECT pg_advisory_xact_lock(1)")

        async def fail() -> None:
            async with pool.acquire() as conn, conn.transaction():
                await conn.execute("SET LOCAL ROLE anlyt_tenant")
                await conn.execute("SET LOCAL statement_timeout = '10ms'")
                await conn.fetchval("SELECT pg_sleep(60)")

        with pytest.raises(asyncpg.QueryCanceledError):
            await fail()
        async with pool.acquire() as conn:
            assert await conn.fetchval("SELECT pg_backend_pid()") == first
            assert await conn.fetchval("SHOW TimeZone") == "UTC"
            assert await conn.fetchval("SHOW statement_timeout") == "3s"
            assert await conn.fetchval("SELECT current_user = session_user")
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await conn.fetchval(held) == 0
        await pool.close()

    run(scenario())


def test_what_the_api_reads_with_sets_and_locks_nothing_that_outlives_its_transaction() -> None:
    """Sessions of a pool are not reset: every answer would wait for that."""
    folder = resources.files("anlyt").joinpath("sql")
    files = [file for name in ("access", "read") for file in folder.joinpath(name).iterdir()]
    statements = {file.name: " ".join(re.sub(r"--.*", "", file.read_text("utf-8")).split()) for file in files}
    lasting = re.compile(r"\A(SET|PREPARE|LISTEN|DECLARE)\b|advisory_lock|set_config\(.+, FALSE ?\)", re.IGNORECASE)
    places = [place for text in statements.values() for place in text.split("set_config(")[1:]]

    assert "see_as.sql" in statements
    assert [name for name, text in statements.items() if lasting.search(text)] == []
    assert [place for place in places if re.search(r", TRUE ?\)", place) is None] == []
    assert len(places) >= 4


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        (NOBODY, DatabaseUnavailable, "127.0.0.1:1: ConnectionRefusedError"),
        (f"postgresql://a:{SECRET}@127.0.0.1:1,127.0.0.1:2/x", DatabaseUnavailable, "127.0.0.1:1: .*127.0.0.1:2: "),
        (f"mysql://a:{SECRET}@127.0.0.1/x", ConfigurationError, "is not an address"),
        (f"postgresql://a:{SECRET}@[::1/x", ConfigurationError, "is not an address"),
        (f"postgresql://a:{SECRET}@127.0.0.1:port/x", ConfigurationError, "is not an address"),
        (
            f"postgresql://a:{SECRET}@127.0.0.1/x?sslmode=perhaps",
            ConfigurationError,
            "`sslmode` parameter must be one of",
        ),
        *((f"postgresql://a:{SECRET}{c}x@127.0.0.1/x", ConfigurationError, "percent-encoded") for c in "/#?"),
    ],
)
def test_an_address_that_leads_nowhere_is_named_without_its_password(
    url: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        run(connect(url, application="anlyt-test"))

    assert SECRET not in str(caught.value)
    assert "ANLYT_DATABASE_URL" in str(caught.value)


def test_a_wrong_password_or_database_is_an_unreachable_server(database_url: str) -> None:
    wrong_password = re.sub(r"//anlyt:[^@]*@", f"//anlyt:{SECRET}@", database_url)
    for url, words in (wrong_password, "password authentication failed"), (f"{database_url}_not", "does not exist"):
        with pytest.raises(DatabaseUnavailable, match=words) as caught:
            run(connect(url, application="anlyt-test"))

        assert SECRET not in str(caught.value)


def test_a_host_that_never_answers_does_not_use_up_the_time_of_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_S", 0.5)

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            host = f"127.0.0.1:{silent.getsockname()[1]}"
            async with session(database_url.replace("@", f"@{host},"), application="anlyt-test") as conn:
                assert await conn.fetchval("SELECT 1") == 1
            with pytest.raises(DatabaseUnavailable, match=f"{host}: no answer in time"):
                await connect(f"postgresql://anlyt@{host}/anlyt", application="anlyt-test")

    run(scenario())


def test_a_server_that_takes_no_writes_is_not_used(database_url: str) -> None:
    async def scenario() -> None:
        name = database_url.rpartition("/")[2]
        await execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        with pytest.raises(DatabaseUnavailable, match=r"read-write|read_write"):
            await connect(database_url, application="anlyt-test")

    run(scenario())


# -------------------------------------------------------------------------------------------------------------- errors


async def time_out(conn: Connection, _url: str) -> None:
    await conn.execute("SET statement_timeout = '10ms'")
    await conn.execute("SELECT pg_sleep(5)")


async def be_terminated(conn: Connection, url: str) -> None:
    pid = await conn.fetchval("SELECT pg_backend_pid()")
    async with session(url, application="killer") as killer:
        await killer.execute("SELECT pg_terminate_backend($1)", pid)
    await conn.execute("SELECT pg_sleep(5)")


async def use_what_is_closed(conn: Connection, _url: str) -> None:
    conn.terminate()
    await conn.execute("SELECT 1")


async def wait_for_a_lock(conn: Connection, url: str) -> None:
    async with session(url, application="holder") as holder, holder.transaction():
        await holder.execute("LOCK TABLE anlyt.backfills")
        await conn.execute("SET lock_timeout = '10ms'")
        await conn.execute("TABLE anlyt.backfills")


async def write_where_nothing_may_be_written(conn: Connection, _url: str) -> None:
    await conn.execute("SET default_transaction_read_only = on")
    await conn.execute("DELETE FROM anlyt.backfills")


async def collide(conn: Connection, url: str) -> None:
    await conn.execute("INSERT INTO anlyt.backfills (name) VALUES ('x')")
    async with session(url, application="other") as other, conn.transaction(isolation="serializable"):
        await conn.execute("TABLE anlyt.backfills")
        await other.execute("UPDATE anlyt.backfills SET counted_events = 1")
        await conn.execute("UPDATE anlyt.backfills SET counted_events = 2")


async def dead_lock(conn: Connection, url: str) -> None:
    await conn.execute("INSERT INTO anlyt.backfills (name) VALUES ('a'), ('b')")
    touch = "UPDATE anlyt.backfills SET counted_events = 1 WHERE name = $1"
    async with session(url, application="other") as other, conn.transaction(), other.transaction():
        await conn.execute(touch, "a")
        await other.execute(touch, "b")
        # Whoever loses, the error is raised here.
        both = await asyncio.gather(conn.execute(touch, "b"), other.execute(touch, "a"), return_exceptions=True)
        raise next(error for error in both if isinstance(error, BaseException))


async def wait_too_long(_conn: Connection, _url: str) -> None:
    async with asyncio.timeout(0.01):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "fault",
    [
        time_out,
        be_terminated,
        use_what_is_closed,
        wait_for_a_lock,
        write_where_nothing_may_be_written,
        collide,
        dead_lock,
        wait_too_long,
    ],
)
def test_a_fault_of_the_world_is_database_unavailable(
    database_url: str, fault: Callable[[Connection, str], Awaitable[None]]
) -> None:
    async def scenario() -> None:
        conn = await connect(database_url, application="anlyt-test")
        try:
            with pytest.raises(DatabaseUnavailable) as caught, unavailable():
                await fault(conn, database_url)
            assert caught.value.__cause__ is not None
        finally:
            conn.terminate()

    run(scenario())


async def give_the_wrong_type(conn: Connection) -> None:
    await conn.execute("SELECT $1::BIGINT", "ten")


async def divide_by_zero(conn: Connection) -> None:
    await conn.execute("SELECT 1 / 0")


async def repeat_a_key(conn: Connection) -> None:
    await conn.execute("INSERT INTO anlyt.backfills (name) VALUES ('x'), ('x')")


async def ask_for_what_is_not_there(conn: Connection) -> None:
    await conn.execute("TABLE anlyt.nothing")


async def ask_two_things_at_once(conn: Connection) -> None:
    await asyncio.gather(conn.execute("SELECT pg_sleep(0.2)"), conn.execute("SELECT 1"))


async def overflow(conn: Connection) -> None:
    await conn.execute("SELECT 1e12::NUMERIC(18,6)")


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (give_the_wrong_type, asyncpg.DataError),
        (divide_by_zero, asyncpg.DivisionByZeroError),
        (repeat_a_key, asyncpg.UniqueViolationError),
        (ask_for_what_is_not_there, asyncpg.UndefinedTableError),
        (ask_two_things_at_once, asyncpg.InterfaceError),
        (overflow, asyncpg.NumericValueOutOfRangeError),
    ],
)
def test_a_mistake_of_ours_and_bad_data_pass_as_they_are(
    database_url: str, mistake: Callable[[Connection], Awaitable[None]], error: type[Exception]
) -> None:
    async def scenario() -> None:
        conn = await connect(database_url, application="anlyt-test")
        try:
            with pytest.raises(error), unavailable():
                await mistake(conn)
        finally:
            conn.terminate()

    run(scenario())


# ---------------------------------------------------------------------------------------------------------- migrations


def with_another(text: str) -> Callable[[], tuple[Migration, ...]]:
    """The migrations of a version that has one more."""
    known = postgres.read_migrations()
    return lambda: (*known, Migration("9999_another", text, "0" * 64))  # type: ignore[arg-type] - a test's own SQL


def test_migrating_twice_changes_nothing(postgres_server: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as url:
            names = [migration.name for migration in postgres.read_migrations()]
            async with session(url, application="test") as conn:
                assert await postgres.pending_migrations(conn) == names
                assert await postgres.migrate(url) == names
                assert await postgres.pending_migrations(conn) == []
            before = await read_catalogue(url)
            assert await postgres.migrate(url) == []
            assert await read_catalogue(url) == before

    run(scenario())


def test_two_that_migrate_at_once_apply_each_migration_once(postgres_server: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as url:
            applied = await asyncio.gather(*(postgres.migrate(url) for _ in range(4)))

            names = [migration.name for migration in postgres.read_migrations()]
            assert sorted(applied) == [[], [], [], names]

    run(scenario())


def test_two_databases_of_one_cluster_are_migrated_at_once(postgres_server: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as one, empty_database(postgres_server) as other:
            await asyncio.gather(postgres.migrate(one), postgres.migrate(other))

    run(scenario())


def test_a_migration_that_fails_leaves_nothing_behind(
    postgres_server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *_) = postgres.read_migrations()
    broken = Migration(first.name, first.text + "\nSELECT 1 / 0;", first.sha256)
    monkeypatch.setattr(postgres, "read_migrations", lambda: (broken,))

    async def scenario() -> None:
        async with empty_database(postgres_server) as url:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await postgres.migrate(url)
            async with session(url, application="test") as conn:
                assert await conn.fetchval("SELECT to_regnamespace('anlyt') IS NULL")

    run(scenario())


MIGRATE_SLOWLY = """
import asyncio, sys
from anlyt import postgres
known = postgres.read_migrations()
slow = postgres.Migration("9999_slow", "CREATE TABLE anlyt.half_done (a INTEGER); SELECT pg_sleep(60);", "0" * 64)
postgres.read_migrations = lambda: (*known, slow)
asyncio.run(postgres.migrate(sys.argv[1]))
"""


def test_a_migration_killed_half_way_leaves_nothing_and_the_next_one_goes_on(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            process = subprocess.Popen([sys.executable, "-c", MIGRATE_SLOWLY, database_url])  # noqa: ASYNC220 - its id is all we need
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%half_done%' AND wait_event = 'PgSleep'"
            await wait_until(lambda: conn.fetchval(sleeping), what="the migration is half-way")
            process.send_signal(signal.SIGKILL)
            process.wait()

            assert await asyncio.wait_for(postgres.migrate(database_url), 20) == []  # once the server misses the client
            assert await conn.fetchval("SELECT to_regclass('anlyt.half_done') IS NULL")
            assert await conn.fetchval("SELECT count(*) FROM anlyt.migrations WHERE name = '9999_slow'") == 0

    run(scenario())


def test_a_database_newer_than_the_code_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr(postgres, "read_migrations", with_another("SELECT 1"))
        assert run(postgres.migrate(database_url)) == ["9999_another"]

    with pytest.raises(ConfigurationError, match="9999_another, which this version does not know"):
        run(postgres.migrate(database_url))


def test_an_applied_migration_that_was_changed_is_refused(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = tuple(Migration(m.name, m.text, "f" * 64) for m in postgres.read_migrations())
    monkeypatch.setattr(postgres, "read_migrations", lambda: changed)

    with pytest.raises(ConfigurationError, match=r"0001_initial is not the one that was applied .*ffffffffffff here"):
        run(postgres.migrate(database_url))


def test_a_role_that_may_not_make_the_schema_is_told_what_it_lacks(postgres_server: EmbeddedPostgres) -> None:
    async def scenario() -> None:
        async with empty_database(postgres_server) as owned, login_role(postgres_server, owned) as url:
            with pytest.raises(ConfigurationError, match=r"permission denied for database .* must own the database"):
                await postgres.migrate(url)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------- partitions

MARCH, APRIL = datetime(2031, 3, 5, 7, tzinfo=UTC), datetime(2031, 4, 30, 23, 59, 59, tzinfo=UTC)
BOUNDS = """
    SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound, c.reloptions
    FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid
    WHERE c.relkind = 'r' AND c.relname LIKE '%y2031%' ORDER BY 1"""


def test_each_month_gets_one_partition_a_table_from_month_to_month_in_utc(database_url: str) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute("SET TimeZone = 'Asia/Kathmandu'")
            assert await ensure_partitions(conn, [MARCH, APRIL, MARCH.replace(day=31)]) == 2 * len(PARTITIONED_TABLES)
            assert await ensure_partitions(conn, [APRIL]) == 0
            assert await ensure_partitions(conn, []) == 0
            await conn.execute("SET TimeZone = 'UTC'")
            rows = await conn.fetch(BOUNDS)

            months = {"y2031m03": ("2031-03-01", "2031-04-01"), "y2031m04": ("2031-04-01", "2031-05-01")}
            assert [(row["relname"], row["bound"]) for row in rows] == [
                (f"{table}_{name}", f"FOR VALUES FROM ('{start} 00:00:00+00') TO ('{end} 00:00:00+00')")
                for table in sorted(PARTITIONED_TABLES)
                for name, (start, end) in months.items()
            ]
            assert {tuple(row["reloptions"]) for row in rows} == {("fillfactor=70",)}

    run(scenario())


def test_many_that_need_the_same_month_at_once_all_get_it(database_url: str) -> None:
    async def ensure() -> int:
        async with session(database_url, application="test") as conn:
            return await ensure_partitions(conn, [MARCH])

    async def scenario() -> None:
        assert sorted(await asyncio.gather(*(ensure() for _ in range(6)))) == [0] * 5 + [len(PARTITIONED_TABLES)]

    run(scenario())


INSERT = "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, 'PLATFORM', $2)"


def test_a_new_partition_neither_waits_for_open_transactions_nor_holds_up_writers(database_url: str) -> None:
    async def scenario() -> None:
        async with (
            session(database_url, application="test") as conn,
            session(database_url, application="writer") as writer,
            session(database_url, application="other", statement_timeout_s=1) as other,
        ):
            await ensure_partitions(conn, [MARCH])
            async with writer.transaction():
                await writer.execute(INSERT, MARCH, "open")
                assert await ensure_partitions(conn, [APRIL]) == len(PARTITIONED_TABLES)
                await other.execute(INSERT, MARCH, "another")
                await other.execute(INSERT, APRIL, "another")

    run(scenario())


def test_a_table_that_is_locked_for_a_moment_is_tried_again(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(postgres, "PARTITION_RETRY_S", 0.05)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'anlyt.metrics_hourly'::REGCLASS"

    async def scenario() -> None:
        async with session(database_url, application="test") as conn, session(database_url, application="x") as other:
            transaction = other.transaction()
            await transaction.start()
            await other.execute("LOCK TABLE anlyt.metrics_hourly IN SHARE UPDATE EXCLUSIVE MODE")
            with pytest.raises(asyncpg.LockNotAvailableError):
                await ensure_partitions(conn, [MARCH])
            making = asyncio.create_task(ensure_partitions(conn, [MARCH]))
            await wait_until(lambda: other.fetchval(waiting), what="it waits for the lock")
            await transaction.rollback()

            assert await making == len(PARTITIONED_TABLES)

    run(scenario())


# ---------------------------------------------------------------------------------------------------------- statements


def test_a_statement_is_read_from_its_file() -> None:
    assert sql("migrate/find_migrations").startswith("-- ")
    with pytest.raises(FileNotFoundError, match=re.escape("migrate/find_nothing.sql")):
        sql("migrate/find_nothing")
