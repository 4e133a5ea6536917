"""Hours of mixed load in minutes: what the processes hold, and what the tables take, must stay as it is once warm.

Run as a script it starts servers of its own: `python tests/soak.py --seconds 600`. Two workers, the API and the job
loop are real processes; traffic with duplicates and bad events, readers and hours that pass are this one's part.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2

import fleet
import oracle
import pipeline
from anlyt import keys, postgres
from anlyt.access import make_grant
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.settings import Settings
from support import free_port, pause, server_directory, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from anlyt.frames import Client

ROLES: Final = {"worker": ["worker"], "worker 2": ["worker"], "api": ["api"], "jobs": ["jobs", "loop"]}
PATHS: Final = (
    "/v1/status",
    "/v1/metrics/hourly?scope=PLATFORM&from=-24h",
    "/v1/summary?scope=OPERATOR&from=-24h&groupBy=scopeId",
    "/v1/accounts/usage?from=-2d",
    "/metrics",
)
ROUND_EVENTS: Final = 150
ROUND_S: Final = 0.5
AGE_ROUNDS: Final = 10  # after so many rounds six hours have passed
LIMIT_S: Final = 180.0
MEMORY_GROWTH_MIB: Final = 24  # between the middle and the last third; less says nothing about so short a run
HANDLES_GROWTH: Final = 6  # a request or a session more at the moment of the look
BYTES_GROWTH: Final = 2.0

# Ids and marks of changes are as old as after hours of it, so that the purge has as much to do.
AGE: Final = (
    "UPDATE anlyt.processed_events SET processed_at = processed_at - INTERVAL '6 hours'",
    "UPDATE anlyt.changed_hours SET changed_at = changed_at - INTERVAL '6 hours'",
)
SIZES: Final = """
    SELECT relname, pg_table_size(oid) + pg_indexes_size(oid) AS bytes
    FROM pg_class
    WHERE relnamespace = 'anlyt'::REGNAMESPACE AND relname IN ('processed_events', 'changed_hours', 'stream_positions',
        'ingest_totals', 'job_runs')"""


@dataclass(frozen=True, slots=True)
class Look:
    """What everything held at one moment."""

    second: float
    memory_mib: dict[str, int]  # by role
    handles: dict[str, int]
    sessions: int
    table_bytes: dict[str, int]

    def shown(self) -> str:
        """One line."""
        memory = "  ".join(f"{role} {mib} MiB/{self.handles[role]} fds" for role, mib in self.memory_mib.items())
        return f"{self.second:6.0f} s  {memory}  {self.sessions} sessions  {sum(self.table_bytes.values()) >> 20} MiB"


async def soak(settings: Settings, seconds: float, *, seed: int = 1) -> tuple[list[Look], list[str]]:
    """Load for so long; the looks that were taken, and what is wrong: growth, a process that ended, a number."""
    rng, looks, stored = random.Random(seed), list[Look](), list[bytes]()
    begun = time.monotonic()
    async with AsyncExitStack() as stack:
        nc = await stack.enter_async_context(pipeline.stream_of(settings))
        roles = await stack.enter_async_context(running(settings))
        client = await stack.enter_async_context(reader(settings))
        rounds = 0
        while (second := time.monotonic() - begun) < seconds:
            rounds += 1
            stored += await one_round(nc, settings, rng, client)
            if rounds % AGE_ROUNDS == 0:
                await age(settings)
                looks.append(await look(settings, roles, second))
            await pause(ROUND_S)
        await pipeline.all_counted(nc, settings, limit_s=LIMIT_S)
        ended = [role for role, process in roles.items() if process.poll() is not None]
    found = await pipeline.differences(settings, stored, datetime.now(UTC), ids=False)
    return looks, [f"{role} has ended" for role in ended] + growth(looks) + found


async def one_round(nc: Client, settings: Settings, rng: random.Random, client: httpx2.AsyncClient) -> list[bytes]:
    """Some traffic and some reading; what JetStream stored."""
    bodies = oracle.generate(rng.getrandbits(32), ROUND_EVENTS, datetime.now(UTC), accounts=5, operators=3, days=0.02)
    stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies, most=2))
    for answer in await asyncio.gather(*(client.get(path) for path in PATHS)):
        assert answer.status_code == 200, answer.text
    return stored


async def age(settings: Settings) -> None:
    """Let hours go by."""
    async with pipeline.database(settings) as conn:
        for statement in AGE:
            await conn.execute(statement)


async def look(settings: Settings, roles: dict[str, subprocess.Popen[bytes]], second: float) -> Look:
    """What everything holds now."""
    async with pipeline.database(settings) as conn:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'anlyt-%'"
        sessions = await conn.fetchval(query)
        sizes = {row["relname"]: row["bytes"] for row in await conn.fetch(SIZES)}
    memory = {role: resident_mib(process.pid) for role, process in roles.items()}
    handles = {role: open_files(process.pid) for role, process in roles.items()}
    return Look(second, memory, handles, sessions, sizes)


def resident_mib(pid: int) -> int:
    """The memory a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def open_files(pid: int) -> int:
    """How many files and sockets a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def growth(looks: Sequence[Look]) -> list[str]:
    """What grew from the middle third of a run to its last; the first is for getting warm."""
    third = len(looks) // 3
    if not third:
        return ["too short a run to say anything"]
    middle, last = looks[third : 2 * third], looks[2 * third :]
    found: list[str] = []
    for role in looks[0].memory_mib:
        before, after = (max(each.memory_mib[role] for each in part) for part in (middle, last))
        found += [f"memory of {role}: {before} MiB, then {after}"] if after > before + MEMORY_GROWTH_MIB else []
        before, after = (max(each.handles[role] for each in part) for part in (middle, last))
        found += [f"files of {role}: {before}, then {after}"] if after > before + HANDLES_GROWTH else []
    before, after = (max(each.sessions for each in part) for part in (middle, last))
    found += [f"sessions: {before}, then {after}"] if after > before + HANDLES_GROWTH else []
    for table in looks[0].table_bytes:
        before, after = (max(each.table_bytes[table] for each in part) for part in (middle, last))
        found += [f"{table}: {before} bytes, then {after}"] if after > BYTES_GROWTH * before else []
    return found


@asynccontextmanager
async def running(settings: Settings) -> AsyncGenerator[dict[str, subprocess.Popen[bytes]]]:
    """The roles as processes."""
    environment = fleet.environment(settings, ANLYT_LOG_LEVEL="warning", ANLYT_LOG_FORMAT="json")
    roles = {role: started(words, environment) for role, words in ROLES.items()}
    try:
        yield roles
    finally:
        for process in roles.values():
            process.terminate()
        for process in roles.values():
            process.wait(LIMIT_S)


def started(words: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process of ours."""
    return subprocess.Popen([sys.executable, "-m", "anlyt", *words], env=environment, stdin=subprocess.DEVNULL)


