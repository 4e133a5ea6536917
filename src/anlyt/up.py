"""All roles in one process tree: embedded servers where no address is set, migrations, workers, jobs, API, sample.

In: settings. Out: a running service, its address and, with embedded servers, ready keys on stdout. The roles are
processes of their own and talk only through PostgreSQL and NATS, so one that dies is started again and nothing is lost.
What other commands need to find the embedded servers stands in DATA_DIR/servers.json, readable by this user only.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec
import structlog
from msgspec import Struct
from pydantic import SecretStr

from anlyt import demo as demo_module
from anlyt import jetstream, jobs, keys, postgres
from anlyt.access import make_grant
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.errors import ConfigurationError
from anlyt.keeper import dying_with_parent

if TYPE_CHECKING:
    from pathlib import Path

    from anlyt.settings import Settings

RESTART_DELAY_S: Final = 1.0
STOP_LIMIT_S: Final = 15.0
SERVERS_FILE: Final = "servers.json"
KEYS_FILE: Final = "keys.json"

log = structlog.get_logger("anlyt.up")


class Servers(Struct, frozen=True):
    """Addresses, with their passwords, of the embedded servers that `pid` runs."""

    pid: int
    database_url: str
    nats_url: str


# ------------------------------------------------------------------------------------------------- finding the servers


def running_servers(data_dir: Path) -> Servers | None:
    """The servers an `anlyt up` in this data directory runs now; None when there is none."""
    try:
        found = msgspec.json.decode((data_dir / SERVERS_FILE).read_bytes(), type=Servers)
        os.kill(found.pid, 0)
    except (OSError, msgspec.DecodeError):
        return None
    return found


def with_servers(settings: Settings, servers: Servers) -> Settings:
    """`settings` with the address of each server that was not set."""
    return settings.model_copy(
        update={
            "database_url": settings.database_url or SecretStr(servers.database_url),
            "nats_url": settings.nats_url or SecretStr(servers.nats_url),
        }
    )


def write_private(path: Path, content: bytes) -> None:
    """A file only this user can read, there whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


# -------------------------------------------------------------------------------------------------------- preparation


