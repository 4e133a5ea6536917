"""How PostgreSQL runs what is read and tidied: by an index, in the partitions of the period, over rows that are few.

Each statement is run over a populated database, with values as they come, and its plan is looked at. A file that is in
neither table below fails a test: whoever adds a statement says what its plan must be.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from anlyt.access import make_grant
from anlyt.cold import NO_SUMS
from anlyt.periods import MONDAY
from anlyt.postgres import ensure_partitions, session, sql
from anlyt.snapshot import TENANT_ROLE, snapshot
from databases import execute
from support import run
from test_repo import ROOT
from test_retention import month_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anlyt.access import Scope
    from anlyt.embedded import EmbeddedPostgres

DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
NOW: Final = datetime.now(UTC)
TODAY: Final = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
THIS_HOUR: Final = NOW.replace(minute=0, second=0, microsecond=0)
OPERATORS, ACCOUNTS, DAYS = 10, 50, 120
LAST: Final = datetime(2200, 1, 1, tzinfo=UTC)
PARTITIONED: Final = ("metrics_hourly", "operator_performance", "latency_histograms")
STAGES: Final = ("access", "audit", "jobs", "letters", "live", "read", "top")

# Rows of about a third of a year, and of everything else more than fits on a few pages.
POPULATE: Final = f"""
INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, pending_messages)
SELECT '{THIS_HOUR}'::TIMESTAMPTZ - h * INTERVAL '1 hour', scope, scope_id, 1, 1
FROM generate_series(0, {DAYS * 24} - 1, 2) AS h
CROSS JOIN (
    SELECT 'PLATFORM' AS scope, 'platform' AS scope_id
    UNION ALL SELECT 'OPERATOR', md5(n::TEXT)::UUID::TEXT FROM generate_series(1, {OPERATORS}) AS n
    UNION ALL SELECT 'ACCOUNT', md5(n::TEXT)::UUID::TEXT FROM generate_series(1, {ACCOUNTS}) AS n
) AS who;
INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages, pending_messages)
SELECT '{TODAY}'::TIMESTAMPTZ - d * INTERVAL '1 day', 'ACCOUNT', md5(n::TEXT)::UUID::TEXT, 1, 1
FROM generate_series(0, 400) AS d CROSS JOIN generate_series(1, {ACCOUNTS}) AS n;
INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, messages_sent)
SELECT day_bucket, scope_id::UUID, 1 FROM anlyt.metrics_daily;
INSERT INTO anlyt.operator_performance (hour_bucket, operator_id, total_messages)
SELECT hour_bucket, scope_id::UUID, 1 FROM anlyt.metrics_hourly WHERE scope = 'OPERATOR';
INSERT INTO anlyt.latency_histograms
SELECT hour_bucket, operator_id, 0, '{{1}}', '{{1}}' FROM anlyt.operator_performance;
INSERT INTO anlyt.latency_histograms
SELECT '{THIS_HOUR}', md5(n::TEXT)::UUID, nextval('anlyt.latency_segments'), '{{1}}', '{{1}}'
FROM generate_series(1, {OPERATORS}) AS n;
INSERT INTO anlyt.latency_days
SELECT '{TODAY}'::TIMESTAMPTZ - d * INTERVAL '1 day', md5(n::TEXT)::UUID, '{{1}}', '{{1}}'
FROM generate_series(0, 400) AS d CROSS JOIN generate_series(1, {OPERATORS}) AS n;
INSERT INTO anlyt.latency_weeks
SELECT date_trunc('week', day_bucket, 'UTC'), operator_id, array_fill(1::SMALLINT, '{{120}}'), array_fill(1, '{{120}}')
FROM anlyt.latency_days GROUP BY 1, 2;
INSERT INTO anlyt.processed_events
SELECT 'e' || n || ' /test', 'message.submitted', now() - n * INTERVAL '10 seconds' FROM generate_series(1, 25000) AS n;
INSERT INTO anlyt.second_counts
SELECT now() - n * INTERVAL '2 seconds', 'ACCOUNT', 'x', 1, now() - n * INTERVAL '2 seconds'
FROM generate_series(1, 20000) AS n;
INSERT INTO anlyt.changed_hours
SELECT (pg_current_xact_id()::TEXT::BIGINT - n)::TEXT::XID8, '{THIS_HOUR}', now() - n * INTERVAL '1 second'
FROM generate_series(0, 1999) AS n;
INSERT INTO anlyt.dead_letters (
    stream, sequence, batch_index, published_at, reason, detail, subject, headers, body, recorded_at, resolution,
    event_id, event_ids
)
SELECT
    'S', n, 0, now() - n * INTERVAL '1 minute', 'stale', 'x', 's', '{{}}', '', now() - n * INTERVAL '1 minute',
    CASE WHEN n % 50 > 0 THEN 'counted' END, 'e' || n || ' /test',
    CASE WHEN n % 50 = 1 THEN ARRAY['e' || n || ' /test'] END
