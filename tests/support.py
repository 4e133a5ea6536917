"""What several test modules need: running a coroutine, waiting for a condition, a directory servers can use."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import shutil
import socket
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

T = TypeVar("T")
POLL_S = 0.02


def run(coro: Coroutine[Any, Any, T], limit_s: float = 60) -> T:
    """The coroutine's result, in an event loop of its own; TimeoutError when it takes longer."""

    async def whole() -> T:
        try:
            return await asyncio.wait_for(coro, limit_s)
        finally:
            await asyncio.sleep(0)  # a connection closed at the very end gets its turn to let go of its socket

    return asyncio.run(whole())


async def wait_until(condition: Callable[[], Any], limit_s: float = 10, *, what: str = "") -> Any:
    """The first truthy answer of `condition` (a function or coroutine function); AssertionError after the limit."""
    deadline = time.monotonic() + limit_s
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not so within {limit_s} s: {what or condition}"
        await asyncio.sleep(POLL_S)


async def pause(seconds: float) -> None:
    """Let time pass as a part of a fault: a slow line, a server that is away. To wait for something is `wait_until`."""
    await asyncio.sleep(seconds)


def free_port() -> int:
    """A port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server_directory() -> Iterator[Path]:
    """A temporary directory that the embedded servers' user can pass through (pytest's own are for root only)."""
    directory = Path(tempfile.mkdtemp(prefix="anlyt-test-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@cache
def names_of_tests_in(file: str) -> frozenset[str]:
    """The names of the tests in a file of this directory."""
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )
