"""Dead letters: what could not be counted, kept whole, to be looked at.

In: a stream and, for one letter, its sequence and index. Out: rows as plain values; a body is shown as text where it
is text, and as base64 where it is not. Written by store.apply in the batch's own transaction (I7), never changed here.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from anlyt.errors import AnlytError, UsageError
from anlyt.postgres import connect, sql, unavailable

if TYPE_CHECKING:
    import asyncpg

REASONS: Final = (
    "too_large",
    "malformed",
    "unknown_type",
    "invalid_field",
    "currency_mismatch",
    "in_future",
    "stale",
    "too_late",
)
LIST_MAX: Final = 10_000


async def list_letters(url: str, stream: str, *, reason: str | None, limit: int) -> list[dict[str, Any]]:
    """The newest letters first, without their bodies. Raises UsageError for an odd reason or limit."""
    if reason is not None and reason not in REASONS:
        raise UsageError(f"--reason {reason!r} is not a reason; the reasons are {', '.join(REASONS)}")
    if not 1 <= limit <= LIST_MAX:
        raise UsageError(f"--limit must be from 1 to {LIST_MAX}, but is {limit}")
    rows = await _fetch(url, "letters/list_letters", stream, reason, limit)
    return [dict(row) for row in rows]


async def read_letter(url: str, stream: str, sequence: int, *, index: int) -> list[dict[str, Any]]:
    """One letter with headers and body. Raises AnlytError when there is none."""
    rows = await _fetch(url, "letters/read_letter", stream, sequence, index)
    if not rows:
        raise AnlytError(
            f"there is no dead letter {stream} {sequence} {index}; list them with: anlyt dead-letters list"
        )
    return [dict(row) | {"headers": json.loads(row["headers"])} | _readable(row["body"]) for row in rows]


def _readable(body: bytes) -> dict[str, str]:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\x00"
    if text.isprintable() or all(c.isprintable() or c in "\r\n\t" for c in text):
        return {"body": text}
    return {"body": base64.b64encode(body).decode(), "body_encoding": "base64"}


async def _fetch(url: str, name: str, *values: object) -> list[asyncpg.Record]:
    conn = await connect(url, application="anlyt-dead-letters")
    try:
        with unavailable():
            return await conn.fetch(sql(name), *values)
    finally:
        conn.terminate()
