"""Finding the one process that owns a chDB directory, and starting it when there is none.

In: a directory. Out: where its owner listens and the password it takes. A chDB directory can be opened by one process
only, while the API, the jobs and the commands all need it; so the owner (chdb_server.py) serves ClickHouse's HTTP
protocol on loopback, and writes its port and password to a file that only this user reads. Nobody is responsible for
the owner: whoever needs it first starts it, and it ends by itself when nobody is connected any more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from anlyt.errors import ArchiveUnavailable

if TYPE_CHECKING:
    from pathlib import Path

USER: Final = "anlyt"
OWNER_FILE: Final = "anlyt-server.json"
LOCK_FILE: Final = "anlyt-server.lock"
LOG_FILE: Final = "anlyt-server.log"
START_LIMIT_S: Final = 60.0
PING_LIMIT_S: Final = 5.0
LOOK_S: Final = 0.1
LOG_BYTES_MAX: Final = 4 * 2**20  # a longer log is begun anew at the next start
LOG_TAIL_BYTES: Final = 2_000
TAKEN_EXIT_CODE: Final = 75  # of a server that found another owner: look for that one


class Owner(Struct, frozen=True):
    """The process that owns a directory now."""

    pid: int
    port: int
    password: str


def find_or_start(directory: Path) -> Owner:
    """The owner of a chDB directory, started when there is none. Blocks. Raises ArchiveUnavailable."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        owner = find(directory)
        if owner is not None:
            return owner
        _start(directory)
    raise ArchiveUnavailable(
        f"the embedded archive in {directory} did not answer within {START_LIMIT_S:.0f} s; "
        f"look at {directory / LOG_FILE}, or remove what else has the directory open"
    )


def find(directory: Path) -> Owner | None:
    """The owner that answers now; None when there is none."""
    with suppress(OSError, msgspec.DecodeError):
        owner = msgspec.json.decode((directory / OWNER_FILE).read_bytes(), type=Owner)
        if _answers(owner):
            return owner
    return None


def _answers(owner: Owner) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{owner.port}/ping")
    # No proxy is asked, whatever the environment says: the owner is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PING_LIMIT_S) as answer:
            return answer.headers.get("X-Anlyt-Pid") == str(owner.pid)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _start(directory: Path) -> None:
    """Start an owner and wait until it can be found. Where another one was quicker, that is the one."""
    _make_directory(directory)
    log = directory / LOG_FILE
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        log.unlink()
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
        begun = file.tell()
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "anlyt.chdb_server", str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=directory,
            check=False,
            timeout=START_LIMIT_S,
        )
    if done.returncode == TAKEN_EXIT_CODE:
        time.sleep(LOOK_S)  # it is about to write its file
    elif done.returncode:
        raise ArchiveUnavailable(
            f"the embedded archive in {directory} could not be started; it said:\n{_tail(log, begun)}"
        )


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveUnavailable(f"the archive's directory {directory} cannot be made: {error.strerror}") from None


def _tail(log: Path, begun: int) -> str:
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(begun, size - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").strip()
