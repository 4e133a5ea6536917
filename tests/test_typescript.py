"""The TypeScript client: it builds, its types are the data model's, and with Node it meets a running anlyt."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import pipeline
from anlyt import jetstream, keys
from anlyt.access import make_grant
from anlyt.postgres import connect, ensure_partitions
from anlyt.publishing import Publisher
from serving import listening
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from asyncpg import Connection

    from anlyt.settings import Settings

CLIENT = Path(__file__).parent.parent / "clients/typescript"
ACCOUNT, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
OPERATOR = "00000000-0000-4000-8000-0000000000c1"
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
BIG = [2**63 - 1, 2**53 + 1, -(2**53) - 1]
DAILY_ROWS = 25
NODE_LIMIT_S = 100


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the client with what it needs, built and checked; a machine without Node skips, CI never does."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        assert "CI" not in os.environ, "CI needs Node 20 or newer and npm for the TypeScript client"
        pytest.skip("NODE AND NPM ARE MISSING: THE TYPESCRIPT CLIENT IS NOT TESTED")
    directory = tmp_path_factory.mktemp("typescript") / "client"
    shutil.copytree(CLIENT, directory, ignore=shutil.ignore_patterns("node_modules", "dist"))
    node(directory, "npm", "ci", "--no-audit", "--no-fund", "--prefer-offline")
    node(directory, "npm", "run", "build")
    return directory


def node(directory: Path, *command: str, **environment: str) -> str:
    """What a command says; AssertionError with all of it when it fails."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=NODE_LIMIT_S,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def passed(report: str) -> int:
    """How many tests node ran, all of which passed."""
    counts = re.findall(r"^. (tests|pass) (\d+)$", report, re.MULTILINE)
    found = {word: int(number) for word, number in counts}

    assert found["tests"] == found["pass"] > 0, report
    return found["pass"]


def test_the_row_interface_is_that_of_the_data_model_to_the_letter() -> None:
    text = (CLIENT / "src/rows.ts").read_text(encoding="utf-8")
    wanted = """\
export interface MetricsHourlyRow {
  hourBucket: Date;
  scope: 'PLATFORM' | 'OPERATOR' | 'ACCOUNT';
  scopeId: string;
  totalMessages: bigint;
  deliveredMessages: bigint;
  failedMessages: bigint;
  pendingMessages: bigint;
  totalCost: string; // NUMERIC as string
  latencySumMs: bigint;
  latencySampleCount: bigint;
  peakTps: number;
  updatedAt: Date;
}
"""

    assert wanted in text
    assert re.findall(r"export interface (\w+)", text) == [
        "MetricsHourlyRow",
        "MetricsDailyRow",
        "OperatorPerformanceRow",
        "AccountUsageDailyRow",
        "ProcessedEventRow",
    ]


def test_the_lock_pins_by_hash_and_names_no_host() -> None:
    lock = json.loads((CLIENT / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}

    assert list(packages) == ["node_modules/typescript"]
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())


def test_no_script_of_a_package_runs_when_it_is_installed() -> None:
    assert (CLIENT / ".npmrc").read_text(encoding="utf-8").splitlines() == ["ignore-scripts=true"]


def test_types_are_right_and_wrong_uses_of_them_do_not_compile(built: Path) -> None:
    node(built, "npm", "run", "check")
    proofs = (built / "test/types.ts").read_text(encoding="utf-8")
    (built / "test/types.ts").write_text(proofs.replace("peakTps: number", "peakTps: bigint"), encoding="utf-8")
    with pytest.raises(AssertionError, match="TS2344"):
        node(built, "npm", "run", "check")
    (built / "test/types.ts").write_text(proofs, encoding="utf-8")


def test_what_is_built_carries_its_types_and_needs_nothing(built: Path) -> None:
    package = json.loads((built / "package.json").read_text(encoding="utf-8"))

    assert "dependencies" not in package
    assert (built / "dist/index.d.ts").is_file()
    imported = {
        name
        for file in (built / "dist").glob("*.js")
        for name in re.findall(r"from '([^']+)'", file.read_text(encoding="utf-8"))
    }
    assert all(name.startswith("./") for name in imported)


def test_without_a_service_json_streams_and_bad_days_are_mastered(built: Path) -> None:
    assert passed(node(built, "node", "--test", "--test-reporter=tap", "test/offline/")) >= 18


