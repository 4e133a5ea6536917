"""The page on security: every test it names is there; and what no other module tries."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

import pipeline
from anlyt import web
from commands import anlyt, environment_of
from databases import login_role
from guarded import nats_with
from serving import key_for, service
from support import run

if TYPE_CHECKING:
    from anlyt.embedded import EmbeddedPostgres
    from anlyt.settings import Settings

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
CANARY = "CANARY7f3a"
PHONE = "+491700000042"


# ----------------------------------------------------------------------------------------------------------- the page


@cache
def names_of_tests_in(file: str) -> frozenset[str]:
    """The names of the tests in a file."""
    return frozenset(
        node.name for node in ast.walk(ast.parse((TESTS / file).read_text())) if isinstance(node, ast.FunctionDef)
    )


def attacks() -> list[tuple[str, str]]:
    """What the table tries, and by which tests."""
    table = PAGE.partition("| attack |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    return [(row[0], row[2]) for row in rows]


@pytest.mark.parametrize(("attack", "tried"), attacks(), ids=[attack for attack, _ in attacks()])
def test_every_attack_on_the_page_is_tried(attack: str, tried: str) -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", tried)

    assert named, attack
    assert len(named) == len(tried.split(", "))
    for file, name in named:
        assert not name or name in names_of_tests_in(file), f"{file}::{name}"


def test_the_table_has_all_its_rows() -> None:
    assert len(attacks()) >= 35


# -------------------------------------------------------------------------------------------------------------- HTTP


def test_errors_carry_the_security_headers_too(database_url: str) -> None:
    async def story() -> dict[int, set[str]]:
        async with service(database_url) as (client, conn):
            reader = await key_for(conn, "PLATFORM")
            answers = [
                await client.get("/v1/status"),
                await client.get("/nowhere"),
                await client.delete("/v1/status"),
                await client.get("/v1/dead-letters", headers=reader),
                await client.get("/v1/metrics/hourly?limit=0", headers=reader),
                await client.get("/v1/metrics/hourly?cursor=x", headers=reader),
                await client.get("/v1/metrics/hourly?scopeId=" + "x" * 9_000, headers=reader),
                await client.get("/v1/status", headers=reader | {"Accept": "text/html"}),
            ]
            await conn.execute("DROP TABLE anlyt.api_keys")
            answers.append(await client.get("/v1/status", headers=reader))
            return {
                answer.status_code: {
                    name for name, value in web.SECURITY_HEADERS.items() if answer.headers.get(name) != value
                }
                for answer in answers
            }

    assert run(story()) == {status: set() for status in (400, 401, 403, 404, 405, 406, 414, 422, 500)}


# ------------------------------------------------------------------------------------------------------------ secrets


@pytest.mark.long
def test_no_password_and_no_phone_number_leaves_a_command(
    postgres_server: EmbeddedPostgres, settings: Settings, tmp_path: Path
) -> None:
    """Every command that touches a server, at the most talkative level, right and wrong passwords alike."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    async def publish(given: Settings) -> None:
        async with pipeline.stream_of(given) as nc:
            for body in (b"nonsense " + PHONE.encode(), b'{"id": "' + PHONE.encode() + b'"}'):
                await nc.jetstream().publish(given.subjects.replace(">", "x"), body)

    async def story() -> list[str]:
        async with (
            nats_with(tmp_path, f'authorization {{ user: "anlyt", password: "{CANARY}" }}') as port,
            login_role(postgres_server, url, member_of="anlyt") as database,
        ):
            secret = urlsplit(database).password
            assert secret is not None
            given = settings.model_copy(
                update={
                    "nats_url": SecretStr(f"nats://anlyt:{CANARY}@127.0.0.1:{port}"),
                    "database_url": SecretStr(database),
                }
            )
            await publish(given)
            good = environment_of(given, log_level="debug", log_format="json")
            wrong = good | {
                "ANLYT_NATS_URL": f"nats://anlyt:{CANARY}x@127.0.0.1:{port}",
                "ANLYT_DATABASE_URL": database.replace(secret, secret + "x"),
            }
            broken = good | {"ANLYT_NATS_URL": f"nats://anlyt:{CANARY}/@127.0.0.1:{port}"}
            told: list[str] = []
            for env, words in [
                (good, ["worker", "--until-idle"]),
                (good, ["doctor"]),
                (good, ["jobs", "run", "purge"]),
                (wrong, ["worker", "--until-idle"]),
                (wrong, ["doctor"]),
                (broken, ["worker", "--until-idle"]),
            ]:
                result = anlyt(*words, env=env)
                assert secret not in result.out + result.err, words
                told.append(result.out + result.err)
            return told

    told = run(story(), 110)

    assert "dead-letters-kept" in told[0]
    assert "percent-encoded" in told[-1]
    for text in told:
        assert CANARY not in text
        assert PHONE not in text


# ---------------------------------------------------------------------------------------------------------- the code

MAKING_OBJECTS = {"pickle", "marshal", "shelve", "yaml", "dill", "xml"}


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "anlyt").glob("*.py")), ids=lambda path: path.stem)
def test_the_package_makes_no_objects_of_what_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text())
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert imported & MAKING_OBJECTS == set()
    assert called & {"eval", "exec", "compile", "__import__"} == set()
