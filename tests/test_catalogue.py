"""docs/catalogue.md and docs/faults.md: every row names the tests that show it, and they are there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from support import names_of_tests_in
from test_bad_input import EVENTS

DOCS = Path(__file__).parents[1] / "docs"
ROWS_MIN = {"catalogue.md": 120, "faults.md": 65}
NAMED = re.compile(r"`(test_\w+\.py)(?:::(test_\w+)|\[(.+?)\])`(?=, `test_|$)")
BAD_INPUT = "test_bad_input.py"


def rows(page: str) -> list[list[str]]:
    """The cells of each row of each table: what is tried, what happens, which tests."""
    text = (DOCS / page).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.endswith("| test |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("row", [row for page in ROWS_MIN for row in rows(page)], ids=lambda row: row[0])
def test_what_a_row_says_is_shown_by_tests_that_are_there(row: list[str]) -> None:
    _, happens, tests = row
    named = NAMED.findall(tests)

    assert happens
    assert named
    assert tests == ", ".join(f"`{file}::{name}`" if name else f"`{file}[{which}]`" for file, name, which in named)
    for file, name, which in named:
        if which:
            assert file == BAD_INPUT
            assert which in {event.what for event in EVENTS}
        else:
            assert name in names_of_tests_in(file), f"{file}::{name}"


@pytest.mark.parametrize("page", ROWS_MIN)
def test_no_row_is_lost_and_none_stands_twice(page: str) -> None:
    assert len(rows(page)) >= ROWS_MIN[page]
    assert [name for name, times in Counter(row[0] for row in rows(page)).items() if times > 1] == []