@asynccontextmanager
async def reader(settings: Settings) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client of the API with a platform key, as soon as it listens."""
    assert settings.database_url is not None
    async with postgres.session(settings.database_url.get_secret_value(), application="test") as conn:
        made = await keys.create_key(conn, make_grant("PLATFORM", (), ["metrics:read"]), name="soak", expires_at=None)
    address = f"http://127.0.0.1:{settings.http_port}"
    headers = {"Authorization": f"Bearer {made.key}"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=60) as client:

        async def listens() -> bool:
            try:
                return (await client.get("/readyz")).status_code == 200
            except httpx2.TransportError:
                return False

        await wait_until(listens, LIMIT_S, what="the API is ready")
        yield client


@asynccontextmanager
async def own_servers() -> AsyncGenerator[Settings]:
    """Both servers for this run alone."""
    with server_directory() as directory:
        async with EmbeddedPostgres(directory / "postgres") as database, EmbeddedNats(directory / "nats") as nats:
            await postgres.migrate(database.url)
            yield Settings.model_validate(
                {
                    "database_url": database.url,
                    "nats_url": nats.url,
                    "data_dir": directory,
                    "partitions": 4,
                    "http_port": free_port(),
                }
            )


async def main(seconds: float, seed: int) -> int:
    """Print the looks and what is wrong; the exit code."""
    async with own_servers() as settings:
        looks, found = await soak(settings, seconds, seed=seed)
    sys.stdout.write("\n".join([*(each.shown() for each in looks), *found, ""]))
    sys.stdout.write(f"{len(looks) * AGE_ROUNDS} rounds, {'flat and exact' if not found else 'NOT WELL'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(asyncio.run(main(given.seconds, given.seed)))
