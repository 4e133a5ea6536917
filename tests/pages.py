"""Pages of the documentation as scripts: their sh blocks, run in order in one shell, beside the text they promise."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

MARK = "\x1e"  # between the outputs of two blocks
LIMIT_S = 200
# What differs from run to run, and what stands for it on both sides. Nothing else may differ.
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z)?"), "<time>"),
    (re.compile(r"anlyt_[a-z0-9]{12}_\S+"), "<key>"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "<sha256>"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"^counted \d.*\n", re.MULTILINE), ""),  # of a worker that may find nothing left to count
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
]


class Step(NamedTuple):
    """A block of commands, and what it prints; None when the page does not say."""

    commands: str
    promised: str | None


def steps(text: str) -> list[Step]:
    """The sh blocks of a page, each with the text block that follows it, if one does before the next."""
    found: list[Step] = []
    for language, block in re.findall(r"^```(sh|text)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
        if language == "sh":
            found.append(Step(block, None))
        elif found and found[-1].promised is None:
            found[-1] = Step(found[-1].commands, block)
    return found


def play(page: list[Step], *, env: dict[str, str], cwd: Path) -> list[str]:
    """What each step printed, on both streams. AssertionError when one of them ended with an error."""
    script = "\n".join(f"{step.commands}\nprintf '{MARK}'" for step in page)
    done = subprocess.run(
        ["bash", "-e", "-c", script],  # noqa: S607 - whatever bash this machine has
        env=env,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:]
    return done.stdout.split(MARK)[:-1]


def normal(text: str) -> str:
    """The text with a word in the place of everything that varies."""
    for pattern, word in VARYING:
        text = pattern.sub(word, text)
    return text.strip()
