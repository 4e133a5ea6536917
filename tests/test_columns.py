"""A day's checksum is the same here and in ClickHouse, however its rows are cut, and another when any value is."""

# ruff: noqa: S608 - the names are those of our own tables

from __future__ import annotations

import random
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from msgspec import structs

from anlyt.archive import BEGINNING, END, make_tables, sums_there
from anlyt.clickhouse import TABLES
from anlyt.columns import BLOCK_BYTES, RECORDS, WORD, read_piece
from anlyt.errors import DifferenceFound
from archives import archive_directory, archive_in
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anlyt.clickhouse import ArchiveTable, ClickHouse

FIRST = datetime(2026, 2, 27, tzinfo=UTC)
IDS = [f"0000000{n}-aaaa-4bbb-8ccc-dddddddddddd" for n in range(3)]
ODD_IDS = ["platform", 'a "quoted", id', "two\nlines\r\t\b\f\v", "", "\\N \\n \\\\", "Ü" * 50]
ESCAPES = str.maketrans({"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"})
EXTREMES = [2**63 - 1, 0, 1]
COSTS = [Decimal("999999999999.999999"), Decimal("-999999999999.999999"), Decimal("0.100000")]
READ_PIECE = """
import sys
from anlyt.columns import read_piece
read_piece(sys.argv[1], sys.stdin.buffer.read(), stream=True)
print("pandas" in sys.modules)
"""
each_table = pytest.mark.parametrize("table", TABLES, ids=[table.name for table in TABLES])


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with archive_directory() as path:
        yield path


@pytest.fixture
def clickhouse(directory: Path) -> Iterator[ClickHouse]:
    made = archive_in(directory)
    yield made
    run(made.close())


def make_rows(table: ArchiveTable) -> list[tuple[Any, ...]]:
    """Rows of three days, two of one month, with the largest and smallest values, and NULL where it may be."""
    fields = structs.fields(RECORDS[table.name])
    ids = ODD_IDS if table.key == "scope_id" else IDS
    return [
        tuple(_value(field.name, field.type, n, day, ids) for field in fields)
        for day in range(3)
        for n in range(len(ids))
    ]


def _value(name: str, kind: object, n: int, day: int, ids: Sequence[str]) -> object:
    if name.endswith("_bucket"):
        return FIRST + timedelta(days=day, hours=n if name == "hour_bucket" else 0)
    plain: dict[object, object] = {
        datetime: FIRST + timedelta(microseconds=123450 * n),
        Decimal: COSTS[n % 3],
        str: "ACCOUNT" if name == "scope" else ids[n],
    }
    if kind in plain:
        return plain[kind]
    if kind is not int:
        return None if n else 2**31 - 1
    if name in {"delivered_messages", "failed_messages", "pending_messages", "messages_delivered", "messages_failed"}:
        return -EXTREMES[n % 3] - (n == 0)
    return 2**31 - 1 if name == "peak_tps" else EXTREMES[n % 3]


def as_text(rows: Sequence[Sequence[object]]) -> bytes:
    """As PostgreSQL's COPY writes it."""
    return "".join("\t".join(map(_field, row)) + "\n" for row in rows).encode()


def _field(value: object) -> str:
    if value is None:
        return "\\N"
    if isinstance(value, datetime):
        return re.sub(r"\.?0+\+", "+", f"{value:%Y-%m-%d %H:%M:%S.%f+00}")
    return str(value).translate(ESCAPES)


def checksums_of(table: ArchiveTable, rows: Sequence[Sequence[object]]) -> dict[datetime, int]:
    return dict(read_piece(table.name, as_text(rows), stream=False).checksums)


@each_table
def test_clickhouse_makes_the_same_checksum_of_what_it_was_sent(table: ArchiveTable, clickhouse: ClickHouse) -> None:
    rows = make_rows(table)
    piece = read_piece(table.name, as_text(rows), stream=True)

    async def scenario() -> None:
        await make_tables(clickhouse)
        await clickhouse.insert(table.name, piece.stream)
        there = await sums_there(clickhouse, table, BEGINNING, END)

        assert {day: sums.checksum for day, sums in there.items()} == {
            day: Decimal(checksum) for day, checksum in piece.checksums.items()
        }
        assert sum(sums.row_count for sums in there.values()) == piece.row_count == len(rows)

    run(scenario())


@each_table
def test_clickhouse_has_the_values_that_were_sent(table: ArchiveTable, clickhouse: ClickHouse) -> None:
    rows = make_rows(table)

    async def scenario() -> None:
        await make_tables(clickhouse)
        await clickhouse.insert(table.name, read_piece(table.name, as_text(rows), stream=True).stream)
        found = await clickhouse.fetch(f"SELECT * FROM {table.name}")

        assert sorted(repr([str(value) for value in row.values()]) for row in found) == sorted(
            repr([str(value) for value in row]) for row in rows
        )

    run(scenario())


