"""Servers that stand in for each other: three nats-servers with JetStream as a cluster, PostgreSQL with a standby.

All on loopback, from the wheels, each in a directory of its own, so that a test can take one away while the others go
on. A node is cut off by stopping its process: its connections stay open and say nothing more.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import asyncpg

import databases
from anlyt import jetstream
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.errors import DatabaseUnavailable, StreamUnavailable
from support import free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from pathlib import Path

    from anlyt.frames import Client

NODES: Final = 3
PASSWORD: Final = "of-the-cluster"  # noqa: S105 - of servers of a test, on loopback
LIMIT_S: Final = 120.0
SMALL: Final = {"fsync": "off", "shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "128MB"}


class Node(EmbeddedNats):
    """One nats-server of a cluster whose routes listen on `ports`; its own is the one at `number`."""

    def __init__(self, directory: Path, number: int, ports: Sequence[int]) -> None:
        super().__init__(directory, sync_interval="1m")
        self.name = f"n{number}"
        self._route_port, self._ports = ports[number], ports

    def forget_everything(self) -> None:
        """Empty the store of a node that is down."""
        for path in self._keeper.data.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _address(self, user: str) -> str:
        return f"nats://{user}:{PASSWORD}@127.0.0.1:{self._keeper.port}"

    @property
    def _name(self) -> str:
        return self.name

    def _configuration(self) -> str:
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._ports)
        alone = super()._configuration()
        for user in "anlyt", "admin":
            alone = alone.replace(self._keeper.secret(f"{user}.password"), PASSWORD)
        return f"""{alone}
            cluster {{
                name: "anlyt", listen: "127.0.0.1:{self._route_port}", no_advertise: true, routes: [{routes}]
            }}
        """


class Cluster:
    """Three nodes."""

    def __init__(self, directory: Path) -> None:
        ports: list[int] = []
        while len(ports) < NODES:
            ports = [*{*ports, free_port()}]
        self.nodes = [Node(directory / f"nats-{number}", number, ports) for number in range(NODES)]

    @property
    def url(self) -> str:
        """The addresses of all nodes."""
        return ",".join(node.url for node in self.nodes)

    async def leader(self, nc: Client, stream: str) -> Node:
        """The node that leads the stream."""

        async def named() -> str | None:
            group = await self._group(nc, stream)
            return group and group.get("leader")

        name = await wait_until(named, LIMIT_S, what=f"{stream} has a leader")
        return next(node for node in self.nodes if node.name == name)

    async def whole(self, nc: Client, stream: str) -> None:
        """Wait until every node has all of the stream."""

        async def all_current() -> bool:
            group = await self._group(nc, stream)
            followers = (group or {}).get("replicas", [])
            return len(followers) == NODES - 1 and all(f["current"] and not f.get("offline") for f in followers)

        await wait_until(all_current, LIMIT_S, what=f"every node has {stream}")

    async def info(self, nc: Client, stream: str) -> jetstream.StreamInfo:
        """What the stream holds, as soon as somebody can tell."""

        async def asked() -> jetstream.StreamInfo | None:
            try:
                return await jetstream.stream_info(nc, stream)
            except StreamUnavailable:
                return None

        return await wait_until(asked, LIMIT_S, what=f"somebody tells of {stream}")

    async def _group(self, nc: Client, stream: str) -> dict[str, Any] | None:
        try:
            return (await jetstream.request(nc, f"STREAM.INFO.{stream}"))["cluster"]
        except StreamUnavailable:
            return None


@asynccontextmanager
async def cluster(directory: Path) -> AsyncGenerator[Cluster]:
    """Three nodes that have found each other."""
    async with loners(directory) as made:
        for node in made.nodes[1:]:
            await node.start()
        nc = await jetstream.connect(made.url, name="test")
        try:

            async def one_leads() -> bool:
                try:
                    await jetstream.request(nc, "INFO")
                    await jetstream.ensure_stream(nc, "PROBE", "probe.>", replicas=NODES)
                except StreamUnavailable:
                    return False
                return True

            await wait_until(one_leads, LIMIT_S, what="the cluster takes a stream")
            await made.whole(nc, "PROBE")
        finally:
            await nc.close()
        yield made


@asynccontextmanager
async def loners(directory: Path) -> AsyncGenerator[Cluster]:
    """Three nodes of which one runs: it cannot do anything until the test starts another."""
    made = Cluster(directory)
    try:
        await made.nodes[0].start()
        yield made
    finally:
        for node in made.nodes:
            await node.stop()


# ------------------------------------------------------------------------------------------------- primary and standby


class Standby(EmbeddedPostgres):
    """A copy of a running primary that follows it, until it is promoted."""

    def __init__(self, directory: Path, primary: EmbeddedPostgres) -> None:
        super().__init__(directory, settings=SMALL)
        self._primary = primary

    async def promote(self) -> None:
        """Have it take writes."""
        await databases.execute(self.admin_url, "SELECT pg_promote(true, 600)")

    def _address(self, role: str, database: str) -> str:
        theirs = urlsplit(self._primary.admin_url if role == "postgres" else self._primary.url)
        return f"postgresql://{role}:{theirs.password}@127.0.0.1:{self._keeper.port}/{database}"

    def _initialise(self) -> None:
        tool = str(self._keeper.executable.with_name("pg_basebackup"))
        words = ["-d", self._primary.admin_url, "-D", str(self._keeper.data), "-R", "-X", "stream", "-c", "fast"]
        self._keeper.run([tool, *words], failure=DatabaseUnavailable)

    async def _answers(self) -> bool:
        try:
            conn = await asyncpg.connect(self.admin_url, timeout=10)
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        await conn.close()
        return True

    async def _make_database(self) -> None:
        """Is the primary's."""


class Pair:
    """A primary and its standby, and an address of the database `anlyt` on whichever takes writes."""

    def __init__(self, directory: Path) -> None:
        self.primary = EmbeddedPostgres(directory / "primary", settings=SMALL)
        self.standby = Standby(directory / "standby", self.primary)

    @property
    def url(self) -> str:
        """One address with both hosts."""
        hosts = ",".join(urlsplit(server.url).netloc.rpartition("@")[2] for server in (self.primary, self.standby))
        return f"{self.primary.url.rpartition('@')[0]}@{hosts}/anlyt?target_session_attrs=read-write"

    async def follow_synchronously(self) -> None:
        """From now on a commit is answered when the standby has it."""
        admin = self.primary.admin_url
        await databases.execute(admin, "ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (*)'")
        await databases.execute(admin, "SELECT pg_reload_conf()")
        await self._attached("sync")

    async def attached(self) -> None:
        """Wait until the standby follows."""
        await self._attached("async")

    async def _attached(self, state: str) -> None:
        conn = await asyncpg.connect(self.primary.admin_url)
        query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = $1"
        try:
            await wait_until(lambda: conn.fetchval(query, state), LIMIT_S, what=f"a standby is {state}")
        finally:
            await conn.close()


@asynccontextmanager
async def pair(directory: Path) -> AsyncGenerator[Pair]:
    """A primary with a standby that follows it, not yet synchronously."""
    made = Pair(directory)
    async with made.primary, made.standby:
        await made.attached()
        yield made
