"""The processes of one run: workers, publishers and jobs, each started again when it dies, until it may stay dead.

In: the plan, and the addresses that lead through the proxies. Out: everything published and counted, how often
processes died at which crash point, and every end of a process that nobody had ordered.
"""

from __future__ import annotations

import asyncio
import re
import signal
from collections import Counter
from typing import TYPE_CHECKING, Final

import fault_plan
import fleet
import publisher
from anlyt.errors import Retry
from support import pause

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from pathlib import Path

    import verdict
    from anlyt.settings import Settings
    from fault_plan import Plan
    from ground import Ground
    from nursery import Child, Nursery
    from pipeline import Copy

AGAIN_S: Final = 0.2  # before a process is started again that could not reach a server
LEAVE_LIMIT_S: Final = 60.0
SAID_CHARS: Final = 3_000


class Crew:
    """The processes of one run. `behind`: settings whose addresses lead through proxies; `settings`: without."""

    def __init__(self, plan: Plan, place: Ground, settings: Settings, behind: Settings, publishers_url: str) -> None:
        self.arming = True
        self.partitions = plan.partitions
        self.hits: Counter[str] = Counter()
        self.deaths = 0
        self.anomalies: list[str] = []
        self.sent: set[str] = set()  # marks of what publishers were given
        self._plan, self._place, self._settings, self._behind = plan, place, settings, behind
        self._publishers_url = publishers_url
        self._directory: Path = settings.data_dir
        self._workers: dict[int, tuple[Nursery, Child]] = {}
        self._publishers: dict[str, tuple[Nursery, Child]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._publishing: list[asyncio.Task[None]] = []
        self._notes: list[Path] = []
        self._may_publish = asyncio.Event()
        self._may_publish.set()
        self._starting = 0  # publishers that have no pid yet
        self._told: set[int] = set()  # pids that got SIGTERM
        self._leaving = False
        self._lives = 0

    # ------------------------------------------------------------------------------------------------------- workers

    def open(self) -> None:
        """Start the workers."""
        for slot in range(len(self._plan.clocks_s)):
            self._keep(self._tasks, self._keep_working(slot))

    async def leave(self) -> None:
        """Ask every worker to stop, and see that it does."""
        self._leaving = True
        for nursery, child in self._workers.values():
            if child.pid not in self._told:
                self._tell(nursery, child)
        _, late = await asyncio.wait(self._tasks, timeout=LEAVE_LIMIT_S)
        if late:
            self.anomalies.append(f"{len(late)} workers did not stop within {LEAVE_LIMIT_S} s of SIGTERM\n{self.said}")

    async def close(self) -> None:
        """Kill whatever still runs."""
        self._leaving = True
        tasks = [*self._tasks, *self._publishing]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for nursery, child in [*self._workers.values(), *self._publishers.values()]:
            nursery.signal(child, signal.SIGKILL)

    def kill_worker(self, pick: float) -> None:
        """SIGKILL one of them, wherever it is."""
        self._signal_worker(pick, signal.SIGKILL)

    def stop_worker(self, pick: float) -> None:
        """SIGTERM one of them, once: a second one would end it in the middle."""
        place = self._picked(pick)
        if place is not None and place[1].pid not in self._told:
            self._tell(*place)

    def pause(self, pick: float) -> None:
        """SIGSTOP one of the workers."""
        self._signal_worker(pick, signal.SIGSTOP)

    def pause_publishers(self) -> None:
        """SIGSTOP all publishers."""
        for nursery, child in self._publishers.values():
            nursery.signal(child, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT everybody."""
        for nursery, child in [*self._workers.values(), *self._publishers.values()]:
            nursery.signal(child, signal.SIGCONT)

    @property
    def said(self) -> str:
        """The last words of the workers that run."""
        return "\n".join(f"{slot}: {child.said[-SAID_CHARS:]}" for slot, (_, child) in sorted(self._workers.items()))

    def _signal_worker(self, pick: float, number: signal.Signals) -> None:
        place = self._picked(pick)
        if place is not None:
            place[0].signal(place[1], number)

    def _picked(self, pick: float) -> tuple[Nursery, Child] | None:
        """One of the workers that run, if there is any."""
        slots = sorted(self._workers)
        return self._workers[slots[int(pick * len(slots))]] if slots else None

    def _tell(self, nursery: Nursery, child: Child) -> None:
        self._told.add(child.pid)
        nursery.signal(child, signal.SIGTERM)

    async def _keep_working(self, slot: int) -> None:
        nursery = await self._place.nursery(self._plan.clocks_s[slot])
        life = 0
        while not self._leaving:
            armed = self._armed(f"worker {slot}", life, fault_plan.INGEST_POINTS)
            settings = self._behind.model_copy(update={"partitions": self.partitions})
            child = await self._spawn(nursery, "anlyt", ["worker"], settings, armed)
            self._workers[slot] = nursery, child
            if self._leaving:  # while it was made: leave() has not seen it
                self._tell(nursery, child)
            code = await asyncio.shield(child.ended)
            del self._workers[slot]
            self._note_end(child, code, may_end=child.pid in self._told)
            life += 1
            if code == Retry.exit_code:
                await pause(AGAIN_S)

    def _armed(self, who: str, life: int, points: tuple[str, ...]) -> str:
        if not self.arming or sum(self.hits.values()) >= self._plan.crashes_max:
            return ""
        return fault_plan.armed(self._plan, who, life, points)

    async def _spawn(
        self, nursery: Nursery, work: str, arguments: Sequence[str], settings: Settings, armed: str
    ) -> Child:
        self._lives += 1
        log = self._directory / f"{self._lives:03d}-{arguments[0].rpartition('/')[2]}.log"
        more = {"ANLYT_CRASH_POINTS": armed, "ANLYT_LOG_FORMAT": "json", "TZ": fleet.ZONE}
        return await nursery.spawn(work, arguments, fleet.environment(settings, **more), log)

    def _note_end(self, child: Child, code: int, *, may_end: bool) -> None:
        said = child.said
        if code == -signal.SIGKILL:
            self.deaths += 1
            self.hits.update(re.findall(r"^crash point (\S+)$", said, re.MULTILINE))
        elif code == Retry.exit_code or (may_end and code in {0, -signal.SIGTERM}):
            pass
        else:
            self.anomalies.append(f"a process ended with {code}; it said:\n{said[-SAID_CHARS:]}")
            return
        if "Traceback" in said:
            self.anomalies.append(f"a process said:\n{said[-SAID_CHARS:]}")

    # ---------------------------------------------------------------------------------------------------------- jobs

    async def run_job(self, job: str) -> None:
        """Run a job in a process that may die at one of its crash points."""
        points = tuple(point for point in fault_plan.JOB_POINTS if point.startswith(f"job-{job}"))
        await self._run(["jobs", "run", job], self._armed(job, self._lives, points))

    async def count_again(self) -> None:
        """Let a worker count until idle."""
        await self._run(["worker", "--until-idle"], "")

    async def _run(self, arguments: list[str], armed: str) -> None:
        nursery = await self._place.nursery()
        child = await self._spawn(nursery, "anlyt", arguments, self._settings, armed)
        try:
            self._note_end(child, await asyncio.wait_for(asyncio.shield(child.ended), LEAVE_LIMIT_S), may_end=True)
        except TimeoutError:
            self.anomalies.append(f"{' '.join(arguments)} did not end; it said:\n{child.said[-SAID_CHARS:]}")
            nursery.signal(child, signal.SIGKILL)

    # ---------------------------------------------------------------------------------------------------- publishers

    async def publish(self, share: Sequence[Copy]) -> None:
        """Let publishers publish this; they go on until all of it is acknowledged."""
        self.sent |= {copy.mark for copy in share}
        for n in range(self._plan.publishers):
            part = share[n :: self._plan.publishers]
            name = f"publisher-{len(self._notes):03d}"
            messages, notes = self._directory / f"{name}.messages", self._directory / f"{name}.notes"
            publisher.write_messages(messages, [(copy.mark, copy.body, copy.headers) for copy in part])
            self._notes.append(notes)
            self._keep(self._publishing, self._keep_publishing(name, messages, notes))

    def _keep(self, tasks: list[asyncio.Task[None]], work: Coroutine[None, None, None]) -> None:
        """Have a task that ends by a mistake of ours told."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.anomalies.append(f"the simulator itself: {error!r}")

        task = asyncio.create_task(work)
        task.add_done_callback(ended)
        tasks.append(task)

    async def all_published(self, limit_s: float) -> None:
        """Wait until everything is acknowledged."""
        _, late = await asyncio.wait(self._publishing, timeout=limit_s)
        assert not late, f"{len(late)} publishers did not get everything acknowledged within {limit_s} s"
        for task in self._publishing:
            task.result()

    async def kill_publishers(self) -> None:
        """SIGKILL all of them."""
        ended = [child.ended for _, child in self._publishers.values()]
        for nursery, child in self._publishers.values():
            nursery.signal(child, signal.SIGKILL)
        if ended:
            await asyncio.wait(ended)

    async def hold_publishers(self) -> None:
        """Kill them, and start none until `let_publish`."""
        self._may_publish.clear()
        while self._publishers or self._starting:
            await self.kill_publishers()
            await asyncio.sleep(0)

    def let_publish(self) -> None:
        """The end of `hold_publishers`."""
        self._may_publish.set()

    def read_notes(self, traffic: verdict.Traffic) -> None:
        """What was acknowledged so far."""
        for notes in self._notes:
            known = publisher.read_notes(notes)
            traffic.acked |= known.keys()
            traffic.known |= {mark for mark, duplicate in known.items() if duplicate}

    async def _keep_publishing(self, name: str, messages: Path, notes: Path) -> None:
        nursery = await self._place.nursery()
        subject = self._settings.subjects.removesuffix(">") + "any.where"
        while True:
            await self._may_publish.wait()
            arguments = [self._publishers_url, subject, str(messages), str(notes)]
            self._starting += 1
            child = await nursery.spawn("publish", arguments, {"TZ": "UTC"}, self._directory / f"{name}.log")
            self._publishers[name] = nursery, child
            self._starting -= 1
            code = await asyncio.shield(child.ended)
            del self._publishers[name]
            if code == 0:
                return
            if code != -signal.SIGKILL:
                self.anomalies.append(f"{name} ended with {code}; it said:\n{child.said[-SAID_CHARS:]}")
                return