@each_table
def test_rows_are_sent_in_the_order_clickhouse_keeps(table: ArchiveTable) -> None:
    rows = make_rows(table)
    stream = pa.ipc.open_stream(read_piece(table.name, as_text(rows), stream=True).stream)
    texts = [field.name for field in structs.fields(RECORDS[table.name]) if field.type is str]
    keys = [tuple(row[name] for name in (*texts, table.bucket)) for row in stream.read_all().to_pylist()]

    assert keys == sorted(keys)
    assert len(keys) == len(rows)


@each_table
def test_rows_cut_into_pieces_in_any_order_add_up_to_the_same(table: ArchiveTable) -> None:
    rows = make_rows(table)
    whole = checksums_of(table, rows)
    added: dict[datetime, int] = {}
    for row in reversed(rows):
        for day, checksum in checksums_of(table, [row]).items():
            added[day] = (added.get(day, 0) + checksum) % WORD

    assert added == whole
    assert len(whole) == 3


@each_table
def test_a_piece_of_many_blocks_is_read_and_sorted_as_one(table: ArchiveTable) -> None:
    """Each block of it is decoded with texts and NULLs of its own."""
    few = make_rows(table)
    ids = [field.name for field in structs.fields(RECORDS[table.name])].index(table.key)
    made = [(*few[n % len(few)][:ids], f"{n:08x}{IDS[0][8:]}", *few[n % len(few)][ids + 1 :]) for n in range(20_000)]
    rows = [made[n] for n in random.Random(1).sample(range(len(made)), len(made))]
    data = as_text(rows)
    assert len(data) > 2 * BLOCK_BYTES
    piece = read_piece(table.name, data, stream=True)
    added: dict[datetime, int] = {}
    for start in range(0, len(rows), 4_000):
        for day, checksum in checksums_of(table, rows[start : start + 4_000]).items():
            added[day] = (added.get(day, 0) + checksum) % WORD

    assert piece.row_count == len(rows)
    assert piece.checksums == added
    sent = [tuple(row.values()) for row in pa.ipc.open_stream(piece.stream).read_all().to_pylist()]
    place = [field.name for field in structs.fields(RECORDS[table.name])].index(table.bucket)
    assert sent == sorted(rows, key=lambda row: (row[1], row[ids], row[place]))


def test_numbers_are_read_without_pandas() -> None:
    """It would take half a second of every run, and nothing of it is used."""
    (table,) = [each for each in TABLES if each.name == "operator_performance"]
    command = [sys.executable, "-c", READ_PIECE, table.name]
    done = subprocess.run(command, input=as_text(make_rows(table)), capture_output=True, check=True, timeout=60)

    assert done.stdout == b"False\n"


@each_table
def test_a_change_of_any_value_changes_the_checksum_of_its_day_alone(table: ArchiveTable) -> None:
    rows = make_rows(table)
    whole = checksums_of(table, rows)
    for place, value in enumerate(rows[0]):
        if isinstance(value, datetime):
            changed: object = value + timedelta(seconds=1)
        elif isinstance(value, str):
            changed = "platforn" if value == "platform" else "ACCOUNU" if value == "ACCOUNT" else IDS[1]
        elif isinstance(value, Decimal):
            changed = value - Decimal("0.000001")
        else:
            assert isinstance(value, int)
            changed = value + (1 if value < 0 else -1)
        found = checksums_of(table, [(*rows[0][:place], changed, *rows[0][place + 1 :]), *rows[1:]])

        assert {day for day in whole if found[day] != whole[day]} == {FIRST}, place


@each_table
def test_values_that_change_places_change_the_checksum(table: ArchiveTable) -> None:
    first, second, *rest = make_rows(table)
    whole = checksums_of(table, [first, second, *rest])
    for place, (one, other) in enumerate(zip(first, second, strict=True)):
        swapped = [
            (*first[:place], other, *first[place + 1 :]),
            (*second[:place], one, *second[place + 1 :]),
            *rest,
        ]

        assert (checksums_of(table, swapped)[FIRST] != whole[FIRST]) == (one != other), place


def test_a_null_is_none_of_the_numbers() -> None:
    (table,) = [each for each in TABLES if each.name == "operator_performance"]
    place = [field.name for field in structs.fields(RECORDS[table.name])].index("latency_p95_ms")
    row = make_rows(table)[0]
    found = {
        checksums_of(table, [(*row[:place], value, *row[place + 1 :])])[FIRST]
        for value in (None, 0, -1, 2**31 - 1, -(2**31))
    }

    assert len(found) == 5


@pytest.mark.parametrize("bad", [b"NaN", b"1e40", b"1.0000001"])
def test_a_number_that_cannot_be_kept_exactly_is_refused(bad: bytes) -> None:
    (table,) = [each for each in TABLES if each.name == "account_usage_daily"]
    line = as_text(make_rows(table)[:1]).replace(b"999999999999.999999", bad)

    with pytest.raises(DifferenceFound, match="a row of account_usage_daily has a value that the archive cannot hold"):
        read_piece(table.name, line, stream=False)
