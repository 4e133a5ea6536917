"""Reconcile: clean after real traffic, and one wrong cell anywhere is found, named and counted."""

from __future__ import annotations

import json
import random
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

import fleet
import oracle
import pipeline
from anlyt import cli, jobs, reconcile
from anlyt.crash import CrashPoints
from anlyt.errors import DifferenceFound
from anlyt.postgres import ensure_partitions, session, sql
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from asyncpg import Connection

    from anlyt.settings import Settings

DAY = timedelta(days=1)
# A cell to put one off, and the identities that must notice.
PLANTS = (
    ("metrics_hourly", "pending_messages", "ACCOUNT", {1, 2, 3}),
    ("metrics_hourly", "total_messages", "PLATFORM", {1, 2, 3}),
    ("metrics_daily", "failed_messages", "OPERATOR", {1, 2}),
    ("metrics_daily", "total_messages", "ACCOUNT", {1, 2, 3, 5}),
    ("metrics_daily", "delivered_messages", "ACCOUNT", {1, 2, 3, 5}),
    ("metrics_daily", "total_cost", "ACCOUNT", {2, 3, 5}),
    ("metrics_daily", "latency_sum_ms", "OPERATOR", {2}),
    ("metrics_daily", "latency_sample_count", "OPERATOR", {2}),
    ("metrics_daily", "peak_tps", "ACCOUNT", {2}),
    ("metrics_hourly", "peak_tps", "OPERATOR", {4}),
    ("metrics_hourly", "total_cost", "PLATFORM", {2, 3}),
    ("metrics_hourly", "latency_sum_ms", "ACCOUNT", {2, 3}),
    ("metrics_hourly", "latency_sample_count", "PLATFORM", {2, 3}),
    ("metrics_daily", "total_cost", "PLATFORM", {2, 3}),
    ("operator_performance", "total_messages", None, {4}),
    ("operator_performance", "delivered_messages", None, {4}),
    ("operator_performance", "failed_messages", None, {4}),
    ("operator_performance", "latency_sum_ms", None, {4}),
    ("operator_performance", "latency_sample_count", None, {4, 6}),
    ("operator_performance", "peak_tps", None, {4}),
    ("account_usage_daily", "messages_sent", None, {5}),
    ("account_usage_daily", "messages_delivered", None, {5}),
    ("account_usage_daily", "messages_failed", None, {5}),
    ("account_usage_daily", "total_cost", None, {5}),
)

KEYS = {
    "metrics_hourly": ("hour_bucket", "scope_id"),
    "metrics_daily": ("day_bucket", "scope_id"),
    "operator_performance": ("hour_bucket", "operator_id"),
    "account_usage_daily": ("day_bucket", "account_id"),
}
NAMES_OF_USAGE = {
    "messages_sent": "total_messages",
    "messages_delivered": "delivered_messages",
    "messages_failed": "failed_messages",
}
# A table that is emptied, and the identities that must notice.
MISSING = {
    "metrics_daily": {2, 5},
    "metrics_hourly": {2, 4},
    "operator_performance": {4, 6},
    "account_usage_daily": {5},
    "latency_histograms": {6},
}
# 90 days of 1 platform, 20 operators and 100 accounts: 261,000 hours.
FILL_HOURS = """
    INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, pending_messages, total_cost)
    SELECT
        date_trunc('day', now(), 'UTC') - h * INTERVAL '1 hour', scope, who, n, n, n * 0.000001
    FROM generate_series(1, 90 * 24 - 1) AS h
    CROSS JOIN (
        SELECT 'PLATFORM' AS scope, 'platform' AS who, 100 AS n
        UNION ALL SELECT 'OPERATOR', 'operator ' || o, 5 FROM generate_series(1, 20) AS o
        UNION ALL SELECT 'ACCOUNT', 'account ' || a, 1 FROM generate_series(1, 100) AS a
    ) AS rows"""
