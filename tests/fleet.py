"""Real worker processes that die, are stopped and are started again, and the scenarios made of them.

One set of scenarios for test_faults, which shows that the package is exact in them, and for test_planted_bugs, which
shows that a package with a bug in it is not.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

import oracle
import pipeline
from anlyt import jetstream
from anlyt.crash import CRASH_POINTS
from anlyt.errors import Retry
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from anlyt.settings import Settings

INGEST_POINTS: Final = tuple(name for name in CRASH_POINTS if not name.startswith("job-"))
LOG_CHARS: Final = 4_000
ZONE: Final = "Asia/Kathmandu"  # 5:45 ahead: neither hours nor days begin when UTC's do
TROUBLED_LIMIT_S: Final = 600
TROUBLES: Final = 15  # SIGTERMs and ended sessions in one scenario
CANCELS: Final = 4  # of statements in one scenario
WINDOW_HOURS: Final = 48
CANCEL_WAITING: Final = """
    SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
    WHERE application_name = 'anlyt-worker' AND datname = current_database() AND wait_event_type = 'Lock'"""
END_SESSIONS: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE application_name = 'anlyt-worker' AND datname = current_database()"""


def environment(settings: Settings, **more: str) -> dict[str, str]:
    """What the environment of a process must hold to have these settings."""
    given: dict[str, str] = {}
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        given[f"ANLYT_{name.upper()}"] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANLYT_")}
    return inherited | given | more


class WorkerProcess:
    """A real `anlyt worker`. Killed, if it still runs, by `close`. `host`: the words that have it run elsewhere."""

    def __init__(
        self,
        settings: Settings,
        *,
        until_idle: bool = True,
        crash_points: str = "",
        source: Path | None = None,
        host: Sequence[str] = (),
    ) -> None:
        self._log = settings.data_dir / f"worker-{secrets.token_hex(4)}.log"
        more = {"ANLYT_CRASH_POINTS": crash_points, "ANLYT_LOG_FORMAT": "json", "TZ": ZONE}
        if source is not None:
            more["PYTHONPATH"] = str(source)
        words = [*host, sys.executable, "-m", "anlyt", "worker", *(["--until-idle"] if until_idle else [])]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words, env=environment(settings, **more), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid

    @property
    def said(self) -> str:
        """Everything it has written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it still runs."""
        self._process.send_signal(number)

    async def exited(self, limit_s: float = 45) -> int:
        """Its exit code, once it has ended."""
        await wait_until(lambda: self.poll() is not None, limit_s, what=f"the worker ends; it said:\n{self.said}")
        code = self.poll()
        assert code is not None
        return code

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self.poll() is None:
            self._process.kill()
            self._process.wait()


