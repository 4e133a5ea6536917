"""Named crash points: lines where tests kill the process, because random kills miss the bugs that matter.

In: `ANLYT_CRASH_POINTS`, as NAME=PROBABILITY,... or *=PROBABILITY for all of them. Out: SIGKILL at an armed line, after
its name was written to stderr. Nothing is armed unless asked for; then `reach` costs one comparison.
"""

from __future__ import annotations

import os
import random
import signal
from typing import TYPE_CHECKING, Final, Self

from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

CRASH_POINTS: Final = (
    # one batch, in order (worker.py, store.py)
    "after-fetch",
    "after-position",
    "after-claim",
    "after-seconds",
    "after-histograms",
    "after-hourly",
    "after-daily",
    "after-letters",
    "before-commit",
    "after-commit",
    # jobs, by their names (jobs.py)
    "job-percentiles-merged",
    "job-percentiles-written",
    "job-percentiles-committed",
    "job-partitions-made",
    "job-purge-committed",
    "job-retention-detached",
    "job-retention-dropped",
    "job-retention-rows-deleted",
    "job-retention-border-moved",
    "job-archive-staged",
    "job-archive-kept",
    "job-archive-piece",
    "job-archive-copied",
    "job-archive-checked",
    "job-archive-replaced",
    "job-archive-noted",
)
ALL: Final = "*"
STDERR: Final = 2


class CrashPoints:
    """Which points are armed, each with its probability."""

    def __init__(self, armed: Mapping[str, float] | None = None, rng: random.Random | None = None) -> None:
        self._armed = dict(armed or {})
        self._rng = rng or random.Random()  # noqa: S311 - tests draw when to crash, nobody has to guess it

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ANLYT_CRASH_POINTS; a later entry overrules an earlier one. Raises ConfigurationError."""
        armed: dict[str, float] = {}
        for entry in filter(None, (part.strip() for part in text.split(","))):
            name, _, probability = entry.partition("=")
            if name not in {*CRASH_POINTS, ALL}:
                raise ConfigurationError(
                    f"ANLYT_CRASH_POINTS names {name!r}; the points are {', '.join(CRASH_POINTS)} and {ALL} for all"
                )
            armed |= dict.fromkeys(CRASH_POINTS if name == ALL else (name,), _read_probability(entry, probability))
        return cls(armed)

    def reach(self, name: str) -> None:
        """Die here, if this point is armed and the draw says so."""
        assert name in CRASH_POINTS, name
        if self._armed and self._rng.random() < self._armed.get(name, 0.0):
            os.write(STDERR, f"crash point {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


def _read_probability(entry: str, text: str) -> float:
    try:
        probability = float(text)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise ConfigurationError(f"ANLYT_CRASH_POINTS has {entry!r}; it must be NAME=P with P from 0 to 1, like *=0.03")
    return probability
