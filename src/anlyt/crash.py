"""Named crash points: lines at which a test can have the process killed, because random kills miss planted bugs.

In: `NAME=PROBABILITY,...` (`*` for all names) from the setting crash_points. Out: at an armed line, with that
probability, one line on stderr that names it and SIGKILL: no handler runs, nothing is flushed, as in a power cut of the
process. Unarmed, which is always so outside tests, reaching a point does nothing.
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
    "job-percentiles-merged",
    "job-percentiles-before-commit",
    "job-percentiles-after-commit",
    "job-partitions-made",
)


class CrashPoints:
    """The armed points of one process."""

    def __init__(self, armed: Mapping[str, float] | None = None) -> None:
        self._armed = dict(armed or {})
        self._random = random.Random()  # noqa: S311 - chance, not a secret

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the setting. Raises ConfigurationError for an unknown name or a probability outside 0..1."""
        armed: dict[str, float] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, chance = part.partition("=")
            try:
                probability = float(chance)
            except ValueError:
                probability = -1.0
            if (name != "*" and name not in CRASH_POINTS) or not 0 <= probability <= 1:
                raise ConfigurationError(f"ANLYT_CRASH_POINTS takes NAME=PROBABILITY,..., not {part!r}")
            armed |= dict.fromkeys(CRASH_POINTS, probability) if name == "*" else {name: probability}
        return cls(armed)

    def reach(self, name: str) -> None:
        """Die here, if this point is armed and chance wants it."""
        probability = self._armed.get(name, 0.0)
        if probability and self._random.random() < probability:
            os.write(2, f"crash point {name}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)