def test_the_client_meets_a_running_service(built: Path, settings: Settings) -> None:
    async def story() -> None:
        async with running(settings) as facts:
            report = await asyncio.to_thread(
                node,
                built,
                *("node", "--test", "--test-reporter=tap", "test/online/"),
                ANLYT_TEST=json.dumps(facts),
            )

            assert passed(report) >= 10

    run(story(), limit_s=110)


def test_the_snippets_of_the_readme_run(built: Path, settings: Settings) -> None:
    text = (CLIENT / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"^```js\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)

    async def story() -> None:
        async with running(settings) as facts:
            variables = {"ANLYT_URL": facts["url"], "ANLYT_KEY": facts["keys"]["all"]}
            said = []
            for number, snippet in enumerate(snippets):
                (built / f"snippet{number}.mjs").write_text(snippet, encoding="utf-8")
                said.append(await asyncio.to_thread(node, built, "node", f"snippet{number}.mjs", **variables))

            assert len(said) == 4
            for words, wanted in zip(said, ("accounts; complete", "0 accepted", "resume with", "n"), strict=True):
                assert wanted in words

    run(story(), limit_s=110)
    [file] = built.glob("anlyt-accounts-*.csv")

    assert ACCOUNT in file.read_text(encoding="utf-8")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[dict[str, Any]]:
    """A service that counts, with planted rows, and what a client has to know of it."""
    assert settings.database_url is not None
    assert settings.nats_url is not None
    database_url, nats_url = settings.database_url.get_secret_value(), settings.nats_url.get_secret_value()
    nc = await jetstream.connect(nats_url, name="anlyt-tests")
    await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
    await nc.jetstream().publish(settings.subjects.removesuffix(">") + "x", b"no event")
    await nc.close()
    publisher = Publisher(nats_url, settings.stream, name="anlyt-tests")
    conn = await connect(database_url, application="anlyt-tests")
    try:
        await plant(conn)
        async with (
            pipeline.counting(settings),
            listening(database_url, settings=settings, publisher=publisher) as url,
        ):
            await wait_until(lambda: conn.fetchval("SELECT count(*) FROM anlyt.dead_letters"), what="the dead letter")
            yield {
                "url": url,
                "keys": await make_keys(conn),
                "account": ACCOUNT,
                "other": OTHER,
                "day": DAY.isoformat().replace("+00:00", "Z"),
                "rows": DAILY_ROWS,
                "numbers": [str(number) for number in BIG],
            }
    finally:
        await conn.close()
        await publisher.close()


async def make_keys(conn: Connection[Any]) -> dict[str, str]:
    grants = {
        "staff": make_grant("PLATFORM", [], ["metrics:read", "admin"]),
        "tenant": make_grant("ACCOUNT", [ACCOUNT], ["metrics:read"]),
        "writer": make_grant("ACCOUNT", [ACCOUNT], ["events:write"]),
        "all": make_grant("PLATFORM", [], ["metrics:read", "events:write", "admin"]),
    }
    return {name: (await keys.create_key(conn, grant, name=name)).key for name, grant in grants.items()}


async def plant(conn: Connection[Any]) -> None:
    """Numbers at the edge of what the columns hold."""
    await ensure_partitions(conn, [DAY, datetime.now(UTC)])
    most = Decimal("999999999999.999999")
    await conn.execute(
        "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages,"
        " failed_messages, latency_sum_ms, total_cost) VALUES ($1, 'ACCOUNT', $2, $3, $4, $5, $4, $6)",
        DAY,
        ACCOUNT,
        *BIG,
        most,
    )
    await conn.executemany(
        "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id, total_messages, total_cost)"
        " VALUES ($1, 'ACCOUNT', $2, $3, $4)",
        [(DAY, f"{ACCOUNT[:-12]}{10 + n:012x}", BIG[0] - n, most) for n in range(DAILY_ROWS)],
    )
    await conn.execute(
        "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, messages_sent, messages_delivered,"
        " total_segments, total_cost) VALUES ($1, $2, $3, $4, $5, $6)",
        DAY,
        ACCOUNT,
        *BIG,
        -most,
    )
    await conn.execute(
        "INSERT INTO anlyt.operator_performance (hour_bucket, operator_id, total_messages, error_count)"
        " VALUES ($1, $2, $3, $4)",
        DAY,
        OPERATOR,
        BIG[1],
        BIG[0],
    )
