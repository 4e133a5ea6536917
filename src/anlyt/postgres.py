"""PostgreSQL: sessions, statements from files, the fate of its errors, migrations, partitions.

In: an address. Out: sessions in UTC with a limit on every wait, and errors sorted in two: DatabaseUnavailable when the
world is to blame (wait and do it again), everything else as it came (our mistake or bad data). Statements live in
sql/<stage>/<verb_object>.sql and nowhere else. The schema moves forward only, a migration and its record together.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import ssl
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, LiteralString, cast
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute
from msgspec import Struct

from anlyt.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Iterable
    from datetime import datetime

    from asyncpg import Connection, Pool, Record
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]

CONNECT_TIMEOUT_S: Final = 5.0  # for each host of the address
STATEMENT_TIMEOUT_S: Final = 30.0
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 60.0
MIGRATION_TIMEOUT_S: Final = 15 * 60.0  # for one statement of a migration, and for waiting until another has migrated
LOCK_TIMEOUT_S: Final = 1.0  # for DDL: what waits longer for a lock makes every writer wait behind it
PARTITION_ATTEMPTS_MAX: Final = 5
PARTITION_RETRY_S: Final = 0.5
PARTITIONED_TABLES: Final = ("metrics_hourly", "operator_performance", "latency_histograms")
MIGRATION_LOCK: Final = 0x616E_6C79_7401  # advisory lock: whoever holds it migrates
ERROR_CHARS_MAX: Final = 500

# The server notices a client that is gone, and ends its transactions, within about 30 s.
_SESSION: Final = {
    "TimeZone": "UTC",
    "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_TIMEOUT_S:.0f}s",
    "client_connection_check_interval": "5s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "25s",  # the same for answers that nobody takes: keepalives pause while there are such
}

# Errors that say: not now, or not this server. Doing the same again later may work.
_UNAVAILABLE: Final = (
    OSError,  # refused, reset, unreachable, TLS; TimeoutError is one of them
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.InsufficientResourcesError,  # class 53: disk, memory, connections
    asyncpg.OperatorInterventionError,  # class 57: shut down, starting up, cancelled by a time limit
    asyncpg.PostgresSystemError,  # class 58: the server cannot read or write its disk
    asyncpg.ReadOnlySQLTransactionError,  # 25006: no longer the primary
    asyncpg.IdleInTransactionSessionTimeoutError,  # 25P03
    asyncpg.TransactionTimeoutError,  # 25P04
    asyncpg.SerializationError,  # 40001
    asyncpg.DeadlockDetectedError,  # 40P01
    asyncpg.LockNotAvailableError,  # 55P03
    asyncpg.InternalClientError,  # no host takes writes; or the server said goodbye to a connection that was not asking
)
# While connecting, a wrong password or database name too: the address leads to somebody else's server, or none yet.
_UNREACHABLE: Final = (
    *_UNAVAILABLE,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # 55000: the database takes nobody at the moment
    asyncpg.InterfaceError,
)
_NO_ADDRESS: Final = (
    "ANLYT_DATABASE_URL is not an address like postgresql://user:password@host:5432/database; in the password, "
    "characters like / @ : # ? % are written percent-encoded (/ as %2F)"
)


# ---------------------------------------------------------------------------------------------------------- statements


@functools.cache
def sql(name: str) -> LiteralString:
    """The statement in sql/<name>.sql."""
    text = resources.files("anlyt").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    return cast("LiteralString", text)


# ------------------------------------------------------------------------------------------------------------ sessions


async def connect(
    url: str, *, application: str, statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> Connection[Record]:
    """A session with the first host of `url` that takes writes.

    Raises DatabaseUnavailable, naming the hosts and never the password, and ConfigurationError for what is no address.
    """
    hosts = _split_hosts(url)
    causes: list[str] = []
    for host, address in hosts.items():
        try:
            return await _connect_host(address, application=application, statement_timeout_s=statement_timeout_s)
        except asyncpg.exceptions.ClientConfigurationError as error:
            raise ConfigurationError(f"ANLYT_DATABASE_URL is not an address anlyt can use: {error}") from None
        except ssl.SSLError as error:  # of which some are ValueErrors
            causes.append(f"{host}: {_describe(error)}")
        except ValueError:  # the driver's words may hold a part of the password
            raise ConfigurationError(_NO_ADDRESS) from None
        except _UNREACHABLE as error:
            causes.append(f"{host}: {_describe(error)}")
    raise DatabaseUnavailable(
        f"PostgreSQL cannot be reached at {'; '.join(causes)}; check ANLYT_DATABASE_URL and that the server is running"
    )


@asynccontextmanager
async def session(
    url: str, *, application: str, statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> AsyncGenerator[Connection[Record]]:
    """A session for the length of a with block, ended at its end; errors inside as `unavailable` sorts them."""
    conn = await connect(url, application=application, statement_timeout_s=statement_timeout_s)
    try:
        with unavailable():
            yield conn
    finally:
        conn.terminate()


async def open_pool(
    url: str, *, application: str, size_max: int, statement_timeout_s: float = STATEMENT_TIMEOUT_S
) -> Pool[Record]:
    """Sessions as `connect` makes them, up to `size_max`; one is opened now, so that a wrong address shows at once.

    A session is given back as it was: whoever borrows one sets and locks what ends with its transactions, and a
    transaction that is still open is rolled back. So nothing is sent to reset it, which would cost every answer a trip.
    """

    async def connect_again(*_: object, **__: object) -> Connection[Record]:
        return await connect(url, application=application, statement_timeout_s=statement_timeout_s)

    async def keep(_: object) -> None:
        pass

    return await asyncpg.create_pool(
        url, min_size=1, max_size=size_max, connect=cast("Any", connect_again), reset=cast("Any", keep)
    )


@contextmanager
def unavailable() -> Generator[None]:
    """Turn errors of the world into DatabaseUnavailable; errors of ours and of the data pass as they are."""
    try:
        yield
    except _UNAVAILABLE as error:
        raise DatabaseUnavailable(f"PostgreSQL gave up: {_describe(error)}") from error
    except asyncpg.InterfaceError as error:
        # asyncpg has one class for its misuse and for a connection that is gone; only the words differ.
        if type(error) is asyncpg.InterfaceError and ("closed" in str(error) or "closing" in str(error)):
            raise DatabaseUnavailable(f"PostgreSQL cannot be asked: {_describe(error)}") from error
        raise


async def _connect_host(address: str, *, application: str, statement_timeout_s: float) -> Connection[Record]:
    limits = {"application_name": application, "statement_timeout": f"{statement_timeout_s * 1000:.0f}ms"}
    return await asyncpg.connect(
        address,
        timeout=CONNECT_TIMEOUT_S,
        target_session_attrs=SessionAttribute.read_write,
        server_settings=_SESSION | limits,
    )


def _split_hosts(url: str) -> dict[str, str]:
    """An address for each host of `url`, so that one that never answers does not use up the time of the others."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(_NO_ADDRESS) from None
    if parts.scheme not in {"postgres", "postgresql"} or "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise ConfigurationError(_NO_ADDRESS)
    credentials, at, hosts = parts.netloc.rpartition("@")
    return {
        host or "the default host": parts._replace(netloc=f"{credentials}{at}{host}").geturl()
        for host in hosts.split(",")
    }


