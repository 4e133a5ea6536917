"""What the documentation lists is there: links, settings, commands, reasons, limits, jobs, and examples that run."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
import typer

from anlyt import cli, jetstream, jobs, slots, worker
from anlyt.cloudevents import ATTRIBUTES, BATCH_BODY_EVENTS_MAX, Data
from anlyt.crash import CrashPoints
from anlyt.events import Decoder, EventType, Message, Rules, parse_instant
from anlyt.letters import REASONS
from anlyt.postgres import session
from anlyt.settings import CONFIG_VARIABLE, PREFIX, Settings
from anlyt.telemetry import LOG_EVENTS, METRICS, Telemetry
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/anlyt"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples/README.md",
    ROOT / "deploy/README.md",
]
NO_METRICS = {
    "anlyt_api",
    "anlyt_writer",
    "anlyt_reader",
    "anlyt_staff",
    "anlyt_tenant",
    "anlyt_session",
    "anlyt_scope",
    "anlyt_ids",
}
WHOLE_BODY = b"[" + b",".join([b"1"] * (BATCH_BODY_EVENTS_MAX + 1)) + b"]"


def text_of(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def spans(text: str) -> list[str]:
    """The code spans outside of blocks, each on one line."""
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table whose first heading is `heading`, without its head."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {heading} |"):
            next(lines)
            break
    rows: list[list[str]] = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows, f"there is no table {heading!r}"
    return rows


def named(cells: list[str]) -> list[str]:
    """What stands in code spans in cells."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


# --------------------------------------------------------------------------------------------------------------- links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(text_of(path))):
            broken.append(target)

    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", text_of(page))
        todo += {(page.parent / link).resolve() for link in links if not link.startswith("http")} - reached

    assert {page.relative_to(ROOT).as_posix() for page in PAGES} - {
        page.relative_to(ROOT).as_posix() for page in reached
    } <= {"CHANGELOG.md"}


# -------------------------------------------------------------------------------------------------- settings, commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_that_is_named_exists(page: Path) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}

    assert set(re.findall(r"\bANLYT_[A-Z_]+\b", text_of(page))) <= known


def commands(text: str) -> Iterator[list[str]]:
    """The words behind `anlyt` in every command of a page: in spans, and in lines of sh blocks."""
    shown = [*blocks(text, "sh"), *blocks(text, "console")]
    lines = [line for block in shown for line in block.splitlines()]
    for line in [*spans(text), *lines]:
        match = re.match(r"(?:\.venv/bin/)?anlyt ([a-z].*)", line)
        if match:
            yield re.split(r"\s(?:#|\||&&|\d?>|<)", match[1])[0].split()


