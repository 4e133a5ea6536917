"""Real processes at the price of a fork: one process that has everything imported makes them, signals and reaps them.

In: orders, one JSON document a line. Out: the pid of every process made, and its exit code when it has ended. A process
is a command of `anlyt` as its entry point runs it, or a publisher. All of them end when the nursery does, and the
nursery ends with whoever started it; it signals no process but its own.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BROKEN: Final = 70  # exit code of a process that raised what its entry point should have caught


@dataclass(slots=True)
class Child:
    """A process of the nursery's; `ended` gives its exit code."""

    pid: int
    log: Path
    ended: asyncio.Future[int]

    @property
    def said(self) -> str:
        """Everything it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """Makes processes of the package, or of a copy in `source`, whose clocks are `clock_s` seconds off."""

    def __init__(self, *, source: Path | None = None, clock_s: int = 0) -> None:
        self._environment = dict(os.environ)
        if source is not None:
            self._environment["PYTHONPATH"] = str(source)
        if clock_s:
            self._environment |= clock_off(clock_s)
        self._made: dict[int, asyncio.Future[int]] = {}
        self._children: dict[int, Child] = {}
        self._orders = 0

    async def open(self) -> None:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env=self._environment,
        )  # fmt: skip
        self._listening = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """End it, and with it all of its processes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listening

    async def spawn(self, work: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Child:
        """A new process: "anlyt" or "publish" with its arguments."""
        self._orders += 1
        token = self._orders
        made = self._made[token] = asyncio.get_running_loop().create_future()
        order = {"token": token, "work": work, "arguments": [*arguments], "environment": {**environment}}
        self._send(order | {"log": str(log)})
        pid = await made
        child = self._children[pid] = Child(pid, log, asyncio.get_running_loop().create_future())
        return child

    def signal(self, child: Child, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        self._send({"signal": int(number), "pid": child.pid})

    def _send(self, order: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            told = json.loads(line)
            if "token" in told:
                self._made.pop(told["token"]).set_result(told["pid"])
                await asyncio.sleep(0)  # whoever waits for the pid takes it before the exit code can follow
            else:
                self._children.pop(told["pid"]).ended.set_result(told["code"])


def faketime_libraries() -> list[Path]:
    """libfaketime, where this machine has it."""
    return [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


def clock_can_be_off() -> bool:
    """Whether this machine can give a process another clock."""
    return bool(faketime_libraries())


def clock_off(seconds: int) -> dict[str, str]:
    """What the environment of a process must hold for its clock to be so many seconds off."""
    return {
        "LD_PRELOAD": str(faketime_libraries()[0]),
        "FAKETIME": f"{seconds:+d}s",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


# ----------------------------------------------------------------------------------------------------- in the nursery


def serve() -> None:
    """Make processes as ordered until standard input ends; then end them all."""
    work = _works()
    arm = _dying_with_us()
    gc.freeze()
    woken, wake = os.pipe()
    for descriptor in woken, wake:
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: set[int] = set()
    rest = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            _reap(running)
        if 0 in ready:
            data = os.read(0, 65_536)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _obey(json.loads(line), running, work, arm)
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _works() -> dict[str, Callable[[list[str]], int]]:
    """What a process can do, with everything imported that the commands import when they run."""
    import publisher  # noqa: PLC0415 - the side that orders needs none of this
    from anlyt import cli  # noqa: PLC0415 - as above

    for name in "uvloop", "anlyt.jobs", "anlyt.worker":
        importlib.import_module(name)
    return {"anlyt": lambda arguments: cli.run(cli.app, arguments), "publish": publisher.main}


def _dying_with_us() -> Callable[[], None] | None:
    from anlyt.keeper import dying_with_parent  # noqa: PLC0415 - as above

    return dying_with_parent(signal.SIGKILL)


def _obey(
    order: dict[str, Any],
    running: set[int],
    work: Mapping[str, Callable[[list[str]], int]],
    arm: Callable[[], None] | None,
) -> None:
    if "signal" in order:
        if order["pid"] in running:
            os.kill(order["pid"], order["signal"])
        return
    pid = os.fork()
    if pid == 0:
        if arm is not None:
            arm()
        _live(order, work[order["work"]])
    running.add(pid)
    _tell({"token": order["token"], "pid": pid})


def _live(order: dict[str, Any], work: Callable[[list[str]], int]) -> None:
    """What the new process does; never returns."""
    code = BROKEN
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in (nothing, 0), (log, 1), (log, 2):
            os.dup2(source, target)
        os.closerange(3, 256)
        clock = {name: value for name, value in os.environ.items() if "FAKETIME" in name or name == "LD_PRELOAD"}
        os.environ.clear()
        os.environ.update(order["environment"] | clock)
        time.tzset()
        code = work(order["arguments"])
    except BaseException:  # noqa: BLE001 - nothing may go on in a copy of the nursery
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(running: set[int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        running.discard(pid)
        _tell({"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def _tell(what: Mapping[str, Any]) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    serve()
