"""The archive has exactly what PostgreSQL has, whatever changes or gets lost; and nothing leaves before it has."""

# ruff: noqa: S608 - the names are those of our own tables

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from anlyt import archive as archive_module
from anlyt import jobs, reconcile
from anlyt.archive import Sums
from anlyt.clickhouse import READ_TIMEOUT_S, TABLES, ClickHouse, statement
from anlyt.crash import CrashPoints
from anlyt.errors import ConfigurationError, DifferenceFound
from anlyt.postgres import ensure_partitions, session
from archives import archive_directory, archive_in, assert_same_rows, rows_here, rows_there, stop
from commands import anlyt, environment_of
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from asyncpg import Connection

    from anlyt.clickhouse import ArchiveTable
    from anlyt.settings import Settings

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NOT_ARMED = CrashPoints()
UUIDS = [f"0000000{n}-aaaa-4bbb-8ccc-dddddddddddd" for n in range(10)]
ONE_SERVER = """
<clickhouse>
    <tcp_port>9000</tcp_port>
    <remote_servers>
        <main><shard><replica><host>127.0.0.1</host><port>9000</port></replica></shard></main>
    </remote_servers>
</clickhouse>
"""
NOTHING = {"days_copied": 0, "rows_copied": 0, "months_replaced": 0}


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with archive_directory() as path:
        yield path


@pytest.fixture
def clickhouse(directory: Path) -> Iterator[ClickHouse]:
    made = archive_in(directory)
    yield made
    run(made.close())


async def add_day(conn: Connection, day: datetime, *, ids: int = 3, extreme: bool = False) -> None:
    """A day in all four tables, of a few accounts and operators; the hours have their partitions."""
    await ensure_partitions(conn, [day])
    for n in range(ids):
        total, cost = (2**62, "-999999999999.999999") if extreme else (10 + n, f"{n - 1}.000001")
        scope = "ACCOUNT" if n % 2 else "OPERATOR"
        counts = (total, total + n, -n, 0, cost, 17, n)
        await conn.execute(
            "INSERT INTO anlyt.metrics_daily VALUES ($1, $2, $3, $4, $5, $6, $7, $8::TEXT::NUMERIC, $9, $10, 3)",
            *(day, scope, UUIDS[n], *counts),
        )
        for hour in (0, 7, 23):
            await conn.execute(
                "INSERT INTO anlyt.metrics_hourly VALUES ($1, $2, $3, $4, $5, $6, $7, $8::TEXT::NUMERIC, $9, $10, 3)",
                *(day + hour * HOUR, scope, UUIDS[n], *counts),
            )
            await conn.execute(
                "INSERT INTO anlyt.operator_performance VALUES ($1, $2, $3, $4, $5, 5, 2, $6, 3, 1)",
                *(day + hour * HOUR, UUIDS[n], total, total, 0, None if n else 2**31 - 1),
            )
        await conn.execute(
            "INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, $3, $4, $5, $6::TEXT::NUMERIC, 4)",
            *(day, UUIDS[n], total, total, 0, cost),
        )


async def copy(url: str, clickhouse: ClickHouse) -> dict[str, int]:
    return await jobs.run_job(url, "archive", NOT_ARMED, clickhouse=clickhouse)


async def retain(url: str, clickhouse: ClickHouse) -> dict[str, int]:
    return await jobs.run_job(url, "retention", NOT_ARMED, clickhouse=clickhouse)


# ---------------------------------------------------------------------------------------------------------------- copy


def test_every_day_that_is_over_is_copied_and_a_second_run_copies_nothing(
    database_url: str, clickhouse: ClickHouse
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            for age in (0, 1, 2, 40):
                await add_day(conn, TODAY - age * DAY)

            months = {(day.year, day.month) for day in (TODAY - age * DAY for age in (1, 2, 40))}
            assert await copy(database_url, clickhouse) == {
                "days_copied": 12,
                "rows_copied": 72,
                "months_replaced": 4 * len(months),
            }
            await assert_same_rows(conn, clickhouse)
            assert await copy(database_url, clickhouse) == NOTHING
            await assert_same_rows(conn, clickhouse)

    run(scenario())


def test_the_largest_and_smallest_values_survive(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY, extreme=True)
            await conn.execute(
                "UPDATE anlyt.metrics_daily SET delivered_messages = -9223372036854775808, pending_messages = -1,"
                " total_messages = 9223372036854775807, latency_sum_ms = 9223372036854775807,"
                " total_cost = 999999999999.999999, peak_tps = 2147483647, updated_at = '2026-01-01 00:00:00.123450+00'"
            )
            await copy(database_url, clickhouse)

            await assert_same_rows(conn, clickhouse)
            assert (await copy(database_url, clickhouse)) == NOTHING

    run(scenario())


def test_an_id_of_any_text_survives(database_url: str, clickhouse: ClickHouse) -> None:
    ids = ["", "\\N", "\\n \\\\", "two\nlines\r\t\b\f\v", 'a "quoted", id', "'", "\x01", "Ü" * 50]

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY)
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id)"
                " SELECT $1, 'ACCOUNT', unnest($2::TEXT[])",
                TODAY - DAY,
                ids,
            )
            await copy(database_url, clickhouse)

            await assert_same_rows(conn, clickhouse)
            assert set(ids) <= {row[2] for row in await rows_there(clickhouse, "metrics_daily")}
            assert (await copy(database_url, clickhouse)) == NOTHING

    run(scenario())