def find_command(words: list[str]) -> tuple[list[str], list[str]]:
    """The path of the command that `words` call, and the names of its options. AssertionError when there is none."""
    command: Any = typer.main.get_command(cli.app)
    path: list[str] = []
    options = {option for parameter in command.params for option in parameter.opts}
    for word in words:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            break
        assert word in subcommands, f"anlyt {' '.join(words)}: there is no {word!r}"
        command = subcommands[word]
        path.append(word)
        options |= {option for parameter in command.params for option in parameter.opts}
    return path, sorted(options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    for words in commands(text_of(page)):
        _, options = find_command(words)

        assert {word for word in words if word.startswith("--")} <= set(options), f"anlyt {' '.join(words)}"


def requests_of(text: str) -> Iterator[tuple[str, str, set[str]]]:
    """Method, path and parameters of every curl command a page shows."""
    for block in blocks(text, "sh"):
        for command in re.findall(r"^curl .*$", block.replace("\\\n", " "), re.MULTILINE):
            found = re.search(r"(?:http://127\.0\.0\.1:8080|\$\{?[A-Z_]+\}?)(/[\w./$-]*)(?:\?([^'\" ]*))?", command)
            assert found, command
            method = re.search(r"-X (\w+)", command)
            sends = "POST" if re.search(r"--data|--json| -d ", command) else "GET"
            names = {pair.partition("=")[0] for pair in (found[2] or "").split("&") if pair}
            yield method[1] if method else sends, found[1], names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_request_that_is_shown_is_one_of_the_api(page: Path) -> None:
    described = json.loads(text_of("docs/reference/openapi.json"))["paths"]
    for method, path, names in requests_of(text_of(page)):
        if path in {"/openapi.json", "/asyncapi.json", "/docs"}:
            continue
        operation = described[path][method.lower()]

        assert names <= {parameter["name"] for parameter in operation.get("parameters", [])}, f"{method} {path}"


def test_there_are_requests_to_look_at() -> None:
    assert len(list(requests_of(text_of("docs/http-api.md")))) >= 5


def test_the_help_of_every_command_that_is_named_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    paths = {tuple(find_command(words)[0]) for page in PAGES for words in commands(text_of(page))}

    assert len(paths) > 10
    for path in sorted(paths):
        assert cli.run(cli.app, [*path, "--help"]) == 0
        assert "Usage: anlyt" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    words = [*spans(text_of(page)), *(line for block in blocks(text_of(page), "sh") for line in block.splitlines())]

    assert {word.split()[1] for word in words if re.match(r"make [a-z]", word)} <= targets


# ------------------------------------------------------------------------------------------------------- what is listed


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """tools/generate.py, which writes the reference pages."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


def test_the_limits_that_people_meet_are_the_constants(generator: ModuleType) -> None:
    constants = {f"{limit.module}.{limit.name}": limit.value for limit in generator.read_limits()}

    for cell, value, _ in table(text_of("docs/architecture.md"), "limit"):
        assert (cell, value) == (cell, constants.get(cell.strip("`")))


def test_the_reference_has_every_metric_and_every_log_event() -> None:
    page = text_of("docs/reference/telemetry.md")

    assert named([row[0] for row in table(page, "metric")]) == list(METRICS)
    assert named([row[0] for row in table(page, "event")]) == list(LOG_EVENTS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_metric_that_is_named_exists(page: Path) -> None:
    found = {span for span in spans(text_of(page)) if re.fullmatch(r"anlyt_[a-z_]+", span)}

    assert found - NO_METRICS <= set(METRICS)


def test_every_module_has_its_place_in_the_map() -> None:
    mapped = named([row[0] for row in table(text_of("docs/architecture.md"), "module")])
    tracked = subprocess.run(
        ["git", "ls-files", "src/anlyt/[a-z]*.py"],  # noqa: S607 - whatever git this machine has
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()

    assert sorted(mapped) == sorted(Path(name).stem for name in tracked if (ROOT / name).exists())


def test_the_invariants_that_modules_cite_are_those_of_the_architecture() -> None:
    listed = re.findall(r"^\| (I\d+) \|", text_of("docs/architecture.md"), re.MULTILINE)
    cited = {name for path in SOURCE.glob("*.py") for name in re.findall(r"\((I\d+)\)", path.read_text("utf-8"))}

    assert listed == [f"I{number}" for number in range(1, len(listed) + 1)]
    assert cited == set(listed)


def test_the_jobs_are_those_of_the_table() -> None:
    shown = {
        name: every
        for (name,), every in ((named([row[0]]), row[1]) for row in table(text_of("docs/operations.md"), "job"))
    }
    units = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
    seconds = {name: int(every.split()[0]) * units[every.split()[1]] for name, every in shown.items()}

    assert seconds == {job.name: job.period.total_seconds() for job in jobs.JOBS}


@pytest.mark.parametrize(("page", "replicas"), [("docs/operations.md", 1), ("docs/clusters.md", 3)])
def test_the_subject_transform_is_the_one_that_is_made(page: str, replicas: int) -> None:
    (block,) = blocks(text_of(page), "json")

    assert json.loads(block) == slots.division(Settings().subjects, replicas=replicas).transform


def test_every_runtime_dependency_has_its_reason() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]
    listed = [
        name
        for row in table(text_of("docs/adr/0002-dependencies.md"), "dependency")
        for name in re.sub(r" \(.*?\)", "", row[0]).split(", ")
    ]

    required = {re.split(r"[<>=\[]", requirement)[0] for requirement in wanted}

    assert required <= set(listed)
    assert set(listed) <= required


def test_decisions_are_numbered_and_dated_and_of_one_form() -> None:
    pages = sorted((ROOT / "docs/adr").glob("*.md"))

    numbers = [int(page.name[:4]) for page in pages]

    assert len(numbers) == len(set(numbers))
    for number, page in zip(numbers, pages, strict=True):
        text = text_of(page)
        assert text.startswith(f"# {number}. ")
        assert re.search(r"^Date: \d{4}-\d\d-\d\d\. Status: (accepted|superseded)", text, re.MULTILINE), page.name
        assert {"Context", "Decision", "Consequences"} <= set(re.findall(r"^## (\w+)", text, re.MULTILINE)), page.name


# -------------------------------------------------------------------------------------------------------------- events


def test_the_types_and_members_are_those_that_are_read() -> None:
    page = text_of("docs/events.md")
    types = table(page, "type")
    attributes, members = table(page, "attribute"), table(page, "member")
    listed = {word for row in types for cell in row[1:] for word in re.findall(r"\b[a-z]+[A-Za-z]*\b", bare(cell))}

    assert named([row[0] for row in types]) == list(get_args(EventType))
    assert set(named([row[0] for row in attributes])) == {*ATTRIBUTES, "data"}
    assert set(named([row[0] for row in members])) == set(Data.__struct_encode_fields__)
    assert listed <= set(Data.__struct_encode_fields__) | {"code"}  # which nobody reads


def bare(cell: str) -> str:
    """A cell without what stands in parentheses."""
    return re.sub(r"\([^)]*\)", "", cell)


GOOD = {
    "specversion": "1.0",
    "id": "e-1",
    "source": "/gateway/1",
    "type": "message.delivered",
    "time": "2026-11-22T12:00:00Z",
    "data": {
        "messageId": "m-1",
        "accountId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001",
        "submittedAt": "2026-11-22T11:59:58Z",
    },
}
BAD: dict[str, dict[str, Any]] = {
    "malformed": {"specversion": "0.3"},
    "unknown_type": {"type": "message.teleported"},
    "invalid_field": {"data": {"latencyMs": -5}},
    "currency_mismatch": {"data": {"currency": "USD"}},
    "in_future": {"time": "2026-11-22T12:30:00Z"},
    "stale": {"time": "2026-11-20T12:00:00Z", "data": {"submittedAt": "2026-11-20T12:00:00Z"}},
    "too_late": {"data": {"submittedAt": "2026-11-01T12:00:00Z"}},
}


def test_the_reasons_of_dead_letters_are_all_told_in_their_order() -> None:
    assert named([row[0] for row in table(text_of("docs/events.md"), "reason")]) == list(REASONS)


@pytest.mark.parametrize("reason", REASONS)
def test_the_sentence_of_a_dead_letter_is_the_one_that_is_shown(reason: str) -> None:
    (shown,) = [row[2] for row in table(text_of("docs/events.md"), "reason") if row[0] == f"`{reason}`"]
    change = BAD.get(reason, {})
    event = {**GOOD, **change, "data": {**GOOD["data"], **change.get("data", {})}}  # type: ignore[dict-item] - a dict
    body = WHOLE_BODY if reason == "too_large" else json.dumps(event).encode()
    published = parse_instant("2026-11-22T12:00:01Z")

    (letter,) = Decoder(Rules()).decode([Message("messaging.events.x", None, body, 1, published)]).letters

    assert (letter.reason, letter.detail) == (reason, shown)


# ------------------------------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_python_example_compiles(page: Path) -> None:
    for block in blocks(text_of(page), "python"):
        compile(block, str(page), "exec")


def test_what_the_publishing_example_publishes_is_counted(settings: Settings, tmp_path: Path) -> None:
    (block,) = blocks(text_of("docs/events.md"), "python")
    example = tmp_path / "example.py"
    example.write_text(block.replace("messaging.events.", settings.subjects.removesuffix(">")), encoding="utf-8")
    assert settings.nats_url is not None
    assert settings.database_url is not None
    nats_url, database_url = settings.nats_url.get_secret_value(), settings.database_url.get_secret_value()

    async def publish_and_count() -> tuple[str, list[tuple[Any, ...]]]:
        nc = await jetstream.connect(nats_url, name="test")
        await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
        await nc.close()
        done = await asyncio.to_thread(run_example, example, nats_url)
        await worker.run(settings, telemetry=Telemetry(), crash=CrashPoints(), stop=asyncio.Event(), until_idle=True)
        async with session(database_url, application="test") as conn:
            rows = await conn.fetch(
                "SELECT scope, total_messages, total_cost::TEXT FROM anlyt.metrics_daily ORDER BY scope"
            )
        return done, [tuple(row) for row in rows]

    said, rows = run(publish_and_count())

    assert said == "stored as message 1\n"
    assert rows == [(scope, 1, "0.041250") for scope in ("ACCOUNT", "OPERATOR", "PLATFORM")]


def run_example(example: Path, nats_url: str) -> str:
    done = subprocess.run(
        [sys.executable, str(example)],
        env={**os.environ, "ANLYT_NATS_URL": nats_url},
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    )
    return done.stdout
