"""The archive's statements that name every column: made from schema.sql, so that a column is never forgotten.

In: the four roll-up tables. Out: for each table the ClickHouse table that mirrors it, the rows as ClickHouse reads
them, and the sums of each day in both engines. The checksum that ClickHouse makes is that of anlyt.columns.
"""

# ruff: noqa: S608 - the names are those of our own schema

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from anlyt.columns import NULL_WORD, SCATTER, multiplier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from generate import Column, Table

ARCHIVED: Final = ("metrics_hourly", "metrics_daily", "operator_performance", "account_usage_daily")

# What only ever grows is never negative; the others may be for a moment, by corrections, or for good, by credits.
GROWING: Final = frozenset(
    {
        "total_messages",
        "messages_sent",
        "latency_sum_ms",
        "latency_sample_count",
        "error_count",
        "total_segments",
    }
)
TYPES: Final[Mapping[str, str]] = {
    "TIMESTAMPTZ": "DateTime64(6, 'UTC')",
    "UUID": "UUID",
    "INTEGER": "Int32",
    "BIGINT": "Int64",
    "NUMERIC(18,6)": "Decimal(18, 6)",
    "TEXT": "String",
}


def write_statements(tables: Sequence[Table]) -> dict[str, str]:
    """Every generated file below src/anlyt/sql/archive, by its path."""
    writers: dict[str, Callable[[Table], str]] = {
        "create": write_create,
        "copy": write_copy,
        "sum": write_sum,
        "check": write_check,
        "list": write_list,
        "rows": write_rows,
    }
    return {
        f"src/anlyt/sql/archive/{verb}_{table.name}.sql": write(table)
        for table in tables
        if table.name in ARCHIVED
        for verb, write in writers.items()
    }


def write_create(table: Table) -> str:
    """CREATE TABLE in ClickHouse."""
    bucket = table.primary_key[0]
    columns = ",\n".join(f"    {column.name} {clickhouse_type(table, column)}" for column in table.columns)
    order = ", ".join([*table.primary_key[1:], bucket])
    return f"""\
-- The archive's {table.name}, column for column, or its staging table. What it has said to have is on disk.
-- Generated from schema.sql by make gen.
CREATE TABLE IF NOT EXISTS {{stored}} ON CLUSTER '{{cluster}}'
(
{columns}
)
ENGINE = MergeTree
PARTITION BY toYYYYMM({bucket})
ORDER BY ({order})
SETTINGS
    fsync_after_insert = 1,
    fsync_part_directory = 1,
    min_rows_to_fsync_after_merge = 1,
    min_compressed_bytes_to_fsync_after_merge = 1
"""


def clickhouse_type(table: Table, column: Column) -> str:
    """The type that loses nothing; the bucket is a DateTime, as the founding document has it, and named UTC."""
    if column.name == table.primary_key[0]:
        return "DateTime('UTC')"
    if column.name == "scope":
        return "LowCardinality(String)"
    if column.name in GROWING:
        return "UInt64"
    return f"Nullable({TYPES[column.type]})" if column.nullable else TYPES[column.type]


def write_copy(table: Table) -> str:
    """SELECT for PostgreSQL's COPY."""
    bucket = table.primary_key[0]
    return f"""\
-- Rows of {table.name}, column for column, for COPY as text.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
{_lines(column.name for column in table.columns)}
FROM anlyt.{table.name}
WHERE {bucket} >= $1
  AND {bucket} < $2
"""


def write_rows(table: Table) -> str:
    """Rows of PostgreSQL with the values ClickHouse answers with."""
    bucket = table.primary_key[0]
    shown = (f"{c.name}::TEXT AS {c.name}" if c.type == "UUID" else c.name for c in table.columns)
    return f"""\
-- Rows of {table.name}, to be held against those of the archive.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
{_lines(shown)}
FROM anlyt.{table.name}
WHERE {bucket} >= $1
  AND {bucket} < $2
"""


def write_sum(table: Table) -> str:
    """The sums of each day, by PostgreSQL."""
    bucket = table.primary_key[0]
    return f"""\
-- What the rows of each day of {table.name} add up to: how many, and every number. archive/check_{table.name}
-- says the same in ClickHouse.
-- $1 since TIMESTAMPTZ, $2 until TIMESTAMPTZ, exclusive
-- Generated from schema.sql by make gen.
SELECT
    date_bin('1 day', {bucket}, '2000-01-01 00:00:00+00') AS day,
    count(*) AS row_count,
    ARRAY[
{_lines((f"sum({column.name})" for column in summed(table)), 8)}
    ]::NUMERIC[] AS sums
FROM anlyt.{table.name}
WHERE {bucket} >= $1
  AND {bucket} < $2
GROUP BY day
"""