FROM generate_series(1, 20000) AS n;
INSERT INTO anlyt.job_runs (job, started_at, finished_at, outcome)
SELECT job, now() - n * INTERVAL '30 seconds', now() - n * INTERVAL '30 seconds', 'ok'
FROM generate_series(1, 10000) AS n CROSS JOIN (VALUES ('percentiles'), ('purge')) AS j (job);
INSERT INTO anlyt.api_keys (key_id, key_sha256, name, scope, scope_ids, permissions)
SELECT 'k' || n, '', 'x', 'ACCOUNT', '{{}}', '{{}}' FROM generate_series(1, 5000) AS n;
INSERT INTO anlyt.stream_positions (stream, slot, last_seq, complete_through, stream_created_at)
SELECT 'S', n, 1, now(), now() FROM generate_series(0, 15) AS n;
ANALYZE;
"""  # noqa: S608 - numbers and times of our own


@dataclass(frozen=True)
class Plan:
    """A statement's values; how many rows of large tables it may look at, and how far back its period reaches."""

    values: tuple[Any, ...] = ()
    rows: int = 0
    days: int | None = None  # None: no partition may be left out


ID: Final = "c4ca4238-a0b9-2382-0dcc-509a6f75849b"  # md5 of 1
PERIOD: Final = (TODAY - 2 * DAY, TODAY)
FROM_START: Final = TODAY - 2 * DAY - HOUR
NO_ID: Final = "00000000-0000-0000-0000-000000000000"
HOURS: Final = [TODAY - DAY + n * HOUR for n in range(24)]
DAYS_BACK: Final = [TODAY - n * DAY for n in range(1, 31)]
SPANS: Final = (HOURS, [1] * 24, DAYS_BACK, [2] * 30)
SIGNED: Final = (*SPANS[:2], [1] * len(SPANS[0]), *SPANS[2:])
WEEKS: Final = [day for day in DAYS_BACK if day.weekday() == MONDAY][:4]
MERGED: Final = (*SIGNED[:3], WEEKS, [3] * len(WEEKS), *SPANS[2:])
REDUCED: Final = [False] * len(DAYS_BACK)
SCOPES: Final = ["ACCOUNT"]
PLANS: Final[dict[str, Plan]] = {
    "access/find_key": Plan(("k7",), rows=1),
    "access/find_keys": Plan((["k7", "k8"],), rows=2),
    "access/revoke_key": Plan(("k7",), rows=2),
    "access/touch_key": Plan(("k7", HOUR), rows=2),
    "audit/count_letters": Plan(("S", 19_900, TODAY - 60 * DAY), rows=101),
    "audit/list_account_usage_daily": Plan(PERIOD, rows=2 * ACCOUNTS),
    "audit/list_counted_letters": Plan((), rows=20_000),
    "audit/list_metrics_daily": Plan(PERIOD, rows=2 * ACCOUNTS),
    "audit/list_metrics_hourly": Plan(PERIOD, rows=24 * (1 + OPERATORS + ACCOUNTS), days=2),
    "audit/list_operator_performance": Plan(PERIOD, rows=24 * OPERATORS, days=2),
    "audit/list_unmerged": Plan(PERIOD, rows=OPERATORS, days=2),
    "jobs/count_old_days": Plan((TODAY - 365 * DAY,), rows=35 * (2 * ACCOUNTS + OPERATORS) + 7 * OPERATORS),
    "jobs/count_old_events": Plan((), rows=7_800),
    "jobs/count_segments": Plan((), rows=2 * OPERATORS),
    "jobs/delete_account_usage_daily": Plan((1_000, TODAY - 365 * DAY), rows=2_800),
    "jobs/delete_latency_days": Plan((1_000, TODAY - 365 * DAY), rows=2_000),
    "jobs/delete_latency_weeks": Plan((1_000, TODAY - 365 * DAY), rows=14 * OPERATORS),
    "jobs/delete_metrics_daily": Plan((1_000, TODAY - 365 * DAY), rows=2_800),
    "jobs/finish_run": Plan((5, "ok", "{}"), rows=2),
    "jobs/forget_runs": Plan(("purge",), rows=1),
    "jobs/lock_operator_hours": Plan(([THIS_HOUR], [ID]), rows=1, days=0),
    "jobs/merge_days": Plan((HOURS, [ID] * 24), rows=24, days=2),
    "jobs/merge_weeks": Plan((HOURS, [ID] * 24), rows=14),
    "jobs/merge_histograms": Plan((1_000,), rows=6 * OPERATORS),
    "jobs/purge_changed_hours": Plan((100, timedelta(minutes=15)), rows=2_300),
    "jobs/purge_events": Plan((1_000,), rows=2_500),
    "jobs/purge_second_counts": Plan((1_000,), rows=2_000),
    "jobs/write_percentiles": Plan(([THIS_HOUR], [ID]), rows=8, days=0),
    "letters/count_open": Plan(("S", 50, None, None), rows=1),
    "letters/discard_open": Plan(("S", 50, 0, None, 10), rows=3),
    "letters/find_counted_ids": Plan((["e1 /test", "e51 /test", "e2 /test"],), rows=10),
    "letters/find_open": Plan(("S", None, None, None, 0, 0, TODAY - 900 * DAY, 10), rows=510),
    "letters/list_page": Plan(("S", None, "all", 10, LAST, 2**62, 0, LAST), rows=20),
    "letters/lock_open": Plan(("S", [50], [0], [NOW]), rows=1),
    "letters/read_letter": Plan(("S", 50, 0), rows=1),
    "letters/record_attempt": Plan(("S", 50, 0, NOW, None, None, None, None), rows=1),
    "live/list_hourly": Plan(("1:1:", [THIS_HOUR], 100), rows=2 * (1 + OPERATORS + ACCOUNTS), days=0),
    "live/list_operators": Plan(("1:1:", [THIS_HOUR], 100), rows=2 * OPERATORS, days=0),
    "read/find_first_day": Plan((True,), rows=2),
    "read/find_peaks": Plan((*SPANS[:2], "ACCOUNT", [ID]), rows=24, days=2),
    "read/count_accounts": Plan((100,), rows=2 * ACCOUNTS),
    "read/count_dead_letters": Plan(("S", 100), rows=110),
    "read/list_accounts": Plan((*PERIOD, FROM_START, NO_ID, 30), rows=40),
    "read/list_accounts_of_ids": Plan((*PERIOD, FROM_START, NO_ID, [ID], 30), rows=3),
    "read/list_daily": Plan((*PERIOD, FROM_START, "", "", SCOPES, 30), rows=40),
    "read/list_daily_of_ids": Plan((*PERIOD, FROM_START, "", "", SCOPES, [ID], 30), rows=3),
    "read/list_hourly": Plan((*PERIOD, FROM_START, "", "", SCOPES, 30), rows=60, days=2),
    "read/list_hourly_of_ids": Plan((*PERIOD, FROM_START, "", "", SCOPES, [ID], 30), rows=30, days=2),
    "read/list_last_runs": Plan((), rows=12),
    "read/list_operators": Plan((*PERIOD, FROM_START, NO_ID, None, 30), rows=40, days=2),
    "read/merge_latencies": Plan((*MERGED, None, False), rows=(24 + 4 + 30 + 1) * OPERATORS, days=38),
    "read/sum_ids": Plan(
        (HOURS, DAYS_BACK, "ACCOUNT", [ID], "totalMessages", True, 10, *NO_SUMS.values), rows=24 + 30, days=2
    ),
    "read/sum_spans": Plan((*SIGNED, REDUCED, "ACCOUNT", [ID], *NO_SUMS.values), rows=24 + 30, days=2),
    "top/list_seconds": Plan((NOW, 10, 30), rows=160),
}
# What tenants ask, each for its one id.
TENANTS: Final[dict[str, tuple[Scope, Plan]]] = {
    "read/list_accounts_of_ids": ("ACCOUNT", PLANS["read/list_accounts_of_ids"]),
    "read/list_daily_of_ids": ("ACCOUNT", PLANS["read/list_daily_of_ids"]),
    "read/list_hourly_of_ids": ("ACCOUNT", PLANS["read/list_hourly_of_ids"]),
    "read/find_peaks": ("ACCOUNT", PLANS["read/find_peaks"]),
    "read/sum_ids": ("ACCOUNT", PLANS["read/sum_ids"]),
    "read/sum_spans": ("ACCOUNT", PLANS["read/sum_spans"]),
    "read/list_operators": ("OPERATOR", Plan((*PERIOD, FROM_START, NO_ID, [ID], 30), rows=60, days=2)),
    "read/merge_latencies": ("OPERATOR", Plan((*MERGED, [ID], False), rows=24 + 4 + 30 + 1, days=38)),
}
FEW: Final = {  # statements that touch no table that grows, and why they may do as they like
    "access/add_key": "writes one row",
    "access/list_keys": "shows every key, by hand",
    "audit/list_positions": "16 rows a stream",
    "audit/sum_totals": "16 rows a stream",
    "jobs/find_idle_streams": "16 rows a stream",
    "jobs/find_month_step": "the catalogue",
    "jobs/find_stream": "16 rows a stream",
    "jobs/forget_stream": "16 rows a stream",
    "jobs/limit_lock_waits": "a setting",
    "jobs/list_months": "the catalogue",
    "jobs/lock_job": "a lock",
    "jobs/lock_partitions": "a lock",
    "jobs/read_counted_through": "16 rows a stream",
    "jobs/start_run": "writes one row",
    "live/find_changes": "half an hour of changes, kept few by the purge",
    "live/read_identity": "the catalogue",
    "read/find_backfill": "one row a load",
    "read/find_freshness": "16 rows a stream",
    "read/find_refused": "16 rows a stream",
    "read/list_backfills": "one row a load",
    "read/list_positions": "16 rows a stream",
    "read/list_runways": "the catalogue",
    "read/lowest_last_seq": "16 rows a stream",
    "read/prove_backfill": "the demo's proof, once over all days",
    "read/see_as": "a setting",
    "read/sum_ingest_totals": "16 rows a stream",
}
WHOLE: Final = {"audit/list_counted_letters"}  # reads the whole of a table, and has to
LARGE: Final = re.compile(
    r"(metrics_hourly|metrics_daily|operator_performance|account_usage_daily|latency_histograms|latency_days|latency_weeks"
    r"|processed_events|second_counts|dead_letters|job_runs|api_keys|changed_hours)(_y\d{4}m\d\d)?"
)


