"""How each fault of a plan is done to a run. A fault that lasts ends when work goes on, or when its patience does."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

import fault_plan
import fleet
import verdict
from anlyt import jetstream
from anlyt.errors import StreamUnavailable
from fault_proxy import Fault
from support import pause, wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from crew import Crew
    from fault_plan import Strike
    from fault_proxy import FaultProxy
    from simulator import Run

DELAY_S: Final = 0.03
BACK_LIMIT_S: Final = 60.0
PARTITIONS: Final = (1, 2, 3, 4, 8, 16)
COMMITS: Final = {
    "commit-cut-before": Fault.CUT_BEFORE,
    "commit-cut-after": Fault.CUT_AFTER,
    "commit-silent": Fault.SILENT,
}


async def hit(run: Run, crew: Crew, strike: Strike) -> None:
    """Let one fault strike, and see it end."""
    link, _, fault = strike.kind.partition("-")
    if strike.kind in COMMITS:
        run.proxies["postgres"].plan.append(COMMITS[strike.kind])
    elif link in fault_plan.LINKS and fault in fault_plan.LINK_FAULTS:
        await _hit_link(run, run.proxies[link], fault, strike)
    else:
        await _OTHERS[strike.kind](run, crew, strike)


async def _hit_link(run: Run, proxy: FaultProxy, fault: str, strike: Strike) -> None:
    links = proxy.some(strike.pick)
    for link in links:
        if fault == "cut":
            link.cut()
        elif fault == "half-close":
            link.half_close()
        elif fault == "hold":
            link.flowing.clear()
        elif fault == "swallow":
            link.swallowed = True
    if fault == "delay":
        proxy.delay_s = DELAY_S
    if fault in {"hold", "swallow", "delay"}:
        await _last(run, strike)
    proxy.delay_s = 0.0
    for link in links:
        if link.swallowed:
            link.cut()  # what it did not get will never come
        link.flowing.set()


async def _last(run: Run, strike: Strike) -> None:
    await run.goes_on(await run.counted(), strike.patience_s)


# ---------------------------------------------------------------------------------------------------------- processes


async def _kill_worker(_: Run, crew: Crew, strike: Strike) -> None:
    crew.kill_worker(strike.pick)


async def _stop_worker(_: Run, crew: Crew, strike: Strike) -> None:
    crew.stop_worker(strike.pick)


async def _pause_worker(run: Run, crew: Crew, strike: Strike) -> None:
    crew.pause(strike.pick)
    await _last(run, strike)
    crew.resume()


async def _kill_publisher(_: Run, crew: Crew, strike: Strike) -> None:
    await crew.kill_publishers()


async def _pause_publisher(run: Run, crew: Crew, strike: Strike) -> None:
    crew.pause_publishers()
    await _last(run, strike)
    crew.resume()


async def _end_sessions(run: Run, _: Crew, strike: Strike) -> None:
    await run.ask(fleet.END_SESSIONS)


async def _change_partitions(_: Run, crew: Crew, strike: Strike) -> None:
    """Every process that starts from now on has another number; one starts at once."""
    crew.partitions = PARTITIONS[int(strike.pick * len(PARTITIONS))]
    crew.stop_worker(strike.pick)


async def _run_job(_: Run, crew: Crew, strike: Strike) -> None:
    await crew.run_job(fault_plan.JOBS[int(strike.pick * len(fault_plan.JOBS))])


# ------------------------------------------------------------------------------------------------------------ servers


async def _kill_postgres(run: Run, _: Crew, strike: Strike) -> None:
    run.place.postgres.kill()
    await run.place.postgres.start()


async def _kill_nats(run: Run, _: Crew, strike: Strike) -> None:
    run.place.nats.kill()
    await _start_nats(run)


async def _postgres_away(run: Run, _: Crew, strike: Strike) -> None:
    run.place.postgres.kill()
    await pause(strike.patience_s)
    await run.place.postgres.start()


async def _nats_away(run: Run, _: Crew, strike: Strike) -> None:
    run.place.nats.kill()
    await pause(strike.patience_s)
    await _start_nats(run)


async def _start_nats(run: Run) -> None:
    """Start it, and wait until our own connection is back as well."""
    await run.place.nats.start()

    async def answers() -> bool:
        try:
            await jetstream.stream_info(run.nc, run.settings.stream)
        except StreamUnavailable:
            return False
        return True

    await wait_until(answers, BACK_LIMIT_S, what="nats-server answers again")


async def _restore_postgres(run: Run, _: Crew, strike: Strike) -> None:
    """Put PostgreSQL back to what it was a while ago: everything counted since has to be counted again."""
    place, directory = run.place, run.place.directory
    await place.postgres.stop()
    await _copy(directory / "postgres" / "data", directory / "postgres-backup")
    await place.postgres.start()
    await _last(run, strike)
    place.postgres.kill()
    await _copy(directory / "postgres-backup", directory / "postgres" / "data")
    run.highest = -1
    await place.postgres.start()


async def _restore_nats(run: Run, crew: Crew, strike: Strike) -> None:
    """Put the stream back to what it was a while ago: sequences are used again, for other messages."""
    place, directory = run.place, run.place.directory
    await place.nats.stop()
    await _copy(directory / "nats" / "data", directory / "nats-backup")
    await _start_nats(run)
    await _last(run, strike)
    await crew.hold_publishers()
    place.nats.kill()
    await _copy(directory / "nats-backup", directory / "nats" / "data")
    await _start_nats(run)
    await _note_loss(run, crew)
    crew.let_publish()


async def _recreate_stream(run: Run, crew: Crew, strike: Strike) -> None:
    """Delete the stream and make it anew: sequences begin at 1 again."""
    await crew.hold_publishers()
    await jetstream.request(run.nc, f"STREAM.DELETE.{run.settings.stream}")
    await jetstream.ensure_stream(run.nc, run.settings.stream, run.settings.subjects)
    await _note_loss(run, crew)
    crew.let_publish()


async def _note_loss(run: Run, crew: Crew) -> None:
    """What was acknowledged and is gone is the broker's loss; nothing acknowledged from now on may be missing."""
    crew.read_notes(run.traffic)
    there = {message.mark for message in await verdict.read_stream(run.nc, run.settings.stream)}
    run.traffic.lost |= run.traffic.acked - there
    run.traffic.attempted |= crew.sent


async def _copy(source: Path, target: Path) -> None:
    """Copy a directory with its owners and rights over whatever is there."""
    shutil.rmtree(target, ignore_errors=True)
    command = ["cp", "-a", str(source), str(target)]
    await asyncio.to_thread(subprocess.run, command, check=True)


_OTHERS: Final[dict[str, Callable[[Run, Crew, Strike], Awaitable[None]]]] = {
    "kill-worker": _kill_worker,
    "stop-worker": _stop_worker,
    "pause-worker": _pause_worker,
    "kill-publisher": _kill_publisher,
    "pause-publisher": _pause_publisher,
    "end-sessions": _end_sessions,
    "change-partitions": _change_partitions,
    "run-job": _run_job,
    "kill-postgres": _kill_postgres,
    "kill-nats": _kill_nats,
    "postgres-away": _postgres_away,
    "nats-away": _nats_away,
    "restore-postgres": _restore_postgres,
    "restore-nats": _restore_nats,
    "recreate-stream": _recreate_stream,
}
