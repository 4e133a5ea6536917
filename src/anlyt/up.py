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
from anlyt.access import make_grant, read_key
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.errors import AnlytError, ConfigurationError
from anlyt.keeper import dying_with_parent

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anlyt.access import Grant
    from anlyt.settings import Settings

    Server = EmbeddedPostgres | EmbeddedNats

RESTART_DELAY_S: Final = 1.0
SERVER_LOOK_S: Final = 0.5  # how often the embedded servers are looked at
LISTENING_LIMIT_S: Final = 60.0
LISTENING_LOOK_S: Final = 0.05
ROLES_LOG_LEVEL: Final = "warning"  # of the roles, unless ANLYT_LOG_LEVEL says something else
STOP_LIMIT_S: Final = 15.0
SERVERS_FILE: Final = "servers.json"
KEYS_FILE: Final = "keys.json"
NAMES_FILE: Final = "names.json"

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
    async with postgres.session(url, application="anlyt-migrate") as conn:
        await postgres.ensure_partitions(conn, jobs.months_ahead(datetime.now(UTC)))
    nc = await jetstream.connect_as(settings, name="anlyt-migrate")
    try:
        await jetstream.ensure_stream(nc, settings.stream, settings.subjects, replicas=settings.stream_replicas)
    finally:
        await nc.close()
    return applied


async def _ready_keys(settings: Settings, grants: Mapping[str, Grant]) -> dict[str, str]:
    """Keys by name, kept with the embedded data so that a second start prints the same ones while they are valid."""
    assert settings.database_url is not None
    path = settings.data_dir / KEYS_FILE
    kept: dict[str, str] = {}
    with suppress(OSError, msgspec.DecodeError):
        kept = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    async with postgres.session(settings.database_url.get_secret_value(), application="anlyt-up") as conn:
        for name, grant in grants.items():
            presented = read_key(kept.get(name, ""))
            if presented is None or await keys.find_grant(conn, presented, now=datetime.now(UTC)) != grant:
                kept[name] = (await keys.create_key(conn, grant, name=name)).key
    write_private(path, msgspec.json.encode(kept))
    return {name: kept[name] for name in grants}


# ------------------------------------------------------------------------------------------------------------ running


async def run(settings: Settings, *, demo: bool, as_json: bool, flags: list[str], stop: asyncio.Event) -> None:
    """Start everything, print how to reach it, and keep it running until `stop`; then stop it in reverse order."""
    port = _check_port(settings)
    embedded = settings.database_url is None or settings.nats_url is None
    async with AsyncExitStack() as stack:
        settings, servers = await _start_servers(settings, stack)
        await prepare(settings)
        story = demo_module.story(settings) if demo else None
        environment = _environment(settings, port) | _names(settings, story)
        roles = [["api"], ["jobs", "loop"], *[["worker"]] * _workers(settings)]
        tasks = [asyncio.create_task(_keep_serving(server, stop)) for server in servers]
        tasks += [asyncio.create_task(_keep_running([*flags, *role], environment, stop)) for role in roles]
        stack.push_async_callback(_join, tasks, stop)
        grants = {"platform": make_grant("PLATFORM", [], ["metrics:read", "events:write", "admin"])}
        if story is not None:
            grants |= demo_module.grants(story)
            await demo_module.load_history(settings, story, stop=stop)
        await _wait_until_listening(settings.http_host, port, stop)
        if not stop.is_set():
            _say_ready(_url(settings.http_host, port), await _ready_keys(settings, grants) if embedded else {}, as_json)
            if demo:
                tasks.append(asyncio.create_task(_keep_running([*flags, *demo_module.LIVE], environment, stop)))
        await stop.wait()
        _say("stopping")


async def _start_servers(settings: Settings, stack: AsyncExitStack) -> tuple[Settings, list[Server]]:
    data_dir = settings.data_dir.absolute()
    servers: list[Server] = []
    found: dict[str, SecretStr] = {}
    if settings.database_url is None:
        _say(f"starting PostgreSQL in {data_dir / 'postgres'}")
        servers.append(await stack.enter_async_context(EmbeddedPostgres(data_dir / "postgres")))
        found["database_url"] = SecretStr(servers[-1].url)
    if settings.nats_url is None:
        _say(f"starting nats-server in {data_dir / 'nats'}")
        servers.append(await stack.enter_async_context(EmbeddedNats(data_dir / "nats")))
        found["nats_url"] = SecretStr(servers[-1].url)
    settings = settings.model_copy(update=found)
    if servers:
        assert settings.database_url is not None
        assert settings.nats_url is not None
        mine = Servers(os.getpid(), settings.database_url.get_secret_value(), settings.nats_url.get_secret_value())
        write_private(data_dir / SERVERS_FILE, msgspec.json.encode(mine))
        stack.callback((data_dir / SERVERS_FILE).unlink, missing_ok=True)
    return settings, servers