@pytest.fixture(scope="module")
def populated(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A database with a third of a year in it."""
    name = f"p_{secrets.token_hex(6)}"
    url = postgres_server.url.removesuffix("/anlyt") + f"/{name}"

    async def populate() -> None:
        async with session(url, application="test") as conn:
            await ensure_partitions(conn, [NOW - n * DAY for n in range(0, DAYS + 1, 10)])
            await ensure_partitions(conn, [NOW - DAYS * DAY])
            await conn.execute(POPULATE)

    run(execute(postgres_server.admin_url, f"CREATE DATABASE {name} OWNER anlyt TEMPLATE {template_database}"))
    run(populate())
    yield url
    run(execute(postgres_server.admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


async def explain(url: str, statement: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    """The nodes that read large tables in the statement's plan, as it ran; what it wrote is taken back."""
    async with session(url, application="test") as conn:
        transaction = conn.transaction()
        await transaction.start()
        try:
            text = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql(statement)}", *values)
        finally:
            await transaction.rollback()
    return read_nodes(text)


def read_nodes(explained: str) -> list[dict[str, Any]]:
    """The nodes that read large tables."""
    return [
        node
        for node in walk(json.loads(explained)[0]["Plan"])
        if LARGE.fullmatch(node.get("Relation Name", ""))
        and node["Node Type"] != "ModifyTable"
        and node["Actual Loops"]
    ]


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from walk(child)


def rows_of(node: dict[str, Any]) -> float:
    """How many rows a node looked at, also those it did not want."""
    seen = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return seen * node["Actual Loops"]


@pytest.mark.parametrize("statement", PLANS)
def test_a_statement_uses_an_index_and_looks_at_few_rows(populated: str, statement: str) -> None:
    plan = PLANS[statement]
    nodes = run(explain(populated, statement, plan.values))
    shown = [(node["Node Type"], node["Relation Name"], rows_of(node)) for node in nodes]

    assert nodes, "the statement reads no large table: move it to FEW"
    assert statement in WHOLE or not [node for node in nodes if node["Node Type"] == "Seq Scan"], shown
    assert sum(map(rows_of, nodes)) <= plan.rows, shown


@pytest.mark.parametrize("statement", [name for name, plan in PLANS.items() if plan.days is not None])
def test_only_the_partitions_of_the_period_are_looked_at(populated: str, statement: str) -> None:
    days = PLANS[statement].days
    assert days is not None
    may = {month_of(NOW - n * DAY) for n in range(days + 1)}
    nodes = run(explain(populated, statement, PLANS[statement].values))

    touched = {node["Relation Name"][-8:] for node in nodes if node["Relation Name"].startswith(PARTITIONED)}
    assert touched
    assert touched <= may


@pytest.mark.parametrize("table", ["metrics_hourly", "operator_performance"])
@pytest.mark.parametrize("verb", ["copy", "rows", "sum"])
def test_the_archive_reads_only_the_partitions_of_the_days_it_copies(populated: str, verb: str, table: str) -> None:
    """Days are read whole, by whatever plan; but no month beside theirs."""
    may = {month_of(PERIOD[0]), month_of(PERIOD[1])}
    nodes = run(explain(populated, f"archive/{verb}_{table}", PERIOD))

    touched = {node["Relation Name"][-8:] for node in nodes}
    assert touched
    assert touched <= may


@pytest.mark.parametrize("statement", TENANTS)
def test_row_level_security_keeps_the_index_and_the_partitions_of_a_tenant(populated: str, statement: str) -> None:
    """One plan serves all tenants: what one may see is a condition more on every row, and no value is known yet."""
    scope, plan = TENANTS[statement]

    async def explain_as_tenant() -> list[dict[str, Any]]:
        async with (
            session(populated, application="test") as conn,
            snapshot(conn, make_grant(scope, [ID], ["metrics:read"])),
        ):
            assert await conn.fetchval("SELECT current_user") == TENANT_ROLE
            await conn.execute(f"PREPARE asked AS {sql(statement)}")
            values = ", ".join(map(literal, plan.values))
            return read_nodes(await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE asked ({values})"))

    nodes = run(explain_as_tenant())
    shown = [(node["Node Type"], node["Relation Name"], rows_of(node)) for node in nodes]
    may = {month_of(NOW - n * DAY) for n in range((plan.days or 0) + 1)}

    assert sum(node["Actual Rows"] for node in nodes), "nothing was read: the tenant's rows are missing"
    assert not [node for node in nodes if node["Node Type"] == "Seq Scan"], shown
    assert sum(map(rows_of, nodes)) <= plan.rows, shown
    assert {node["Relation Name"][-8:] for node in nodes if node["Relation Name"].startswith(PARTITIONED)} <= may


def literal(value: object) -> str:
    """A value as EXECUTE takes it: EXPLAIN of a statement with parameters would plan it with their values."""
    if isinstance(value, list):
        return "'{" + ",".join(f'"{each}"' for each in value) + "}'"
    return "NULL" if value is None else f"'{value}'"


def test_every_statement_has_its_plan_or_its_reason() -> None:
    files = {f"{stage}/{path.stem}" for stage in STAGES for path in (ROOT / "src/anlyt/sql" / stage).glob("*.sql")}

    assert files == PLANS.keys() | FEW.keys()
    assert not PLANS.keys() & FEW.keys()


def test_a_statement_without_an_index_would_be_noticed(populated: str) -> None:
    """The tests above can fail: the same search without its index is a Seq Scan over all rows."""

    async def without() -> list[dict[str, Any]]:
        async with session(populated, application="test") as conn:
            transaction = conn.transaction()
            await transaction.start()
            try:
                await conn.execute("DROP INDEX anlyt.ix_anlyt_processed_at")
                text = await conn.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql('jobs/purge_events')}", 1_000)
            finally:
                await transaction.rollback()
        return list(walk(json.loads(text)[0]["Plan"]))

    nodes = [node for node in run(without()) if node.get("Relation Name") == "processed_events"]
    assert "Seq Scan" in {node["Node Type"] for node in nodes}
    assert max(map(rows_of, nodes)) > PLANS["jobs/purge_events"].rows
