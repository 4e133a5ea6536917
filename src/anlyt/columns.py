"""Rows of PostgreSQL as columns: read from what COPY writes, added up day by day, and written as ClickHouse reads them.

In: the text of a COPY of one archived table, in whole rows. Out: an Arrow stream of the same rows in ClickHouse's
order, and a checksum of a day, over every value of every row, which archive/check_<table> makes of what ClickHouse has:
days whose checksums and sums agree have the same rows. Pure, but for numpy and pyarrow, which only who has an archive
needs.
- A row is a 64-bit word: its values as words (text: the first half of its MD5), each times an odd number of its column,
  added and then scattered; a day is the sum of its rows. Everything is modulo 2^64. Two days that differ by accident
  agree with a chance of 1 in 2^64; against a forger it is no guard.
- What cannot be read exactly is an error, never rounded.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, structs

from anlyt import rows
from anlyt.errors import ConfigurationError, DifferenceFound

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDS: Final[Mapping[str, type[Struct]]] = {
    "metrics_hourly": rows.MetricsHourly,
    "metrics_daily": rows.MetricsDaily,
    "operator_performance": rows.OperatorPerformance,
    "account_usage_daily": rows.AccountUsageDaily,
}
WORD: Final = 2**64
NULL_WORD: Final = 2**63  # no INTEGER is that
SCATTER: Final = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: odd, and its bits are spread evenly
DAY_S: Final = 86_400
BLOCK_BYTES: Final = 2**20  # decoded at a time: as much as a core's own cache holds; a row has less, by its key
NULL: Final = "\\N"  # as COPY writes it
ESCAPED: Final = re.compile(r"\\(.)")  # in text, by COPY: a line's end never stands in a value
ESCAPES: Final[Mapping[str, str]] = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def multiplier(column: str) -> int:
    """What a column's words are multiplied with: odd, and another for each name."""
    return word(column) | 1


def word(text: str) -> int:
    """The first half of a text's MD5, least significant byte first."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[:8], "little")


class Piece(Struct, frozen=True):
    """Some rows."""

    row_count: int
    checksums: Mapping[datetime, int]  # of the rows of each day that are in this piece; they add up modulo WORD
    stream: bytes  # as ClickHouse reads `FORMAT ArrowStream`; empty when it was not wanted


class _Libraries(Struct, frozen=True):
    numpy: Any
    arrow: Any
    csv: Any


def load_libraries() -> None:
    """What takes a third of a second when the first rows are read. Raises ConfigurationError when it is not there."""
    _libraries()


@functools.cache
def _libraries() -> _Libraries:
    """Loaded when the first rows are read. Raises ConfigurationError when they are not installed."""
    try:
        return _Libraries(*map(importlib.import_module, ("numpy", "pyarrow", "pyarrow.csv")))
    except ImportError as error:
        raise ConfigurationError(
            f"ANLYT_ARCHIVE_URL is set, but {error.name} is not installed; pip install 'anlyt[archive]'"
        ) from None


def read_piece(table_name: str, data: bytes | bytearray, *, stream: bool) -> Piece:
    """Decode whole rows, as COPY writes text. Raises DifferenceFound when a value is none the archive can hold."""
    try:
        table = _decode(table_name, data)
    except ValueError as error:  # of pyarrow
        raise DifferenceFound(
            f"a row of {table_name} has a value that the archive cannot hold: {error}; the archive was left as it was"
        ) from None
    return Piece(table.num_rows, _add_up(table), _encode(_in_order(table)) if stream else b"")


def _decode(table_name: str, data: bytes | bytearray) -> Any:  # noqa: ANN401 - an Arrow table
    arrow, csv = _libraries().arrow, _libraries().csv
    types = _types(table_name)
    table = csv.read_csv(
        arrow.BufferReader(data),
        read_options=csv.ReadOptions(column_names=list(types), use_threads=False, block_size=BLOCK_BYTES),
        parse_options=csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=csv.ConvertOptions(column_types=types, strings_can_be_null=False, null_values=[NULL]),
    )
    table = table.unify_dictionaries().combine_chunks()
    for place, column in enumerate(table.columns):
        if _is_text(column):
            table = table.set_column(place, table.field(place), _plain(column.chunk(0)))
    return table


def _is_text(column: Any) -> bool:  # noqa: ANN401 - an Arrow array
    return bool(_libraries().arrow.types.is_dictionary(column.type))


def _plain(values: Any) -> Any:  # noqa: ANN401 - an Arrow array of texts
    """What COPY escaped, as it was; each text once, however many rows have it."""
    texts = values.dictionary.to_pylist()
    if not any("\\" in text for text in texts):
        return values
    plain = [ESCAPED.sub(lambda found: ESCAPES.get(found[1], found[1]), text) for text in texts]
    return _libraries().arrow.DictionaryArray.from_arrays(values.indices, plain)


@functools.cache
def _types(table_name: str) -> dict[str, Any]:
    """The Arrow type of each column; the first is the bucket, which is whole seconds in ClickHouse."""
    arrow = _libraries().arrow
    types = {
        datetime: arrow.timestamp("us", "UTC"),
        str: arrow.dictionary(arrow.int32(), arrow.string()),
        Decimal: arrow.decimal128(18, 6),
    }
    fields = structs.fields(RECORDS[table_name])
    return {field.name: types.get(field.type, arrow.int64()) for field in fields} | {
        fields[0].name: arrow.timestamp("s", "UTC")
    }


def _in_order(table: Any) -> Any:  # noqa: ANN401 - an Arrow table
    """The rows as ClickHouse sorts them: by texts, then by the bucket. Sorted by numbers, it costs half."""
    numpy, arrow = _libraries().numpy, _libraries().arrow
    texts = [_ranks(column.chunk(0)) for column in table.columns if _is_text(column)]
    order = numpy.lexsort((_words(table.column(0).chunk(0)), *reversed(texts)))  # the last is the first
    places = arrow.Array.from_buffers(arrow.int64(), len(order), [None, arrow.py_buffer(order)])
    return table.take(places).combine_chunks()


def _ranks(values: Any) -> Any:  # noqa: ANN401 - an Arrow array of texts, a numpy array
    """Each text's place among all of them."""
    numpy = _libraries().numpy
    texts = values.dictionary.to_pylist()
    ranks = numpy.empty(len(texts), numpy.int64)
    ranks[sorted(range(len(texts)), key=texts.__getitem__)] = numpy.arange(len(texts))
    return ranks[_numbers(values.indices, numpy.int32)]