@pytest.mark.parametrize(
    ("rows", "lots"),
    [
        ([1, 1, 1], [3]),
        ([1] * 14, [12, 2]),
        ([2_000_000, 2_000_000, 1], [2, 1]),
        ([2_000_001, 2_000_000, 1], [1, 2]),
        ([8_000_000, 1, 8_000_000], [1, 1, 1]),
        ([], []),
    ],
)
def test_months_are_staged_together_while_they_are_few_and_small(rows: list[int], lots: list[int]) -> None:
    days = {datetime(2026 + n // 12, n % 12 + 1, 5, tzinfo=UTC): Sums(count, ()) for n, count in enumerate(rows)}
    plan = archive_module.Plan(table=TABLES[0], here=days, there={}, noted={}, changed=tuple(days), unnoted={}, lost=())

    assert [len(unit) for unit in plan.units] == lots
    assert [month for unit in plan.units for month in unit] == plan.months


def test_only_days_that_changed_are_copied_again_whatever_changed(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            for age in (1, 2, 3):
                await add_day(conn, TODAY - age * DAY)
            await copy(database_url, clickhouse)
            # Sums stay as they are: two rows change places. Then a row comes, and one goes.
            await conn.execute(
                "UPDATE anlyt.metrics_daily SET scope_id = translate(scope_id, '01', '10') WHERE day_bucket = $1",
                TODAY - DAY,
            )
            assert (await copy(database_url, clickhouse))["days_copied"] == 1
            await conn.execute(
                "DELETE FROM anlyt.account_usage_daily WHERE day_bucket = $1 AND account_id = $2",
                TODAY - 2 * DAY,
                UUIDS[0],
            )
            await conn.execute(
                "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, 'OPERATOR', 'new')",
                TODAY - 3 * DAY,
            )
            assert (await copy(database_url, clickhouse))["days_copied"] == 2

            await assert_same_rows(conn, clickhouse)

    run(scenario())


def test_a_change_that_commits_after_the_copy_began_is_copied_by_the_next_run(
    database_url: str, clickhouse: ClickHouse
) -> None:
    """However early the change was made: its transaction is older than the copy, and so is its updated_at."""

    async def scenario() -> None:
        async with (
            session(database_url, application="test") as conn,
            session(database_url, application="worker") as worker,
        ):
            await add_day(conn, TODAY - DAY)
            late = worker.transaction()
            await late.start()
            await worker.execute("UPDATE anlyt.metrics_daily SET failed_messages = 99, updated_at = now()")
            await copy(database_url, clickhouse)
            await late.commit()

            assert (await copy(database_url, clickhouse))["days_copied"] == 1
            await assert_same_rows(conn, clickhouse)

    run(scenario())


def test_receipts_from_before_the_present_checksum_still_tell_what_was_lost(
    database_url: str, clickhouse: ClickHouse
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            await copy(database_url, clickhouse)
            await conn.execute("UPDATE anlyt.archive_receipts SET checksum = NULL")

            assert (await retain(database_url, clickhouse))["days_deleted"] == 6
            assert await copy(database_url, clickhouse) == NOTHING
            unknown = "SELECT count(*) FROM anlyt.archive_receipts WHERE checksum IS NULL"
            assert await conn.fetchval(unknown) == 6 + 2, "days that are here are noted anew"

            await clickhouse.execute("TRUNCATE TABLE metrics_daily")
            with pytest.raises(DifferenceFound, match=rf"does not have 1 days .* metrics_daily {OLD_DAY:%Y-%m-%d}"):
                await copy(database_url, clickhouse)

    run(scenario())


def test_what_the_archive_lost_is_copied_again_while_it_is_here(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY)
            await copy(database_url, clickhouse)
            for table in TABLES:
                await clickhouse.execute(f"TRUNCATE TABLE {table.name}")
            assert (await copy(database_url, clickhouse))["days_copied"] == 4

            await assert_same_rows(conn, clickhouse)

    run(scenario())


def test_an_empty_database_takes_nothing_out_of_the_archive(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY)
            await copy(database_url, clickhouse)
            before = await rows_there(clickhouse, "metrics_hourly")
            for table in TABLES:
                await conn.execute(f"DELETE FROM anlyt.{table.name}")

            assert await copy(database_url, clickhouse) == NOTHING
            assert await rows_there(clickhouse, "metrics_hourly") == before

    run(scenario())


class Forgetful(ClickHouse):
    """One that says it has taken the rows, and has not."""

    async def insert(self, table: str, stream: bytes) -> None:
        """Take nothing."""


def test_a_copy_that_came_short_leaves_the_archive_as_it_was(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY)
            await copy(database_url, clickhouse)
            before = await rows_there(clickhouse, "metrics_daily")
            await add_day(conn, TODAY - 2 * DAY)
            forgetful = Forgetful("chdb:///unused")
            forgetful.address = clickhouse.address
            with pytest.raises(DifferenceFound, match=r"adds up to something else on 1 days.* was left as it was"):
                await copy(database_url, forgetful)
            await forgetful.close()
            assert await rows_there(clickhouse, "metrics_daily") == before
            assert (await copy(database_url, clickhouse))["days_copied"] == 4

    run(scenario())


def test_a_value_the_archive_cannot_hold_leaves_it_as_it_was(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - DAY)
            await copy(database_url, clickhouse)
            before = await rows_there(clickhouse, "metrics_daily")
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id) VALUES ('1960-01-01', 'ACCOUNT', 'x')"
            )
            with pytest.raises(DifferenceFound, match=r"first 1960-01-01.* the archive was left as it was"):
                await copy(database_url, clickhouse)

            assert (await retain(database_url, clickhouse))["days_deleted"] == 0
            assert await rows_there(clickhouse, "metrics_daily") == before

    run(scenario())


def test_without_an_archive_the_job_says_so(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="set ANLYT_ARCHIVE_URL"):
        run(jobs.run_job(database_url, "archive", NOT_ARMED))


# ----------------------------------------------------------------------------------------------------------- retention

OLD_MONTH = (TODAY - 150 * DAY).replace(day=1)
OLD_DAY = TODAY - 400 * DAY


async def add_old(conn: Connection) -> None:
    for day in (OLD_MONTH, OLD_MONTH + DAY, OLD_DAY, TODAY - 10 * DAY):
        await add_day(conn, day)


def test_nothing_leaves_before_the_archive_has_it(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            before = {table.name: await rows_here(conn, table.name) for table in TABLES}
            await archive_module.make_tables(clickhouse)

            assert await retain(database_url, clickhouse) == {"partitions_dropped": 0, "days_deleted": 0}
            assert {table.name: await rows_here(conn, table.name) for table in TABLES} == before

            await copy(database_url, clickhouse)

            assert await retain(database_url, clickhouse) == {"partitions_dropped": 6, "days_deleted": 6}
            for table in TABLES:
                assert await rows_there(clickhouse, table.name) == before[table.name]

            assert await copy(database_url, clickhouse) == NOTHING
            assert await retain(database_url, clickhouse) == {"partitions_dropped": 0, "days_deleted": 0}

    run(scenario())


def test_what_changed_since_it_was_copied_stays_until_it_is_copied_again(
    database_url: str, clickhouse: ClickHouse
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            await copy(database_url, clickhouse)
            await conn.execute(
                "UPDATE anlyt.operator_performance SET error_count = 7 WHERE hour_bucket = $1", OLD_MONTH
            )
            await conn.execute("UPDATE anlyt.metrics_daily SET peak_tps = 7 WHERE day_bucket = $1", OLD_DAY)

            # The month before it is there whole, and goes.
            assert await retain(database_url, clickhouse) == {"partitions_dropped": 3, "days_deleted": 0}

            await copy(database_url, clickhouse)

            assert await retain(database_url, clickhouse) == {"partitions_dropped": 3, "days_deleted": 6}

    run(scenario())


def test_an_archive_that_was_lost_keeps_everything_here(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            await copy(database_url, clickhouse)
            for table in TABLES:
                await clickhouse.execute(f"TRUNCATE TABLE {table.name}")

            assert await retain(database_url, clickhouse) == {"partitions_dropped": 0, "days_deleted": 0}

    run(scenario())


def test_days_that_only_the_archive_had_and_lost_are_named(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            await copy(database_url, clickhouse)
            await retain(database_url, clickhouse)
            await clickhouse.execute("TRUNCATE TABLE metrics_daily")
            await add_day(conn, TODAY - DAY)

            with pytest.raises(DifferenceFound, match=rf"does not have 1 days .* metrics_daily {OLD_DAY:%Y-%m-%d}"):
                await copy(database_url, clickhouse)
            there = await rows_there(clickhouse, "metrics_hourly")
            assert [row for row in there if row[0] >= TODAY - DAY], "the rest was copied all the same"

    run(scenario())


def test_a_day_that_was_leaving_when_retention_was_killed_is_not_copied_over_the_whole_one(
    database_url: str, clickhouse: ClickHouse
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await add_old(conn)
            await copy(database_url, clickhouse)
            before: list[tuple[Any, ...]] = await rows_there(clickhouse, "metrics_daily")
            await retain(database_url, clickhouse)
            await add_day(conn, OLD_DAY, ids=1)  # as if a batch of the deletion were missing

            assert await copy(database_url, clickhouse) == NOTHING
            assert await rows_there(clickhouse, "metrics_daily") == before
            assert (await retain(database_url, clickhouse))["days_deleted"] == 2

    run(scenario())


# ----------------------------------------------------------------------------------------------------------- reconcile


async def archive_findings(url: str, clickhouse: ClickHouse) -> list[reconcile.Difference]:
    (found,) = [each for each in await reconcile.reconcile(url, clickhouse) if each.identity.number == 7]
    assert found.total == len(found.differences)
    return list(found.differences)


def test_reconcile_names_every_cell_in_which_the_archive_is_not_as_it_was_copied(
    database_url: str, clickhouse: ClickHouse
) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            for age in (1, 2, 3):
                await add_day(conn, TODAY - age * DAY)
            await copy(database_url, clickhouse)
            assert await archive_findings(database_url, clickhouse) == []

            # A day that changed since waits for the next night, and is no difference.
            await conn.execute(
                "UPDATE anlyt.metrics_daily SET failed_messages = 5 WHERE day_bucket = $1", TODAY - 2 * DAY
            )
            assert await archive_findings(database_url, clickhouse) == []

            await clickhouse.execute(
                "ALTER TABLE metrics_hourly UPDATE total_cost = total_cost + 0.000001, peak_tps = 9"
                f" WHERE hour_bucket = toDateTime({int((TODAY - DAY).timestamp())}, 'UTC') AND scope_id = '{UUIDS[1]}'"
                " SETTINGS mutations_sync = 1"
            )
            await clickhouse.execute(
                f"ALTER TABLE account_usage_daily DELETE WHERE account_id = '{UUIDS[2]}' SETTINGS mutations_sync = 1"
            )
            found = await archive_findings(database_url, clickhouse)

            assert {
                (each.table_name, each.scope_id, each.column_name, each.found, each.expected) for each in found
            } == {
                ("metrics_hourly", UUIDS[1], "total_cost", "0.000002", "0.000001"),
                ("metrics_hourly", UUIDS[1], "peak_tps", "9", "3"),
                ("account_usage_daily", UUIDS[2], "*", "no row", "a row"),
            }
            assert len(found) == 2 + 3

            await copy(database_url, clickhouse)
            assert await archive_findings(database_url, clickhouse) == []

    run(scenario())


# ------------------------------------------------------------------------------------------------------------- cluster


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_on_a_cluster_every_statement_is_replicated_and_distributed(
    clickhouse: ClickHouse, table: ArchiveTable
) -> None:
    names = [archive_module.STATEMENTS[table.name].create, "archive/distribute_rows", "archive/replace_month"]
    names += [
        "archive/drop_rows",
        "archive/drop_stored",
        "archive/keep_days",
        archive_module.STATEMENTS[table.name].check,
    ]
    texts = {
        (name, staging): statement(name, table, staging=staging, cluster="main")
        for name in names
        for staging in (False, True)
    }

    async def scenario() -> None:
        await archive_module.make_tables(clickhouse)
        for (name, _), text in texts.items():
            (row,) = await clickhouse.fetch("SELECT formatQuery({text:String}) AS parsed", {"text": text})
            read_or_added = name.startswith(("archive/keep", "archive/check"))
            assert ("ON CLUSTER main" in row["parsed"].replace("`", "")) != read_or_added, row["parsed"]

    run(scenario())
    create = texts[archive_module.STATEMENTS[table.name].create, False]
    assert f"{table.name}_local ON CLUSTER 'main'" in create
    assert "ENGINE = ReplicatedMergeTree\n" in create
    spread = texts["archive/distribute_rows", True]
    assert f"CREATE TABLE IF NOT EXISTS {table.name}_staging ON CLUSTER 'main' AS {table.name}_staging_local" in spread
    assert f"Distributed('main', currentDatabase(), '{table.name}_staging_local', cityHash64({table.key}))" in spread
    replace = texts["archive/replace_month", False]
    assert f"ALTER TABLE {table.name}_local ON CLUSTER 'main'" in replace
    assert f"FROM {table.name}_staging_local" in replace
    assert "{cluster}" not in "".join(texts.values())


class OneServer(ClickHouse):
    """A cluster of one server without a Keeper: no queue of statements for all servers, and nothing is replicated.

    The rest of the cluster's statements is run as it is.
    """

    async def fetch(
        self, text: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float = READ_TIMEOUT_S
    ) -> list[dict[str, Any]]:
        return await super().fetch(_for_one(text), parameters, timeout_s=timeout_s)

    async def execute(
        self, text: str, parameters: Mapping[str, Any] | None = None, *, in_database: bool = True
    ) -> None:
        await super().execute(_for_one(text), parameters, in_database=in_database)


def _for_one(text: str) -> str:
    return text.replace(" ON CLUSTER 'main'", "").replace("ReplicatedMergeTree", "MergeTree")


@pytest.fixture
def one_server(server_dir: Path) -> Iterator[OneServer]:
    directory = server_dir / "archive"
    directory.mkdir(mode=0o700)
    (directory / "config.xml").write_text(ONE_SERVER)
    made = OneServer(f"chdb://{directory}", cluster="main")
    yield made
    run(made.close())
    stop(directory)


def test_distributed_tables_are_filled_replaced_and_read(database_url: str, one_server: OneServer) -> None:
    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            for age in (1, 2, 40):
                await add_day(conn, TODAY - age * DAY)
            assert (await copy(database_url, one_server))["days_copied"] == 12
            await assert_same_rows(conn, one_server)

            await conn.execute(
                "UPDATE anlyt.metrics_daily SET failed_messages = 7 WHERE day_bucket = $1", TODAY - 2 * DAY
            )
            assert (await copy(database_url, one_server))["days_copied"] == 1
            await assert_same_rows(conn, one_server)
            assert await copy(database_url, one_server) == NOTHING

        engines = await one_server.fetch("SELECT name, engine FROM system.tables WHERE database = currentDatabase()")
        assert {row["name"]: row["engine"] for row in engines} == {
            name: engine
            for table in TABLES
            for name, engine in ((table.name, "Distributed"), (f"{table.name}_local", "MergeTree"))
        }

    run(scenario())


@pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])
def test_without_a_cluster_the_tables_are_the_founding_documents(table: ArchiveTable) -> None:
    text = statement(archive_module.STATEMENTS[table.name].create, table)

    assert "CLUSTER" not in text
    assert f"CREATE TABLE IF NOT EXISTS {table.name}\n" in text
    assert f"ENGINE = MergeTree\nPARTITION BY toYYYYMM({table.bucket})\nORDER BY (" in text
    assert text.partition("ORDER BY (")[2].partition(")")[0].endswith(f", {table.bucket}")
    if table.key == "scope_id":
        assert "    scope LowCardinality(String),\n    scope_id String,\n    total_messages UInt64,\n" in text


# ------------------------------------------------------------------------------------------------------------ commands


def test_the_commands_find_the_embedded_archive_and_answer_from_it(settings: Settings, directory: Path) -> None:
    env = environment_of(settings, archive_url=f"chdb://{directory}")
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    async def prepare() -> None:
        async with session(url, application="test") as conn:
            await add_old(conn)
            await conn.execute("DELETE FROM anlyt.account_usage_daily")  # reconcile holds it against the rest
            await conn.execute("DELETE FROM anlyt.operator_performance")
            await conn.execute("DELETE FROM anlyt.metrics_hourly")
            await conn.execute("UPDATE anlyt.metrics_daily SET scope = 'OPERATOR', latency_sample_count = 0")

    run(prepare())
    period = ("--from", f"{OLD_DAY:%Y-%m-%d}", "--json")
    before = anlyt("query", "daily", *period, env=env).document

    assert anlyt("jobs", "run", "archive", "--json", env=env).document["rows_copied"] == 12
    assert anlyt("jobs", "run", "retention", "--json", env=env).document["days_deleted"] == 3
    after = anlyt("query", "daily", *period, env=env).document
    assert after["data"] == before["data"]
    assert (before["meta"]["source"], after["meta"]["source"]) == ("postgres", "both")
    assert "ok    7  archive = PostgreSQL" in anlyt("reconcile", env=env).out
