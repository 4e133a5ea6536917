"""A TCP proxy in front of PostgreSQL that breaks connections at COMMIT: before it, after it, or by going silent."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

COMMIT: Final = b"COMMIT;\x00"  # the end of a simple query, as the driver sends it
CHUNK_BYTES: Final = 65_536


class Fault(Enum):
    """What happens to a connection at its next COMMIT."""

    CUT_BEFORE = "the server never hears of the commit"
    CUT_AFTER = "the server commits, the client never hears of it"
    SILENT = "the server commits, the client waits for ever"


class FaultProxy:
    """Forwards to a server. Each fault in `plan` is used up by one COMMIT; the others pass."""

    def __init__(self, host: str, port: int) -> None:
        self.plan: list[Fault] = []
        self.done: list[Fault] = []
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._server)
        back = asyncio.create_task(_copy(server_reader, writer))
        try:
            await self._forward(reader, server_writer, server_reader, back)
        except OSError:
            pass  # one of the two has gone
        finally:
            back.cancel()
            writer.transport.abort()
            server_writer.transport.abort()
            await asyncio.gather(back, return_exceptions=True)

    async def _forward(
        self,
        client: asyncio.StreamReader,
        server: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
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
            server.write(data)
            await server.drain()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
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
