"""A publisher as a process: publishes its share and notes every answer, so that it can be killed and started again.

In: a file of messages, one JSON document a line; the notes of an earlier life. Out: every message acknowledged, and a
line of notes for each: mark, sequence, whether JetStream knew it. A note that was cut off by a kill counts for nothing;
the message is published once more.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anlyt import jetstream
from anlyt.errors import StreamUnavailable
from support import pause

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MARK: Final = "Test-Copy"  # header that tells which copy a stored message is
WINDOW: Final = 20
ANSWER_LIMIT_S: Final = 2.0
AGAIN_S: Final = 0.1


def main(arguments: list[str]) -> int:
    """Publish: address, subject, messages, notes."""
    url, subject, messages, notes = arguments
    asyncio.run(publish(url, subject, Path(messages), Path(notes)))
    return 0


def write_messages(path: Path, messages: Iterable[tuple[str, bytes, dict[str, str]]]) -> None:
    """Leave (mark, body, headers) for a publisher."""
    lines = [json.dumps([mark, base64.b64encode(body).decode(), headers]) for mark, body, headers in messages]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_messages(path: Path) -> list[list[Any]]:
    """What `write_messages` left."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_notes(path: Path) -> dict[str, bool]:
    """The marks of what was acknowledged, and whether JetStream knew it already."""
    if not path.exists():
        return {}
    whole = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith(" .\n")]
    return {line.split()[0]: line.split()[2] == "True" for line in whole}


async def publish(url: str, subject: str, messages: Path, notes: Path) -> None:
    """Publish, again and again what got no answer, until JetStream has said of every message that it has it."""
    known = read_notes(notes)
    left = [message for message in read_messages(messages) if message[0] not in known]
    if not left:
        return
    # What was cut off in the last line must not run into the next.
    output = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(output, b"\n")
    nc = await _connect(url)
    js = nc.jetstream(timeout=ANSWER_LIMIT_S)

    async def send(mark: str, body: str, headers: dict[str, str]) -> bool:
        try:
            answer = await js.publish(subject, base64.b64decode(body), headers=headers | {MARK: mark})
        except Exception:  # noqa: BLE001 - whatever it was, it is no acknowledgement
            await pause(AGAIN_S)
            return False
        os.write(output, f"{mark} {answer.seq} {bool(answer.duplicate)} .\n".encode())
        return True

    for start in range(0, len(left), WINDOW):
        await _until_sent(left[start : start + WINDOW], send)
    await nc.close()


async def _until_sent(part: Sequence[list[Any]], send: Any) -> None:
    waiting = [*part]
    while waiting:
        sent = await asyncio.gather(*(send(*message) for message in waiting))
        waiting = [message for message, done in zip(waiting, sent, strict=True) if not done]


async def _connect(url: str) -> jetstream.Client:
    while True:
        try:
            return await jetstream.connect(url, name="publisher")
        except StreamUnavailable:
            await pause(AGAIN_S)
