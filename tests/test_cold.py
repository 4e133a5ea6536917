"""One question over PostgreSQL and the archive: the same answer before and after rows move, and never half of one."""

from __future__ import annotations

import json
import os
import signal
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from anlyt import chdb_owner, jobs, postgres
from anlyt.clickhouse import ClickHouse
from anlyt.crash import CrashPoints
from anlyt.postgres import session
from archives import archive_directory, archive_in
from serving import key_for, problem_of, service
from support import run
from test_archive import TODAY, UUIDS, add_day

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import httpx2
    from asyncpg import Connection

DAY = timedelta(days=1)
ACCOUNT, OPERATOR = UUIDS[1], UUIDS[0]
# Half of the hours and days asked leave PostgreSQL; the border lies inside the periods.
HOURS = [TODAY - n * DAY for n in (170, 150, 131, 60, 2)]
DAYS = [TODAY - n * DAY for n in (420, 380, 367, 366, 365, 360, 300)]


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def period(days_back: float, until_back: float = 0) -> str:
    return f"from={iso(TODAY - days_back * DAY)}&to={iso(TODAY - until_back * DAY)}"


HOURLY = [f"{path}?{period(*span)}{more}" for path, more in (
    ("/v1/metrics/hourly", ""),
    ("/v1/metrics/hourly", "&limit=3"),
    ("/v1/metrics/hourly", f"&scopeId={ACCOUNT}"),
    ("/v1/metrics/hourly", "&scope=OPERATOR&limit=1000"),
    ("/v1/metrics/hourly", "&format=csv"),
    ("/v1/operators/performance", "&limit=2"),
    ("/v1/operators/performance", f"&operatorId={OPERATOR}"),
    ("/v1/operators/performance", "&format=ndjson"),
) for span in ((100, 0.3), (172, 80), (60.1, 0))]  # fmt: skip
DAILY = [f"{path}?{period(*span)}{more}" for path, more in (
    ("/v1/metrics/daily", "&limit=1000"),
    ("/v1/metrics/daily", "&limit=4"),
    ("/v1/metrics/daily", f"&scopeId={ACCOUNT}&scope=ACCOUNT"),
    ("/v1/accounts/usage", "&limit=3"),
    ("/v1/accounts/usage", f"&accountId={ACCOUNT}&format=csv"),
) for span in ((500, 0.1), (400, 366), (365, 0))]  # fmt: skip
SUMS = [f"/v1/summary?scope={scope}&{period(*span)}{more}" for scope in ("ACCOUNT", "OPERATOR") for more, span in (
    ("", (360.3, 0.2)),
    ("", (421, 379)),
    ("&groupBy=scopeId&sort=totalCost&limit=2", (366, 0)),
    ("&groupBy=scopeId&sort=deliveryRate&order=asc", (171.9, 100.2)),
    ("&groupBy=month", (366, 0)),
    ("&groupBy=day&timezone=Europe/Berlin", (155.5, 58.5)),
    ("&groupBy=hour", (151, 130)),
    (f"&scopeId={ACCOUNT if scope == 'ACCOUNT' else OPERATOR}&compare=previous", (100, 10)),
)]  # fmt: skip


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with archive_directory() as path:
        yield path


@pytest.fixture
def clickhouse(directory: Path) -> Iterator[ClickHouse]:
    made = archive_in(directory)
    yield made
    run(made.close())


async def fill(conn: Connection) -> None:
    for day in {*HOURS, *DAYS}:
        await add_day(conn, day, ids=4)
    await conn.execute(
        "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at, complete_through)"
        " SELECT 'T', slot, 1, now(), now() FROM generate_series(0, 15) AS slot"
    )


async def ask(client: httpx2.AsyncClient, key: dict[str, str], address: str) -> list[Any]:
    """Every row of an answer, over all pages, without what tells where and when it was asked."""
    rows: list[Any] = []
    cursor = ""
    while True:
        response = await client.get(address + cursor, headers=key)
        assert response.status_code == 200, response.text
        if "format=" in address:
            return [response.text]
        answer = response.json()
        rows += answer["data"]
        if not answer["next"]:
            return rows
        cursor = f"&cursor={answer['next']}"


