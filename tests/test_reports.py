"""Reports against a real PostgreSQL: a Grant's rows only, exact values, pages that join, plans that stay small."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from anlyt import reports
from anlyt.access import Grant, make_grant
from anlyt.errors import RequestError
from anlyt.postgres import connect, ensure_partitions, sql
from anlyt.queries import REPORTS, ReportName, read_query
from anlyt.settings import Settings
from anlyt.snapshot import snapshot
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

NOW = datetime(2026, 4, 18, 10, 37, tzinfo=UTC)
HOUR = datetime(2026, 4, 18, 9, tzinfo=UTC)
DAY = datetime(2026, 4, 18, tzinfo=UTC)
ACCOUNTS = [f"{n:08x}-0000-4000-8000-00000000acc0" for n in range(3)]
OPERATORS = [f"{n:08x}-0000-4000-8000-0000000000e0" for n in range(2)]
STAFF = make_grant("PLATFORM", [], ["metrics:read"])
TENANT = make_grant("ACCOUNT", ACCOUNTS[:1], ["metrics:read"])
OPERATOR = make_grant("OPERATOR", OPERATORS[:1], ["metrics:read"])
SETTINGS = Settings.model_validate({"stream": "T"})
NAMES: list[ReportName] = ["hourly", "daily", "operators", "accounts"]
BIG = 2**63 - 1
MONEY = Decimal("999999999999.999999")


@asynccontextmanager
async def database(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    conn = await connect(url, application="anlyt-tests")
    try:
        await ensure_partitions(conn, [NOW - timedelta(days=31 * back) for back in range(4)])
        yield conn
    finally:
        await conn.close()


_ADD_HOURLY = """
INSERT INTO anlyt.metrics_hourly
    (hour_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages, total_cost)
VALUES ($1, $2, $3, $4::BIGINT, $4::BIGINT - 1, 1, $5)
"""
_ADD_DAILY = """
INSERT INTO anlyt.metrics_daily
    (day_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages, total_cost)