async def prepare(settings: Settings) -> list[str]:
    """Schema, partitions and stream as this version needs them; the names of the migrations that were applied."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    url = settings.database_url.get_secret_value()
    applied = await postgres.migrate(url)
    conn = await postgres.connect(url, application="anlyt-migrate")
    try:
        with postgres.unavailable():
            await postgres.ensure_partitions(conn, jobs.months_ahead(datetime.now(UTC)))
    finally:
        conn.terminate()
    nc = await jetstream.connect(settings.nats_url.get_secret_value(), name="anlyt-migrate")
    try:
        await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
    finally:
        await nc.close()
    return applied


async def _ready_keys(settings: Settings, grants: dict[str, tuple[str, list[str], list[str]]]) -> dict[str, str]:
    """Keys by name, kept with the embedded data so that a second start prints the same ones."""
    path = settings.data_dir / KEYS_FILE
    kept: dict[str, str] = {}
    with suppress(OSError, msgspec.DecodeError):
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    assert settings.database_url is not None
    conn = await postgres.connect(settings.database_url.get_secret_value(), application="anlyt-up")
    try:
        with postgres.unavailable():
            for name, (scope, ids, permissions) in grants.items():
                if name not in kept:
                    made = await keys.create_key(conn, make_grant(scope, ids, permissions), name=name)
                    kept[name] = made.key
    finally:
        conn.terminate()
    write_private(path, msgspec.json.encode(kept))
    return {name: kept[name] for name in grants}


# ------------------------------------------------------------------------------------------------------------ running


async def run(settings: Settings, *, demo: bool, flags: list[str], stop: asyncio.Event) -> None:
    """Start everything, print how to reach it, and keep it running until `stop`; then stop it in reverse order."""
    port = _check_port(settings)
    embedded = settings.database_url is None or settings.nats_url is None
    async with AsyncExitStack() as stack:
        settings = await _start_servers(settings, stack)
        await prepare(settings)
        environment = _environment(settings, port)
        roles = [["api"], ["jobs", "loop"], *[["worker"]] * _workers(settings)]
        tasks = [asyncio.create_task(_keep_running([*flags, *role], environment, stop)) for role in roles]
        stack.push_async_callback(_join, tasks, stop)
        story = demo_module.story(settings)
        if demo and not stop.is_set():
            await demo_module.load_history(settings, story, stop=stop)
        grants: dict[str, tuple[str, list[str], list[str]]] = {
            "platform": ("PLATFORM", [], ["metrics:read", "events:write", "admin"])
        }
        if demo:
            grants |= demo_module.grants(story)
        ready = await _ready_keys(settings, grants) if embedded else {}
        _say_ready(f"http://{settings.http_host}:{port}", ready)
        if demo:
            tasks.append(asyncio.create_task(_keep_running([*flags, *demo_module.LIVE], environment, stop)))
        await stop.wait()
        _say("stopping")


async def _start_servers(settings: Settings, stack: AsyncExitStack) -> Settings:
    if settings.database_url is not None and settings.nats_url is not None:
        return settings
    data_dir = settings.data_dir.absolute()
    if settings.database_url is None:
        _say(f"starting PostgreSQL in {data_dir / 'postgres'}")
        database = await stack.enter_async_context(EmbeddedPostgres(data_dir / "postgres"))
        settings = settings.model_copy(update={"database_url": SecretStr(database.url)})
    if settings.nats_url is None:
        _say(f"starting nats-server in {data_dir / 'nats'}")
        nats = await stack.enter_async_context(EmbeddedNats(data_dir / "nats"))
        settings = settings.model_copy(update={"nats_url": SecretStr(nats.url)})
    assert settings.database_url is not None
    assert settings.nats_url is not None
    servers = Servers(os.getpid(), settings.database_url.get_secret_value(), settings.nats_url.get_secret_value())
    write_private(data_dir / SERVERS_FILE, msgspec.json.encode(servers))
    stack.callback((data_dir / SERVERS_FILE).unlink, missing_ok=True)
    return settings


def _check_port(settings: Settings) -> int:
    """The port of the API, free now. Raises ConfigurationError when somebody else has it."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.http_host, settings.http_port))
        except OSError as error:
            raise ConfigurationError(
                f"the API cannot listen on {settings.http_host}:{settings.http_port}: {error.strerror}; "
                "set ANLYT_HTTP_PORT to another port, or to 0 for any free one"
            ) from None
        return int(probe.getsockname()[1])


def _workers(settings: Settings) -> int:
    return min(settings.partitions, os.cpu_count() or 1)


def _environment(settings: Settings, port: int) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.nats_url is not None
    return os.environ | {
        "ANLYT_DATABASE_URL": settings.database_url.get_secret_value(),
        "ANLYT_NATS_URL": settings.nats_url.get_secret_value(),
        "ANLYT_HTTP_PORT": str(port),
    }


async def _keep_running(arguments: list[str], environment: dict[str, str], stop: asyncio.Event) -> None:
    """Run one role as a process, again whenever it ends by itself; SIGTERM at `stop`, SIGKILL after STOP_LIMIT_S."""
    while not stop.is_set():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "anlyt",
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process, which stops the others in order
            preexec_fn=dying_with_parent(signal.SIGTERM),
        )
        ended = asyncio.create_task(process.wait())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_LIMIT_S):
                    await asyncio.shield(ended)
            if not ended.done():
                process.kill()
                await ended
        stopped.cancel()
        if not stop.is_set():
            log.error("role-ended", role=" ".join(arguments), exit_code=process.returncode)
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_DELAY_S):
                    await stop.wait()


async def _join(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    stop.set()
    await asyncio.gather(*tasks, return_exceptions=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - the talk of the command


def _say_ready(address: str, ready: dict[str, str]) -> None:
    lines = ["", f"anlyt is ready: {address}"]
    if ready:
        lines += ["", "keys:"] + [f"  {name:<10} {key}" for name, key in ready.items()]
        first = next(iter(ready.values()))
        lines += ["", "try:", f"  curl -H 'Authorization: Bearer {first}' '{address}/v1/metrics/hourly?scope=PLATFORM'"]
    lines += ["", "Ctrl-C stops everything; the data stays."]
    print("\n".join(lines), flush=True)  # noqa: T201 - the answer of the command