async def move(conn: Connection, url: str, clickhouse: ClickHouse) -> None:
    """Copy everything, let go what may leave; something must."""
    await jobs.run_job(url, "archive", CrashPoints(), clickhouse=clickhouse)
    left = await jobs.run_job(url, "retention", CrashPoints(), clickhouse=clickhouse)
    assert left["partitions_dropped"] >= 6
    assert left["days_deleted"] >= 8


@asynccontextmanager
async def moved(url: str, clickhouse: ClickHouse) -> AsyncIterator[tuple[httpx2.AsyncClient, Connection]]:
    """The API over rows half of which have moved."""
    async with session(url, application="test") as conn:
        await fill(conn)
        await move(conn, url, clickhouse)
    async with service(url, clickhouse=clickhouse) as (client, conn):
        yield client, conn


def test_any_question_has_the_same_answer_before_and_after_rows_move(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with service(database_url, clickhouse=clickhouse) as (client, conn):
            await fill(conn)
            keys = {
                "staff": await key_for(conn, "PLATFORM"),
                "ACCOUNT": await key_for(conn, "ACCOUNT", ACCOUNT),
                "OPERATOR": await key_for(conn, "OPERATOR", OPERATOR),
            }
            questions = [("staff", address) for address in [*HOURLY, *DAILY, *SUMS]]
            questions += [("ACCOUNT", address) for address in [*HOURLY[:3], *DAILY[:3], *DAILY[9:12], SUMS[0]]]
            questions += [("OPERATOR", address) for address in [*HOURLY[:3], *HOURLY[15:18], *DAILY[:3], SUMS[8]]]
            before = [await ask(client, keys[who], address) for who, address in questions]
            assert sum(bool(answer) for answer in before) > len(before) * 0.9
            await move(conn, database_url, clickhouse)

            for (who, address), expected in zip(questions, before, strict=True):
                found = await ask(client, keys[who], address)

                assert comparable(address, found) == comparable(address, expected), (who, address)

    run(scenario(), limit_s=100)


def comparable(address: str, rows: list[Any]) -> list[Any]:
    return without_percentiles(rows) if address.startswith("/v1/summary") else rows


def without_percentiles(rows: list[Any]) -> list[Any]:
    """Histograms are kept as long as hours are, so percentiles go with them."""
    kept = [{name: value for name, value in row.items() if not name.startswith("latencyP")} for row in rows]
    return [row | {"previous": without_percentiles([row["previous"]])} if "previous" in row else row for row in kept]


def test_the_answer_says_where_it_is_from(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with moved(database_url, clickhouse) as (client, conn):
            key = await key_for(conn, "PLATFORM")
            expected = {
                f"/v1/metrics/daily?{period(300)}": "postgres",
                f"/v1/metrics/daily?{period(500, 370)}": "clickhouse",
                f"/v1/metrics/daily?{period(500)}": "both",
                f"/v1/metrics/hourly?{period(170, 140)}": "clickhouse",
                f"/v1/summary?scope=ACCOUNT&{period(300)}": "postgres",
                f"/v1/summary?scope=ACCOUNT&{period(500, 370)}": "clickhouse",
                f"/v1/summary?scope=ACCOUNT&{period(366, 0.5)}&compare=previous": "both",
            }
            for address, source in expected.items():
                answer = (await client.get(address, headers=key)).json()
                assert (address, answer["meta"]["source"]) == (address, source)

    run(scenario())


def test_nobody_sees_a_foreign_row_in_the_archive(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with moved(database_url, clickhouse) as (client, conn):
            account, operator = await key_for(conn, "ACCOUNT", ACCOUNT), await key_for(conn, "OPERATOR", OPERATOR)
            for path in ("/v1/metrics/daily", "/v1/accounts/usage"):
                rows = await ask(client, account, f"{path}?{period(500, 366)}&limit=1000")
                assert rows
                assert {row.get("scopeId", row.get("accountId")) for row in rows} == {ACCOUNT}
            assert await ask(client, operator, f"/v1/accounts/usage?{period(500, 366)}") == []
            for foreign in (UUIDS[3], "99999999-aaaa-4bbb-8ccc-dddddddddddd"):
                response = await client.get(f"/v1/metrics/daily?{period(500, 366)}&scopeId={foreign}", headers=account)
                assert response.status_code == 404
            cells = await ask(client, account, f"/v1/summary?scope=ACCOUNT&groupBy=scopeId&{period(500, 366)}")
            assert [row["scopeId"] for row in cells] == [ACCOUNT]

    run(scenario())


def test_without_the_archive_hot_periods_are_answered_and_others_refused_by_name(
    database_url: str, clickhouse: ClickHouse
) -> None:
    away = ClickHouse("clickhouse://x:hidden@127.0.0.1:1/x")

    async def scenario() -> None:
        async with moved(database_url, clickhouse) as (client, conn):
            key = await key_for(conn, "PLATFORM")
            hot = [f"/v1/metrics/daily?{period(300)}", f"/v1/summary?scope=ACCOUNT&{period(50)}"]
            before = [await ask(client, key, address) for address in hot]
        async with service(database_url, clickhouse=away) as (client, conn):
            assert [await ask(client, key, address) for address in hot] == before
            for address in (
                f"/v1/metrics/daily?{period(500)}",
                f"/v1/metrics/daily?{period(500)}&format=csv",
                f"/v1/summary?scope=ACCOUNT&{period(366, 364)}",
            ):
                response = await client.get(address, headers=key)
                assert response.status_code == 503
                problem = problem_of(response)
                assert "is in the archive, which cannot be reached" in problem["detail"]
                assert "127.0.0.1" not in json.dumps(problem)

    run(scenario())


def test_an_archive_that_has_lost_rows_is_refused_not_answered_short(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with moved(database_url, clickhouse) as (client, conn):
            key = await key_for(conn, "PLATFORM")
            await clickhouse.execute(
                f"ALTER TABLE metrics_daily DELETE WHERE day_bucket = toDateTime({int(DAYS[0].timestamp())}, 'UTC')"
                f" AND scope_id = '{ACCOUNT}' SETTINGS mutations_sync = 1"
            )
            for path in ("/v1/metrics/daily?", "/v1/summary?scope=ACCOUNT&"):
                response = await client.get(f"{path}{period(500, 366)}", headers=key)
                assert response.status_code == 503
                assert "archive" in problem_of(response)["detail"]
            assert await ask(client, key, f"/v1/accounts/usage?{period(500, 366)}"), "the other tables are whole"

    run(scenario())


def test_an_owner_that_is_killed_between_two_pages_is_not_noticed(database_url: str, clickhouse: ClickHouse) -> None:
    async def scenario() -> None:
        async with moved(database_url, clickhouse) as (client, conn):
            key = await key_for(conn, "PLATFORM")
            address = f"/v1/metrics/daily?{period(500)}"
            before = await ask(client, key, address)
            assert clickhouse.address.directory is not None
            owner = chdb_owner.find(clickhouse.address.directory)
            assert owner is not None
            os.kill(owner.pid, signal.SIGKILL)

            assert await ask(client, key, address) == before

    run(scenario())


def test_rows_that_leave_while_somebody_reads_are_not_missed(
    database_url: str, clickhouse: ClickHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader's snapshot says where the border is; what it takes to be here stays here until it has read it."""
    monkeypatch.setattr(jobs, "STEP_LOCK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(jobs, "STEP_ATTEMPTS_MAX", 1)

    async def scenario() -> None:
        async with session(database_url, application="test") as conn, session(database_url, application="r") as reader:
            await fill(conn)
            await jobs.run_job(database_url, "archive", CrashPoints(), clickhouse=clickhouse)
            async with reader.transaction(isolation="repeatable_read", readonly=True):
                await reader.execute(postgres.sql("archive/hold_tables"))
                await reader.fetch(postgres.sql("archive/list_borders"))
                with pytest.raises(Exception, match="lock timeout"):
                    await jobs.run_job(database_url, "retention", CrashPoints(), clickhouse=clickhouse)

                count = await reader.fetchval("SELECT count(*) FROM anlyt.metrics_hourly")
                assert count == 4 * 3 * len({*HOURS, *DAYS})
            await jobs.run_job(database_url, "retention", CrashPoints(), clickhouse=clickhouse)
            oldest = await conn.fetchval("SELECT min(hour_bucket) FROM anlyt.metrics_hourly")
            assert oldest >= TODAY - 125 * DAY

    run(scenario(), limit_s=100)
