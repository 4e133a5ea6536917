"""The example programs run as they stand, against running servers, and what they do is in the tables."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commands import anlyt, environment_of, start
from support import run, wait_until
from test_cli import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anlyt.settings import Settings

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "examples/python"
TYPESCRIPT = ROOT / "examples/typescript"
CLIENT = ROOT / "clients/typescript"
SUBJECT = "messaging.events."


@pytest.fixture
def served(settings: Settings) -> Iterator[dict[str, str]]:
    """The environment of a reader of a running API with a day of traffic, and of its commands."""
    env = environment_of(settings, http_port=str(free_port()))
    anlyt("events", "simulate", "--fast", "--duration", "20h", "--rate", "0.02", env=env)
    assert anlyt("worker", "--until-idle", env=env).code == 0
    key = anlyt(
        *("keys", "create", "--scope", "PLATFORM", "--json"),
        *("--permission", "metrics:read", "--permission", "events:write"),
        env=env,
    ).document["key"]
    url = f"http://127.0.0.1:{env['ANLYT_HTTP_PORT']}"
    with start("api", env=env) as process:
        assert process.stderr is not None
        try:
            run(wait_until(lambda: "api-listening" in process.stderr.readline(), 30))
            yield env | {"API_URL": url, "API_KEY": key}
        finally:
            process.terminate()
            process.communicate(timeout=20)


def play(command: list[str], env: dict[str, str], cwd: Path = ROOT) -> list[str]:
    """Run a program to its end; its lines."""
    kept = {name: env[name] for name in ("PATH", "HOME", "API_URL", "API_KEY", "ANLYT_NATS_URL") if name in env}
    done = subprocess.run(command, env=kept, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def commands_of(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name not in {"API_URL", "API_KEY"}}


def platform_total(env: dict[str, str]) -> int:
    answer = anlyt("query", "daily", "--scope", "PLATFORM", "--from", "-3d", "--json", env=commands_of(env)).document
    return sum(row["totalMessages"] for row in answer["data"])


def test_every_example_is_run_here() -> None:
    programs = {path.name for path in (*PYTHON.glob("*.py"), *TYPESCRIPT.glob("src/*.ts"))}
    listed = set(re.findall(r"\]\([\w/]+/(\w+\.(?:py|ts))\)", (ROOT / "examples/README.md").read_text("utf-8")))

    assert programs == listed
    assert programs == {
        *("publish_nats.py", "publish_http.py", "read_hours.py", "worst_operators.py", "publish.ts", "read.ts")
    }


def test_what_the_python_programs_send_is_counted_once_and_read(settings: Settings, served: dict[str, str]) -> None:
    before = platform_total(served)
    source = (PYTHON / "publish_nats.py").read_text("utf-8")
    assert SUBJECT in source
    program = settings.data_dir / "publish_nats.py"
    program.write_text(source.replace(SUBJECT, settings.subjects.removesuffix(">")), encoding="utf-8")
    over_nats = play([sys.executable, str(program)], served)
    over_http = play([sys.executable, str(PYTHON / "publish_http.py")], served)
    anlyt("worker", "--until-idle", env=commands_of(served))
    hours = play([sys.executable, str(PYTHON / "read_hours.py")], served)
    worst = play([sys.executable, str(PYTHON / "worst_operators.py")], served)

    assert [line.rpartition(" ")[0] for line in over_nats] == [
        "message.submitted is message",
        "message.delivered is message",
    ]
    assert [line.split()[0] for line in over_http] == 2 * [*["accepted"] * 5, "rejected"]
    assert "invalid_field data.segments must be a whole number" in over_http[5]
    assert platform_total(served) == before + 6
    assert hours[0].startswith("complete through 20")
    assert re.fullmatch(rf"{before + 6} messages, cost \d+\.\d{{6}}, \d+ hours may still change", hours[1])
    assert 1 <= len(worst) <= 5
    assert all(re.fullmatch(r"[0-9a-f-]{36}  +(-|\d+\.\d%)  p95 (\d+|None) ms  \d+ failed", line) for line in worst)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The TypeScript programs and the client they import, type-checked and compiled with the compiler of their lock."""
    if shutil.which("npm") is None:
        assert "CI" not in os.environ, "CI needs Node.js and npm"
        pytest.skip("there is no Node.js here, so the TypeScript examples are NOT tested")
    root = tmp_path_factory.mktemp("typescript")
    for project in (TYPESCRIPT, CLIENT):
        ignored = shutil.ignore_patterns("node_modules", "dist")
        shutil.copytree(project, root / project.relative_to(ROOT), ignore=ignored)
    work = root / TYPESCRIPT.relative_to(ROOT)
    for command in (["npm", "ci", "--no-audit", "--no-fund"], ["npm", "run", "build"]):
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return work / "dist"


def test_what_the_typescript_programs_send_is_counted_once_and_read(served: dict[str, str], compiled: Path) -> None:
    before = platform_total(served)
    sent = play(["node", str(compiled / "publish.js")], served)
    anlyt("worker", "--until-idle", env=commands_of(served))
    read = play(["node", str(compiled / "read.js")], served)

    assert [line.split()[0] for line in sent] == ["accepted", "accepted", "rejected"]
    assert read[-1] == f"{before + 2} messages"
    assert read[-2].startswith("complete through 20")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d+ (-|[\d.]+ %) \d+\.\d{6} EUR", read[0])


def test_the_lock_names_no_registry() -> None:
    lock = (TYPESCRIPT / "package-lock.json").read_text("utf-8")

    assert re.findall(r'"resolved": "(.*)"', lock) == ["../../clients/typescript"]
    assert "://" not in lock
