"""Rows as files: CSV, NDJSON and Parquet, written piece by piece while they are read.

In: a checked Query and rows of reports.stream_rows. Out: bytes, with the JSON's names and values, and for the command
line a file with its row count and SHA-256. A file is whole or not there: it gets its name when the last row is written.
CSV text that a spreadsheet would run (= + - @ first) is defused with a quote mark, in text columns only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import sys
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime, timedelta
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, assert_never

import msgspec
from msgspec import Struct

from anlyt import reports
from anlyt.access import make_grant
from anlyt.errors import AnlytError, RequestError, UsageError
from anlyt.parquet import ParquetEncoder
from anlyt.postgres import session
from anlyt.queries import ReportName, read_query
from anlyt.terminal import nobody

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from pathlib import Path

    from anlyt.clickhouse import ClickHouse
    from anlyt.queries import Query
    from anlyt.settings import Settings
    from anlyt.terminal import Advance

MEDIA_TYPES: Final = {
    "csv": "text/csv; charset=utf-8; header=present",
    "ndjson": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
TEXT_COLUMNS: Final = frozenset({"scope", "scopeId", "operatorId", "accountId"})
DEFUSED: Final = ("=", "+", "-", "@", "\t", "\r")
EXPORT_STATEMENT_TIMEOUT_S: Final = 300.0  # of the command, for one fetch


class Exported(Struct, frozen=True):
    """What a file holds."""

    rows: int
    sha256: str


# -------------------------------------------------------------------------------------------------------------- pieces


def headers(query: Query, fresh: reports.Freshness) -> dict[str, str]:
    """The headers of an answer that is a file; how fresh its rows are stands there, as `meta` stands in JSON."""
    start, end = (moment.strftime("%Y%m%dT%H%M%SZ") for moment in (query.start, query.end))
    through = {} if fresh.complete_through is None else {"anlyt-complete-through": _iso(fresh.complete_through)}
    return {
        "content-type": MEDIA_TYPES[query.format],
        "content-disposition": f'attachment; filename="anlyt-{query.name}-{start}-{end}.{query.format}"',
        "anlyt-as-of": _iso(fresh.as_of),
        **through,
    }


class Encoder(Protocol):
    """A file that is being made: what to write before, for and behind its rows."""

    def encode_head(self) -> bytes: ...  # noqa: D102 - as the class says
    def encode_rows(self, rows: Sequence[Struct]) -> bytes: ...  # noqa: D102 - the same
    def encode_end(self) -> bytes: ...  # noqa: D102 - the same


def open_encoder(query: Query, fresh: reports.Freshness, *, currency: str) -> Encoder:
    """What makes a file of the format that was asked for. Raises RequestError 501 when that cannot be made here."""
    record = reports.ROWS[query.name]
    match query.format:
        case "csv":
            return CsvEncoder(record)
        case "ndjson":
            return NdjsonEncoder()
        case "parquet":
            return ParquetEncoder(record, _facts(query, fresh, currency))
        case "json":
            raise AssertionError("a page is no file")
        case _:
            assert_never(query.format)


class NdjsonEncoder:
    """A JSON object and a line end for each row."""

    def encode_head(self) -> bytes:
        """Nothing."""
        return b""

    def encode_rows(self, rows: Sequence[Struct]) -> bytes:
        """Rows, each with its line end."""
        return b"".join(msgspec.json.encode(row) + b"\n" for row in rows)

    def encode_end(self) -> bytes:
        """Nothing."""
        return b""


class CsvEncoder:
    """RFC 4180, with the columns' names."""

    def __init__(self, record: type[Struct]) -> None:
        self._names = record.__struct_encode_fields__

    def encode_head(self) -> bytes:
        """The columns' names."""
        return _csv([self._names])

    def encode_rows(self, rows: Sequence[Struct]) -> bytes:
        """Rows, each with its line end."""
        return _csv([_cells(msgspec.to_builtins(row)) for row in rows])

    def encode_end(self) -> bytes:
        """Nothing."""
        return b""


def _facts(query: Query, fresh: reports.Freshness, currency: str) -> dict[str, str]:
    """What a file that has room for it says about itself."""
    through = {} if fresh.complete_through is None else {"anlyt.completeThrough": _iso(fresh.complete_through)}
    return {
        "anlyt.table": query.name,
        "anlyt.from": _iso(query.start),
        "anlyt.to": _iso(query.end),
        "anlyt.asOf": _iso(fresh.as_of),
        "anlyt.currency": currency,
        **through,
    }


def _cells(row: Mapping[str, Any]) -> list[object]:
    return [_cell(name, value) for name, value in row.items()]


def _cell(name: str, value: object) -> object:
    if name in TEXT_COLUMNS and isinstance(value, str) and value.startswith(DEFUSED):
        return f"'{value}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return value  # None becomes an empty cell


def _csv(lines: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# --------------------------------------------------------------------------------------------------------------- files


async def export(
    settings: Settings,
    name: ReportName,
    pairs: list[tuple[str, str]],
    output: Path | None,
    *,
    clickhouse: ClickHouse | None = None,
    advance: Advance = nobody,
) -> Exported:
    """Write a table's rows to a file, or to stdout (None). Raises UsageError for what cannot be asked or written.

    `advance` hears how many rows that is so far, and how many it may become.
    """
    assert settings.database_url is not None
    grant = make_grant("PLATFORM", [], ["metrics:read"])
    digest, count = hashlib.sha256(), 0
    try:
        query = read_query(name, pairs, grant=grant, now=datetime.now(UTC))
    except RequestError as error:
        raise UsageError(str(error)) from None
    with _writable(output) as file:
        async with (
            session(
                settings.database_url.get_secret_value(),
                application="anlyt-export",
                statement_timeout_s=EXPORT_STATEMENT_TIMEOUT_S,
            ) as conn,
            aclosing(reports.stream_rows(conn, grant, query, settings=settings, clickhouse=clickhouse)) as stream,
        ):
            fresh, _ = await anext(stream)
            encoder = _open_or_refuse(query, fresh, settings.currency)
            first: datetime | None = None
            digest.update(_written(file, encoder.encode_head()))
            async for _, rows in stream:
                digest.update(_written(file, encoder.encode_rows(rows)))
                count += len(rows)
                if rows:
                    first = first or _bucket(query, rows[0])
                    end = min(query.end, fresh.as_of)
                    behind = _bucket(query, rows[-1]) + query.report.bucket - first
                    advance(count, max(count, round(count * (end - first) / behind)))  # if they are as dense
            digest.update(_written(file, encoder.encode_end()))
    return Exported(count, digest.hexdigest())


def _bucket(query: Query, row: Struct) -> datetime:
    """The hour or day of a row; rows come in their order."""
    return getattr(row, "day_bucket" if query.report.bucket >= timedelta(days=1) else "hour_bucket")


def _open_or_refuse(query: Query, fresh: reports.Freshness, currency: str) -> Encoder:
    try:
        return open_encoder(query, fresh, currency=currency)
    except RequestError as error:
        raise UsageError(str(error)) from None


def _written(file: IO[bytes], piece: bytes) -> bytes:
    """The piece, when the file has it."""
    try:
        file.write(piece)
    except OSError as error:  # told here, because around this an OSError is one of PostgreSQL's
        raise AnlytError(f"the export could not be written to its end: {error.strerror}") from None
    return piece


@contextmanager
def _writable(output: Path | None) -> Generator[IO[bytes]]:
    """A file that gets its name at the end; nothing is left of it after an error."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    part = output.with_name(output.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
