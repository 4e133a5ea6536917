"""The ground that runs of the simulator stand on: servers and nurseries that last, a database and a stream for each."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import databases
from anlyt import postgres
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.settings import Settings
from nursery import Nursery, clock_can_be_off

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from fault_plan import Plan

TEMPLATE: Final = "anlyt_template"
DEADLINE_S: Final = 8.0  # of a batch
POSTGRES_SETTINGS: Final = {
    "fsync": "off",  # processes are killed here, never the power
    "shared_buffers": "64MB",
    "min_wal_size": "32MB",
    "max_wal_size": "256MB",
    "max_connections": "300",
}


class Ground:
    """Servers that many runs use: one after the other, or side by side as long as nobody hurts them."""

    def __init__(self, directory: Path, *, source: Path | None = None) -> None:
        self.directory = directory
        self.postgres = EmbeddedPostgres(directory / "postgres", settings=POSTGRES_SETTINGS)
        self.nats = EmbeddedNats(directory / "nats", sync_interval="1m")
        self._source = source
        self._nurseries: dict[int, Nursery] = {}
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Start the servers and make a database to copy."""
        await self.postgres.start()
        await self.nats.start()
        await databases.execute(self.postgres.admin_url, f"CREATE DATABASE {TEMPLATE} OWNER anlyt")
        await postgres.migrate(self._address(TEMPLATE))

    async def close(self) -> None:
        """End every process."""
        for nursery in self._nurseries.values():
            await nursery.close()
        await self.nats.stop()
        await self.postgres.stop()

    async def nursery(self, clock_s: int = 0) -> Nursery:
        """The nursery of processes whose clocks are so far off, or right where this machine cannot do it."""
        clock_s = clock_s if clock_can_be_off() else 0
        async with self._opening:
            if clock_s not in self._nurseries:
                nursery = Nursery(source=self._source, clock_s=clock_s)
                await nursery.open()
                self._nurseries[clock_s] = nursery
        return self._nurseries[clock_s]

    @asynccontextmanager
    async def settings(self, plan: Plan, directory: Path) -> AsyncGenerator[Settings]:
        """A database and the name of a stream of one run's own."""
        word = secrets.token_hex(5)
        admin = self.postgres.admin_url
        await databases.execute(admin, f"CREATE DATABASE s_{word} OWNER anlyt TEMPLATE {TEMPLATE}")
        given = {
            "database_url": self._address(f"s_{word}"),
            "nats_url": self.nats.url,
            "stream": f"S{word}",
            "subjects": f"s{word}.events.>",
            "data_dir": directory,
            "partitions": plan.partitions,
            "batch_events_max": plan.batch_events_max,
            "batch_deadline_s": DEADLINE_S,
        }
        try:
            yield Settings.model_validate(given)
        finally:
            await databases.execute(admin, f"DROP DATABASE IF EXISTS s_{word} WITH (FORCE)")

    def _address(self, database: str) -> str:
        return self.postgres.url.removesuffix("/anlyt") + f"/{database}"


@asynccontextmanager
async def ground(directory: Path, *, source: Path | None = None) -> AsyncGenerator[Ground]:
    """Servers for the length of the block."""
    made = Ground(directory, source=source)
    try:
        await made.open()
        yield made
    finally:
        await made.close()
