"""What a seed means: the traffic, who publishes and counts it, and which fault strikes when. Pure.

One seed draws the whole plan, so that a run can be repeated. Faults strike at points of progress, never at moments: the
traffic is published in shares, and each fault strikes when something of the next share has been counted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from anlyt.crash import CRASH_POINTS

if TYPE_CHECKING:
    from collections.abc import Iterable

INGEST_POINTS: Final = tuple(name for name in CRASH_POINTS if not name.startswith("job-"))
JOBS: Final = ("percentiles", "partitions", "purge")
JOB_POINTS: Final = tuple(name for name in CRASH_POINTS if name.startswith(tuple(f"job-{job}" for job in JOBS)))
HEAVY_EVERY: Final = 8  # one seed in so many has faults that hurt the servers themselves
HEAVY_SHARE: Final = 6  # how much more likely those are then
SHARE_MIN: Final = 20  # messages between two faults

# Weights. A fault on a link hits the connections of workers to PostgreSQL or NATS, or of publishers to NATS.
LINKS: Final = ("postgres", "nats", "publishers")
LINK_FAULTS: Final = ("cut", "half-close", "hold", "swallow", "delay")
LIGHT: Final = {
    "kill-worker": 4,
    "pause-worker": 3,
    "stop-worker": 3,
    "kill-publisher": 2,
    "pause-publisher": 1,
    "end-sessions": 2,
    "commit-cut-before": 3,
    "commit-cut-after": 4,
    "commit-silent": 1,
    "change-partitions": 2,
    "recreate-stream": 1,
    "run-job": 4,
    **{f"{link}-{fault}": 1 for link in LINKS for fault in LINK_FAULTS},
}
HEAVY: Final = {
    "kill-postgres": 4,
    "kill-nats": 4,
    "postgres-away": 2,
    "nats-away": 2,
    "restore-nats": 2,
    "restore-postgres": 3,
}
LOSING: Final = frozenset({"recreate-stream", "restore-nats"})  # the broker forgets what it had acknowledged
ALL: Final = LIGHT | HEAVY


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: its kind, a number that picks whom it hits, and how long it lasts unless work goes on before."""

    kind: str
    pick: float
    patience_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    events: int
    batches: float
    publishers: int
    partitions: int
    batch_events_max: int
    clocks_s: tuple[int, ...]  # of each worker: how far its clock is off
    crash_chance: float  # that a worker, or a job, is armed at its start
    crashes_max: int
    strikes: tuple[Strike, ...]
    replay: bool  # count the whole stream once more at the end

    @property
    def heavy(self) -> bool:
        """Whether servers themselves are hurt."""
        return any(strike.kind in HEAVY for strike in self.strikes)

    @property
    def losing(self) -> bool:
        """Whether the broker loses some of what it acknowledged."""
        return any(strike.kind in LOSING for strike in self.strikes)

    @property
    def rereading(self) -> bool:
        """Whether some of the stream is read twice, so that the totals of what was read are more than it holds."""
        return self.losing or any(strike.kind == "change-partitions" for strike in self.strikes)


def draw(seed: int, faults: Iterable[str] | None = None, *, events: int | None = None) -> Plan:
    """The plan of a seed; with `faults` only of these kinds, with `events` of that size."""
    rng = random.Random(seed)
    heavy = seed % HEAVY_EVERY == 0
    size = events or rng.choice((80, 120, 200, 300))
    kinds = LIGHT
    if faults is not None:
        kinds = {kind: ALL[kind] for kind in faults}
    elif heavy:
        kinds = {kind: weight * HEAVY_SHARE for kind, weight in HEAVY.items()} | LIGHT
    most = max(1, min(10, size // SHARE_MIN))
    return Plan(
        seed=seed,
        events=size,
        batches=rng.choice((0.0, 0.05, 0.2)),
        publishers=rng.randint(1, 3),
        partitions=rng.choice((1, 2, 3, 4, 8, 16)),
        batch_events_max=rng.choice((3, 7, 20, 60, 1_000)),
        clocks_s=tuple(rng.choice((0, 0, 0, 600, -600, 259_200)) for _ in range(rng.choice((1, 1, 2, 2, 3, 4, 6, 8)))),
        crash_chance=rng.choice((0.0, 0.5, 0.9)),
        crashes_max=rng.choice((2, 5, 10)),
        strikes=tuple(_strike(rng, kinds) for _ in range(rng.randint(1, most))),
        replay=rng.random() < 0.1,
    )


def _strike(rng: random.Random, kinds: dict[str, int]) -> Strike:
    kind = rng.choices([*kinds], [*kinds.values()])[0]
    return Strike(kind, rng.random(), rng.choice((0.2, 0.5, 1.0, 2.0)))


def armed(plan: Plan, who: str, life: int, points: tuple[str, ...]) -> str:
    """What the `life`-th process of `who` is armed with."""
    rng = random.Random(f"{plan.seed} {who} {life}")
    return f"{rng.choice(points)}={rng.choice((0.1, 0.5, 1))}" if rng.random() < plan.crash_chance else ""
