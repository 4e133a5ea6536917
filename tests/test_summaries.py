"""Sums for a Grant: equal to the rows they come from, whatever the grouping; percentiles of samples; small plans."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import astuple

from anlyt import jobs, summaries
from anlyt.access import Grant, make_grant
from anlyt.clickhouse import ClickHouse
from anlyt.cold import NO_SUMS
from anlyt.crash import CrashPoints
from anlyt.errors import RequestError
from anlyt.periods import by_weeks, cut, find_buckets
from anlyt.postgres import connect, ensure_partitions, sql
from anlyt.queries import read_summary
from anlyt.rollup import latency_bucket, latency_value
from anlyt.settings import Settings
from anlyt.snapshot import snapshot
from serving import key_for, problem_of, service
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = datetime.now(UTC)
THIS_HOUR = NOW.replace(minute=0, second=0, microsecond=0)
TODAY = THIS_HOUR.replace(hour=0)
ACCOUNTS = [f"{n:08x}-0000-4000-8000-00000000acc0" for n in range(4)]
OPERATORS = [f"{n:08x}-0000-4000-8000-0000000000e0" for n in range(2)]
STAFF = make_grant("PLATFORM", [], ["metrics:read"])
TENANT = make_grant("ACCOUNT", ACCOUNTS[:2], ["metrics:read"])
SETTINGS = Settings.model_validate({"stream": "T"})
_ADD = """
INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages,
    pending_messages, total_cost, latency_sum_ms, latency_sample_count, peak_tps)
SELECT hour, scope, id, n * 10, n * 10 - n, n - 1, 1, (n * 0.000001)::NUMERIC(18, 6), n * 1000, n * 3,
    n + extract(hour FROM hour)::INTEGER
FROM generate_series($1::TIMESTAMPTZ - $2 * INTERVAL '1 hour', $1, '1 hour') AS hour,
    unnest($3::TEXT[], $4::TEXT[]) WITH ORDINALITY AS ids (scope, id, n)"""
_IDLE_HOUR = "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, 'ACCOUNT', 'idle')"
_IDLE_DAY = "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id) VALUES ($1, 'ACCOUNT', 'idle')"
ADD_DAYS = """
INSERT INTO anlyt.metrics_daily
SELECT date_trunc('day', hour_bucket, 'UTC'), scope, scope_id, sum(total_messages), sum(delivered_messages),
    sum(failed_messages), sum(pending_messages), sum(total_cost), sum(latency_sum_ms), sum(latency_sample_count),
    max(peak_tps)
FROM anlyt.metrics_hourly GROUP BY 1, 2, 3"""


@asynccontextmanager
async def database(url: str, *, hours: int = 24 * 12) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with rows of every scope for the last `hours` and their days."""
    conn = await connect(url, application="anlyt-tests")
    try:
        await ensure_partitions(conn, [NOW - timedelta(days=31 * back) for back in range(4)])
        scopes = ["PLATFORM", *["ACCOUNT"] * len(ACCOUNTS), *["OPERATOR"] * len(OPERATORS)]
        await conn.execute(_ADD, THIS_HOUR, hours, scopes, ["platform", *ACCOUNTS, *OPERATORS])
        await conn.execute(ADD_DAYS)
        yield conn
    finally:
        await conn.close()


