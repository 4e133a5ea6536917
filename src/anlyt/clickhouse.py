"""ClickHouse: one client for a server, a cluster and the embedded archive, statements from files, the fate of errors.

In: ANLYT_ARCHIVE_URL. Out: rows, counts, and one error for everything the world can do: ArchiveUnavailable. Nothing is
connected before the first statement, so an archive that is down holds up nobody who does not need it. Values are always
bound (`{name:Type}`). Names cannot be bound everywhere in ClickHouse: `{table}`, `{stored}`, `{key}` and `{bucket}` in
a statement are filled in from the closed set TABLES, `{cluster}` from a checked setting, and without a cluster the
`ON CLUSTER` clauses and `Replicated` engines are not there.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec import Struct

from anlyt import chdb_owner
from anlyt.errors import ArchiveUnavailable, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
    from datetime import datetime

    from clickhouse_connect.driver.client import Client
    from clickhouse_connect.driver.common import StreamContext

CONNECT_TIMEOUT_S: Final = 3.0
READ_TIMEOUT_S: Final = 20.0  # for a statement that somebody waits for
WORK_TIMEOUT_S: Final = 600.0  # for one that copies a month
DATABASE: Final = "anlyt"  # when the address names none
THREADS_MAX: Final = 8  # statements at the same time, of one process; more wait
PORT: Final = 8123
SECURE_PORT: Final = 8443
LOCAL_SUFFIX: Final = "_local"  # of the tables that store, on a cluster
ERROR_CHARS_MAX: Final = 500

_UNKNOWN_TABLE: Final = 60
_UNKNOWN_DATABASE: Final = 81

Result = TypeVar("Result")


class Address(Struct, frozen=True):
    """Where an archive is. `directory`: of the embedded one, whose owner knows port and password."""

    host: str
    port: int
    user: str
    password: str
    database: str
    secure: bool
    directory: Path | None = None

    @property
    def shown(self) -> str:
        """For people, without the password."""
        return str(self.directory) if self.directory is not None else f"{self.host}:{self.port}"


def read_address(url: str) -> Address:
    """An address from ANLYT_ARCHIVE_URL, whose form settings.py has checked."""
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return Address("127.0.0.1", 0, chdb_owner.USER, "", DATABASE, secure=False, directory=Path(unquote(parts.path)))
    secure = parts.scheme == "clickhouses"
    return Address(
        host=parts.hostname or "localhost",
        port=parts.port or (SECURE_PORT if secure else PORT),
        user=unquote(parts.username or "default"),
        password=unquote(parts.password or ""),
        database=parts.path.removeprefix("/") or DATABASE,
        secure=secure,
    )


class ArchiveTable(Struct, frozen=True):
    """A table of the archive, and what is particular about its statements."""

    name: str
    bucket: str  # the column that says when
    key: str  # the column that spreads rows over a cluster


TABLES: Final = (
    ArchiveTable("metrics_hourly", "hour_bucket", "scope_id"),
    ArchiveTable("metrics_daily", "day_bucket", "scope_id"),
    ArchiveTable("operator_performance", "hour_bucket", "operator_id"),
    ArchiveTable("account_usage_daily", "day_bucket", "account_id"),
)


@functools.cache
def statement(name: str, table: ArchiveTable | None, *, staging: bool = False, cluster: str = "") -> str:
    """The statement in sql/<name>.sql, with the names of a table, or of its staging table, filled in."""
    text = resources.files("anlyt").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    if table is not None:
        target = f"{table.name}_staging"
        suffix = LOCAL_SUFFIX if cluster else ""
        shown, other = (target, table.name) if staging else (table.name, target)
        names = {"table": shown, "stored": shown + suffix, "other": other, "other_stored": other + suffix}
        names |= {"key": table.key, "bucket": table.bucket}
        for placeholder, value in names.items():
            text = text.replace(f"{{{placeholder}}}", value)
    if not cluster:
        return text.replace(" ON CLUSTER '{cluster}'", "")
    return text.replace("{cluster}", cluster).replace("ENGINE = MergeTree", "ENGINE = ReplicatedMergeTree")


class ClickHouse:
    """An archive, connected when it is first needed; its methods may be used by many tasks at the same time.

    `patience_s`: how long the archive may say nothing.
    """

    def __init__(self, url: str, *, cluster: str = "", patience_s: float = WORK_TIMEOUT_S) -> None:
        self._patience_s = patience_s
        self.address = read_address(url)
        self.cluster = cluster
        self._client: Client | None = None
        self.counted_s: dict[tuple[str, datetime], float] = {}  # when the rows before a border were last counted
        self._opening = threading.Lock()
        # Threads of its own: an archive that hangs keeps nobody waiting but those who asked it.
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="clickhouse")

    async def fetch(
        self, text: str, parameters: Mapping[str, Any] | None = None, *, timeout_s: float = READ_TIMEOUT_S
    ) -> list[dict[str, Any]]:
        """The rows of a statement, each as a mapping. Raises ArchiveUnavailable."""

        def work(client: Client) -> list[dict[str, Any]]:
            settings = {"max_execution_time": round(timeout_s)}
            answer = client.query(text, parameters=dict(parameters or {}), settings=settings, tz_mode="aware")
            return list(cast("Iterable[dict[str, Any]]", answer.named_results()))

        return await self._asked(work)

    async def fetch_rows(self, text: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """The rows of a statement. Raises ArchiveUnavailable."""

        def work(client: Client) -> list[tuple[Any, ...]]:
            settings = {"max_execution_time": round(READ_TIMEOUT_S)}
            answer = client.query(text, parameters=dict(parameters), settings=settings, tz_mode="aware")
            return [tuple(row) for row in answer.result_rows]

        return await self._asked(work)

    async def stream_rows(self, text: str, parameters: Mapping[str, Any]) -> AsyncGenerator[list[tuple[Any, ...]]]:
        """The rows of a statement, block by block as they are taken. Raises ArchiveUnavailable."""

        def begin(client: Client) -> StreamContext:
            return client.query_row_block_stream(text, parameters=dict(parameters), tz_mode="aware")

        def take() -> list[tuple[Any, ...]] | None:
            block = cast("Iterable[Iterable[Any]] | None", next(blocks, None))
            return None if block is None else [tuple(row) for row in block]

        stream: Any = await self._asked(begin)
        blocks = iter(stream.__enter__())
        try:
            while (rows := await self._asked(lambda _: take(), again=False)) is not None:
                yield rows
        finally:
            await self._in_thread(stream.__exit__, None, None, None)

    async def execute(
        self, text: str, parameters: Mapping[str, Any] | None = None, *, in_database: bool = True
    ) -> None:
        """Run a statement that answers nothing. Raises ArchiveUnavailable."""
        await self._asked(
            lambda client: client.command(text, parameters=dict(parameters or {}), use_database=in_database)
        )

    async def insert(self, table: str, stream: bytes) -> None:
        """Add rows of all columns, as an Arrow stream."""
        settings = {"insert_distributed_sync": 1} if self.cluster else {}
        await self._asked(
            lambda client: client.raw_insert(table, None, stream, settings=settings, fmt="ArrowStream"),
            again=False,  # some of the rows may be there already
        )

    async def close(self) -> None:
        """Let go of the connections."""
        client, self._client = self._client, None
        if client is not None:
            await self._in_thread(_close, client)
        self._threads.shutdown(wait=False)

    async def _asked(self, work: Callable[[Client], Result], *, again: bool = True) -> Result:
        return await self._in_thread(functools.partial(self._work, work, again=again))

    async def _in_thread(self, function: Callable[..., Result], *values: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *values)

    def _work(self, work: Callable[[Client], Result], *, again: bool) -> Result:
        """Do something with the client; once more with a new one when the embedded owner has gone meanwhile."""
        driver = _driver()
        try:
            return work(self._connected())
        except (driver.Error, OSError) as error:
            if getattr(error, "code", None) is not None:  # ClickHouse itself says no
                raise self._unavailable(error) from error
            self._client = None
            if not again or self.address.directory is None:
                raise self._unavailable(error) from error
        return self._work(work, again=False)

    def _connected(self) -> Client:
        with self._opening:
            if self._client is None:
                self._client = self._open()
            return self._client

    def _open(self) -> Client:
        import clickhouse_connect  # a third of a second, and only for who has an archive

        address = self.address
        if address.directory is not None:
            owner = chdb_owner.find_or_start(address.directory)
            address = msgspec.structs.replace(address, port=owner.port, password=owner.password)
        client = clickhouse_connect.get_client(
            interface="https" if address.secure else "http",
            host=address.host,
            port=address.port,
            username=address.user,
            password=address.password,
            compress=address.directory is None,  # nothing is won by packing for a process beside us
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=self._patience_s,
            query_retries=0,
            client_name="anlyt",
            autogenerate_session_id=False,  # a session allows one statement at a time
            dedicated_pool=True,
            form_encode_query_params=False,
        )
        client.database = address.database
        return client

    def _unavailable(self, error: Exception) -> ArchiveUnavailable:
        code = getattr(error, "code", None)
        if code in {_UNKNOWN_TABLE, _UNKNOWN_DATABASE}:
            return ArchiveUnavailable(
                f"the archive {self.address.shown} has no tables of anlyt yet; make them: anlyt jobs run archive"
            )
        words = " ".join(str(error if code is not None else _root_of(error)).split())[:ERROR_CHARS_MAX]
        return ArchiveUnavailable(
            f"the archive {self.address.shown} cannot be asked: {words}; check ANLYT_ARCHIVE_URL and that it runs"
        )


def _driver() -> Any:  # noqa: ANN401 - a module
    """The client's exceptions. Raises ConfigurationError when the client is not installed."""
    try:
        from clickhouse_connect.driver import exceptions
    except ImportError:
        raise ConfigurationError(
            "ANLYT_ARCHIVE_URL is set, but ClickHouse's client is not installed; pip install 'anlyt[archive]'"
        ) from None
    return exceptions


def _root_of(error: BaseException) -> BaseException:
    """What a chain of errors began with: the words above it are the client's, about its own insides."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _close(client: Client) -> None:
    with suppress(OSError):
        client.close()
