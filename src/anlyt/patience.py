"""How long a worker waits: for an event, before it tries again, and for PostgreSQL to answer.

In: an event, how often something failed in a row, a session. Out: the wait, its length with jitter (so that not all
workers come back at once), or DatabaseUnavailable when the session had to be ended.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import structlog

from anlyt.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Generator

    from asyncpg import Connection

BACKOFF_MIN_S: Final = 0.2
BACKOFF_MAX_S: Final = 5.0
BACKOFF_DOUBLINGS_MAX: Final = 10  # enough to reach the longest; the number of failures has no end

log = structlog.get_logger("anlyt.worker")


@contextmanager
def ended_after(conn: Connection, seconds: float) -> Generator[None]:
    """End the session when the block takes longer: a connection that hangs would hold up a cancellation, too.

    Whatever was being asked then has no answer; asyncpg says so by what it no longer finds. Raises DatabaseUnavailable.
    """

    def give_up() -> None:
        log.error("session-too-slow", limit_s=seconds)
        conn.terminate()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield
    except AttributeError as error:
        if not conn.is_closed():
            raise
        raise DatabaseUnavailable(f"the session was ended in the middle of a statement: {error}") from error
    finally:
        timer.cancel()


async def wait(event: asyncio.Event, seconds: float) -> None:
    """Until the event is set, but not longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def backoff(failures: int) -> float:
    """Exponential with full jitter, at least BACKOFF_MIN_S."""
    longest = min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2 ** min(failures, BACKOFF_DOUBLINGS_MAX))
    return BACKOFF_MIN_S + random.random() * longest  # noqa: S311 - jitter
