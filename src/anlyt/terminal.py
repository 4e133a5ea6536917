"""What people see in a terminal: tables that fit it, progress on anything long, both only where somebody looks.

In: rows and counts. Out: text on stdout (tables) or stderr (progress). When the output is no terminal, tables are not
squeezed and there is no progress bar.
"""

from __future__ import annotations

import csv
import re
import sys
import time
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from anlyt.talk import say

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from rich.console import RenderableType

WIDTH_PIPED: Final = 1_000  # columns when the output goes into a file
FOLDED_CHARS: Final = 18  # half a UUID
ID_CHARS: Final = 36
SENTENCE_CHARS_MIN: Final = 24
COLUMNS_MIN: Final = 4  # rather than show fewer, ids are folded
COLUMN_GAP: Final = 2
PROGRESS_WIDTH: Final = 20
PROGRESS_AFTER_S: Final = 1.0  # shorter work needs no bar
DEFUSED: Final = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would take text that begins so for a formula

SPARKS: Final = "▁▂▃▄▅▆▇█"
BAR_ENDS: Final = "▏▎▍▌▋▊▉"
BAR_CHARS: Final = 12

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def print_table(
    rows: Sequence[Mapping[str, Any]], *, names: Sequence[str] | None = None, bars_of: str | None = None
) -> None:
    """Rows as a table on stdout; numbers to the right. Columns that do not fit the terminal are named on stderr.

    `names` are the columns that are shown, the important ones first; without it, all. `bars_of` is the column that bars
    are drawn of, in a terminal with room for them.
    """
    if not rows:
        say("nothing to show")
        return
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else WIDTH_PIPED)
    columns = {name: [_cell(row[name]) for row in rows] for name in names or rows[0]}
    headings = {name: _heading(name) if terminal else name for name in columns}
    shown = _fitting({name: [headings[name], *cells] for name, cells in columns.items()}, console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, COLUMN_GAP - 1, 0, 0))
    for name, width in shown.items():
        right = isinstance(rows[0][name], int | float | Decimal) and not isinstance(rows[0][name], bool)
        table.add_column(Text(headings[name]), justify="right" if right else "left", overflow="fold", width=width)
    if bars_of is not None and terminal and _total(shown) + COLUMN_GAP + BAR_CHARS <= console.width:
        values = [row[bars_of] or 0 for row in rows]
        shown[""], columns[""] = BAR_CHARS, [bar(value / (max(values) or 1), BAR_CHARS) for value in values]
        table.add_column("", width=BAR_CHARS, style="cyan")
    for cells in zip(*(columns[name] for name in shown), strict=True):
        table.add_row(*map(Text, cells))
    console.print(table)
    hidden = [name for name in columns if name not in shown]
    if hidden:
        say(f"too narrow for {', '.join(hidden)}: widen the terminal, or use --json")


def _fitting(columns: Mapping[str, Sequence[str]], width: int) -> dict[str, int]:
    """The first columns that fit side by side, each with its width. Sentences fold; ids only where room is scarce."""
    wanted = {name: max(len(part) for text in texts for part in text.split("\n")) for name, texts in columns.items()}
    least = {name: min(chars, SENTENCE_CHARS_MIN) if chars > ID_CHARS else chars for name, chars in wanted.items()}
    shown = _first(least, width)
    if len(shown) < min(COLUMNS_MIN, len(columns)):
        shown = _first({name: min(chars, FOLDED_CHARS) for name, chars in wanted.items()}, width)
    for name in shown:  # what is left over goes to the folded ones
        shown[name] = min(wanted[name], shown[name] + max(width - _total(shown), 0))
    return shown


def _first(widths: Mapping[str, int], width: int) -> dict[str, int]:
    """As many of the first columns as fit, at least one."""
    shown = dict(widths)
    while len(shown) > 1 and _total(shown) > width:
        shown.popitem()
    return shown


def _total(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + COLUMN_GAP * (len(widths) - 1)


def _heading(name: str) -> str:
    """A column's name, on two lines where it has a middle: total / Messages, key / _id."""
    words = [match.start() for match in re.finditer(r"(?<=[a-z])[A-Z]|_", name)]
    middle = min(words, key=lambda at: abs(at - len(name) / 2), default=0)
    return f"{name[:middle]}\n{name[middle:]}" if middle else name


def _cell(value: object) -> str:
    match value:
        case None:
            text = "-"
        case datetime():
            text = value.strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")
        case float():
            text = f"{value:.4f}" if abs(value) <= 1 else f"{value:,.1f}"
        case list():
            text = ", ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - any list
        case dict():
            text = " ".join(f"{name}={item}" for name, item in value.items())  # pyright: ignore[reportUnknownVariableType] - any mapping
        case str() if _TIME.fullmatch(value):
            text = value.replace("T", " ").removesuffix("Z").removesuffix(":00")
        case _:
            text = str(value)
    return text


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


def bar(share: float, chars: int) -> str:
    """A bar from the left, to an eighth of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * chars * len(SPARKS))
    whole, rest = divmod(eighths, len(SPARKS))
    return "█" * whole + (BAR_ENDS[rest - 1] if rest else "")


def sparkline(values: Sequence[float], *, top: float | None = None) -> str:
    """A value a character, as tall as its share of `top`, else of the largest; a space for nothing at all."""
    highest = max(values, default=0.0) if top is None else top
    return "".join(
        SPARKS[min(int(value / highest * len(SPARKS)), len(SPARKS) - 1)] if highest > 0 and value > 0 else " "
        for value in values
    )


class Advance(Protocol):
    """Tell a progress bar how much is done, and how much there is when that is known by now."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """`done` of `total`."""


def nobody(done: int, total: int | None = None) -> None:
    """The Advance of work that nobody looks at."""


def is_watched(*, quiet: bool = False) -> bool:
    """Whether somebody would see a progress bar: whoever has to count beforehand how much there is need not else."""
    return not quiet and _is_looked_at(Console(stderr=True))


@contextmanager
def progress(what: str, *, unit: str, total: int | None = None, quiet: bool = False) -> Generator[Advance]:
    """A bar on stderr with rate and time left, if stderr is a terminal and the work lasts PROGRESS_AFTER_S.

    A total that is told once stands until another one is told.
    """
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=PROGRESS_WIDTH),
        TextColumn("{task.fields[done]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    known = total
    with _Bar(*columns, console=console, transient=True, disable=not is_watched(quiet=quiet)) as bar:
        task = bar.add_task(what, total=total, done="", rate="", left="")

        def advance(done: int, total: int | None = None) -> None:
            nonlocal known
            known = known if total is None else total
            elapsed_s = time.monotonic() - bar.begun
            bar.update(
                task,
                completed=done,
                total=known,
                done=f"{done:,}{'' if known is None else f' of {known:,}'} {unit}",
                rate=f"{done / elapsed_s:,.0f}/s" if done >= elapsed_s > 0 else "",
                left=_time_left(done, known, elapsed_s),
            )

        advance(0)
        yield advance


class _Bar(Progress):
    """A progress bar that shows nothing of work that lasts less than PROGRESS_AFTER_S."""

    begun = 0.0

    def start(self) -> None:
        self.begun = time.monotonic()
        super().start()

    def get_renderables(self) -> Iterable[RenderableType]:
        if time.monotonic() - self.begun >= PROGRESS_AFTER_S:
            yield from super().get_renderables()


def _time_left(done: int, total: int | None, elapsed_s: float) -> str:
    if total is None or not done:
        return ""
    return f"{timedelta(seconds=round(max(total - done, 0) * elapsed_s / done))} left"


def _is_looked_at(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal
