"""Exports: every row once in every format, exact, a file whole or not there, a connection that breaks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from anlyt import exports, reports
from anlyt.errors import UsageError
from anlyt.postgres import connect, ensure_partitions
from anlyt.queries import read_query
from anlyt.settings import Settings
from serving import key_for, problem_of, service
from support import run, wait_until
from test_api import listening
from test_reports import STAFF

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0)
ACCOUNT = "0b1d6f2e-0000-4000-8000-00000000acc1"
ROUTES = ["/v1/metrics/hourly", "/v1/metrics/daily", "/v1/operators/performance", "/v1/accounts/usage"]
_ADD = """
INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, total_cost)
SELECT $1::TIMESTAMPTZ - hour * INTERVAL '1 hour', 'ACCOUNT', lpad(n::TEXT, 8, '0') || '-0000-4000-8000-00000000acc0',
    9007199254740993 + n, 0.000001
FROM generate_series(0, $2 - 1) AS hour, generate_series(1, $3) AS n"""

_END_SESSIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anlyt-api'"


async def fill(conn: asyncpg.Connection[Any], *, hours: int, ids: int) -> None:
    await ensure_partitions(conn, [NOW - timedelta(days=31 * back) for back in range(3)])
    await conn.execute(_ADD, HOUR, hours, ids)


async def everything(client: httpx2.AsyncClient, headers: dict[str, str], **parameters: str) -> list[dict[str, Any]]:
    """All rows by following pages of JSON."""
    rows: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await client.get("/v1/metrics/hourly", params={**parameters, **cursor, "limit": "1000"}, headers=headers)
        rows += page.json()["data"]
        if page.json()["next"] is None:
            return rows
        cursor = {"cursor": page.json()["next"]}


# ---------------------------------------------------------------------------------------------------------------- HTTP


def test_every_format_has_the_same_rows_with_exact_values(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn, hours=45, ids=60)
            headers = await key_for(conn, "PLATFORM")
            period = {"from": (HOUR - timedelta(hours=44)).isoformat(), "to": (HOUR + timedelta(hours=1)).isoformat()}
            rows = await everything(client, headers, **period)
            lines = await client.get("/v1/metrics/hourly", params=period | {"format": "ndjson"}, headers=headers)
            table = await client.get("/v1/metrics/hourly", params=period | {"format": "csv"}, headers=headers)
            cells = list(csv.DictReader(io.StringIO(table.text, newline="")))

            assert len(rows) == 45 * 60 > reports.ROWS_AT_ONCE
            assert [json.loads(line) for line in lines.text.splitlines()] == rows
            assert [(cell["hourBucket"], cell["scopeId"]) for cell in cells] == [
                (row["hourBucket"], row["scopeId"]) for row in rows
            ]
            assert list(cells[0]) == list(rows[0])
            assert {cell["totalCost"] for cell in cells} == {"0.000001"}
            assert [int(cell["totalMessages"]) for cell in cells] == [row["totalMessages"] for row in rows]
            assert {(cell["avgLatencyMs"], cell["final"]) for cell in cells} == {("", "false")}
            assert lines.headers["content-type"] == "application/x-ndjson"
            assert table.headers["content-type"].startswith("text/csv")
            assert table.headers["content-disposition"].startswith('attachment; filename="anlyt-hourly-2')
            assert table.headers["anlyt-as-of"].endswith("Z")
            assert table.headers["cache-control"] == "no-store"

    run(story())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("form", ["csv", "ndjson"])
def test_every_route_streams_what_the_key_may_see(database_url: str, route: str, form: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            tenant = await key_for(conn, "ACCOUNT", ACCOUNT)
            await fill(conn, hours=1, ids=3)
            own = await client.get(route, params={"format": form}, headers=tenant)
            foreign = await client.get(route, params={"format": form} | _foreign_id(route), headers=tenant)

            assert own.status_code == 200
            assert own.text.count("\n") == (1 if form == "csv" else 0)
            assert foreign.status_code == 404
            problem_of(foreign)

    run(story())


def _foreign_id(route: str) -> dict[str, str]:
    names = {"metrics": "scopeId", "operators": "operatorId", "accounts": "accountId"}
    return {names[route.split("/")[2]]: ACCOUNT[:-1] + "2"}


@pytest.mark.parametrize(
    ("query", "status", "parameter"),
    [
        ("format=xml", 422, "format"),
        ("format=csv&format=csv", 422, "format"),
        ("format=csv&limit=5", 422, "limit"),
        ("format=ndjson&cursor=x", 422, "cursor"),
        ("format=csv&from=-400d", 422, "from"),
    ],
)
def test_a_bad_question_is_a_problem_before_anything_is_sent(
    database_url: str, query: str, status: int, parameter: str
) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await client.get(f"/v1/metrics/hourly?{query}", headers=await key_for(conn, "PLATFORM"))
            nobody = await client.get(f"/v1/metrics/hourly?{query}")

            assert (response.status_code, problem_of(response)["parameter"]) == (status, parameter)
            assert nobody.status_code == 401

    run(story())


def test_an_export_breaks_the_connection_rather_than_end_short(database_url: str) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        await fill(conn, hours=24 * 20, ids=150)
        headers = await key_for(conn, "PLATFORM")
        async with listening(database_url) as url, httpx2.AsyncClient() as client:
            address = f"{url}/v1/metrics/hourly?format=csv&from=-20d"

            async def read_on() -> None:
                async with client.stream("GET", address, headers=headers) as response:
                    assert response.status_code == 200
                    async for _ in response.aiter_bytes():
                        await conn.execute(_END_SESSIONS)

            with pytest.raises(httpx2.RemoteProtocolError):
                await read_on()
            again = await client.get(f"{url}/v1/metrics/hourly?format=csv&from=-1h", headers=headers)
            assert again.status_code in {200, 503}
        await conn.close()

    run(story())


def test_a_key_has_one_export_at_a_time_and_one_that_is_left_is_given_up(database_url: str) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        await fill(conn, hours=24 * 20, ids=150)
        headers, other = await key_for(conn, "PLATFORM"), await key_for(conn, "PLATFORM")
        async with listening(database_url) as url, httpx2.AsyncClient() as client:
            address = f"{url}/v1/metrics/hourly?format=ndjson&from=-20d"

            async def ask(key: dict[str, str]) -> int:
                return (await client.get(f"{url}/v1/metrics/hourly?format=csv&from=-1h", headers=key)).status_code

            async with client.stream("GET", address, headers=headers) as response:
                pieces = response.aiter_bytes()
                await anext(pieces)
                assert await ask(headers) == 429
                assert await ask(other) == 200

            async def answered() -> bool:
                return await ask(headers) == 200

            await wait_until(answered, what="the export that was left has ended")
        await conn.close()

    run(story())


# --------------------------------------------------------------------------------------------------------------- cells


FRESH = reports.Freshness(NOW, NOW)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"], ids=ascii)
def test_text_a_spreadsheet_would_run_is_defused_and_numbers_are_not(text: str) -> None:
    query = read_query("hourly", [("format", "csv")], grant=STAFF, now=NOW)
    final = True
    row = reports.ROWS["hourly"](
        HOUR, "ACCOUNT", text, 1, 0, 0, -5, Decimal("-0.000001"), 0, 0, 0, HOUR, None, None, 0.5, final
    )
    (cells,) = csv.reader(
        io.StringIO(exports.open_encoder(query, FRESH, currency="EUR").encode_rows([row]).decode(), newline="")
    )

    assert cells[1:4] == ["ACCOUNT", f"'{text}", "1"]
    assert (cells[6], cells[7]) == ("-5", "-0.000001")
    assert cells[-4:] == ["", "", "0.5", "true"]


# --------------------------------------------------------------------------------------------------------------- files


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_has_the_rows_that_were_counted_and_summed(database_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        await fill(conn, hours=30, ids=50)
        await conn.close()
        settings = Settings.model_validate({"database_url": database_url})
        target = tmp_path / "rows.ndjson"
        pairs = [("from", "-40h"), ("format", "ndjson")]
        done = await exports.export(settings, "hourly", pairs, target)

        assert done.rows == 1_500 == len(target.read_text().splitlines())
        assert done.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
        assert files_in(tmp_path) == ["rows.ndjson"]
        with pytest.raises(UsageError, match="cannot be written"):
            await exports.export(settings, "hourly", pairs, tmp_path / "missing" / "rows.csv")
        with pytest.raises(UsageError, match="longer than"):
            await exports.export(settings, "hourly", [("from", "-400d"), ("format", "csv")], target)

    run(story())


def test_an_export_that_fails_leaves_nothing_and_keeps_the_file_of_before(database_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        target = tmp_path / "rows.csv"
        target.write_text("before")
        settings = Settings.model_validate({"database_url": database_url})
        conn = await connect(database_url, application="anlyt-tests")
        await conn.execute("ALTER TABLE anlyt.metrics_hourly RENAME TO gone")
        with pytest.raises(Exception, match="metrics_hourly"):
            await exports.export(settings, "hourly", [("format", "csv")], target)
        await conn.close()

        assert target.read_text() == "before"
        assert files_in(tmp_path) == ["rows.csv"]

    run(story())
