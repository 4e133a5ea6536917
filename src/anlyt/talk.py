"""Talk: sentences for people, on stderr, apart from data.

In: a text of one or more lines. Out: the same on stderr; in a terminal its lines are broken between words, so that a
long sentence stays readable and can be copied. Imports next to nothing, because every command talks.
"""

from __future__ import annotations

import os
import sys
import textwrap

COLUMNS_MIN = 20  # in less nothing is broken


def say(text: str) -> None:
    """Write a text to stderr at once."""
    columns = _columns()
    lines = [part for line in text.split("\n") for part in _wrap(line, columns)]
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()


def _wrap(line: str, columns: int) -> list[str]:
    if columns < COLUMNS_MIN or len(line) <= columns:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(line, columns, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)


def _columns() -> int:
    """The width of the terminal that stderr is; 0 when it is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 0