def summed(table: Table) -> list[Column]:
    """The columns that are numbers and never NULL."""
    return [column for column in table.columns if column.type in NUMBERS and not column.nullable]


NUMBERS: Final = frozenset({"BIGINT", "INTEGER", "NUMERIC(18,6)"})


def write_check(table: Table) -> str:
    """The sums and the checksum of each day, by ClickHouse."""
    bucket = table.primary_key[0]
    words = " +\n".join(f"    {_word(table, column)} * {multiplier(column.name)}" for column in table.columns)
    return f"""\
-- What the rows of each day in the archive's {table.name}, or in its staging table, add up to: as
-- archive/sum_{table.name} says it in PostgreSQL, and the checksum as anlyt.columns makes it.
-- {{since:UInt32}}, {{until:UInt32}} seconds since 1970, exclusive
-- Generated from schema.sql by make gen.
WITH
{words} AS mixed,
    bitXor(mixed, bitShiftRight(mixed, 32)) * {SCATTER} AS scattered
SELECT
    toUnixTimestamp(toStartOfDay({bucket})) AS day,
    count() AS row_count,
    [
{_lines((_clickhouse_sum(column) for column in summed(table)), 8)}
    ] AS sums,
    toString(sum(bitXor(scattered, bitShiftRight(scattered, 29)))) AS checksum
FROM {{table}}
WHERE {bucket} >= toDateTime({{since:UInt32}}, 'UTC')
  AND {bucket} < toDateTime({{until:UInt32}}, 'UTC')
GROUP BY day
"""


def write_list(table: Table) -> str:
    """Rows for readers, in the order of PostgreSQL's primary key."""
    bucket, *keys = table.primary_key
    ids = keys[-1]
    shown = (f"toString({column.name})" if column.type == "UUID" else column.name for column in table.columns)
    order = ", ".join([bucket, *(f"toString({key})" for key in keys)])
    after = ", ".join(["toDateTime({bucket:UInt32}, 'UTC')", *(f"{{after_{key}:String}}" for key in keys)])
    scope = "\n  AND scope IN {scopes:Array(String)}" if "scope" in keys else ""
    scopes = ", {scopes:Array(String)}" if scope else ""
    kind = "UUID" if table.columns[table_index(table, ids)].type == "UUID" else "String"
    return f"""\
-- The archive's {table.name} of a period that a Grant may see, behind a row, in the order of the key.
-- {{since:UInt32}}, {{until:UInt32}} seconds since 1970, exclusive
-- {{bucket:UInt32}}, {", ".join(f"{{after_{key}:String}}" for key in keys)}: the row before, or a key before the period
-- {{every:UInt8}} 1 for all ids, {{ids:Array({kind})}}{scopes}; {{rows:UInt64}} at most
-- Generated from schema.sql by make gen.
SELECT
{_lines(shown)}
FROM {{table}}
WHERE {bucket} >= toDateTime({{since:UInt32}}, 'UTC')
  AND {bucket} < toDateTime({{until:UInt32}}, 'UTC')
  AND ({order}) > ({after}){scope}
  AND ({{every:UInt8}} OR {ids} IN {{ids:Array({kind})}})
ORDER BY {order}
LIMIT {{rows:UInt64}}
"""


def table_index(table: Table, name: str) -> int:
    """The place of a column."""
    return next(place for place, column in enumerate(table.columns) if column.name == name)


def _clickhouse_sum(column: Column) -> str:
    wide = f"toDecimal128({column.name}, 6)" if column.type == "NUMERIC(18,6)" else f"toInt128({column.name})"
    return f"toString(sum({wide}))"


def _word(table: Table, column: Column) -> str:
    """A value as anlyt.columns makes a word of it."""
    name = column.name
    if name == table.primary_key[0]:
        return f"toUInt64(toUnixTimestamp({name}))"
    if column.type == "TIMESTAMPTZ":
        return f"toUInt64(toUnixTimestamp64Micro({name}))"
    if column.type == "NUMERIC(18,6)":
        return f"toUInt64(reinterpretAsInt64({name}))"
    if column.type in {"TEXT", "UUID"}:  # each id once, however many rows have it
        return f"reinterpretAsUInt64(substring(MD5(toLowCardinality(toString({name}))), 1, 8))"
    return f"ifNull(toUInt64({name}), {NULL_WORD})" if column.nullable else f"toUInt64({name})"


def _lines(parts: Iterable[str], indent: int = 4) -> str:
    return ",\n".join(" " * indent + part for part in parts)