def _describe(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:ERROR_CHARS_MAX].replace("\n", " ")


# ---------------------------------------------------------------------------------------------------------- migrations


class Migration(Struct, frozen=True):
    """One file of sql/migrations."""

    name: str
    text: LiteralString
    sha256: str


async def migrate(url: str) -> list[str]:
    """Bring the schema up to date; the names of the migrations that were missing. Safe to run side by side.

    1. wait for the lock  2. refuse a database this version does not know  3. each missing migration and its record in
    one transaction. Raises ConfigurationError, DatabaseUnavailable.
    """
    migrations = read_migrations()
    async with session(url, application="anlyt-migrate", statement_timeout_s=MIGRATION_TIMEOUT_S) as conn:
        await conn.execute(sql("migrate/take_lock"), MIGRATION_LOCK)
        applied = await _read_applied(conn)
        check_applied(applied, migrations)
        missing = [migration for migration in migrations if migration.name not in applied]
        for migration in missing:
            await _apply(conn, migration)
    return [migration.name for migration in missing]


async def pending_migrations(conn: AnyConnection) -> list[str]:
    """Names of the migrations the database has not seen yet."""
    applied = await _read_applied(conn)
    return [migration.name for migration in read_migrations() if migration.name not in applied]


def migration_script() -> str:
    """All migrations as one script for psql, each with its record in a transaction of its own."""
    return "\n".join(
        sql("migrate/script").format(name=each.name, migration=each.text, sha256=each.sha256)
        for each in read_migrations()
    )


