"""The page on security: every test it names is there; and what no other module tries."""

from __future__ import annotations

import ast
import asyncio
import re
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec
import pytest
from pydantic import SecretStr

import pipeline
from anlyt import jobs, web, worker
from anlyt.clickhouse import ClickHouse
from anlyt.crash import CrashPoints
from anlyt.errors import ArchiveUnavailable
from anlyt.telemetry import Telemetry
from archives import archive_directory
from commands import anlyt, environment_of
from databases import login_role
from guarded import nats_with
from serving import key_for, service
from support import names_of_tests_in, run

if TYPE_CHECKING:
    from anlyt.embedded import EmbeddedPostgres
    from anlyt.settings import Settings

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text()
CANARY = "CANARY7f3a"
PHONE = "+491700000042"
SERIES_MAX = 2_000


# ----------------------------------------------------------------------------------------------------------- the page


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


@pytest.mark.parametrize("path", ["/", "/docs", "/v1/status", "/nowhere"])
def test_no_policy_lets_a_page_take_code_or_anything_else_from_elsewhere(database_url: str, path: str) -> None:
    async def story() -> str:
        async with service(database_url) as (client, _):
            return (await client.get(path)).headers["content-security-policy"]

    directives = {words[0]: words[1:] for words in (part.split() for part in run(story()).split(";"))}
    sources = [source for each in directives.values() for source in each]

    assert directives["default-src"] == ["'none'"]
    assert directives["frame-ancestors"] == directives["base-uri"] == ["'none'"]
    assert [source for source in sources if not re.fullmatch(r"'none'|'self'|data:|'sha256-[\w+/=]+'", source)] == []
    assert "data:" not in directives.get("script-src", [])


def test_whatever_is_sent_and_asked_makes_no_more_series(settings: Settings) -> None:
    """Accounts, operators, types, sources, subjects, addresses, methods and keys of anybody's choice are no labels."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()

    async def story() -> list[int]:
        telemetry, stop = Telemetry(), asyncio.Event()
        async with (
            pipeline.stream_of(settings) as nc,
            service(url, settings=settings, telemetry=telemetry) as (client, conn),
        ):
            key = await key_for(conn, "PLATFORM")

            async def series(word: str) -> int:
                good = pipeline.submitted(datetime.now(UTC), accountId=str(uuid.uuid4()), operatorId=str(uuid.uuid4()))
                for body in (good, good, good.replace(b"message.submitted", word.encode()), word.encode()):
                    await nc.jetstream().publish(settings.subjects.replace(">", word), body)
                await worker.run(settings, telemetry=telemetry, crash=CrashPoints(), stop=stop, until_idle=True)
                await client.get(f"/v1/{word}", headers=key)
                await client.get(f"/v1/metrics/hourly?scopeId={uuid.uuid4()}&{word}={word}", headers=key)
                await client.get("/v1/status", headers={"X-API-Key": word})
                await client.request(word, "/v1/status", headers=key)
                assert word not in (await client.get("/metrics", headers=key)).text
                return sum(len(metric.samples) for metric in telemetry.registry.collect())

            return [await series(f"WORD{n}") for n in range(3)]

    first, *others = run(story())

    assert others == [first] * 2
    assert first < SERIES_MAX


# ---------------------------------------------------------------------------------------------------------- databases

SHADOWS = """
    CREATE SCHEMA shadow;
    CREATE FUNCTION shadow.ensure_partition(TEXT, TIMESTAMPTZ) RETURNS BOOLEAN LANGUAGE sql AS 'SELECT 1 / 0 = 0';
    CREATE FUNCTION shadow.latency_value(INTEGER) RETURNS BIGINT LANGUAGE sql AS 'SELECT 1 / 0';
    DO $$
    DECLARE
        name TEXT;
    BEGIN
        FOR name IN SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'anlyt'::REGNAMESPACE
            AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
            EXECUTE format('CREATE TABLE shadow.%1$I (LIKE anlyt.%1$I INCLUDING ALL)', name);
        END LOOP;
    END
    $$"""


def test_tables_of_the_same_names_in_front_of_ours_get_and_give_nothing(settings: Settings) -> None:
    """As if somebody who may make a schema had put it into the search path, with tables and functions like ours."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    name = url.rpartition("/")[2]

    async def story() -> None:
        async with pipeline.stream_of(settings) as nc:
            async with pipeline.database(settings) as conn:
                await conn.execute(SHADOWS)
                await conn.execute(f"ALTER DATABASE {name} SET search_path = shadow, anlyt, public")
            for body in (pipeline.submitted(datetime.now(UTC)), b"nonsense"):
                await nc.jetstream().publish(settings.subjects.replace(">", "x"), body)
            await pipeline.count(settings)
            for job in jobs.jobs_of(archived=False):
                await jobs.run_job(url, job.name, CrashPoints())
        async with service(url, settings=settings) as (client, conn):
            assert await conn.fetchval("SHOW search_path") == "shadow, anlyt, public"
            headers = await key_for(conn, "PLATFORM", permission="metrics:read")
            (row,) = (await client.get("/v1/metrics/hourly?scope=PLATFORM", headers=headers)).json()["data"]
            letters = await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters")
            tables = await conn.fetch(
                "SELECT relname FROM pg_class WHERE relnamespace = 'shadow'::REGNAMESPACE AND relkind = 'r'"
            )
            filled = [
                table[0]
                for table in tables
                if await conn.fetchval(f"SELECT EXISTS (SELECT FROM shadow.{table[0]})")  # noqa: S608 - ours
            ]

            assert (row["totalMessages"], letters) == (1, 1)
            assert len(tables) > 10
            assert filled == []

    run(story())


def test_a_question_that_takes_the_archive_too_long_is_given_up() -> None:
    async def story(directory: Path) -> None:
        clickhouse = ClickHouse(f"chdb://{directory}")
        clickhouse.address = msgspec.structs.replace(clickhouse.address, database="system")
        try:
            with pytest.raises(ArchiveUnavailable, match=r"TIMEOUT_EXCEEDED|Timeout exceeded"):
                await clickhouse.fetch("SELECT sum(cityHash64(number)) FROM numbers(1000000000000)", timeout_s=1)
            assert (await clickhouse.fetch("SELECT 2 AS two"))[0]["two"] == 2
        finally:
            await clickhouse.close()

    with archive_directory() as directory:
        run(story(directory))


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

# The modules that can fetch from an address, and what for. Events and requests give no address to anybody.
CLIENTS = {"httpx2", "httpx", "requests", "aiohttp", "urllib3", "urllib.request", "http.client", "clickhouse_connect"}
MAY_FETCH = {
    "chdb_owner": "urllib.request",  # whether our own archive process answers, on loopback
    "clickhouse": "clickhouse_connect",  # ANLYT_ARCHIVE_URL
    "doctor": "httpx2",  # ANLYT_NATS_MONITOR_URLS
    "tokens": "httpx2",  # ANLYT_JWKS_URL
}


def imports_of(tree: ast.AST) -> set[str]:
    """The modules that a module imports, and the packages they are in."""
    names = {
        name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    return names | {name.partition(".")[0] for name in names}


def test_only_modules_on_the_list_can_fetch_anything() -> None:
    paths = sorted((ROOT / "src" / "anlyt").glob("*.py"))
    found = {path.stem: ", ".join(sorted(imports_of(ast.parse(path.read_text())) & CLIENTS)) for path in paths}

    assert {name: clients for name, clients in found.items() if clients} == MAY_FETCH


# Functions with which a statement would read or write files, other servers or programs.
REACHING_OUT = re.compile(
    r"\b(file|url|s3|s3Cluster|remote|remoteSecure|hdfs|mysql|postgresql|mongodb|sqlite|jdbc|odbc|executable|input"
    r"|azureBlobStorage|gcs|pg_read_file|pg_read_binary_file|pg_ls_dir|lo_import|lo_export|dblink\w*)\s*\("
    r"|\b(TO|FROM)\s+PROGRAM\b|\bINTO\s+OUTFILE\b|\bFROM\s+INFILE\b|\bCOPY\b",
    re.IGNORECASE,
)


def test_no_statement_reaches_for_files_or_other_servers() -> None:
    statements = sorted((ROOT / "src" / "anlyt" / "sql").rglob("*.sql"))
    found = {
        path.name: match[0]
        for path in statements
        if (match := REACHING_OUT.search(re.sub(r"--.*", "", path.read_text())))
    }

    assert len(statements) > 100
    assert found == {}
    assert REACHING_OUT.search("SELECT * FROM url('http://a')")


MAKING_OBJECTS = {"pickle", "marshal", "shelve", "yaml", "dill", "xml"}


@pytest.mark.parametrize("path", sorted((ROOT / "src" / "anlyt").glob("*.py")), ids=lambda path: path.stem)
def test_the_package_makes_no_objects_of_what_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}

    assert imports_of(tree) & MAKING_OBJECTS == set()
    assert called & {"eval", "exec", "compile", "__import__"} == set()
