"""The fault simulator: one seed is one plan, run with real servers and processes, judged cell by cell.

    python tests/simulator.py --seed 7                  one run, told in full
    python tests/simulator.py --seeds 1..1000 --report report.ndjson [--lanes 3] [--minutes 30] [--faults nats-cut,...]

In: a plan (fault_plan). Out: every difference between what must be and what is (verdict). Publishers, workers and jobs
are processes of their own (crew, nursery) that reach the servers through proxies (fault_proxy). A run that fails prints
its seed, its plan and the command that repeats it, and keeps its logs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import shutil
import sys
import time
import traceback
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from pydantic import SecretStr

import fault_plan
import oracle
import pipeline
import strikes
import verdict
from anlyt import jetstream
from anlyt.errors import StreamUnavailable
from anlyt.events import to_datetime
from crew import Crew
from fault_proxy import FaultProxy, faulty
from ground import Ground, ground
from support import pause, server_directory, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anlyt.settings import Settings
    from fault_plan import Plan

OLD_IDS: Final = 500  # past their time, so that the purge has something to delete beside the traffic
PROGRESS_LIMIT_S: Final = 600.0
END_LIMIT_S: Final = 600.0
RUN_LIMIT_S: Final = 1_800.0
LOOK_S: Final = 0.05  # between two looks at the tables, which cost the machine more than the wait
KEPT: Final = Path("/tmp/anlyt-simulator")  # noqa: S108 - logs of runs that failed, for whoever repeats them
LANES_DEFAULT: Final = 3


@dataclass(slots=True)
class Outcome:
    """What came of one run."""

    plan: Plan
    differences: list[str]
    hits: Counter[str] = field(default_factory=Counter)  # crash points
    struck: Counter[str] = field(default_factory=Counter)  # faults
    deaths: int = 0
    seconds: float = 0.0
    said: str = ""

    def line(self) -> str:
        """One line of the report."""
        told = {
            "seed": self.plan.seed,
            "seconds": round(self.seconds, 1),
            "workers": len(self.plan.clocks_s),
            "deaths": self.deaths,
            "hits": self.hits,
            "struck": self.struck,
            "differences": self.differences,
        }
        return json.dumps(told)

    def story(self) -> str:
        """What somebody needs who has to find out why."""
        found = "\n".join(f"  {difference}" for difference in self.differences) or "  none"
        command = f"python tests/simulator.py --seed {self.plan.seed}"
        return f"seed {self.plan.seed}: {self.plan}\ndifferences:\n{found}\nrepeat: {command}\n{self.said}"


class Run:
    """One plan on its way: what was published, who works, what has struck."""

    def __init__(self, plan: Plan, place: Ground, settings: Settings, nc: jetstream.Client) -> None:
        self.plan, self.place, self.settings, self.nc = plan, place, settings, nc
        self.now = datetime.now(UTC)
        self.struck: Counter[str] = Counter()
        self.proxies: dict[str, FaultProxy] = {}
        self.highest = -1  # PLATFORM's total that was read last
        rng = random.Random(plan.seed)
        bodies = oracle.generate(plan.seed, plan.events, self.now, batches=plan.batches)
        self.copies = pipeline.copies_of(rng, bodies, most=rng.choice((1, 2, 3)))
        self.traffic = verdict.Traffic({copy.mark: copy for copy in self.copies})
        self._conn: asyncpg.Connection | None = None

    async def story(self, crew: Crew) -> list[str]:
        """Publish share by share, let every fault strike, calm down, drain, judge."""
        await self.ask(
            "INSERT INTO anlyt.processed_events SELECT 'old-' || n || ' /old', 'x', now() - INTERVAL '49 hours'"
            " FROM generate_series(1, $1::INTEGER) AS n",
            OLD_IDS,
        )
        crew.open()
        *shares, rest = cut(self.copies, len(self.plan.strikes) + 1)
        for strike, share in zip(self.plan.strikes, shares, strict=True):
            before = await self.counted()
            await crew.publish(share)
            if share:  # fewer copies than shares, when most events came in a few batches
                await self.wait_for_more(before, crew)
            self.struck[strike.kind] += 1
            await strikes.hit(self, crew, strike)
        await crew.publish(rest)
        await crew.all_published(END_LIMIT_S)
        for proxy in self.proxies.values():
            proxy.calm()
        crew.arming = False
        crew.resume()
        try:
            await wait_until(self.all_counted, END_LIMIT_S, what="everything is counted")
        except AssertionError as error:
            return [f"{error}; the slots stand at {await self.positions()}\n{crew.said}"]
        await crew.leave()
        return await self._judge(crew)

    async def _judge(self, crew: Crew) -> list[str]:
        """Every difference, before and after the whole stream was read once more."""
        await self.ask("DELETE FROM anlyt.processed_events WHERE event_id LIKE 'old-%'")
        crew.read_notes(self.traffic)
        losing, reread = self.plan.losing, self.plan.rereading
        found = await verdict.judge(self.settings, self.nc, self.traffic, self.now, losing=losing, reread=reread)
        if found or not self.plan.replay:
            return found
        await self.ask("UPDATE anlyt.stream_positions SET last_seq = slot, last_published_at = NULL")
        await crew.count_again()
        found = await verdict.judge(self.settings, self.nc, self.traffic, self.now, losing=losing, reread=True)
        return [f"after a replay: {difference}" for difference in found]

    # ------------------------------------------------------------------------------------------------------- progress

    async def ask(self, query: str, *arguments: Any) -> Any:
        """A value from the database, in a session of our own that no proxy is in the way of; None: no answer."""
        try:
            if self._conn is None or self._conn.is_closed():
                assert self.settings.database_url is not None
                self._conn = await asyncpg.connect(self.settings.database_url.get_secret_value(), timeout=10)
            return await self._conn.fetchval(query, *arguments, timeout=20)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.close()
            return None

    def close(self) -> None:
        """End the session."""
        if self._conn is not None:
            self._conn.terminate()
        self._conn = None

    async def counted(self) -> Any:
        """A number that changes when something is counted; None while PostgreSQL cannot tell."""
        query = "SELECT coalesce(sum(last_seq), 0) FROM anlyt.stream_positions WHERE stream = $1"
        return await self.ask(query, self.settings.stream)

    async def goes_on(self, before: Any, limit_s: float) -> bool:
        """Whether something is counted within the limit."""

        async def moved() -> bool:
            await pause(LOOK_S)
            await self._check_monotone()
            return (now := await self.counted()) is not None and now != before

        try:
            await wait_until(moved, limit_s)
        except AssertionError:
            return False
        return True

    async def wait_for_more(self, before: Any, crew: Crew) -> None:
        """Wait until something is counted."""
        if not await self.goes_on(before, PROGRESS_LIMIT_S):
            raise AssertionError(
                f"nothing was counted for {PROGRESS_LIMIT_S} s after {dict(self.struck)}; "
                f"the slots stand at {await self.positions()}\n{crew.said}"
            )

    async def all_counted(self) -> bool:
        """Whether every slot is at the end of the stream as it is now."""
        await pause(LOOK_S)
        await self._check_monotone()
        try:
            info = await jetstream.stream_info(self.nc, self.settings.stream)
        except StreamUnavailable:
            return False
        query = """
            SELECT count(*) = 16 AND bool_and(last_seq = $2 AND stream_created_at = $3)
            FROM anlyt.stream_positions WHERE stream = $1"""
        return bool(await self.ask(query, self.settings.stream, info.last_seq, to_datetime(info.created)))

    async def positions(self) -> str:
        """Where the slots stand, for whoever has to find out why nothing goes on."""
        query = "SELECT array_agg(slot || ':' || last_seq ORDER BY slot) FROM anlyt.stream_positions WHERE stream = $1"
        return str(await self.ask(query, self.settings.stream))

    async def _check_monotone(self) -> None:
        """No counter ever falls between two reads."""
        query = "SELECT coalesce(sum(total_messages), 0) FROM anlyt.metrics_daily WHERE scope = 'PLATFORM'"
        total = await self.ask(query)
        if total is not None:
            assert total >= self.highest, f"PLATFORM's total fell from {self.highest} to {total}"
            self.highest = total


def cut(copies: Sequence[pipeline.Copy], parts: int) -> Iterator[Sequence[pipeline.Copy]]:
    """The copies in as many shares of about one size."""
    size, more = divmod(len(copies), parts)
    begin = 0
    for n in range(parts):
        end = begin + size + (n < more)
        yield copies[begin:end]
        begin = end


# ----------------------------------------------------------------------------------------------------------- one run


async def simulate(plan: Plan, place: Ground) -> Outcome:
    """Run one plan on a ground. Nothing that goes wrong ends the simulator: it is the outcome."""
    outcome = Outcome(plan, [])
    started = time.monotonic()
    with server_directory() as directory:
        try:
            async with asyncio.timeout(RUN_LIMIT_S):
                await _simulate(plan, place, directory, outcome)
        except Exception:  # noqa: BLE001 - one run of a thousand
            outcome.differences.append(traceback.format_exc())
        outcome.seconds = time.monotonic() - started
        if outcome.differences:
            kept = KEPT / f"seed-{plan.seed}"
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(directory, kept)
            outcome.said = f"logs: {kept}"
    return outcome


async def _simulate(plan: Plan, place: Ground, directory: Path, outcome: Outcome) -> None:
    async with AsyncExitStack() as stack:
        settings = await stack.enter_async_context(place.settings(plan, directory))
        assert settings.database_url is not None
        nc = await stack.enter_async_context(pipeline.stream_of(settings))
        run = Run(plan, place, settings, nc)
        stack.callback(run.close)
        urls: dict[str, str] = {}
        for link, url in zip(
            fault_plan.LINKS, (settings.database_url.get_secret_value(), *[place.nats.url] * 2), strict=True
        ):
            run.proxies[link], urls[link] = await stack.enter_async_context(faulty(url))
        behind = settings.model_copy(
            update={"database_url": SecretStr(urls["postgres"]), "nats_url": SecretStr(urls["nats"])}
        )
        crew = Crew(plan, place, settings, behind, urls["publishers"])
        stack.push_async_callback(crew.close)
        try:
            outcome.differences += await run.story(crew)
        finally:
            outcome.differences += crew.anomalies
            outcome.hits, outcome.deaths, outcome.struck = crew.hits, crew.deaths, run.struck


# ---------------------------------------------------------------------------------------------------------- a campaign


async def campaign(
    plans: Sequence[Plan],
    *,
    lanes: int = LANES_DEFAULT,
    minutes: float = math.inf,
    report: Path | None = None,
    source: Path | None = None,
) -> list[Outcome]:
    """Run many plans: those that hurt servers one by one on a ground of their own, the others side by side."""
    until = time.monotonic() + minutes * 60
    outcomes: list[Outcome] = []

    async def lane(left: Iterator[Plan], place: Ground) -> None:
        for plan in left:
            if time.monotonic() > until:
                return
            outcome = await simulate(plan, place)
            outcomes.append(outcome)
            tell(outcome, report)

    async with AsyncExitStack() as stack:
        directories = [stack.enter_context(server_directory()) for _ in range(2)]
        heavy = [plan for plan in plans if plan.heavy]
        light = iter([plan for plan in plans if not plan.heavy])
        async with asyncio.TaskGroup() as group:
            if heavy:
                hurt = await stack.enter_async_context(ground(directories[0], source=source))
                group.create_task(lane(iter(heavy), hurt))
            if len(heavy) < len(plans):
                calm = await stack.enter_async_context(ground(directories[1], source=source))
                for _ in range(lanes):
                    group.create_task(lane(light, calm))
    return outcomes


def tell(outcome: Outcome, report: Path | None) -> None:
    """Say what came of a run, in one line if nothing is wrong."""
    sys.stdout.write(f"{outcome.story() if outcome.differences else outcome.line()}\n")
    sys.stdout.flush()
    if report is not None:
        with report.open("a", encoding="utf-8") as file:
            file.write(f"{outcome.line()}\n")


def summary(outcomes: Sequence[Outcome]) -> str:
    """How many runs, deaths at each point and faults of each kind there were, and which runs failed."""
    hits: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    for outcome in outcomes:
        hits += outcome.hits
        struck += outcome.struck
    failed = [outcome.plan.seed for outcome in outcomes if outcome.differences]
    return "\n".join(
        (
            f"{len(outcomes)} runs, {sum(outcome.deaths for outcome in outcomes)} processes killed or crashed",
            f"crash points: {dict(sorted(hits.items()))}",
            f"faults: {dict(sorted(struck.items()))}",
            f"failed: {failed or 'none'}",
        )
    )


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Run the pipeline under faults drawn from seeds.")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--seeds", metavar="A..B", help="from A to B, both included")
    parser.add_argument(
        "--faults", default="all", metavar="KIND,...", help=f"all, or some of {', '.join(fault_plan.ALL)}"
    )
    parser.add_argument("--events", type=int)
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no run after this long")
    parser.add_argument("--source", type=Path, help="directory of another build of the package")
    parser.add_argument("--lanes", type=int, default=LANES_DEFAULT, help="runs side by side")
    parser.add_argument("--report", type=Path, help="append a JSON line for each run")
    given = parser.parse_args()
    first, _, last = (given.seeds or f"{given.seed}..{given.seed}").partition("..")
    kinds = None if given.faults == "all" else given.faults.split(",")
    plans = [fault_plan.draw(seed, kinds, events=given.events) for seed in range(int(first), int(last) + 1)]
    outcomes = asyncio.run(
        campaign(plans, lanes=given.lanes, minutes=given.minutes, report=given.report, source=given.source)
    )
    sys.stdout.write(f"{summary(outcomes)}\n")
    return int(any(outcome.differences for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