VALUES ($1, $2, $3, $4::BIGINT, $4::BIGINT - 1, 1, $5)
"""


async def fill(conn: asyncpg.Connection[Any], *, hours: int = 30, days: int = 3) -> None:
    """Rows of every scope in each of the last hours and days; the figures tell the row."""
    ids = [("PLATFORM", "platform"), *(("ACCOUNT", i) for i in ACCOUNTS), *(("OPERATOR", i) for i in OPERATORS)]
    for statement, first, count, step in (
        (_ADD_HOURLY, HOUR, hours, timedelta(hours=1)),
        (_ADD_DAILY, DAY, days, timedelta(days=1)),
    ):
        await conn.executemany(
            statement,
            [
                (first - step * back, scope, scope_id, back + 1, Decimal(back).scaleb(-6))
                for back in range(count)
                for scope, scope_id in ids
            ],
        )
    await conn.executemany(
        "INSERT INTO anlyt.operator_performance (hour_bucket, operator_id, total_messages) VALUES ($1, $2, $3)",
        [(HOUR - timedelta(hours=back), i, back + 1) for back in range(hours) for i in OPERATORS],
    )
    await conn.executemany(
        "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, messages_sent) VALUES ($1, $2, $3)",
        [(DAY - timedelta(days=back), i, back + 1) for back in range(days) for i in ACCOUNTS],
    )


async def page(
    conn: asyncpg.Connection[Any], name: ReportName = "hourly", *, grant: Grant = STAFF, **parameters: Any
) -> dict[str, Any]:
    """A page as its reader gets it: as JSON. `from_` stands for from; a list repeats the parameter."""
    pairs = [
        (key.rstrip("_"), str(value))
        for key, values in parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    query = read_query(name, pairs, grant=grant, now=NOW)
    return json.loads(msgspec.json.encode(await reports.read_page(conn, grant, query, settings=SETTINGS)))


async def position(conn: asyncpg.Connection[Any], slots: dict[int, datetime | None], *, stream: str = "T") -> None:
    await conn.executemany(
        "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, complete_through, stream_created_at)"
        " VALUES ($1, $2, 1, $3, now())",
        [(stream, slot, through) for slot, through in slots.items()],
    )


# ---------------------------------------------------------------------------------------------------------------- rows


def test_a_row_carries_every_column_exactly_and_its_computed_fields(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await conn.execute(
                "INSERT INTO anlyt.metrics_hourly"
                " VALUES ($1, 'PLATFORM', 'platform', $2, 3, 1, -4, $3, 1000, 3, 7, $4)",
                HOUR,
                BIG,
                MONEY,
                NOW,
            )
            (row,) = (await page(conn))["data"]

            assert row == {
                "hourBucket": "2026-04-18T09:00:00Z",
                "scope": "PLATFORM",
                "scopeId": "platform",
                "totalMessages": BIG,
                "deliveredMessages": 3,
                "failedMessages": 1,
                "pendingMessages": -4,
                "totalCost": "999999999999.999999",
                "latencySumMs": 1000,
                "latencySampleCount": 3,
                "peakTps": 7,
                "updatedAt": "2026-04-18T10:37:00Z",
                "deliveryRate": 3 / BIG,
                "avgLatencyMs": 1000 / 3,
                "errorRate": 1 / BIG,
                "final": False,
            }

    run(story())


def test_the_other_tables_carry_their_own_columns(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await conn.execute(
                "INSERT INTO anlyt.operator_performance VALUES ($1, $2, 10, 8, 1, 900, 8, NULL, 2, 5, $3)",
                HOUR,
                OPERATORS[0],
                NOW,
            )
            await conn.execute(
                "INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, 4, 3, 1, -0.000001, 9, $3)",
                DAY,
                ACCOUNTS[0],
                NOW,
            )
            (operator,) = (await page(conn, "operators"))["data"]
            (account,) = (await page(conn, "accounts"))["data"]

            assert operator["operatorId"] == OPERATORS[0]
            assert (operator["latencyP95Ms"], operator["errorCount"]) == (None, 5)
            assert (operator["deliveryRate"], operator["avgLatencyMs"], operator["errorRate"]) == (0.8, 112.5, 0.1)
            assert account["accountId"] == ACCOUNTS[0]
            assert (account["totalCost"], account["totalSegments"], account["messagesSent"]) == ("-0.000001", 9, 4)
            assert (account["deliveryRate"], account["avgLatencyMs"], account["errorRate"]) == (0.75, None, 0.25)

    run(story())


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_has_the_table_s_columns_in_order(database_url: str, name: ReportName) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn, hours=1, days=1)
            row = (await page(conn, name))["data"][0]
            table = {"operators": "operator_performance", "accounts": "account_usage_daily"}.get(
                name, f"metrics_{name}"
            )
            columns = await conn.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'anlyt' AND table_name = $1"
                " ORDER BY ordinal_position",
                table,
            )
            words = [column["column_name"].split("_") for column in columns]
            names = [first + "".join(word.title() for word in rest) for first, *rest in words]

            assert [*names, "deliveryRate", "avgLatencyMs", "errorRate", "final"] == list(row)

    run(story())


def test_nothing_to_divide_by_is_null_and_small_money_keeps_six_decimals(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await conn.execute(
                "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id) VALUES ($1, 'ACCOUNT', 'x')", DAY
            )
            (row,) = (await page(conn, "daily"))["data"]

            assert (row["deliveryRate"], row["avgLatencyMs"], row["errorRate"]) == (None, None, None)
            assert row["totalCost"] == "0.000000"

    run(story())


def test_from_is_inclusive_and_to_is_exclusive(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn)
            found = await page(conn, from_="2026-04-18T07:00:00Z", to="2026-04-18T09:00:00Z", scope="PLATFORM")
            inside = await page(conn, from_="2026-04-18T07:00:00.000001Z", to="2026-04-18T09:00:00Z", scope="PLATFORM")

            hours = [row["hourBucket"] for row in found["data"]]
            assert hours == ["2026-04-18T07:00:00Z", "2026-04-18T08:00:00Z"]
            assert [row["hourBucket"] for row in inside["data"]] == hours[1:]
            assert (found["meta"]["from"], found["meta"]["to"]) == ("2026-04-18T07:00:00Z", "2026-04-18T09:00:00Z")

    run(story())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grant", [STAFF, TENANT, OPERATOR], ids=["staff", "account", "operator"])
@pytest.mark.parametrize("limit", [1, 4, 7])
def test_pages_joined_are_the_whole(database_url: str, name: ReportName, grant: Grant, limit: int) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn, hours=8, days=4)
            whole = await page(conn, name, grant=grant, from_="-7d", limit=1000)
            rows: list[Any] = []
            cursor: dict[str, str] = {}
            while True:
                part = await page(conn, name, grant=grant, from_="-7d", limit=limit, **cursor)
                rows += part["data"]
                assert len(part["data"]) <= limit
                if part["next"] is None:
                    break
                cursor = {"cursor": part["next"]}

            assert whole["next"] is None
            assert whole["data"] == rows
            bucket = "hourBucket" if REPORTS[name].bucket == timedelta(hours=1) else "dayBucket"
            place = [(row[bucket], row.get("scope", ""), row.get("scopeId", str(row))) for row in rows]
            assert place == sorted(place)

    run(story())


def test_rows_that_arrive_between_pages_are_neither_missed_nor_doubled(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn, hours=4)
            first = await page(conn, scope="PLATFORM", limit=2)
            await conn.execute("UPDATE anlyt.metrics_hourly SET total_messages = total_messages + 100")
            rest = await page(conn, scope="PLATFORM", cursor=first["next"])
            hours = [row["hourBucket"] for row in first["data"] + rest["data"]]

            assert hours == [f"2026-04-18T0{hour}:00:00Z" for hour in (6, 7, 8, 9)]

    run(story())


# ---------------------------------------------------------------------------------------------------------- who sees it


@pytest.mark.parametrize("name", NAMES)
def test_a_tenant_gets_its_own_rows_and_no_others(database_url: str, name: ReportName) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn)
            for grant in (TENANT, OPERATOR):
                rows = (await page(conn, name, grant=grant, limit=1000))["data"]
                seen = {row.get("scopeId") or row.get("operatorId") or row.get("accountId") for row in rows}
                own = REPORTS[name].scope in {None, grant.scope}

                assert seen == (set(grant.scope_ids) if own else set())
                assert {row.get("scope", grant.scope) for row in rows} <= {grant.scope}

    run(story())


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_id_and_an_unknown_one_get_the_same_404(database_url: str, name: ReportName) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn)
            parameter = REPORTS[name].id_parameter
            said = set()
            for asked in (ACCOUNTS[1], OPERATORS[1], "ffffffff-ffff-4fff-8fff-ffffffffffff"):
                with pytest.raises(RequestError) as caught:
                    await page(conn, name, grant=TENANT, **{parameter: [asked]})
                said.add((caught.value.status, caught.value.code, str(caught.value), caught.value.parameter))

            assert len(said) == 1
            assert said.pop()[0] == 404

    run(story())


def test_staff_may_ask_for_ids_and_scopes(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn, hours=2)
            chosen = await page(conn, scopeId=[ACCOUNTS[2].upper(), OPERATORS[0], "platform"])
            operators = await page(conn, scope="OPERATOR")

            assert {row["scopeId"] for row in chosen["data"]} == {ACCOUNTS[2], OPERATORS[0], "platform"}
            assert {row["scopeId"] for row in operators["data"]} == set(OPERATORS)
            assert (await page(conn, scopeId="ffffffff-ffff-4fff-8fff-ffffffffffff"))["data"] == []

    run(story())


# ----------------------------------------------------------------------------------------------------------- freshness


def test_complete_through_is_the_slowest_slot_of_this_stream(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            slowest = datetime(2026, 4, 18, 10, 30, tzinfo=UTC)
            await position(conn, {slot: slowest + timedelta(seconds=slot) for slot in range(16)})
            await position(conn, {0: slowest - timedelta(days=1)}, stream="OTHER")
            meta = (await page(conn))["meta"]

            assert meta["completeThrough"] == "2026-04-18T10:30:00Z"
            assert meta["lagSeconds"] > 0
            assert (meta["currency"], meta["source"]) == ("EUR", "postgres")

    run(story())


@pytest.mark.parametrize(
    "slots", [{3: None}, dict.fromkeys(range(15), NOW), {**dict.fromkeys(range(15), NOW), 15: None}]
)
def test_complete_through_is_unknown_until_every_slot_is_known(
    database_url: str, slots: dict[int, datetime | None]
) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await position(conn, slots)
            meta = (await page(conn))["meta"]

            assert (meta["completeThrough"], meta["lagSeconds"]) == (None, None)

    run(story())


@pytest.mark.parametrize(("name", "end"), [("hourly", HOUR + timedelta(hours=1)), ("daily", DAY + timedelta(days=1))])
def test_a_bucket_is_final_once_no_accepted_event_can_change_it(
    database_url: str, name: ReportName, end: datetime
) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await fill(conn, hours=1, days=1)
            for through, final in ((end + timedelta(days=7), True), (end + timedelta(days=7, seconds=-1), False)):
                await conn.execute("DELETE FROM anlyt.stream_positions")
                await position(conn, dict.fromkeys(range(16), through))
                answer = await page(conn, name)

                assert {row["final"] for row in answer["data"]} == {final}
                assert answer["meta"]["lagSeconds"] >= 0

    run(story())


# -------------------------------------------------------------------------------------------------------------- status


async def state(conn: asyncpg.Connection[Any], grant: Grant) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(await reports.read_status(conn, grant, settings=SETTINGS)))


def test_status_tells_staff_everything(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await position(conn, dict.fromkeys(range(16), NOW))
            await conn.execute("UPDATE anlyt.stream_positions SET lost_messages = 3")
            await conn.execute(
                "INSERT INTO anlyt.ingest_totals VALUES"
                " ('T', 0, 10, 2, 3, 1, 4), ('T', 8, 5, 1, 0, 0, 0), ('X', 0, 9, 9, 9, 9, 9)"
            )
            await conn.execute(
                "INSERT INTO anlyt.dead_letters"
                " SELECT 'T', n, 0, now(), CASE n WHEN 1 THEN 'stale' ELSE 'malformed' END, 'why', 's', '{}', ''"
                " FROM generate_series(1, 3) AS n"
            )
            await conn.execute(
                "INSERT INTO anlyt.job_runs (job, started_at, finished_at, outcome) VALUES"
                " ('percentiles', now() - interval '2 min', now(), 'failed'), ('percentiles', now(), now(), 'ok'),"
                " ('partitions', now(), NULL, NULL)"
            )
            await conn.execute("INSERT INTO anlyt.backfills (name, counted_events) VALUES ('march', 7)")
            found = await state(conn, STAFF)

            assert (found["counted"], found["duplicates"], found["ignored"]) == (15, 3, 1)
            assert (found["deadLetters"], found["deadLettersKept"]) == (3, {"malformed": 2, "stale": 1})
            assert (found["lostMessages"], found["lateSecondCounts"], found["stream"]) == (3, 4, "T")
            assert [(run["job"], run["outcome"]) for run in found["jobs"]] == [
                ("partitions", None),
                ("percentiles", "ok"),
            ]
            assert [slot["slot"] for slot in found["slots"]] == list(range(16))
            assert [load["name"] for load in found["backfills"]] == ["march"]
            tables = [part["table"] for part in found["partitions"]]
            assert tables == ["latency_histograms", "metrics_hourly", "operator_performance"]
            assert all(part["coveredUntil"] == "2026-05-01T00:00:00Z" for part in found["partitions"])

    run(story())


def test_status_tells_tenants_only_how_fresh_the_numbers_are(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await position(conn, dict.fromkeys(range(16), NOW))
            for grant in (TENANT, OPERATOR):
                assert set(await state(conn, grant)) == {"asOf", "completeThrough", "lagSeconds"}

    run(story())


def test_status_of_an_empty_service_is_all_zero(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            found = await state(conn, STAFF)

            assert (found["counted"], found["deadLettersKept"], found["jobs"], found["slots"]) == (0, {}, [], [])
            assert found["completeThrough"] is None

    run(story())


# --------------------------------------------------------------------------------------------------------------- plans


async def plan_of(
    conn: asyncpg.Connection[Any], grant: Grant, name: str, *arguments: Any
) -> tuple[dict[str, Any], str]:
    """The executed plan of a statement as the API runs it for a Grant, and its text."""
    async with snapshot(conn, grant):
        text: str = await conn.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql(name)}", *arguments)
    return json.loads(text)[0]["Plan"], text


async def grow(conn: asyncpg.Connection[Any]) -> None:
    """60 days of hours of the platform, 20 operators and 100 accounts; the same days."""
    await conn.execute(
        "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id)"
        " SELECT hour, scope, id FROM generate_series($1::timestamptz - interval '60 days', $1, '1 hour') AS hour,"
        " (SELECT 'PLATFORM' AS scope, 'platform' AS id"
        "  UNION ALL SELECT 'OPERATOR', lpad(n::text, 8, '0') || '-0000-4000-8000-0000000000e0'"
        "  FROM generate_series(0, 19) AS n"
        "  UNION ALL SELECT 'ACCOUNT', lpad(n::text, 8, '0') || '-0000-4000-8000-00000000acc0'"
        "  FROM generate_series(0, 99) AS n"
        " ) AS ids",
        HOUR,
    )
    await conn.execute(
        "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id)"
        " SELECT DISTINCT date_trunc('day', hour_bucket, 'UTC'), scope, scope_id FROM anlyt.metrics_hourly"
    )
    await conn.execute(
        "INSERT INTO anlyt.operator_performance (hour_bucket, operator_id)"
        " SELECT hour_bucket, scope_id::uuid FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR'"
    )
    await conn.execute(
        "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id)"
        " SELECT DISTINCT date_trunc('day', hour_bucket, 'UTC'), scope_id::uuid FROM anlyt.metrics_hourly"
        " WHERE scope = 'ACCOUNT'"
    )
    await conn.execute(
        "ANALYZE anlyt.metrics_hourly, anlyt.metrics_daily, anlyt.operator_performance, anlyt.account_usage_daily"
    )


def buffers(plan: dict[str, Any]) -> int:
    return plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]


def test_reads_use_their_indexes_and_leave_out_other_months(database_url: str) -> None:
    async def story() -> None:
        async with database(database_url) as conn:
            await grow(conn)
            day = (NOW - timedelta(days=1), NOW, NOW - timedelta(days=2))
            long = (NOW - timedelta(days=60), NOW, NOW - timedelta(days=61))
            nil = reports._NIL_UUID
            everybody, one = ["PLATFORM", "OPERATOR", "ACCOUNT"], (["ACCOUNT"], [ACCOUNTS[0]])
            cases = [
                (STAFF, "list_hourly", (*day, "", nil, everybody, 101), 60),
                (STAFF, "list_hourly", (*long, "", nil, everybody, 1001), 100),
                (STAFF, "list_hourly_of_ids", (*day, "", nil, *one, 101), 120),
                (STAFF, "list_hourly_of_ids", (*long, "", nil, *one, 101), 600),
                (STAFF, "list_operators", (*day, nil, None, 101), 60),
                (TENANT, "list_hourly_of_ids", (*day, "", nil, *one, 101), 120),
                (TENANT, "list_hourly_of_ids", (*long, "", nil, *one, 101), 600),
                (TENANT, "list_daily_of_ids", (*long, "", nil, *one, 1001), 300),
                (OPERATOR, "list_operators", (*long, nil, OPERATORS[:1], 1001), 1_600),
                (TENANT, "list_accounts_of_ids", (*long, nil, ACCOUNTS[:1], 1001), 200),
            ]
            for grant, name, arguments, blocks_max in cases:
                plan, text = await plan_of(conn, grant, f"read/{name}", *arguments)

                assert "Seq Scan" not in text, f"{name} {arguments}"
                assert buffers(plan) <= blocks_max, f"{name} {arguments} reads {buffers(plan)} blocks"
                if arguments[0] == day[0]:
                    assert "_y2026m04" in text
                    assert "_y2026m03" not in text

    run(story())
