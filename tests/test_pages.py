"""Every command the tutorial and the how-to pages show is run as it stands; what it prints is what they say."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from commands import environment, start
from pages import normal, play, steps
from support import run, server_directory, wait_until
from terminals import Terminal
from test_cli import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PORT = "127.0.0.1:8080"  # as pages write it
TUTORIAL = ROOT / "docs/tutorial.md"
HOW_TO = sorted((ROOT / "docs/how-to").glob("*.md"))


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[dict[str, str], Path]]:
    """`anlyt up` in an empty directory, as a reader has it: the environment of a second terminal, and the directory.

    One for all pages, the tutorial first: each publishes events and accounts of its own.
    """
    with server_directory() as directory:
        env = environment(http_port=str(free_port()), data_dir=str(directory / ".anlyt"))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with start("up", env=env) as process:
            assert process.stdout is not None
            try:
                run(wait_until(lambda: "anlyt is ready" in process.stdout.readline(), 60))
                yield env | {"PATH": path}, directory
            finally:
                process.terminate()
                process.communicate(timeout=30)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [TUTORIAL, *HOW_TO], ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, running: tuple[dict[str, str], Path]) -> None:
    env, directory = running
    text = page.read_text("utf-8").replace(PORT, f"127.0.0.1:{env['ANLYT_HTTP_PORT']}")
    wanted = steps(text)
    printed = play(wanted, env=env, cwd=directory)

    assert wanted
    for step, said in zip(wanted, printed, strict=True):
        if step.promised is not None:
            assert normal(said) == normal(step.promised), step.commands


# -------------------------------------------------------------------------------------------------------- the README


def shape(text: str) -> list[str]:
    """The lines with what differs from sample to sample taken out: times, keys, ids, numbers, directories, widths."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"in /\S+/(postgres|nats)\b", r"in <directory>/\1", normal(text))
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "<id>", text)
    text = re.sub(r"<key>'", "<key>", re.sub(r"\d[\d,.]*", "<number>", text))
    return [" ".join(line.split()) for line in text.replace("─", "").splitlines()]


@pytest.mark.timeout(240)
def test_the_quickstart_prints_what_the_readme_shows() -> None:
    blocks = re.findall(r"^```text\n(.*?)^```$", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    started, queried = (block for block in blocks if block.startswith(("starting", "scope")))
    query = steps((ROOT / "README.md").read_text("utf-8"))[1].commands.split()
    with server_directory() as directory:
        env = environment(http_port=str(free_port()), data_dir=str(directory / ".anlyt"))
        with start("up", "--demo", env=env) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                printed = [process.stdout.readline() for _ in range(12)]
                with Terminal(*query[1:], env=env, columns=100) as terminal:
                    assert terminal.wait() == 0
                    table = terminal.text
                process.send_signal(signal.SIGINT)
                said = process.communicate(timeout=30)[1]
            finally:
                process.kill()

    assert query[0] == ".venv/bin/anlyt"
    assert shape(said.removesuffix("stopping\n") + "".join(printed)) == shape(started)
    assert shape(unwrapped(table)) == shape(queried)


def unwrapped(text: str) -> str:
    """Sentences that a terminal broke between words, on one line again."""
    return re.sub(r"\r?\n(?=UTC|--json|widen|errorRate|final)", " ", text)
