"""Numbers at the edge of their columns go out in every format and come back into PostgreSQL as they were."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pyarrow import parquet

from anlyt.postgres import ensure_partitions
from serving import key_for, service
from support import run

if TYPE_CHECKING:
    from asyncpg import Connection

HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
COUNTS = [2**53 + 1, 2**63 - 1, -(2**53) - 1, -(2**63), 0, 1]
COSTS = ["0.000001", "999999999999.999999", "-0.000001", "-999999999999.999999", "0.000000", "9007199254.740993"]
ROWS = {f"00000000-0000-4000-8000-{number:012x}": pair for number, pair in enumerate(zip(COUNTS, COSTS, strict=True))}
Answer = dict[str, tuple[int, Decimal]]


def read_json(body: bytes) -> Answer:
    return _exactly(json.loads(body)["data"])


def read_ndjson(body: bytes) -> Answer:
    return _exactly([json.loads(line) for line in body.splitlines()])


def _exactly(rows: list[dict[str, Any]]) -> Answer:
    """JSON: counts are numbers without a fraction, money is text with six decimals."""
    for row in rows:
        assert type(row["totalMessages"]) is int
        assert type(row["totalCost"]) is str
        assert len(row["totalCost"].partition(".")[2]) == 6
    return {row["scopeId"]: (row["totalMessages"], Decimal(row["totalCost"])) for row in rows}


def read_csv(body: bytes) -> Answer:
    rows = csv.DictReader(io.StringIO(body.decode()))
    return {row["scopeId"]: (int(row["totalMessages"]), Decimal(row["totalCost"])) for row in rows}


def read_parquet(body: bytes) -> Answer:
    rows = parquet.read_table(io.BytesIO(body)).to_pylist()
    for row in rows:
        assert type(row["totalMessages"]) is int
        assert isinstance(row["totalCost"], Decimal)
    return {row["scopeId"]: (row["totalMessages"], row["totalCost"]) for row in rows}


READERS = {"json": read_json, "ndjson": read_ndjson, "csv": read_csv, "parquet": read_parquet}


@pytest.mark.parametrize("wanted", sorted(READERS))
@pytest.mark.parametrize(("route", "table"), [("hourly", "metrics_hourly"), ("daily", "metrics_daily")])
def test_numbers_survive_there_and_back(database_url: str, route: str, table: str, wanted: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await plant(conn)
            response = await client.get(
                f"/v1/metrics/{route}",
                params={"scope": "ACCOUNT", "from": "-5d", "format": wanted},
                headers=await key_for(conn, "PLATFORM"),
            )

            assert response.status_code == 200, response.text
            answered = READERS[wanted](response.content)
            assert answered == {scope_id: (count, Decimal(cost)) for scope_id, (count, cost) in ROWS.items()}
            assert await missing_after_return(conn, table, answered) == []

    run(story())


async def plant(conn: Connection[Any]) -> None:
    await ensure_partitions(conn, [HOUR])
    for table, column, bucket in (
        ("metrics_hourly", "hour_bucket", HOUR),
        ("metrics_daily", "day_bucket", HOUR.replace(hour=0)),
    ):
        await conn.executemany(
            f"INSERT INTO anlyt.{table} ({column}, scope, scope_id, total_messages, total_cost)"  # noqa: S608 - ours
            " VALUES ($1, 'ACCOUNT', $2, $3, $4::TEXT::NUMERIC)",
            [(bucket, scope_id, count, cost) for scope_id, (count, cost) in ROWS.items()],
        )


async def missing_after_return(conn: Connection[Any], table: str, answered: Answer) -> list[Any]:
    """What PostgreSQL finds different between its rows and those that were answered and written to it again."""
    await conn.execute("CREATE TEMPORARY TABLE returned (scope_id TEXT, n BIGINT, cost NUMERIC(18,6))")
    await conn.executemany(
        "INSERT INTO returned VALUES ($1, $2, $3)",
        [(scope_id, count, cost) for scope_id, (count, cost) in answered.items()],
    )
    ours = f"SELECT scope_id, total_messages, total_cost FROM anlyt.{table}"  # noqa: S608 - ours
    return await conn.fetch(f"({ours} EXCEPT TABLE returned) UNION ALL (TABLE returned EXCEPT {ours})")
