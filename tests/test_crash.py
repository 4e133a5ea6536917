"""Crash points: nothing happens unless one is armed, and only names there are can be armed."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from anlyt.crash import CRASH_POINTS, CrashPoints
from anlyt.errors import ConfigurationError

SOURCES = Path(__file__).parent.parent / "src" / "anlyt"


def reach(setting: str, name: str) -> subprocess.CompletedProcess[str]:
    """A process that reaches one point and says so."""
    code = f"from anlyt.crash import CrashPoints; CrashPoints.parse({setting!r}).reach({name!r}); print('alive')"
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=20)


def test_an_armed_point_kills_the_process_and_says_which_it_was() -> None:
    died = reach("after-claim=1", "after-claim")

    assert (died.returncode, died.stdout, died.stderr) == (-signal.SIGKILL, "", "crash point after-claim\n")


@pytest.mark.parametrize("setting", ["", "after-claim=0", "after-fetch=1", "*=1,after-claim=0", " , "])
def test_a_point_that_is_not_armed_does_nothing(setting: str) -> None:
    assert reach(setting, "after-claim").stdout == "alive\n"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("after-lunch=1", "names 'after-lunch'; the points are after-fetch"),
        ("after-claim", "'after-claim'; it must be NAME=P"),
        ("after-claim=2", "'after-claim=2'; it must be NAME=P"),
        ("after-claim=-0.1", "it must be NAME=P"),
        ("*=nan", "it must be NAME=P"),
    ],
)
def test_an_unknown_point_and_a_bad_probability_are_refused(setting: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        CrashPoints.parse(setting)


def test_an_armed_point_is_drawn_with_its_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []
    monkeypatch.setattr("os.kill", lambda *_: killed.append(1))  # the draw is what is tested
    monkeypatch.setattr("os.write", lambda *_: 0)
    points = CrashPoints({"after-claim": 0.03}, random.Random(1))
    for _ in range(10_000):
        points.reach("after-claim")

    assert 200 < len(killed) < 400


def test_every_point_is_reached_somewhere_and_every_reached_point_has_a_name() -> None:
    reached = {
        name
        for file in SOURCES.glob("*.py")
        for name in re.findall(r'\breach\(\s*"([^"]+)"', file.read_text(encoding="utf-8"))
    }

    assert reached == set(CRASH_POINTS)