class Crew:
    """Worker processes, each started again when it dies, until the stream has been counted.

    `arm` says what the next process is armed with, given how often every crash point was hit so far. `outages`: that
    PostgreSQL or NATS cannot be reached (exit 4), or ends a session at the start, is met by starting again.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        size: int = 2,
        arm: Callable[[Counter[str]], str] = lambda _: "",
        source: Path | None = None,
        outages: bool = False,
    ) -> None:
        self.hits: Counter[str] = Counter()
        self.deaths = 0
        self.end: int | None = None
        self._settings = settings
        self._size = size
        self._arm = arm
        self._source = source
        self._outages = outages
        self._running: list[WorkerProcess] = []
        self._told: set[int] = set()  # pids that got SIGTERM: a second one would end the process in the middle

    async def work_through(self, end: int, *, limit_s: float = 60) -> None:
        """Run until everything up to sequence `end` has been counted and every process has left by itself."""
        self.end = end
        await self.work(limit_s=limit_s)

    async def work(self, *, limit_s: float) -> None:
        """Run as `work_through`; `end` is set when it is known."""
        self._running = [self._start() for _ in range(self._size)]
        try:
            await wait_until(self._all_gone, limit_s, what="the crew has counted everything")
        finally:
            for process in self._running:
                process.close()

    @property
    def said(self) -> str:
        """The last words of those that run."""
        return "\n".join(f"{process.pid}: {process.said[-LOG_CHARS:]}" for process in self._running)

    def kill_one(self, rng: random.Random) -> None:
        """SIGKILL one of the processes, wherever it is."""
        if self._running:
            rng.choice(self._running).send(signal.SIGKILL)

    def stop_one(self) -> None:
        """Send SIGTERM, once, to the process that has been there longest."""
        for process in self._running:
            if process.pid not in self._told:
                self._told.add(process.pid)
                process.send(signal.SIGTERM)
                return

    def _start(self) -> WorkerProcess:
        return WorkerProcess(self._settings, crash_points=self._arm(self.hits), source=self._source)

    async def _all_gone(self) -> bool:
        for process in [process for process in self._running if process.poll() is not None]:
            self._running.remove(process)
            code = process.poll()
            if code == -signal.SIGKILL:
                self.deaths += 1
                self.hits.update(re.findall(r"crash point (\S+)", process.said))
            else:
                # SIGTERM before Python has run the first line of ours ends the process as it ends any other.
                assert code in {0, -signal.SIGTERM} or (code == Retry.exit_code and self._outages), (
                    f"a worker ended with {code}:\n{process.said[-LOG_CHARS:]}"
                )
                if self.end is not None and await pipeline.counted_through(self._settings) >= self.end:
                    continue
            self._running.append(self._start())
        return not self._running


def each_point(rounds: int, *, chance: float = 0.5) -> Callable[[Counter[str]], str]:
    """Arm the ingest point that was hit least, until every one was hit `rounds` times."""

    def arm(hits: Counter[str]) -> str:
        point = min(INGEST_POINTS, key=lambda name: hits[name])
        return f"{point}={chance}" if hits[point] < rounds else ""

    return arm


# ------------------------------------------------------------------------------------------------------------ scenarios


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was found after a run, and how often workers died at which point."""

    differences: list[str]
    hits: Counter[str]


async def calm(settings: Settings, seed: int, *, events: int = 400, source: Path | None = None) -> Outcome:
    """Traffic, all of it twice, counted by two worker processes until idle. Nothing happens to them."""
    rng = random.Random(seed)
    now = datetime.now(UTC)
    settings = settings.model_copy(update={"partitions": rng.choice((2, 3, 4)), "batch_events_max": 20})
    async with pipeline.database(settings) as conn:
        await conn.execute(f"ALTER DATABASE {await conn.fetchval('SELECT current_database()')} SET timezone = '{ZONE}'")
    async with pipeline.stream_of(settings) as nc:
        copies = pipeline.copies_of(rng, oracle.generate(seed, events, now) + pipeline.dear_bodies(rng, now))
        stored = await pipeline.publish(nc, settings, copies + copies)
        end = (await jetstream.stream_info(nc, settings.stream)).last_seq
    await Crew(settings, source=source).work_through(end)
    return Outcome(await pipeline.differences(settings, stored, now), Counter())


async def interrupted(settings: Settings, seed: int, *, source: Path | None = None) -> Outcome:
    """Traffic counted by one worker process, which gets SIGTERM, or has its sessions ended, again and again."""
    return await _troubled(
        settings, seed, events=400, crew=lambda varied: Crew(varied, size=1, source=source, outages=True)
    )


async def dying(
    settings: Settings, seed: int, *, rounds: int, events: int = 1_000, source: Path | None = None
) -> Outcome:
    """Traffic counted by two worker processes that die at every point `rounds` times, and are interrupted as well."""
    return await _troubled(
        settings,
        seed,
        events=events,
        crew=lambda varied: Crew(varied, arm=each_point(rounds), source=source, outages=True),
    )


