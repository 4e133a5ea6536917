"""A whole terminal for one program: the alternate screen, single keys, and everything put back at any end.

In: what to draw, keys from stdin. Out: pictures on stdout. A Screen is entered and left: by `q`, by an error, by a
signal, and for as long as Ctrl-Z lasts. Left, the terminal is as it was: mode, cursor, scrolled text.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, Final, Self

from rich.console import Console
from rich.control import Control

if TYPE_CHECKING:
    from rich.console import RenderableType, ScreenContext

KEY_BYTES_MAX: Final = 64  # read at once
ARROWS: Final = {"\x1b[A": "k", "\x1b[B": "j", "\x1bOA": "k", "\x1bOB": "j"}
ESCAPE: Final = "\x1b"
QUIT: Final = frozenset({"q", "Q", ESCAPE, "\x04"})  # the last is Ctrl-D


def is_interactive() -> bool:
    """Whether somebody looks at stdout and types into stdin, in a terminal that can be drawn on."""
    console = Console()
    return sys.stdin.isatty() and console.is_terminal and not console.is_dumb_terminal


class Screen:
    """The terminal while it is ours. Entered and left as a context; needs a running event loop."""

    def __init__(self) -> None:
        self.keys: asyncio.Queue[str] = asyncio.Queue()
        self._console = Console()
        self._fd = sys.stdin.fileno()
        self._mode: list[Any] = []
        self._context: ScreenContext | None = None
        self._closing = ExitStack()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now."""
        width, height = self._console.size
        return width, height

    def draw(self, picture: RenderableType) -> None:
        """Show a picture; what does not fit is cut off."""
        if self._context is None:
            return
        with self._console:  # in one piece, so that nothing flickers
            self._console.control(Control.home())
            self._context.update(picture)

    def quit(self) -> None:
        """As if q had been pressed."""
        self.keys.put_nowait("q")

    def redraw(self) -> None:
        """Wake up whoever waits for a key, with "": there is something new to draw."""
        self.keys.put_nowait("")

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._take()
        reactions = {signal.SIGWINCH: self.redraw, signal.SIGTSTP: self._suspend, signal.SIGHUP: self.quit}
        for number, react in reactions.items():
            loop.add_signal_handler(number, react)
            self._closing.callback(loop.remove_signal_handler, number)
        loop.add_reader(self._fd, self._read)
        self._closing.callback(loop.remove_reader, self._fd)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._give_back()

    def _take(self) -> None:
        self._mode = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        self._context = self._console.screen(hide_cursor=True)
        self._context.__enter__()

    def _give_back(self) -> None:
        with suppress(OSError, termios.error):  # a terminal that is gone needs nothing
            if self._context is not None:
                self._context.__exit__(None, None, None)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._mode)
        self._context = None

    def _suspend(self) -> None:
        """Ctrl-Z: the shell gets its terminal, and we get it again with fg."""
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()
        self.redraw()

    def _read(self) -> None:
        try:
            typed = os.read(self._fd, KEY_BYTES_MAX).decode(errors="replace")
        except OSError:
            typed = ""
        if not typed:  # the terminal is gone
            self.quit()
        elif typed in ARROWS:
            self.keys.put_nowait(ARROWS[typed])
        elif typed[0] != ESCAPE or typed == ESCAPE:  # other keys that send sequences mean nothing here
            for key in typed:
                self.keys.put_nowait(key)