async def ask(
    conn: asyncpg.Connection[Any], *, grant: Grant = STAFF, clickhouse: ClickHouse | None = None, **parameters: Any
) -> dict[str, Any]:
    """A summary as its reader gets it: as JSON. `from_` stands for from; a list repeats the parameter."""
    pairs = [
        (key.rstrip("_"), str(value))
        for key, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    query = read_summary(pairs, grant=grant, now=NOW)
    sums = await summaries.read_summary(conn, grant, query, settings=SETTINGS, clickhouse=clickhouse)
    return json.loads(msgspec.json.encode(sums))


async def hours_of(conn: asyncpg.Connection[Any], scope: str, ids: list[str] | None = None) -> list[asyncpg.Record]:
    return await conn.fetch(
        "SELECT * FROM anlyt.metrics_hourly WHERE scope = $1 AND ($2::text[] IS NULL OR scope_id = ANY($2))", scope, ids
    )


def added(records: list[asyncpg.Record], row: dict[str, Any]) -> dict[str, Any]:
    """What the rows between a group's bounds add up to, computed plainly."""
    inside = [r for r in records if instant(row["start"]) <= r["hour_bucket"] < instant(row["end"])]
    names = {"totalMessages": "total_messages", "deliveredMessages": "delivered_messages"}
    names |= {"failedMessages": "failed_messages", "pendingMessages": "pending_messages"}
    names |= {"latencySumMs": "latency_sum_ms", "latencySampleCount": "latency_sample_count"}
    sums: dict[str, Any] = {name: sum(r[column] for r in inside) for name, column in names.items()}
    sums["totalCost"] = str(sum((r["total_cost"] for r in inside), Decimal("0.000000")))
    sums["peakTps"] = max((r["peak_tps"] for r in inside), default=0)
    return sums


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ---------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("group_by", ["none", "hour", "day", "month", "Europe/Berlin day", "America/New_York month"])
@pytest.mark.parametrize("scope", ["PLATFORM", "ACCOUNT", "OPERATOR"])
def test_sums_are_those_of_the_rows_of_their_hours(database_url: str, scope: str, group_by: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            *name, kind = group_by.split()
            zone = {"timezone": name[0]} if name else {}
            answer = await ask(conn, scope=scope, groupBy=kind, from_="-10d", **zone)
            records = await hours_of(conn, scope)

            assert answer["data"]
            for row in answer["data"]:
                expected = added(records, row)
                assert {name: row[name] for name in expected} == expected
                assert row["deliveryRate"] == expected["deliveredMessages"] / expected["totalMessages"]
                assert row["errorRate"] == expected["failedMessages"] / expected["totalMessages"]
                assert row["avgLatencyMs"] == expected["latencySumMs"] / expected["latencySampleCount"]
            starts = [instant(row["start"]) for row in answer["data"]]
            assert starts == sorted(starts)
            assert answer["next"] is None
            assert answer["meta"]["groups"] == len(answer["data"])

    run(story())


def test_times_without_rows_are_zeros_and_their_rates_null(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url, hours=3) as conn:
            answer = await ask(conn, groupBy="hour", from_="-10h")
            (nothing,) = (await ask(conn, from_="-40h", to="-30h"))["data"]

            assert [row["totalMessages"] > 0 for row in answer["data"]] == [False] * 6 + [True] * 4
            assert (nothing["totalMessages"], nothing["totalCost"]) == (0, "0.000000")
            assert (nothing["deliveryRate"], nothing["errorRate"], nothing["avgLatencyMs"]) == (None, None, None)

    run(story())


def test_ids_are_sorted_and_cut_and_their_number_told(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            for statement, start in ((_IDLE_HOUR, THIS_HOUR), (_IDLE_DAY, TODAY)):
                await conn.execute(statement, start)

            async def order(**parameters: Any) -> list[str]:
                answer = await ask(conn, scope="ACCOUNT", groupBy="scopeId", from_="-50h", **parameters)
                assert answer["meta"]["groups"] == len(ACCOUNTS) + 1
                return [row["scopeId"] for row in answer["data"]]

            assert await order() == [*reversed(ACCOUNTS), "idle"]
            assert await order(sort="totalCost", limit=2) == [ACCOUNTS[3], ACCOUNTS[2]]
            assert await order(sort="errorRate", order="desc", limit=1) == [ACCOUNTS[3]]
            assert await order(sort="failedMessages", order="asc", limit=2) == ["idle", ACCOUNTS[0]]
            assert await order(sort="deliveryRate", order="asc") == [*ACCOUNTS, "idle"]
            assert await order(sort="deliveryRate", order="desc") == [*ACCOUNTS, "idle"]

    run(story())


def test_each_id_is_summed_for_itself(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            answer = await ask(conn, scope="ACCOUNT", groupBy="scopeId", from_="-7d")
            for row in answer["data"]:
                expected = added(await hours_of(conn, "ACCOUNT", [row["scopeId"]]), row)
                assert {name: row[name] for name in expected} == expected
            (one,) = (await ask(conn, scope="ACCOUNT", scopeId=ACCOUNTS[2], from_="-7d"))["data"]
            assert one["totalMessages"] == next(
                row["totalMessages"] for row in answer["data"] if row["scopeId"] == ACCOUNTS[2]
            )
            assert one["scopeId"] == ACCOUNTS[2]

    run(story())


def test_the_previous_period_stands_beside_each_row(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await conn.execute(
                "UPDATE anlyt.metrics_hourly SET total_messages = 7 WHERE hour_bucket > $1", NOW - 5 * HOUR
            )
            (row,) = (await ask(conn, from_="-4h", compare="previous"))["data"]
            ids = (await ask(conn, scope="ACCOUNT", groupBy="scopeId", from_="-4h", compare="previous"))["data"]
            new = (await ask(conn, from_="-12d", compare="previous"))["data"]

            assert row["totalMessages"] == 4 * 7
            assert row["previous"]["totalMessages"] == 7 + 3 * 10
            assert {item["scopeId"]: item["previous"]["totalMessages"] for item in ids} == {
                account: 7 + 3 * 10 * number for number, account in enumerate(ACCOUNTS, start=2)
            }
            assert new[0]["previous"]["totalMessages"] in {0, 10}
            assert "previous" not in (await ask(conn))["data"][0]

    run(story())


def test_a_comparison_says_since_when_anything_is_kept(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            first = await conn.fetchval("SELECT min(day_bucket) FROM anlyt.metrics_daily")
            for scope in ("PLATFORM", "ACCOUNT"):
                meta = (await ask(conn, scope=scope, groupBy="scopeId", from_="-4h", compare="previous"))["meta"]
                assert datetime.fromisoformat(meta["countedSince"]) == first
            assert "countedSince" not in (await ask(conn))["meta"]
            await conn.execute(
                "INSERT INTO anlyt.archive_receipts (table_name, day, row_count, sums) "
                "VALUES ('metrics_daily', $1, 1, '{}')",
                first - timedelta(days=400),
            )
            recent = {"from_": "-4h", "compare": "previous"}
            meta = (await ask(conn, clickhouse=ClickHouse("chdb:///never/asked"), **recent))["meta"]
            assert datetime.fromisoformat(meta["countedSince"]) == first - timedelta(days=400)
            without = (await ask(conn, **recent))["meta"]  # what an archive had is not kept where there is none
            assert datetime.fromisoformat(without["countedSince"]) == first
            await conn.execute("DELETE FROM anlyt.archive_receipts")
            await conn.execute("DELETE FROM anlyt.metrics_daily")
            assert (await ask(conn, from_="-4h", compare="previous"))["meta"]["countedSince"] is None

    run(story())


def test_sums_past_64_bits_are_exact(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url, hours=1) as conn:
            await conn.execute(
                "UPDATE anlyt.metrics_hourly SET total_messages = $1, total_cost = 999999999999.999999", 2**63 - 1
            )
            (row,) = (await ask(conn, from_="-3h"))["data"]

            assert (row["totalMessages"], row["totalCost"]) == (2 * (2**63 - 1), "1999999999999.999998")

    run(story())


def test_a_sum_is_final_when_its_last_hour_is(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await conn.executemany(
                "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, complete_through, stream_created_at)"
                " VALUES ('T', $1, 1, $2, now())",
                [(slot, THIS_HOUR) for slot in range(16)],
            )
            rows = (await ask(conn, groupBy="hour", from_="-173h"))["data"]

            assert [row["final"] for row in rows[:7]] == [True] * 4 + [False] * 3

    run(story())


# --------------------------------------------------------------------------------------------------------- percentiles


async def sample(
    conn: asyncpg.Connection[Any], hour: datetime, operator: str, latencies: list[int], segment: int
) -> None:
    counts: defaultdict[int, int] = defaultdict(int)
    for latency in latencies:
        counts[latency_bucket(latency)] += 1
    buckets = sorted(counts)
    await conn.execute(
        "INSERT INTO anlyt.latency_histograms VALUES ($1, $2, $3, $4, $5)",
        hour,
        operator,
        segment,
        buckets,
        [counts[bucket] for bucket in buckets],
    )
    await conn.execute(
        "UPDATE anlyt.metrics_hourly SET latency_sample_count = latency_sample_count + $3"
        " WHERE scope = 'OPERATOR' AND hour_bucket = $1 AND scope_id = $2",
        hour,
        operator,
        len(latencies),
    )


def test_percentiles_are_those_of_all_samples_together(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url, hours=5) as conn:
            await conn.execute("UPDATE anlyt.metrics_hourly SET latency_sample_count = 0")
            fast, slow = [100] * 990, [20_000 + n for n in range(10)]
            await sample(conn, THIS_HOUR, OPERATORS[0], fast, 0)
            await sample(conn, THIS_HOUR, OPERATORS[0], slow, 7)
            await sample(conn, THIS_HOUR - 2 * HOUR, OPERATORS[0], slow, 8)
            await sample(conn, THIS_HOUR - 2 * HOUR, OPERATORS[1], [5, 6], 9)

            def ranks(row: dict[str, Any]) -> list[int | None]:
                return [row[f"latencyP{percent}Ms"] for percent in (50, 90, 95, 99)]

            (everything,) = (await ask(conn, scope="OPERATOR", from_="-4h"))["data"]
            ids = (await ask(conn, scope="OPERATOR", groupBy="scopeId", from_="-4h"))["data"]
            hours = (await ask(conn, scope="OPERATOR", scopeId=OPERATORS[0], groupBy="hour", from_="-3h"))["data"]
            (accounts,) = (await ask(conn, scope="ACCOUNT", from_="-4h"))["data"]

            assert ranks(everything) == [100, 100, 100, latency_value(latency_bucket(20_000))]
            assert {row["scopeId"]: ranks(row)[0] for row in ids} == {OPERATORS[0]: 100, OPERATORS[1]: 5}
            assert [ranks(row)[0] for row in hours] == [latency_value(latency_bucket(20_004)), None, 100]
            assert ranks(accounts) == [None] * 4

    run(story())


@pytest.mark.parametrize("question", ["none", "scopeId", "day", "hour", "month", "Asia/Tokyo day", "one operator"])
def test_percentiles_over_days_are_those_of_all_their_samples(database_url: str, question: str) -> None:
    """Whole weeks and days come from merged histograms, whatever the job has merged of them so far."""
    rng = random.Random(question)
    seen: defaultdict[tuple[datetime, str], list[int]] = defaultdict(list)

    async def more(conn: asyncpg.Connection[Any], first_segment: int) -> None:
        for segment in range(first_segment, first_segment + 60):
            place = THIS_HOUR - rng.randrange(16 * 24) * HOUR, rng.choice(OPERATORS)
            latencies = [rng.randrange(2_000) for _ in range(rng.randrange(1, 9))]
            seen[place] += latencies
            await sample(conn, *place, latencies, segment)

    async def story() -> None:
        async with database(database_url, hours=24 * 17) as conn:
            await conn.execute("UPDATE anlyt.metrics_hourly SET latency_sample_count = 0")
            await more(conn, 1)
            await jobs.run_job(database_url, "percentiles", CrashPoints())
            await more(conn, 100)
            await conn.execute("TRUNCATE anlyt.metrics_daily")
            await conn.execute(ADD_DAYS)
            *name, kind = question.split()
            asked = {"groupBy": kind} | ({"timezone": name[0]} if name else {})
            if question == "one operator":
                asked = {"scopeId": OPERATORS[0]}
            rows = (await ask(conn, scope="OPERATOR", from_="-16d", **asked))["data"]

            assert sum(row["latencySampleCount"] for row in rows) > 100
            for row in rows:
                samples = [
                    latency_value(latency_bucket(latency))
                    for (hour, operator), latencies in seen.items()
                    if instant(row["start"]) <= hour < instant(row["end"]) and row["scopeId"] in {None, operator}
                    for latency in latencies
                ]
                for percent in summaries.PERCENTS:
                    rank = sorted(samples)[-(-percent * len(samples) // 100) - 1] if samples else None
                    assert row[f"latencyP{percent}Ms"] == rank

    run(story())


def test_percentiles_of_samples_that_are_gone_are_null(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url, hours=5) as conn:
            await sample(conn, THIS_HOUR, OPERATORS[0], [1, 2, 3], 0)
            (row,) = (await ask(conn, scope="OPERATOR", scopeId=OPERATORS[0]))["data"]

            assert row["latencySampleCount"] > 3
            assert row["latencyP95Ms"] is None

    run(story())


@pytest.mark.parametrize(
    ("histogram", "percent", "expected"),
    [
        (([], []), 50, None),
        (([7], [1]), 99, 7),
        (([1, 2], [1, 1]), 50, 1),
        (([1, 2], [1, 1]), 51, 2),
        (([1, 2], [95, 5]), 95, 1),
        (([1, 2], [94, 6]), 95, 2),
        (([1, 2, 3], [1, 0, 1]), 99, 3),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    histogram: tuple[list[int], list[int]], percent: int, expected: int | None
) -> None:
    assert summaries.percentiles(histogram, [percent], samples=sum(histogram[1])) == [expected]


def test_a_histogram_that_lacks_samples_has_no_percentiles() -> None:
    assert summaries.percentiles(([1, 2], [1, 1]), [50, 99], samples=3) == [None, None]
    assert summaries.percentiles(None, [50, 99], samples=0) == [None, None]


# -------------------------------------------------------------------------------------------------------- who and what


def test_a_tenant_sums_its_own_rows_only(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            (own,) = (await ask(conn, grant=TENANT, from_="-2d"))["data"]
            ids = (await ask(conn, grant=TENANT, groupBy="scopeId", from_="-2d"))["data"]
            expected = added(await hours_of(conn, "ACCOUNT", ACCOUNTS[:2]), own)

            assert own["scope"] == "ACCOUNT"
            assert own["totalMessages"] == expected["totalMessages"]
            assert {row["scopeId"] for row in ids} == set(ACCOUNTS[:2])
            assert (await ask(conn, grant=TENANT, scope="PLATFORM"))["data"] == []
            for foreign in ({"scopeId": ACCOUNTS[3]}, {"scope": "OPERATOR", "scopeId": OPERATORS[0]}):
                with pytest.raises(RequestError) as caught:
                    await ask(conn, grant=TENANT, **foreign)
                assert caught.value.status == 404

    run(story())


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("groupBy=week", "groupBy"),
        ("groupBy=hour&from=-60d", "groupBy"),
        ("groupBy=day&timezone=Asia/Kolkata", "timezone"),
        ("groupBy=day&timezone=Mars/Base", "timezone"),
        ("groupBy=hour&timezone=UTC", "timezone"),
        ("sort=totalCost", "sort"),
        ("groupBy=scopeId&sort=latencyP95Ms", "sort"),
        ("groupBy=scopeId&order=up", "order"),
        ("groupBy=day&limit=3", "limit"),
        ("groupBy=day&compare=previous", "compare"),
        ("compare=next", "compare"),
        ("scopeId=0b1d6f2e-0000-4000-8000-0000000000e1", "scope"),
        ("from=-400d", "from"),
        ("from=-91d&groupBy=day&timezone=Asia/Tokyo", "from"),
        ("from=-20m&to=-20m", "from"),
        ("cursor=x", "cursor"),
    ],
)
def test_a_bad_question_is_refused_by_name(database_url: str, query: str, parameter: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await client.get(f"/v1/summary?{query}", headers=await key_for(conn, "PLATFORM"))

            assert response.status_code == 422
            assert problem_of(response)["parameter"] == parameter

    run(story())


def test_the_route_answers_as_it_is_described(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await client.get("/v1/summary", headers=await key_for(conn, "PLATFORM"))
            document = (await client.get("/openapi.json")).json()
            schemas = document["components"]["schemas"]

            assert response.status_code == 200
            assert set(response.json()) == set(schemas["Summary"]["properties"])
            assert set(response.json()["data"][0]) == set(schemas["SummaryRow"]["properties"]) - {"previous"}
            assert set(response.json()["meta"]) == set(schemas["SummaryMeta"]["properties"]) - {"countedSince"}

    run(story())


# --------------------------------------------------------------------------------------------------------------- plans


async def plan(conn: asyncpg.Connection[Any], grant: Grant, name: str, *arguments: Any) -> str:
    async with snapshot(conn, grant):
        return await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql(name)}", *arguments)


def test_sums_look_up_their_rows_and_read_no_table_whole(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url, hours=0) as conn:
            more = [f"{n:08x}-0000-4000-8000-0000000000aa" for n in range(80)]
            operators = OPERATORS + [f"{n:08x}-0000-4000-8000-0000000000ea" for n in range(18)]
            everybody = (["ACCOUNT"] * (len(more) + 1) + ["OPERATOR"] * len(operators), more + ACCOUNTS[:1] + operators)
            await conn.execute(_ADD, THIS_HOUR - HOUR, 24 * 60, *everybody)
            await conn.execute("TRUNCATE anlyt.metrics_daily")
            await conn.execute(ADD_DAYS)
            await conn.execute(
                "INSERT INTO anlyt.latency_histograms SELECT hour_bucket, scope_id::uuid, 0, '{5,9}', '{1,2}'"
                " FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR'"
            )
            await conn.execute(
                "INSERT INTO anlyt.latency_days SELECT day_bucket, scope_id::uuid, '{5,9}', '{24,48}'"
                " FROM anlyt.metrics_daily WHERE scope = 'OPERATOR'"
            )
            await conn.execute(
                "INSERT INTO anlyt.latency_weeks SELECT DISTINCT date_trunc('week', day_bucket, 'UTC'), operator_id,"
                " '{5,9}'::smallint[], '{168,336}'::bigint[] FROM anlyt.latency_days"
            )
            await conn.execute("ANALYZE")
            span = cut(TODAY - 55 * DAY - 5 * HOUR, TODAY, "none")
            buckets = find_buckets(span, NOW)
            hours = (buckets.hours, buckets.hour_spans, [1] * len(buckets.hours))
            places = (*hours, buckets.days, buckets.day_spans, [False] * len(buckets.days))
            merged = (*hours, *astuple(by_weeks(buckets.days, buckets.day_spans)))
            order, each = ("totalCost", True, 10), False
            account = make_grant("ACCOUNT", ACCOUNTS[:1], ["metrics:read"])
            operator = make_grant("OPERATOR", OPERATORS[:1], ["metrics:read"])
            texts = [
                await plan(conn, account, "read/sum_spans", *places, "ACCOUNT", ACCOUNTS[:1], *NO_SUMS.values),
                await plan(conn, STAFF, "read/sum_spans", *places, "ACCOUNT", None, *NO_SUMS.values),
                await plan(
                    conn, STAFF, "read/sum_ids", buckets.hours, buckets.days, "ACCOUNT", None, *order, *NO_SUMS.values
                ),
                await plan(conn, operator, "read/merge_latencies", *merged, OPERATORS[:1], each),
            ]

            plans = [json.loads(text)[0]["Plan"] for text in texts]
            assert [read_whole(each) for each in plans] == [[]] * len(plans)
            assert largest(plans[0], "Actual Rows") <= len(buckets.hours) + len(buckets.days)

    run(story())


def largest(node: dict[str, Any], name: str) -> float:
    return max([node[name], *(largest(child, name) for child in node.get("Plans", []))])


def read_whole(node: dict[str, Any]) -> list[str]:
    """Tables and partitions a plan read from end to end; those it only planned for do not count."""
    here = [node["Relation Name"]] if node["Node Type"] == "Seq Scan" and node["Actual Loops"] else []
    return here + [name for child in node.get("Plans", []) for name in read_whole(child)]