def _encode(table: Any) -> bytes:  # noqa: ANN401 - an Arrow table
    """The rows as a stream, in memory that is as large as it needs to be from the beginning."""
    arrow = _libraries().arrow
    size = arrow.MockOutputStream()
    _write(table, size)
    buffer = arrow.allocate_buffer(size.size())
    _write(table, arrow.FixedSizeBufferWriter(buffer))
    return buffer.to_pybytes()


def _write(table: Any, sink: Any) -> None:  # noqa: ANN401 - an Arrow table, and an Arrow stream
    with _libraries().arrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


# ------------------------------------------------------------------------------------------------------------ checksum


def _add_up(table: Any) -> dict[datetime, int]:  # noqa: ANN401 - an Arrow table
    """The checksum of each day."""
    numpy = _libraries().numpy
    mixed = numpy.zeros(table.num_rows, numpy.uint64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        mixed += _words(column.chunk(0)) * numpy.uint64(multiplier(name))
    mixed ^= mixed >> numpy.uint64(32)
    mixed *= numpy.uint64(SCATTER)
    mixed ^= mixed >> numpy.uint64(29)
    days = _words(table.column(0).chunk(0)).view(numpy.int64) // DAY_S
    order = numpy.argsort(days, kind="stable")
    days = days[order]
    firsts = numpy.flatnonzero(numpy.diff(days, prepend=days[0] - 1))
    sums = numpy.add.reduceat(mixed[order], firsts)
    return {
        datetime.fromtimestamp(day * DAY_S, UTC): checksum
        for day, checksum in zip(days[firsts].tolist(), sums.tolist(), strict=True)
    }


def _words(values: Any) -> Any:  # noqa: ANN401 - an Arrow array, a numpy array
    """Each value as 64 bits, as ClickHouse's toUInt64 makes them of a number."""
    numpy, types = _libraries().numpy, _libraries().arrow.types
    assert not values.offset, "a part of an array"
    if types.is_dictionary(values.type):
        words = numpy.array([word(text) for text in values.dictionary.to_pylist()], numpy.uint64)
        return words[_numbers(values.indices, numpy.int32)]
    # 18 digits fit into the lower half of a decimal's 128 bits.
    found = _numbers(values, numpy.uint64, 2 if types.is_decimal(values.type) else 1)
    if values.null_count:
        known = numpy.unpackbits(numpy.frombuffer(values.buffers()[0], numpy.uint8), bitorder="little")[: len(values)]
        found = numpy.where(known, found, numpy.uint64(NULL_WORD))
    return found


def _numbers(values: Any, kind: Any, width: int = 1) -> Any:  # noqa: ANN401 - an Arrow array, a numpy type and array
    """The numbers of an array where they lie: pyarrow's own way there loads pandas, which takes half a second."""
    return _libraries().numpy.frombuffer(values.buffers()[1], kind, len(values) * width)[::width]
