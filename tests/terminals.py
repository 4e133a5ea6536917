"""Commands in a terminal of a test's own: what they draw, what they are told by keys, what they leave behind."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT_S = 30
_CONTROL = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]|\r")


class Terminal:
    """`anlyt` in a pseudo-terminal of a size. Used as a context, which ends what still runs."""

    def __init__(self, *arguments: str, env: dict[str, str], columns: int = 80, lines: int = 24) -> None:
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "anlyt", *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={name: value for name, value in env.items() if name not in {"COLUMNS", "LINES"}} | {"TERM": "xterm"},
            start_new_session=True,
        )
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a piece may end inside of a character
        self._text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def text(self) -> str:
        """Everything written so far."""
        while select.select([self._ours], [], [], 0)[0]:
            self._text += self._decoder.decode(os.read(self._ours, 65_536))
        return self._text

    @property
    def picture(self) -> list[str]:
        """The lines of the last whole picture that was drawn from the top; none before the first.

        A terminal hands a picture over in pieces; a whole one has every line, to its end.
        """
        columns, lines = self.size
        for text in reversed(self.text.split("\x1b[H")[1:]):
            picture = _CONTROL.sub("", text).split("\n")[:lines]
            if [len(line) for line in picture] == [columns] * lines:
                return [line.rstrip() for line in picture]
        return []

    @property
    def mode(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.size = columns, lines
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Until the condition holds; AssertionError with the text after LIMIT_S."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            text = self.text  # read, so that the process never waits for room to write
            assert time.monotonic() < deadline, text[-4_000:]
            select.select([self._ours], [], [], 0.05)

    def wait(self) -> int:
        """The exit code, when the process has ended."""
        self.wait_for(lambda: self.process.poll() is not None)
        assert self.process.returncode is not None
        return self.process.returncode
