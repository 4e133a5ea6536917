"""Rows as a Parquet file, made piece by piece, for who has pyarrow (the extra `parquet`).

In: rows of one record type, some at a time. Out: the bytes of one file, a row group at a time and in constant memory:
whole numbers as int64, money as decimal128(18, 6), instants as timestamps in UTC, names as in JSON, and in the metadata
what the file is true of. Without its end, which holds the directory of all row groups, nothing can read it: a file that
was cut off is never taken for a short one.
"""

from __future__ import annotations

import importlib
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, get_args

from msgspec import structs

from anlyt.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from msgspec import Struct

ROW_GROUP_ROWS: Final = 50_000
COMPRESSION: Final = "zstd"
MISSING: Final = (
    "format=parquet needs pyarrow, which is not installed here: pip install 'anlyt[parquet]'; "
    "csv and ndjson need nothing more"
)


class ParquetEncoder:
    """One file that is being made. Raises RequestError 501 when pyarrow is not installed."""

    def __init__(self, record: type[Struct], facts: Mapping[str, str]) -> None:
        try:
            self._arrow: Any = importlib.import_module("pyarrow")
            parquet: Any = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise RequestError(MISSING, status=501, code="not-installed", parameter="format") from None
        fields = structs.fields(record)
        self._names = [field.name for field in fields]
        columns = [self._arrow.field(field.encode_name, *self._type_of(field.type)) for field in fields]
        self._schema: Any = self._arrow.schema(columns, metadata=dict(facts))
        self._sink = _Sink()
        file = self._arrow.PythonFile(self._sink, mode="w")
        self._writer: Any = parquet.ParquetWriter(file, self._schema, compression=COMPRESSION)
        self._group: list[Any] = []

    def encode_head(self) -> bytes:
        """What stands before the rows."""
        return self._sink.take()

    def encode_rows(self, rows: Sequence[Struct]) -> bytes:
        """What of the file is done with these rows: a row group now and then, often nothing."""
        if not rows:
            return b""
        arrays = [
            self._arrow.array([getattr(row, name) for row in rows], field.type)
            for name, field in zip(self._names, self._schema, strict=True)
        ]
        self._group.append(self._arrow.record_batch(arrays, schema=self._schema))
        if sum(batch.num_rows for batch in self._group) >= ROW_GROUP_ROWS:
            self._write_group()
        return self._sink.take()

    def encode_end(self) -> bytes:
        """The last row group and the directory."""
        self._write_group()
        self._writer.close()
        return self._sink.take()

    def _write_group(self) -> None:
        if self._group:
            self._writer.write_table(self._arrow.Table.from_batches(self._group), row_group_size=ROW_GROUP_ROWS)
            self._group = []

    def _type_of(self, hint: Any) -> tuple[Any, bool]:  # noqa: ANN401 - any annotation
        """The Arrow type of a record's field, and whether it may be null."""
        kinds = {
            datetime: self._arrow.timestamp("us", tz="UTC"),
            Decimal: self._arrow.decimal128(18, 6),
            int: self._arrow.int64(),
            float: self._arrow.float64(),
            bool: self._arrow.bool_(),
            str: self._arrow.string(),
        }
        parts = set(get_args(hint)) or {hint}
        (kind,) = parts - {type(None)}
        return kinds[kind], type(None) in parts


class _Sink:
    """A file for pyarrow that keeps what was written until it is taken."""

    def __init__(self) -> None:
        self.closed = False
        self._waiting = bytearray()
        self._position = 0

    def write(self, data: Any) -> int:  # noqa: ANN401 - bytes or a buffer of pyarrow's
        piece = memoryview(data)
        self._waiting += piece
        self._position += piece.nbytes
        return piece.nbytes

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """Nothing lies anywhere else."""

    def close(self) -> None:
        self.closed = True

    def take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken
