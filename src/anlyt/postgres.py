"""PostgreSQL: SQL from files, connections with every timeout set, errors sorted into wait and crash, migrations.

In: a postgresql:// address (several hosts: the one that takes writes is used). Out: asyncpg connections whose sessions
are in UTC and cannot hang for ever. `unavailable()` turns whatever the world can do to a connection into
DatabaseUnavailable; an unknown outcome of a COMMIT is one of these, and the stream position tells how it ended (I4).
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import random
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Final, LiteralString, cast
from urllib.parse import urlsplit

import asyncpg
from msgspec import Struct

from anlyt.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from asyncpg import Connection, Pool, Record

CONNECT_TIMEOUT_S: Final = 5.0
IDLE_IN_TRANSACTION_S: Final = 60
KEEPALIVE_IDLE_S: Final = 10
CLIENT_CHECK_INTERVAL_S: Final = 5
MIGRATION_TIMEOUT_S: Final = 900
DDL_LOCK_TIMEOUT_S: Final = 1  # as in sql/jobs/limit_lock_wait.sql
DDL_TRIES_MAX: Final = 5
PARTITIONED_TABLES: Final = ("metrics_hourly", "operator_performance", "latency_histograms")

# What the world can do: the connection, the server's state, locks. Everything else is our mistake and crashes.
_UNAVAILABLE: Final = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.TransactionRollbackError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.PostgresSystemError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
)


@functools.cache
def sql(name: LiteralString) -> LiteralString:
    """The statement in sql/<name>.sql."""
    return cast("LiteralString", resources.files("anlyt").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8"))


@contextmanager
def unavailable(where: str = "PostgreSQL") -> Iterator[None]:
    """Turn what the world can do to a connection into DatabaseUnavailable."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise DatabaseUnavailable(f"{where} cannot be used now: {str(error) or type(error).__name__}") from error


async def connect(url: str, *, application: str, statement_timeout_s: float = 30) -> Connection[Record]:
    """One connection. Raises DatabaseUnavailable with host and port, never the password."""
    with unavailable(f"PostgreSQL at {_place(url)}"):
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings=_session(application, statement_timeout_s),
            target_session_attrs="read-write",
        )


async def open_pool(url: str, *, application: str, size_max: int, statement_timeout_s: float) -> Pool[Record]:
    """A pool of such connections, opened when they are first needed."""
    return await asyncpg.create_pool(
        url,
        min_size=0,
        max_size=size_max,
        timeout=CONNECT_TIMEOUT_S,
        server_settings=_session(application, statement_timeout_s),
    )


def _session(application: str, statement_timeout_s: float) -> dict[str, str]:
    return {
        "application_name": application,
        "TimeZone": "UTC",
        "statement_timeout": str(int(statement_timeout_s * 1000)),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_S * 1000),
        "tcp_keepalives_idle": str(KEEPALIVE_IDLE_S),
        "client_connection_check_interval": str(CLIENT_CHECK_INTERVAL_S * 1000),
    }


def _place(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "the local socket"
    except ValueError:
        return "an address that cannot be read"


# ---------------------------------------------------------------------------------------------------------- migrations


class Migration(Struct, frozen=True):
    """One file of sql/migrations."""

    name: str
    text: LiteralString
    sha256: str


def migrations() -> list[Migration]:
    """Every migration of this version, in order."""
    folder = resources.files("anlyt").joinpath("sql", "migrations")
    found: list[Migration] = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        text = cast("LiteralString", file.read_text(encoding="utf-8"))
        found.append(Migration(file.name.removesuffix(".sql"), text, hashlib.sha256(text.encode()).hexdigest()))
    return found


def migration_script() -> str:
    """All migrations as one text, for people who run SQL themselves; it records them as `migrate` does."""
    parts = [f"-- {m.name}\nBEGIN;\n{m.text.strip()}\n{_record(m)}\nCOMMIT;\n" for m in migrations()]
    return "\n".join(parts)


def _record(migration: Migration) -> str:
    template = sql("migrate/add_migration").splitlines()
    statement = " ".join(line for line in template if not line.startswith("--"))
    return statement.replace("$1", f"'{migration.name}'").replace("$2", f"'{migration.sha256}'") + ";"


async def pending_migrations(conn: Connection[Record]) -> list[Migration]:
    """What is still to be applied. Raises ConfigurationError when the database is newer than the code, or differs."""
    known = migrations()
    if not await conn.fetchval(sql("migrate/find_migrations")):
        return known
    applied = {row["name"]: row["sha256"] for row in await conn.fetch(sql("migrate/list_migrations"))}
    unknown = sorted(applied.keys() - {m.name for m in known})
    if unknown:
        raise ConfigurationError(
            f"the database has migration {unknown[-1]}, which this version does not know: upgrade anlyt"
        )
    for migration in known:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise ConfigurationError(f"migration {migration.name} was changed after it was applied; restore the file")
    return [m for m in known if m.name not in applied]


async def migrate(url: str) -> list[str]:
    """Bring the schema up to date, one migration a transaction, one runner at a time; the names of those applied."""
    conn = await connect(url, application="anlyt-migrate", statement_timeout_s=MIGRATION_TIMEOUT_S)
    try:
        with unavailable():
            await conn.execute(sql("migrate/lock_migrations"))
            pending = await pending_migrations(conn)
            for migration in pending:
                async with conn.transaction():
                    await conn.execute(migration.text)
                    await conn.execute(sql("migrate/add_migration"), migration.name, migration.sha256)
            return [m.name for m in pending]
    except asyncpg.InsufficientPrivilegeError as error:
        remedy = "connect as the owner of schema anlyt, with CREATE on the database and CREATEROLE"
        raise ConfigurationError(f"the schema cannot be changed: {error}; {remedy}") from None
    finally:
        conn.terminate()


async def ensure_partitions(conn: Connection[Record], months: Iterable[datetime]) -> int:
    """Make the monthly partitions that hold these moments, where they are missing; how many were made.

    Waits for locks at most DDL_LOCK_TIMEOUT_S at a time, so that writers never queue behind it, DDL_TRIES_MAX times.
    """
    firsts = sorted({moment.replace(day=1, hour=0, minute=0, second=0, microsecond=0) for moment in months})
    made = 0
    for parent in PARTITIONED_TABLES:
        for month in firsts:
            made += await _ensure_partition(conn, parent, month)
    return made


async def _ensure_partition(conn: Connection[Record], parent: str, month: datetime) -> bool:
    for tries in range(1, DDL_TRIES_MAX + 1):
        try:
            async with conn.transaction():
                await conn.execute(sql("jobs/limit_lock_wait"))
                return bool(await conn.fetchval(sql("jobs/ensure_partition"), parent, month))
        except asyncpg.LockNotAvailableError:
            if tries == DDL_TRIES_MAX:
                raise
            await asyncio.sleep(random.random() * DDL_LOCK_TIMEOUT_S)  # noqa: S311 - jitter
    raise AssertionError("the loop returns or raises")