async def aged(settings: Settings, seed: int, *, hours: int, source: Path | None = None) -> Outcome:
    """Traffic is counted, hours go by, the purge runs, and more traffic comes.

    Within the 48 h of the window all of it comes once more as well; after them it does not, but the workers start anew.
    """
    rng, now = random.Random(seed), datetime.now(UTC)
    settings = settings.model_copy(update={"partitions": 2, "batch_events_max": 50})
    copies = pipeline.copies_of(rng, oracle.generate(seed, 300, now))
    more = pipeline.copies_of(rng, oracle.generate(seed + 1_000, 100, now))
    within = hours < WINDOW_HOURS

    async with pipeline.stream_of(settings) as nc:
        stored = await pipeline.publish(nc, settings, copies)
        await Crew(settings, size=1, source=source).work_through(
            (await jetstream.stream_info(nc, settings.stream)).last_seq
        )
        async with pipeline.database(settings) as conn:
            statement = "UPDATE anlyt.processed_events SET processed_at = processed_at - make_interval(hours => $1)"
            await conn.execute(statement, hours)
        await _run_purge(settings, source)
        stored += await pipeline.publish(nc, settings, more + copies if within else more)
        await Crew(settings, size=1, source=source).work_through(
            (await jetstream.stream_info(nc, settings.stream)).last_seq
        )
    return Outcome(await pipeline.differences(settings, stored, now, ids=within), Counter())


async def _run_purge(settings: Settings, source: Path | None) -> None:
    more = {} if source is None else {"PYTHONPATH": str(source)}
    words = [sys.executable, "-m", "anlyt", "jobs", "run", "purge"]
    process = await asyncio.create_subprocess_exec(*words, env=environment(settings, **more))
    assert await process.wait() == 0


async def cancelled(settings: Settings, seed: int, *, source: Path | None = None) -> Outcome:
    """Traffic counted by a worker process whose statements PostgreSQL cancels again and again; the sessions stay."""
    rng, now = random.Random(seed), datetime.now(UTC)
    settings = settings.model_copy(update={"batch_events_max": 8})
    async with pipeline.stream_of(settings) as nc:
        stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, oracle.generate(seed, 400, now)))
        end = (await jetstream.stream_info(nc, settings.stream)).last_seq
    crew = Crew(settings, size=1, source=source)
    async with pipeline.database(settings) as conn, pipeline.database(settings) as other:

        async def cancel() -> bool:
            return bool(await other.fetchval(CANCEL_WAITING))

        working: asyncio.Task[None] | None = None
        for _ in range(CANCELS):
            async with conn.transaction():
                await conn.execute("LOCK TABLE anlyt.metrics_daily IN EXCLUSIVE MODE")
                working = working or asyncio.create_task(crew.work_through(end, limit_s=TROUBLED_LIMIT_S))
                await wait_until(cancel, TROUBLED_LIMIT_S, what="a statement of the worker waits")
    assert working is not None
    await working
    return Outcome(await pipeline.differences(settings, stored, now), Counter())


async def _troubled(
    settings: Settings,
    seed: int,
    *,
    events: int,
    crew: Callable[[Settings], Crew],
) -> Outcome:
    rng = random.Random(seed)
    now = datetime.now(UTC)
    settings = settings.model_copy(update={"partitions": rng.choice((2, 3, 4)), "batch_events_max": rng.randint(6, 12)})
    bodies = oracle.generate(seed, events, now, batches=0.05) + pipeline.dear_bodies(rng, now)
    async with pipeline.stream_of(settings) as nc:
        stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies))
        end = (await jetstream.stream_info(nc, settings.stream)).last_seq
    workers = crew(settings)
    making = asyncio.create_task(_make_trouble(settings, workers, end))
    try:
        await workers.work_through(end, limit_s=TROUBLED_LIMIT_S)
    finally:
        making.cancel()
        with suppress(asyncio.CancelledError):
            await making
    return Outcome(await pipeline.differences(settings, stored, now), workers.hits)


async def _make_trouble(settings: Settings, crew: Crew, end: int) -> None:
    """Stop a process or end its sessions, in turn, each time some more messages have been counted since."""
    step = max(1, end // TROUBLES)
    async with pipeline.database(settings) as conn:
        for turn in range(TROUBLES):
            goal = await pipeline.progress(settings) + step

            async def reached(goal: float = goal) -> bool:
                return await pipeline.progress(settings) >= goal

            await wait_until(reached, TROUBLED_LIMIT_S, what=f"{goal} of {end} counted")
            if turn % 3 == 0:
                crew.stop_one()
            else:
                await conn.fetch(END_SESSIONS)