def _check_port(settings: Settings) -> int:
    """The port of the API, free now. Raises ConfigurationError when somebody else has it."""
    host, port = settings.http_host, settings.http_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        found = running_servers(settings.data_dir)
        if found is not None:
            where = settings.data_dir.absolute()
            raise ConfigurationError(
                f"anlyt up runs already, as process {found.pid}, with the data in {where}; stop it, or set "
                "ANLYT_DATA_DIR and ANLYT_HTTP_PORT for a second one"
            ) from None
        raise ConfigurationError(
            f"the API cannot listen on {host}:{port}: {error.strerror}; stop what listens there, or set "
            "ANLYT_HTTP_HOST and ANLYT_HTTP_PORT (0 takes a free port)"
        ) from None


async def _wait_until_listening(host: str, port: int, stop: asyncio.Event) -> None:
    """Until the API takes connections, or `stop`. Raises AnlytError after LISTENING_LIMIT_S."""
    deadline = asyncio.get_running_loop().time() + LISTENING_LIMIT_S
    while not stop.is_set():
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            writer.close()
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AnlytError(
                f"the API does not listen on {host}:{port} after {LISTENING_LIMIT_S:.0f} s; look at what it wrote above"
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(LISTENING_LOOK_S):
                await stop.wait()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _workers(settings: Settings) -> int:
    return min(settings.partitions, os.cpu_count() or 1)


def _environment(settings: Settings, port: int) -> dict[str, str]:
    assert settings.database_url is not None
    assert settings.nats_url is not None
    return os.environ | {
        "ANLYT_DATABASE_URL": settings.database_url.get_secret_value(),
        "ANLYT_NATS_URL": settings.nats_url.get_secret_value(),
        "ANLYT_HTTP_PORT": str(port),
        "ANLYT_LOG_LEVEL": settings.log_level if "log_level" in settings.model_fields_set else ROLES_LOG_LEVEL,
    }


def _names(settings: Settings, story: demo_module.Story | None) -> dict[str, str]:
    """Where the API finds the sample's display names, unless the settings name a file of their own."""
    if story is None or settings.names_file is not None:
        return {}
    path = settings.data_dir.absolute() / NAMES_FILE
    write_private(path, demo_module.names(story))
    return {"ANLYT_NAMES_FILE": str(path)}


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


async def _keep_serving(server: Server, stop: asyncio.Event) -> None:
    """Start an embedded server again when it ended by itself; its data and its address stay."""
    while not stop.is_set():
        if not server.running:
            log.error("server-ended", server=type(server).__name__)
            server.kill()  # only what is left of it
            try:
                await server.start()
            except AnlytError as error:
                log.error("server-failed", server=type(server).__name__, cause=str(error))  # noqa: TRY400 - expected
        with suppress(TimeoutError):
            async with asyncio.timeout(SERVER_LOOK_S):
                await stop.wait()


async def _join(tasks: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    stop.set()
    await asyncio.gather(*tasks, return_exceptions=True)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _say_ready(address: str, ready: dict[str, str], as_json: bool) -> None:  # noqa: FBT001 - private
    if as_json:
        text = msgspec.json.encode({"address": address, "keys": ready}).decode()
    else:
        lines = ["", f"anlyt is ready: {address}", ""]
        if ready:
            example = f"curl -H 'Authorization: Bearer {next(iter(ready.values()))}'"
            lines += ["keys:", *(f"  {name:<10} {key}" for name, key in ready.items())]
            lines += ["", "try:", f"  {example} '{address}/v1/metrics/hourly?scope=PLATFORM'"]
        else:
            lines += ["make a key: anlyt keys create --scope PLATFORM"]
        text = "\n".join([*lines, "", "Ctrl-C stops everything; the data stays."])
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
