"""What people see in a terminal: tables that fit it, progress on anything long, both only where somebody looks.

In: rows and counts. Out: text on stdout (tables) or stderr (progress). When the output is no terminal, tables are not
squeezed and there is no progress bar.
"""

from __future__ import annotations

import csv
import sys
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

WIDTH_PIPED: Final = 1_000  # columns when the output goes into a file
DEFUSED: Final = ("=", "+", "-", "@")  # a spreadsheet would take text that begins so for a formula


def print_table(rows: Sequence[Mapping[str, Any]], *, empty: str = "nothing to show") -> None:
    """Rows as a table on stdout; numbers to the right."""
    if not rows:
        sys.stderr.write(empty + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH_PIPED)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, value in rows[0].items():
        right = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)


def _cell(value: object) -> str:
    match value:
        case None:
            return "-"
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")
        case float():
            return f"{value:.4f}"
        case list():
            return ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - any list
        case dict():
            return " ".join(f"{name}={item}" for name, item in value.items())  # pyright: ignore[reportUnknownVariableType] - any mapping
        case _:
            return str(value)


def print_csv(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Rows as CSV on stdout, with a header; text that a spreadsheet would run is defused with a quote mark."""
    writer = csv.writer(sys.stdout)
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if row[name] is None else _defuse(row[name]) for name in names])


def _defuse(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(DEFUSED) and not _is_number(value) else value


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal()


@contextmanager
def progress(
    what: str, *, unit: str, total: int | None = None, quiet: bool = False
) -> Generator[Callable[[int], None]]:
    """A bar on stderr with rate and time left, if stderr is a terminal. The function given takes the count so far."""
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn() if total else TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, rate="")

        def advance(done: int) -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            bar.update(task, completed=done, rate=f"{done / elapsed:,.0f}/s" if elapsed else "")

        yield advance
