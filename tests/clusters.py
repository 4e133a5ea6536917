"""PostgreSQL with a standby, both on loopback, each in a directory of its own, so that a test can take one away."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import asyncpg

import databases
from anlyt.embedded import EmbeddedPostgres
from anlyt.errors import DatabaseUnavailable
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

LIMIT_S: Final = 120.0
SMALL: Final = {"fsync": "off", "shared_buffers": "32MB", "min_wal_size": "32MB", "max_wal_size": "128MB"}


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
