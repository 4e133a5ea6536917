"""Tables fit the terminal or say what they leave out; CSV holds nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
import select
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from anlyt.terminal import print_csv, print_table, progress

ID = "018f0000-0000-7000-8000-000000000001"
ROW = {
    "hourBucket": "2026-04-18T10:00:00Z",
    "scopeId": ID,
    "totalMessages": 12,
    "totalCost": "1.500000",
    "deliveryRate": 0.98765,
    "final": False,
}


def shown(columns: int, *, rows: int = 2) -> tuple[str, str]:
    """A table in a terminal of so many columns: what stands in it, and on stderr."""
    program = f"from anlyt.terminal import print_table; print_table([{ROW!r}] * {rows})"
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, stderr=subprocess.PIPE, env=env) as process:
        os.close(theirs)
        text = b""
        while select.select([ours], [], [], 20)[0]:
            try:
                text += os.read(ours, 65_536)
            except OSError:  # the other end is closed
                break
        assert process.stderr is not None
        said = process.stderr.read().decode()
    os.close(ours)

    assert process.returncode == 0, said
    return re.sub(r"\x1b\[[0-9;]*m|\r", "", text.decode()), said


def test_a_wide_terminal_shows_everything_and_names_on_two_lines() -> None:
    text, said = shown(120)
    lines = text.splitlines()

    assert lines[0].split() == ["hour", "scope", "total", "total", "delivery"]
    assert lines[1].split() == ["Bucket", "Id", "Messages", "Cost", "Rate", "final"]
    assert lines[3].split() == ["2026-04-18", "10:00", ID, "12", "1.500000", "0.9877", "False"]
    assert said == ""


@pytest.mark.parametrize("columns", [80, 60, 40, 20])
def test_a_narrow_terminal_never_breaks_lines_and_is_told_what_is_left_out(columns: int) -> None:
    text, said = shown(columns)
    hidden = said.removeprefix("too narrow for ").partition(":")[0].split(", ") if said else []

    assert max(map(len, text.splitlines())) <= columns
    assert list(ROW)[len(ROW) - len(hidden) :] == hidden
    assert ("0.9877" in text) == ("deliveryRate" not in hidden)


def test_a_file_gets_every_column_on_one_line_with_the_names_of_the_api(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([ROW])
    head, _, row = capsys.readouterr().out.splitlines()

    assert head.split() == list(ROW)
    assert row.split() == ["2026-04-18", "10:00", ID, "12", "1.500000", "0.9877", "False"]


def test_values_are_written_as_people_read_them(capsys: pytest.CaptureFixture[str]) -> None:
    moment = datetime(2026, 4, 18, 10, 0, 1, tzinfo=UTC)
    print_table([{"a": None, "b": moment, "c": {"x": 1, "y": 2}, "d": ["p", "q"], "e": Decimal("0.10"), "f": "[bold]"}])

    assert capsys.readouterr().out.splitlines()[2].split() == [
        *["-", "2026-04-18", "10:00:01", "x=1", "y=2", "p,", "q", "0.10", "[bold]"]
    ]


def test_nothing_is_told_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([])

    assert capsys.readouterr() == ("", "nothing to show\n")


def test_csv_defuses_what_a_spreadsheet_would_run_and_leaves_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv(
        [{"name": "=1+1", "cost": "-1.50", "text": 'a,"b"', "none": None, "at": "@x"}],
        ["name", "cost", "text", "none", "at"],
    )

    assert capsys.readouterr().out.splitlines() == ["name,cost,text,none,at", '\'=1+1,-1.50,"a,""b""",,\'@x']


@pytest.mark.parametrize("text", ["=1", "+a", "-a", "@a", "\t=1", "\r=1"], ids=ascii)
def test_csv_defuses_every_way_a_formula_begins(capsys: pytest.CaptureFixture[str], text: str) -> None:
    print_csv([{"name": text}], ["name"])

    ((_,), (cell,)) = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))
    assert cell == f"'{text}"


WORK = """
from anlyt.terminal import progress
with progress("counting", unit="rows", quiet={quiet}) as advance:
    advance(0, 4_000)
    {work}
    input()
print("done")
"""


def bars(work: str, *, quiet: bool = False) -> str:
    """What a program says in a terminal until it has shown what is waited for, and then until it ends."""
    ours, theirs = pty.openpty()
    env = os.environ | {"COLUMNS": "100", "TERM": "xterm"}
    program = [sys.executable, "-c", WORK.format(work=work, quiet=quiet)]
    text = ""
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        assert process.stdin is not None
        if quiet:
            process.stdin.close()
        while select.select([ours], [], [], 20)[0]:
            try:
                text += os.read(ours, 65_536).decode(errors="replace")
            except OSError:  # the other end is closed
                break
            if "counting" in text and not process.stdin.closed:
                process.stdin.write(b"\n")
                process.stdin.close()
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_a_bar_tells_how_much_is_done_of_how_much_how_fast_and_how_long_it_takes_yet() -> None:
    text = bars("advance(1_000)")

    assert re.search(r"counting \S+ 1,000 of 4,000 rows( [\d,]+/s)? 0:\d\d:\d\d 0:\d\d:\d\d left", text), text
    assert text.splitlines()[-1] == "done"


def test_there_is_no_progress_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("publishing", unit="messages") as advance:
        advance(10)

    assert capsys.readouterr() == ("", "")
