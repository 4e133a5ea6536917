"""Spans summed as whole days less some hours, against the plain sums of their hours: at random, and their peaks."""

from __future__ import annotations

import random
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from anlyt.postgres import sql
from support import run
from test_summaries import ACCOUNTS, ADD_DAYS, DAY, HOUR, TODAY, added, ask, database, hours_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    Story = Callable[[asyncpg.Connection[Any]], Awaitable[None]]

DAYS: Final = 12
FIRST: Final = TODAY - DAYS * DAY
ZONES: Final = ("Europe/Berlin", "America/Los_Angeles", "Asia/Tokyo", "Pacific/Auckland", "UTC")
QUESTIONS: Final = 12  # for each zone
_PUT: Final = """
INSERT INTO anlyt.metrics_hourly
SELECT hour, 'ACCOUNT', id, total, delivered, failed, total - delivered - failed, cost, latency, delivered, peak, hour
FROM unnest($1::TIMESTAMPTZ[], $2::TEXT[], $3::BIGINT[], $4::BIGINT[], $5::BIGINT[], $6::NUMERIC[], $7::BIGINT[],
    $8::INTEGER[]) AS t (hour, id, total, delivered, failed, cost, latency, peak)
ON CONFLICT (hour_bucket, scope, scope_id) DO UPDATE
SET total_messages = excluded.total_messages,
    delivered_messages = excluded.delivered_messages,
    failed_messages = excluded.failed_messages,
    pending_messages = excluded.pending_messages,
    total_cost = excluded.total_cost,
    latency_sum_ms = excluded.latency_sum_ms,
    latency_sample_count = excluded.latency_sample_count,
    peak_tps = excluded.peak_tps"""


async def put_hours(conn: asyncpg.Connection[Any], rows: list[tuple[Any, ...]]) -> None:
    """Write rows of hours, and the days of all rows anew."""
    await conn.execute(_PUT, *zip(*rows, strict=True))
    await conn.execute("TRUNCATE anlyt.metrics_daily")
    await conn.execute(ADD_DAYS)


def some_hours(source: random.Random, share: float) -> list[tuple[Any, ...]]:
    """Random rows of a share of all hours, with small peaks that are often the same and some that stand out."""
    rows: list[tuple[Any, ...]] = []
    for n in range(DAYS * 24):
        for account in ACCOUNTS[:3]:
            if source.random() < share:
                delivered, failed = source.randrange(2**40), source.randrange(1_000)
                total = delivered + failed + source.randrange(10)
                peak = source.choice([0, 1, 1, 2, 2, 2, 3, source.randrange(100)])
                cost = f"{source.randrange(10**12)}e-6"
                rows.append((FIRST + n * HOUR, account, total, delivered, failed, cost, source.randrange(2**50), peak))
    return rows


def with_own_hours(url: str, story: Story) -> None:
    async def begin() -> None:
        async with database(url, hours=0) as conn:
            await conn.execute("TRUNCATE anlyt.metrics_hourly")
            await story(conn)

    run(begin())


async def compare_some(conn: asyncpg.Connection[Any], source: random.Random, zone: str) -> None:
    """Random questions in a zone are answered with the sums of their hours."""
    for _ in range(QUESTIONS):
        lower, upper = sorted(source.sample(range(DAYS * 24 + 1), 2))
        ids = source.choice([[], ACCOUNTS[:1], ACCOUNTS[1:3]])
        group_by = source.choice(["none", "day", "day", "month"])
        zones = {"timezone": zone} if group_by != "none" else {}
        period = {"from_": (FIRST + lower * HOUR).isoformat(), "to": (FIRST + upper * HOUR).isoformat()}
        answer = await ask(conn, scope="ACCOUNT", groupBy=group_by, scopeId=ids, **period, **zones)
        records = await hours_of(conn, "ACCOUNT", ids or None)

        for row in answer["data"]:
            expected = added(records, row)
            assert {name: row[name] for name in expected} == expected, (zone, group_by, ids, period)


@pytest.mark.parametrize("zone", ZONES)
def test_spans_of_any_zone_are_the_sums_of_their_hours_also_after_late_events(database_url: str, zone: str) -> None:
    async def story(conn: asyncpg.Connection[Any]) -> None:
        source = random.Random(zone)
        await put_hours(conn, some_hours(source, 0.7))
        await compare_some(conn, source, zone)
        await put_hours(conn, some_hours(source, 0.05))
        await compare_some(conn, source, zone)

    with_own_hours(database_url, story)


def quiet_hours(busiest: datetime) -> list[tuple[Any, ...]]:
    """Rows of every hour whose peak is 1, but for one."""
    hours = [FIRST + n * HOUR for n in range(DAYS * 24)]
    return [(hour, ACCOUNTS[0], 9, 7, 1, "0.1", 70, 50 if hour == busiest else 1) for hour in hours]


def test_a_peak_of_an_hour_that_is_taken_from_its_day_is_not_the_spans(database_url: str) -> None:
    """The day's last hour is the next day in Berlin, all year: where it has the day's peak, the hours are asked."""
    busiest = TODAY - 3 * DAY + 23 * HOUR
    searched: list[str] = []

    async def story(conn: asyncpg.Connection[Any]) -> None:
        await put_hours(conn, quiet_hours(busiest))
        conn.add_query_logger(lambda record: searched.append(record.query))
        period = {"from_": (FIRST + DAY + 12 * HOUR).isoformat(), "to": TODAY.isoformat()}
        answer = await ask(
            conn, scope="ACCOUNT", scopeId=ACCOUNTS[0], groupBy="day", timezone="Europe/Berlin", **period
        )

        peaks = {row["start"]: row["peakTps"] for row in answer["data"]}
        with_it = [row for row in answer["data"] if row["peakTps"] == 50]
        assert sorted(peaks.values()) == [1] * (len(peaks) - 1) + [50]
        assert [datetime.fromisoformat(row["start"]) <= busiest for row in with_it] == [True]
        assert busiest < datetime.fromisoformat(with_it[0]["end"])
        assert searched.count(sql("read/find_peaks")) == 1

    with_own_hours(database_url, story)


def test_a_peak_that_is_surely_in_the_span_costs_no_search(database_url: str) -> None:
    searched: list[str] = []

    async def story(conn: asyncpg.Connection[Any]) -> None:
        await put_hours(conn, quiet_hours(TODAY - 3 * DAY + 12 * HOUR))
        conn.add_query_logger(lambda record: searched.append(record.query))
        period = {"from_": (FIRST + DAY + 12 * HOUR).isoformat(), "to": TODAY.isoformat()}
        answer = await ask(
            conn, scope="ACCOUNT", scopeId=ACCOUNTS[0], groupBy="day", timezone="Europe/Berlin", **period
        )

        assert sorted(row["peakTps"] for row in answer["data"]) == [1] * (len(answer["data"]) - 1) + [50]
        assert sql("read/sum_spans") in searched
        assert sql("read/find_peaks") not in searched

    with_own_hours(database_url, story)