@functools.cache
def read_migrations() -> tuple[Migration, ...]:
    """The migrations of this version, in order."""
    folder = resources.files("anlyt").joinpath("sql", "migrations")
    names = sorted(file.name.removesuffix(".sql") for file in folder.iterdir() if file.name.endswith(".sql"))
    return tuple(_read_migration(name) for name in names)


def check_applied(applied: dict[str, str], migrations: Iterable[Migration]) -> None:
    """Refuse a database that was migrated by a newer version, or by other files of the same name."""
    known = {migration.name: migration for migration in migrations}
    for name, sha256 in applied.items():
        if name not in known:
            raise ConfigurationError(
                f"the database has migration {name}, which this version does not know: it was migrated by a newer "
                "anlyt; start that version, or restore a backup from before"
            )
        if known[name].sha256 != sha256:
            raise ConfigurationError(
                f"migration {name} is not the one that was applied to the database (sha256 {sha256[:12]} there, "
                f"{known[name].sha256[:12]} here); install the released anlyt, an applied migration never changes"
            )


def _read_migration(name: str) -> Migration:
    text = sql(f"migrations/{name}")
    return Migration(name, text, hashlib.sha256(text.encode()).hexdigest())


async def _read_applied(conn: AnyConnection) -> dict[str, str]:
    if not await conn.fetchval(sql("migrate/find_migrations")):
        return {}
    return {row["name"]: row["sha256"] for row in await conn.fetch(sql("migrate/list_migrations"))}


async def _apply(conn: Connection[Record], migration: Migration) -> None:
    try:
        async with conn.transaction():
            await conn.execute(migration.text)
            await conn.execute(sql("migrate/add_migration"), migration.name, migration.sha256)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"migration {migration.name} was refused: {error}; the role of ANLYT_DATABASE_URL must own the database "
            "and be allowed to create roles, or an administrator makes them first: CREATE ROLE anlyt_reader NOLOGIN, "
            "CREATE ROLE anlyt_staff NOLOGIN, CREATE ROLE anlyt_tenant NOLOGIN, GRANT anlyt_staff, anlyt_tenant TO it"
        ) from None


# ---------------------------------------------------------------------------------------------------------- partitions


async def ensure_partitions(conn: AnyConnection, months: Iterable[datetime]) -> int:
    """Make the monthly partitions that hold the moments `months`; how many were missing.

    No writer is held up: what cannot be locked within LOCK_TIMEOUT_S is tried again, PARTITION_ATTEMPTS_MAX times in
    all, then LockNotAvailableError is raised.
    """
    moments = sorted(set(months))
    for attempt in range(1, PARTITION_ATTEMPTS_MAX + 1):
        try:
            async with conn.transaction():
                await conn.execute(sql("partitions/limit_lock_waits"), f"{LOCK_TIMEOUT_S * 1000:.0f}ms")
                made: int = await conn.fetchval(sql("partitions/ensure_partitions"), PARTITIONED_TABLES, moments)
        except asyncpg.LockNotAvailableError:
            if attempt == PARTITION_ATTEMPTS_MAX:
                raise
            await asyncio.sleep(PARTITION_RETRY_S * attempt)
        else:
            return made
    raise AssertionError("the last attempt returns or raises")
