"""A TCP proxy that breaks connections: cuts, half-closes, holds, swallows, delays, and cuts PostgreSQL's at COMMIT.

A lost commit has two forms: it never arrives, or its answer never does. Both look the same to the client.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from support import pause

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

COMMIT: Final = b"COMMIT;\x00"  # the end of a simple query, as the driver sends it
CHUNK_BYTES: Final = 65_536


class Fault(Enum):
    """What happens to a connection at its next COMMIT."""

    CUT_BEFORE = "the server never hears of the commit"
    CUT_AFTER = "the server commits, the client never hears of it"
    SILENT = "the server commits, the client waits for ever"


class Link:
    """One client's connection and the one to the server behind it."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.client = client
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.swallowed = False
        self._server: asyncio.StreamWriter | None = None

    def joined(self, server: asyncio.StreamWriter) -> None:
        """The server has taken the connection."""
        self._server = server

    def cut(self) -> None:
        """Reset both sides at once."""
        self.client.transport.abort()
        if self._server is not None:
            self._server.transport.abort()
        self.flowing.set()

    def half_close(self) -> None:
        """Tell the client that the server has nothing more to say."""
        with suppress(OSError, RuntimeError):
            self.client.write_eof()

    async def pass_on(self, data: bytes, target: asyncio.StreamWriter, delay_s: float) -> None:
        """Forward what arrived as things stand now."""
        await self.flowing.wait()
        if self.swallowed:
            return
        if delay_s:
            await pause(delay_s)
        target.write(data)
        await target.drain()


class FaultProxy:
    """Forwards to a server. Each fault in `plan` is used up by one COMMIT; the others pass.

    `delay_s` holds for every piece of data from now on; the other methods for the connections there are.
    """

    def __init__(self, host: str, port: int) -> None:
        self.plan: list[Fault] = []
        self.done: list[Fault] = []
        self.delay_s = 0.0
        self.links: list[Link] = []
        self._server = (host, port)
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client's connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every connection."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def some(self, share: float) -> list[Link]:
        """The first `share` of the connections, at least one of them if there is any."""
        return self.links[: max(1, round(share * len(self.links)))]

    def calm(self) -> None:
        """No more faults; what was swallowed from is cut, because it can never be whole again."""
        self.plan.clear()
        self.delay_s = 0.0
        for link in [*self.links]:
            if link.swallowed:
                link.cut()
            link.flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(writer)
        self.links.append(link)
        tasks: list[asyncio.Task[None]] = []
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._server)
            link.joined(server_writer)
            back = asyncio.create_task(self._copy(link, server_reader, writer))
            tasks.append(back)
            await self._forward(link, reader, server_reader, server_writer, back)
        except (OSError, EOFError):
            pass  # one of the two has gone
        finally:
            link.cut()
            self.links.remove(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(
        self,
        link: Link,
        client: asyncio.StreamReader,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        back: asyncio.Task[None],
    ) -> None:
        while data := await client.read(CHUNK_BYTES):
            if self.plan and data.endswith(COMMIT):
                fault = self.plan.pop(0)
                self.done.append(fault)
                if fault is Fault.CUT_BEFORE:
                    return
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                server.write(data)
                await answers.readuntil(b"COMMIT\x00")  # the tag of the server's answer
                if fault is Fault.SILENT:
                    await client.read()  # until the client has had enough
                return
            await link.pass_on(data, server, self.delay_s)

    async def _copy(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await link.pass_on(data, writer, self.delay_s)
            writer.close()


@asynccontextmanager
async def faulty(url: str) -> AsyncGenerator[tuple[FaultProxy, str]]:
    """A proxy in front of the server of `url`, and the address that leads through it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = FaultProxy(parts.hostname, parts.port)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy, parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{port}")).geturl()
    finally:
        listener.close()
        await proxy.close()
