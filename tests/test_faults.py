"""Exact while real worker processes die at named lines and anywhere else, and while the servers die under them."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import fleet
import oracle
import pipeline
from anlyt import jetstream, postgres
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.settings import Settings
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

LONG_LIMIT_S = 1_200
VICTIMS = ("postgres", "worker", "nats")


def test_exact_while_workers_die_at_every_named_point(settings: Settings) -> None:
    outcome = run(fleet.dying(settings, 1, rounds=1), 100)

    assert outcome.differences == [], outcome.hits
    assert all(outcome.hits[point] for point in fleet.INGEST_POINTS), outcome.hits


def test_exact_while_a_worker_is_stopped_and_cut_off_from_postgresql(settings: Settings) -> None:
    assert run(fleet.interrupted(settings, 2)).differences == []


@pytest.mark.long
@pytest.mark.timeout(LONG_LIMIT_S)
@pytest.mark.parametrize("seed", range(100, 105))
def test_exact_while_workers_die_at_every_named_point_ten_times(settings: Settings, seed: int) -> None:
    outcome = run(fleet.dying(settings, seed, rounds=10, events=6_000), LONG_LIMIT_S)

    assert outcome.differences == [], outcome.hits
    assert min(outcome.hits[point] for point in fleet.INGEST_POINTS) >= 10, outcome.hits


# ---------------------------------------------------------------------------------------------------- servers that die


@dataclass(frozen=True, slots=True)
class World:
    """Servers of one test's own, which it may kill, and settings for them."""

    postgres: EmbeddedPostgres
    nats: EmbeddedNats
    settings: Settings


@asynccontextmanager
async def world(directory: Path, rng: random.Random) -> AsyncGenerator[World]:
    """Both servers running, the schema in place."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(EmbeddedPostgres(directory / "postgres", settings={"fsync": "off"}))
        nats = await stack.enter_async_context(EmbeddedNats(directory / "nats", sync_interval="1m"))
        await postgres.migrate(database.url)
        given = {
            "database_url": database.url,
            "nats_url": nats.url,
            "data_dir": directory,
            "partitions": rng.choice((2, 4, 16)),
            "batch_events_max": rng.randint(5, 50),
        }
        yield World(database, nats, Settings.model_validate(given))


@pytest.mark.parametrize("seed", [11])
def test_exact_while_the_servers_and_the_workers_are_killed_under_load(server_dir: Path, seed: int) -> None:
    assert run(survive(server_dir, seed, events=600, kills=6), 110) == []


@pytest.mark.long
@pytest.mark.timeout(LONG_LIMIT_S)
@pytest.mark.parametrize("seed", range(200, 205))
def test_exact_while_everything_is_killed_again_and_again(server_dir: Path, seed: int) -> None:
    assert run(survive(server_dir, seed, events=6_000, kills=40), LONG_LIMIT_S) == []


async def survive(directory: Path, seed: int, *, events: int, kills: int) -> list[str]:
    """Publish while two worker processes count; kill a worker or a server each time some more is published."""
    rng = random.Random(seed)
    now = datetime.now(UTC)
    copies = pipeline.copies_of(rng, oracle.generate(seed, events, now, batches=0.05))
    size = len(copies) // kills
    async with world(directory, rng) as here, pipeline.stream_of(here.settings) as nc:
        crew = fleet.Crew(here.settings, outages=True)
        working = asyncio.create_task(crew.work(limit_s=LONG_LIMIT_S))
        try:
            for turn in range(kills):
                part = copies[turn * size :] if turn == kills - 1 else copies[turn * size : (turn + 1) * size]
                before = await pipeline.progress(here.settings)
                publishing = pipeline.publish_through_outages(nc, here.settings, part)
                await asyncio.gather(publishing, strike(here, crew, rng, before=before, victim=VICTIMS[turn % 3]))
            crew.end = (await jetstream.stream_info(nc, here.settings.stream)).last_seq
            await working
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        stored = await pipeline.stored_copies(nc, here.settings, copies)
        return await pipeline.differences(here.settings, stored, now)


async def strike(here: World, crew: fleet.Crew, rng: random.Random, *, before: float, victim: str) -> None:
    """Kill the victim once the workers have counted more than `before`, and bring a server back at once."""

    async def moved() -> bool:
        return await pipeline.progress(here.settings) > before

    try:
        await wait_until(moved, 30, what=f"the workers count more than {before}")
    except AssertionError as e:
        raise AssertionError(f"{e}\n{crew.said}") from None
    if victim == "worker":
        crew.kill_one(rng)
        return
    server = here.postgres if victim == "postgres" else here.nats
    server.kill()
    await server.start()
