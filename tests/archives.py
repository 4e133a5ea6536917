"""An embedded archive for tests: a directory a module, a database a test; and whether it has what PostgreSQL has."""

# ruff: noqa: S608 - the names are those of our own tables

from __future__ import annotations

import os
import secrets
import signal
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from anlyt import chdb_owner
from anlyt.clickhouse import TABLES, ClickHouse
from support import run, server_directory, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncpg import Connection

DAY = timedelta(days=1)
BUCKETS = {table.name: table.bucket for table in TABLES}


def is_there(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stop(directory: Path) -> None:
    """End the owner of a directory, if there is one."""
    owner = chdb_owner.find(directory)
    if owner is not None:
        os.kill(owner.pid, signal.SIGTERM)
        run(wait_until(lambda: not is_there(owner.pid), what="the owner ends"))


@contextmanager
def archive_directory() -> Iterator[Path]:
    """A directory for an embedded archive, whose owner is gone at the end."""
    with server_directory() as path:
        yield path / "archive"
        stop(path / "archive")


def archive_in(directory: Path) -> ClickHouse:
    """An archive of the test's own: another database in the directory."""
    made = ClickHouse(f"chdb://{directory}")
    made.address = msgspec.structs.replace(made.address, database=f"t_{secrets.token_hex(6)}")
    return made


async def rows_here(conn: Connection, table: str, *, before: datetime | None = None) -> list[tuple[Any, ...]]:
    """Every row of a table of PostgreSQL whose day is over, in the order of its key."""
    until = before or datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = await conn.fetch(f"SELECT * FROM anlyt.{table} WHERE {BUCKETS[table]} < $1", until)
    return sorted((_plain(tuple(row.values())) for row in rows), key=repr)


async def rows_there(clickhouse: ClickHouse, table: str) -> list[tuple[Any, ...]]:
    """Every row of a table of the archive, in the order of its key."""
    rows = await clickhouse.fetch(f"SELECT * FROM {table}")
    return sorted((_plain(tuple(row.values())) for row in rows), key=repr)


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value if value is None or isinstance(value, int | str | datetime) else str(value) for value in row)


async def assert_same_rows(conn: Connection, clickhouse: ClickHouse) -> None:
    """The archive has exactly the rows of PostgreSQL, in every table."""
    for table in TABLES:
        assert await rows_there(clickhouse, table.name) == await rows_here(conn, table.name), table.name