FILL_DAYS = """
    INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages, pending_messages, total_cost)
    SELECT
        date_trunc('day', hour_bucket, 'UTC'), scope, scope_id, sum(total_messages), sum(pending_messages),
        sum(total_cost)
    FROM anlyt.metrics_hourly GROUP BY 1, 2, 3
    UNION ALL
    SELECT date_trunc('day', now(), 'UTC') - d * INTERVAL '1 day', scope, scope_id, 24, 24, 24
    FROM generate_series(200, 364) AS d
    CROSS JOIN (VALUES ('PLATFORM', 'platform'), ('ACCOUNT', 'account 1')) AS rows (scope, scope_id)"""


def address(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


async def count_traffic(settings: Settings, seed: int, *, events: int = 300) -> None:
    rng = random.Random(seed)
    bodies = oracle.generate(seed, events, datetime.now(UTC))
    async with pipeline.stream_of(settings) as nc:
        await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies))
    await pipeline.count(settings, workers=2)


async def broken(url: str) -> dict[int, reconcile.Finding]:
    return {finding.identity.number: finding for finding in await reconcile.reconcile(url) if finding.total}


@asynccontextmanager
async def planted(conn: Connection, table: str, column: str, scope: str | None) -> AsyncGenerator[tuple[datetime, str]]:
    """One cell of some row is off by the least there is, for the length of the block; the row's bucket and id."""
    step = "0.000001" if column == "total_cost" else "1"
    bucket, who = KEYS[table]
    rows = "TRUE" if scope is None else f"scope = '{scope}'"
    row = await conn.fetchrow(
        f"SELECT {bucket} AS bucket, {who}::TEXT AS who FROM anlyt.{table} AS t"  # noqa: S608 - our own tables
        f" WHERE {column} > 0 AND {rows} ORDER BY md5(t::TEXT) LIMIT 1"
    )
    assert row is not None
    for sign in "+-":
        await conn.execute(
            f"UPDATE anlyt.{table} SET {column} = {column} {sign} {step} WHERE {bucket} = $1 AND {who}::TEXT = $2",  # noqa: S608 - our own tables
            row["bucket"],
            row["who"],
        )
        if sign == "+":
            yield row["bucket"], row["who"]


def test_real_traffic_is_clean_and_every_wrong_cell_is_found_and_named(settings: Settings) -> None:
    async def scenario() -> None:
        url = address(settings)
        await count_traffic(settings, 11)
        assert await broken(url) == {}
        async with session(url, application="test") as conn:
            for table, column, scope, identities in PLANTS:
                async with planted(conn, table, column, scope) as (bucket, who):
                    found = await broken(url)

                    assert identities <= found.keys() <= identities | {2}, (table, column, scope)
                    for number in identities:
                        [cell] = found[number].differences
                        assert found[number].total == 1
                        assert abs(Decimal(cell.found) - Decimal(cell.expected)) in {1, Decimal("0.000001")}
                        assert cell.bucket in {bucket, bucket.replace(hour=0)}
                        assert cell.scope_id in {who, "platform"}
                        assert cell.column_name in {column, "total_messages"} | NAMES_OF_USAGE.keys()
        assert await broken(url) == {}

    run(scenario(), 120)


@pytest.mark.parametrize(("table", "identities"), list(MISSING.items()))
def test_a_row_that_is_missing_on_one_side_counts_as_zeros(
    settings: Settings, table: str, identities: set[int]
) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 12, events=60)
        async with session(address(settings), application="test") as conn:
            await conn.execute(f"DELETE FROM anlyt.{table}")  # noqa: S608 - our own tables

        assert identities == (await broken(address(settings))).keys()

    run(scenario())


def test_what_is_counted_meanwhile_is_never_half_seen(settings: Settings) -> None:
    bodies = pipeline.copies_of(random.Random(13), oracle.generate(13, 600, datetime.now(UTC)), most=1)

    async def scenario() -> None:
        settings_small = settings.model_copy(update={"batch_events_max": 20})
        async with pipeline.stream_of(settings) as nc, pipeline.counting(settings_small):
            for start in range(0, len(bodies), 100):
                await pipeline.publish(nc, settings, bodies[start : start + 100])
                assert await broken(address(settings)) == {}
            await pipeline.all_counted(nc, settings)
            assert await broken(address(settings)) == {}

    run(scenario())


def test_differences_are_shown_up_to_a_limit_and_counted_beyond_it(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "DIFFERENCES_SHOWN_MAX", 3)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages)"
                " SELECT date_trunc('day', now(), 'UTC'), 'OPERATOR', n::TEXT, 1 FROM generate_series(1, 10) AS n"
            )
        found = (await broken(database_url))[1]

        assert (found.total, len(found.differences)) == (10, 3)

    run(scenario())


@pytest.mark.parametrize(
    ("table", "bucket", "number"), [("latency_days", "day_bucket", 8), ("latency_weeks", "week_bucket", 9)]
)
def test_merged_histograms_are_held_against_their_parts_bucket_by_bucket(
    settings: Settings, table: str, bucket: str, number: int
) -> None:
    url = address(settings)
    at_key = f"WHERE ({bucket}, operator_id) = ($1, $2)"

    async def scenario() -> None:
        await count_traffic(settings, 14)
        await jobs.run_job(url, "percentiles", CrashPoints())
        assert await broken(url) == {}
        async with session(url, application="test") as conn:
            spoilt = {
                "sample_counts[1] = sample_counts[1] + 1": "sample_counts",
                "buckets[1] = buckets[1] + 1": "buckets",
            }
            for change, column in spoilt.items():
                row = await conn.fetchrow(f"SELECT * FROM anlyt.{table} ORDER BY {bucket}, operator_id LIMIT 1")  # noqa: S608 - above
                assert row is not None
                key = (row[bucket], row["operator_id"])
                await conn.execute(f"UPDATE anlyt.{table} SET {change} {at_key}", *key)  # noqa: S608 - above
                found = await broken(url)
                await conn.execute(f"DELETE FROM anlyt.{table} {at_key}", *key)  # noqa: S608 - above
                missing = await broken(url)
                await conn.execute(f"INSERT INTO anlyt.{table} VALUES ($1, $2, $3, $4)", *row.values())  # noqa: S608 - above

                assert number in found.keys() & missing.keys()
                assert column in {cell.column_name for cell in found[number].differences}
                assert {(cell.bucket, cell.scope_id) for cell in missing[number].differences} == {(key[0], str(key[1]))}
        assert await broken(url) == {}

    run(scenario(), 120)


# ---------------------------------------------------------------------------------------------------------- retention


async def add_message(conn: Connection, hour: datetime, *, table: str = "metrics_hourly") -> None:
    bucket = KEYS[table][0]
    await conn.executemany(
        f"INSERT INTO anlyt.{table} ({bucket}, scope, scope_id, total_messages, pending_messages)"  # noqa: S608 - our own tables
        " VALUES ($1, $2, $3, 1, 1)",
        [(hour, "ACCOUNT", str(uuid.UUID(int=7))), (hour, "PLATFORM", "platform")],
    )


def test_days_whose_hours_have_left_are_not_compared_and_all_others_are(database_url: str) -> None:
    now = datetime.now(UTC)
    hot, cold = (now - 60 * DAY).replace(hour=0), now - 130 * DAY

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [hot])
            for day in (hot, cold):
                day_bucket = day.replace(hour=0, minute=0, second=0, microsecond=0)
                await add_message(conn, day_bucket, table="metrics_daily")
                await conn.execute(
                    "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, messages_sent) VALUES ($1, $2, 1)",
                    day_bucket,
                    uuid.UUID(int=7),
                )

            assert {cell.bucket.date() for cell in (await broken(database_url))[2].differences} == {hot.date()}

    run(scenario())


def test_a_month_that_only_some_tables_still_hold_is_not_compared(database_url: str) -> None:
    old = datetime.now(UTC) - 140 * DAY
    hour = old.replace(minute=0, second=0, microsecond=0)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [old])
            await conn.execute(
                "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, 'OPERATOR', $2)",
                hour,
                str(uuid.UUID(int=7)),
            )
            await conn.execute("UPDATE anlyt.metrics_hourly SET peak_tps = 1")
            assert (await broken(database_url)).keys() == {2, 4}
            partition = f"anlyt.operator_performance_y{old:%Y}m{old:%m}"
            await conn.execute(f"ALTER TABLE anlyt.operator_performance DETACH PARTITION {partition} CONCURRENTLY")

            assert await broken(database_url) == {}

    run(scenario())


# --------------------------------------------------------------------------------------------------------------- speed


def test_a_year_of_days_and_three_months_of_hours_take_one_join_and_no_nested_loop(database_url: str) -> None:
    now = datetime.now(UTC)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [now - n * DAY for n in range(0, 91, 15)])
            await conn.execute(FILL_HOURS)
            await conn.execute(FILL_DAYS)
            await conn.execute("ANALYZE anlyt.metrics_hourly, anlyt.metrics_daily")
            for identity in reconcile.IDENTITIES:
                since = [] if identity.since == "beginning" else [now - 90 * DAY]
                plan = await conn.fetchval(f"EXPLAIN (FORMAT JSON) {sql(identity.statement)}", 100, *since)
                joins = [node for node in walk(json.loads(plan)[0]["Plan"]) if "Join" in node["Node Type"]]
                assert len(joins) == (identity.number > 1), identity.name
        found = await broken(database_url)

        assert 3 not in found  # the rows are only as many as there would be, but these sums hold
        assert {1, 2} & found.keys() == set()

    run(scenario(), 100)


def walk(plan: dict[str, Any]) -> Iterable[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from walk(child)


# --------------------------------------------------------------------------------------------------------- the command


def test_the_command_says_ok_for_each_identity_or_shows_the_cells_and_exits_with_5(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fleet.environment(settings).items():
        monkeypatch.setenv(name, value)

    async def spoil() -> None:
        async with session(address(settings), application="test") as conn:
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_cost)"
                " VALUES (date_trunc('day', now(), 'UTC'), 'PLATFORM', 'platform', 0.000001)"
            )

    assert cli.run(cli.app, ["reconcile"]) == 0
    assert capsys.readouterr().out.count("ok") == len(reconcile.IDENTITIES)
    run(spoil())
    assert cli.run(cli.app, ["reconcile"]) == DifferenceFound.exit_code == 5
    said = capsys.readouterr()
    assert "PLATFORM" in said.out
    assert "0.000001" in said.out
    assert "identities 2, 3" in said.err
    assert cli.run(cli.app, ["reconcile", "--json"]) == 5
    document = json.loads(capsys.readouterr().out)
    expected = {1: 0, 2: 1, 3: 1, 4: 0, 5: 0, 6: 0, 8: 0, 9: 0}
    assert {entry["identity"]: entry["differences"] for entry in document} == expected
    [row] = document[2]["rows"]
    assert (row["column_name"], row["found"], row["expected"]) == ("total_cost", "0.000001", "0")


def test_hours_that_stayed_longer_than_their_days_do_not_look_like_a_difference(database_url: str) -> None:
    """Retention was held up for most of a year: the day of a year ago is compared whole, or not at all."""
    start = (datetime.now(UTC) - timedelta(days=365)).replace(hour=0, minute=0, second=0, microsecond=0)

    async def scenario() -> list[int]:
        async with session(database_url, application="test") as conn:
            await ensure_partitions(conn, [start - timedelta(days=40), start])
            for day in (start - timedelta(days=1), start):
                await conn.execute(
                    "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, pending_messages)"
                    " SELECT $1::TIMESTAMPTZ + n * INTERVAL '1 hour', scope, scope, 1, 1"
                    " FROM generate_series(0, 23) AS n CROSS JOIN (VALUES ('PLATFORM'), ('ACCOUNT')) AS s (scope)",
                    day,
                )
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages, pending_messages)"
                " SELECT $1, scope, scope, 24, 24 FROM (VALUES ('PLATFORM')) AS s (scope)",
                start,
            )
            findings = await reconcile.reconcile(database_url)
            return [finding.total for finding in findings if finding.identity.number == 2]

    assert run(scenario()) == [2]  # the account's day that is missing: its total and what is pending
