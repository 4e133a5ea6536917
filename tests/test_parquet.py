"""Parquet: the rows of JSON to the last digit, in bounded pieces, never a short file, and a remedy without it."""

from __future__ import annotations

import io
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anlyt import exports, parquet, reports
from anlyt.errors import UsageError
from anlyt.postgres import connect, ensure_partitions
from anlyt.settings import Settings
from serving import key_for, listening, problem_of, service
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import asyncpg

ROUTES = ["/v1/metrics/hourly", "/v1/metrics/daily", "/v1/operators/performance", "/v1/accounts/usage"]
NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0)
DAY = HOUR.replace(hour=0)
ALICE, CARRIER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-0000000000c1"
LARGEST, MOST, ODD = 2**63 - 1, Decimal("999999999999.999999"), 2**53 + 1


async def fill(conn: asyncpg.Connection[Any], *, hours: int = 3) -> None:
    await ensure_partitions(conn, [HOUR, HOUR - timedelta(hours=hours)])
    for n in range(hours):
        for scope, scope_id in (("PLATFORM", "platform"), ("ACCOUNT", ALICE), ("OPERATOR", CARRIER)):
            values = (scope, scope_id, LARGEST, ODD, MOST if n % 2 else Decimal("0.000001"))
            await conn.execute(
                "INSERT INTO anlyt.metrics_hourly VALUES ($1, $2, $3, $4, $5, 0, 0, $6)",
                HOUR - timedelta(hours=n),
                *values,
            )
        await conn.execute(
            "INSERT INTO anlyt.operator_performance VALUES ($1, $2, $3, $4)",
            HOUR - timedelta(hours=n),
            CARRIER,
            LARGEST,
            ODD,
        )
    await conn.execute("INSERT INTO anlyt.metrics_daily VALUES ($1, 'ACCOUNT', $2, $3)", DAY, ALICE, ODD)
    await conn.execute("INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, $3, 0, 0, $4)", DAY, ALICE, ODD, MOST)


def as_json(value: object) -> object:
    """A cell as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return str(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize("route", ROUTES)
def test_a_file_has_the_rows_of_the_page_to_the_last_digit(database_url: str, route: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn)
            key = await key_for(conn, "PLATFORM")
            asked = {"from": "-2d"}
            page = (await client.get(route, headers=key, params=asked)).json()
            answer = await client.get(route, headers=key, params=asked | {"format": "parquet"})
            file = pq.ParquetFile(io.BytesIO(answer.content))

            assert answer.headers["content-type"] == "application/vnd.apache.parquet"
            assert answer.headers["content-disposition"].endswith('.parquet"')
            assert [{k: as_json(v) for k, v in row.items()} for row in file.read().to_pylist()] == page["data"]
            facts = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
            assert facts["anlyt.table"] in route or facts["anlyt.table"] in {"operators", "accounts"}
            assert facts["anlyt.currency"] == "USD"
            assert {"anlyt.from", "anlyt.to", "anlyt.asOf"} <= set(facts)

    run(story())


def test_columns_have_types_that_lose_nothing() -> None:
    encoder = parquet.ParquetEncoder(reports.ROWS["operators"], {})
    schema = pq.read_schema(io.BytesIO(encoder.encode_head() + encoder.encode_end()))

    assert schema.field("hourBucket").type == pa.timestamp("us", tz="UTC")
    assert schema.field("totalMessages").type == pa.int64()
    assert not schema.field("totalMessages").nullable
    assert schema.field("latencyP95Ms").nullable
    hourly = parquet.ParquetEncoder(reports.ROWS["hourly"], {})
    schema = pq.read_schema(io.BytesIO(hourly.encode_head() + hourly.encode_end()))
    assert schema.field("totalCost").type == pa.decimal128(18, 6)


def rows(count: int) -> Iterator[list[Any]]:
    """So many rows, 1,000 at a time."""
    make = reports.ROWS["hourly"]
    for n in range(0, count, 1_000):
        yield [
            make(HOUR, "ACCOUNT", ALICE, n + i, 0, 0, n + i, Decimal("0.045000"), 0, 0, 1, NOW, 0.0, None, 0.0, False)  # noqa: FBT003 - a column
            for i in range(1_000)
        ]


def test_any_number_of_rows_takes_as_much_memory_as_a_row_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 5_000)
    before = pa.total_allocated_bytes()
    encoder = parquet.ParquetEncoder(reports.ROWS["hourly"], {})
    pieces = [encoder.encode_head()]
    peaks = [0, 0]
    tracemalloc.start()
    for number, part in enumerate(rows(100_000)):
        pieces.append(encoder.encode_rows(part))
        half = number // 50
        peaks[half] = max(peaks[half], pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
        pieces = [b"".join(pieces)] if number % 5 == 4 else pieces
    tracemalloc.stop()
    content = b"".join(pieces) + encoder.encode_end()
    file = pq.ParquetFile(io.BytesIO(content))

    assert file.metadata.num_rows == 100_000
    assert {file.metadata.row_group(n).num_rows for n in range(file.metadata.num_row_groups)} == {5_000}
    assert file.read(["totalMessages"]).column(0).to_pylist() == list(range(100_000))
    assert peaks[1] < peaks[0] + 2 * len(content)


def test_a_file_that_was_cut_off_cannot_be_read() -> None:
    encoder = parquet.ParquetEncoder(reports.ROWS["hourly"], {})
    content = encoder.encode_head() + b"".join(encoder.encode_rows(part) for part in rows(3_000)) + encoder.encode_end()
    for length in range(len(content) // 7, len(content), len(content) // 7):
        with pytest.raises(pa.ArrowInvalid):
            pq.ParquetFile(io.BytesIO(content[:length]))

    assert pq.ParquetFile(io.BytesIO(content)).metadata.num_rows == 3_000


def test_without_pyarrow_the_answer_is_a_501_with_the_remedy(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            key = await key_for(conn, "PLATFORM")
            monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)  # as if it were not installed
            answer = await client.get(ROUTES[0], headers=key, params={"format": "parquet"})

            assert answer.status_code == 501
            assert "pip install 'anlyt[parquet]'" in problem_of(answer)["detail"]
            assert (await client.get(ROUTES[0], headers=key, params={"format": "csv"})).status_code == 200
            settings = Settings.model_validate({"database_url": database_url})
            with pytest.raises(UsageError, match="pip install"):
                await exports.export(settings, "hourly", [("format", "parquet")], tmp_path / "rows.parquet")

    run(story())

    assert list(tmp_path.iterdir()) == []


def test_the_command_and_the_server_make_the_same_file(database_url: str, tmp_path: Path) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        await fill(conn)
        key = await key_for(conn, "PLATFORM")
        period = {"from": f"{HOUR - timedelta(hours=5):%Y-%m-%dT%H:%M:%SZ}", "to": f"{NOW:%Y-%m-%dT%H:%M:%SZ}"}
        settings = Settings.model_validate({"database_url": database_url})
        target = tmp_path / "rows.parquet"
        done = await exports.export(settings, "hourly", [*period.items(), ("format", "parquet")], target)
        async with listening(database_url) as url, httpx2.AsyncClient(base_url=url) as client:
            answer = await client.get(ROUTES[0], headers=key, params=period | {"format": "parquet"})
        await conn.close()

        served = pq.read_table(io.BytesIO(answer.content))
        assert done.rows == served.num_rows == pq.read_table(target).num_rows == 9
        assert served.equals(pq.read_table(target))

    run(story())
