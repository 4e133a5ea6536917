"""The listener of the API: connections in, requests to the app; it stops when told to.

In: an ASGI app and an address. Out: answers, by uvicorn. Connections have limits: how many there are, how long the head
of a request may be and take to arrive, how long an idle one stays, how long a peer may take nothing of what it is sent.
A body's limits are web.py's. So nobody holds up others by being slow.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import TYPE_CHECKING, Final, cast

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from starlette.types import ASGIApp
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

CONNECTIONS_MAX: Final = 8_000  # most of them idle: live readers
OPEN_FILES_SPARE: Final = 256  # what a process opens besides connections
HEAD_BYTES_MAX: Final = 32_768  # of a request's line and headers while they arrive
HEAD_LIMIT_S: Final = 20.0  # for them to arrive
KEEP_ALIVE_S: Final = 30  # between two requests
SEND_LIMIT_MS: Final = 600_000  # for a peer to take what is sent; then the system ends the connection
BACKLOG_MAX: Final = 512
STOP_LIMIT_S: Final = 10

log = structlog.get_logger("anlyt.listener")


class _Connection(H11Protocol):
    """uvicorn's, closed when the head of a request does not arrive in time: it waits for one without end."""

    _closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """The first head is due."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """A head is due while there is no request to answer; idle connections are uvicorn's to close."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        cycle = cast("RequestResponseCycle | None", self.cycle)
        if cycle is not None and not cycle.response_complete:
            self._stop_watching()
        elif self._closing is None:
            self._closing = self.loop.call_later(HEAD_LIMIT_S, self.transport.abort)

    def _stop_watching(self) -> None:
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None


class _Server(uvicorn.Server):
    """uvicorn that tells when it is ready and leaves signals to the command line."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.ready.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the process's signal handlers alone."""
        yield


async def serve(
    app: ASGIApp, *, host: str, port: int, stop: asyncio.Event, on_ready: Callable[[str], None] | None = None
) -> None:
    """Answer requests until `stop` is set, then finish those at hand. `on_ready` gets the address, with the real port.

    Raises ConfigurationError when the address cannot be listened on.
    """
    _allow_open_files(CONNECTIONS_MAX + OPEN_FILES_SPARE)
    listener = _listen(host, port)
    url = _url_of(listener)
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=STOP_LIMIT_S,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        http=_Connection,
        ws="none",
    )
    server = _Server(config)
    with listener:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[listener]), name="http server")
            await server.ready.wait()
            log.info("api-listening", url=url)
            if on_ready is not None:
                on_ready(url)
            await stop.wait()
            server.should_exit = True
    log.info("api-stopped", url=url)


def _allow_open_files(number: int) -> None:
    """Raise this process's own limit as far as it may: each connection is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigurationError(
            f"ANLYT_HTTP_HOST is {host!r}, which is no address of ours: {error.strerror}"
        ) from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_LIMIT_MS)
        listener.bind(address)
        listener.listen(BACKLOG_MAX)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or set "
            "ANLYT_HTTP_HOST and ANLYT_HTTP_PORT (0 takes a free port)"
        ) from None
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
