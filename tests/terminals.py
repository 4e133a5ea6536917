"""Commands in a terminal of a test's own: what they draw, what they are told by keys, what they leave behind."""

from __future__ import annotations

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
_STYLES = re.compile(r"\x1b\[[0-9;]*m|\r")


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
            self._text += os.read(self._ours, 65_536).decode()
        return self._text

    @property
    def picture(self) -> list[str]:
        """The lines of the last picture that was drawn from the top."""
        return [line.rstrip() for line in _STYLES.sub("", self.text.rpartition("\x1b[H")[2]).splitlines()]

    @property
    def mode(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, condition: Callable[[], Any]) -> None:
        """Until the condition holds; AssertionError with the text after LIMIT_S."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            assert time.monotonic() < deadline, self.text[-4_000:]
            select.select([self._ours], [], [], 0.05)

    def wait(self) -> int:
        """The exit code, when the process has ended."""
        self.wait_for(lambda: self.process.poll() is not None)
        assert self.process.returncode is not None
        return self.process.returncode
