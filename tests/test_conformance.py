"""Every cell of the tables is what the oracle says, whatever the order, copies, workers, batches and partitions."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

import oracle
import pipeline
from support import run

if TYPE_CHECKING:
    from anlyt.settings import Settings

SEEDS = range(24)


def vary(settings: Settings, rng: random.Random) -> Settings:
    """The settings with a random batch size and number of partitions."""
    batch = round(500 ** rng.uniform(0.25, 1))
    return settings.model_copy(
        update={"batch_events_max": batch, "partitions": rng.choice((1, 2, 3, 4, 8, 16)), "log_level": "warning"}
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_cell_agrees_with_the_oracle(settings: Settings, seed: int) -> None:
    """Published in random order, each body 1 to 3 times, partly before and partly while 1, 2 or 4 workers count."""
    rng = random.Random(seed)
    now = datetime.now(UTC)
    settings = vary(settings, rng)
    workers = (1, 2, 4)[seed % 3]
    bodies = oracle.generate(seed, rng.randint(300, 700), now, batches=rng.choice((0.02, 0.05, 0.2)))
    copies = pipeline.copies_of(rng, bodies + pipeline.dear_bodies(rng, now))
    early = rng.choice((0, len(copies) // 2, len(copies)))

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, copies[:early])
            async with pipeline.counting(settings, workers=workers):
                stored += await pipeline.publish(nc, settings, copies[early:])
                await pipeline.all_counted(nc, settings)
        return await pipeline.differences(settings, stored, now)

    options = f"{workers} workers, {settings.partitions} partitions, batches of {settings.batch_events_max}"
    assert run(scenario()) == [], f"seed {seed}: {options}"
