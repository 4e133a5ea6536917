"""Real servers for the tests: one PostgreSQL and one nats-server a session, one database and one stream a test."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import asyncpg
import nats
import nats.js.errors
import pytest

from anlyt import postgres
from anlyt.embedded import EmbeddedNats, EmbeddedPostgres
from anlyt.settings import Settings
from browser import find_chromium, prepare, served
from support import run, server_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from browser import Site

TEMPLATE = "anlyt_template"


@pytest.fixture
def server_dir() -> Iterator[Path]:
    """A directory of this test's own for embedded servers and ANLYT_DATA_DIR."""
    with server_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL. A test that kills it must start it again; one that may fail to, starts its own."""
    with server_directory() as directory:
        # Tests kill processes, never the power, and only fsync would know the difference.
        server = EmbeddedPostgres(directory / "postgres", settings={"fsync": "off"})
        run(server.start())
        yield server
        run(server.stop())


@pytest.fixture(scope="session")
def nats_server() -> Iterator[EmbeddedNats]:
    """The session's nats-server; as with postgres_server."""
    with server_directory() as directory:
        server = EmbeddedNats(directory / "nats", sync_interval="1m")
        run(server.start())
        yield server
        run(server.stop())


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres) -> str:
    """Name of a migrated database that nobody connects to."""
    run(_admin(postgres_server, f"CREATE DATABASE {TEMPLATE} OWNER anlyt"))
    run(postgres.migrate(_address(postgres_server, TEMPLATE)))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A migrated database of this test's own, as the role anlyt."""
    name = f"t_{secrets.token_hex(6)}"
    run(_admin(postgres_server, f"CREATE DATABASE {name} OWNER anlyt TEMPLATE {template_database}"))
    yield _address(postgres_server, name)
    run(_admin(postgres_server, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def settings(database_url: str, nats_server: EmbeddedNats, server_dir: Path) -> Iterator[Settings]:
    """Settings for this test's database and for a stream and subjects of its own; the stream is not made yet."""
    word = secrets.token_hex(6)
    made = Settings.model_validate(
        {
            "database_url": database_url,
            "nats_url": nats_server.url,
            "stream": f"T{word}",
            "subjects": f"t{word}.events.>",
            "data_dir": server_dir,
        }
    )
    yield made
    run(_delete_stream(nats_server.url, made.stream))


@pytest.fixture(scope="module")
def site(postgres_server: EmbeddedPostgres, template_database: str, nats_server: EmbeddedNats) -> Iterator[Site]:
    """The page with the sample in it, in a real browser; one for a module."""
    executable = find_chromium()
    word = secrets.token_hex(6)
    run(_admin(postgres_server, f"CREATE DATABASE p_{word} OWNER anlyt TEMPLATE {template_database}"))
    made = Settings.model_validate(
        {
            "database_url": _address(postgres_server, f"p_{word}"),
            "nats_url": nats_server.url,
            "stream": f"P{word}",
            "subjects": f"p{word}.events.>",
        }
    )
    with server_directory() as directory, asyncio.Runner() as runner:
        runner.run(prepare(made))
        whole = served(made, directory, executable, runner)
        yield runner.run(whole.__aenter__())
        runner.run(whole.__aexit__(None, None, None))
    run(_delete_stream(nats_server.url, made.stream))
    run(_admin(postgres_server, f"DROP DATABASE p_{word} WITH (FORCE)"))


def _address(server: EmbeddedPostgres, database: str) -> str:
    return server.url.removesuffix("/anlyt") + f"/{database}"


async def _admin(server: EmbeddedPostgres, statement: str) -> None:
    conn = await asyncpg.connect(server.admin_url)
    try:
        await conn.execute(statement)
    finally:
        await conn.close()


async def _delete_stream(url: str, stream: str) -> None:
    client = await nats.connect(url)
    try:
        await client.jetstream().delete_stream(stream)
    except nats.js.errors.NotFoundError:
        pass  # the test made none
    finally:
        await client.close()
