"""The gate of the API: what a request carries becomes a Grant and a connection to read with, or a refusal.

In: a request and the permission its route asks. Out: `admitted`, the one place where a key becomes a Grant: a handler
gets its connection from there, so a route without a Grant has nothing to read with (I8). Unknown, mistyped, expired and
revoked keys are refused alike, and an address that fails too often is refused before anything is asked of the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable  # noqa: TC003 - msgspec reads the annotations of Gate
from contextlib import asynccontextmanager
from datetime import datetime  # noqa: TC003 - the same
from typing import TYPE_CHECKING, Final

import msgspec
from asyncpg import Pool, Record  # noqa: TC002 - the same

from anlyt import access, keys
from anlyt.errors import RequestError
from anlyt.postgres import unavailable
from anlyt.session import read_session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg.pool import PoolConnectionProxy
    from fastapi import Request

    from anlyt.access import Grant, PresentedKey

    PooledConnection = PoolConnectionProxy[Record]

CONNECTION_WAIT_S: Final = 1.5  # for a free connection; then 503
ANSWER_LIMIT_S: Final = 8.0  # for a whole request; the pool's statements have a shorter limit of their own


class Gate(msgspec.Struct, frozen=True):
    """What it takes to judge a request."""

    pool: Pool[Record]
    tries: access.Tries
    clock: Callable[[], datetime]


@asynccontextmanager
async def admitted(
    gate: Gate,
    request: Request,
    permission: access.Permission | None,
    *,
    limit_s: float = ANSWER_LIMIT_S,
    credential: str | None = None,
) -> AsyncGenerator[tuple[PooledConnection, Grant]]:
    """The Grant of a request's key, and a connection to read with. Raises the 401, 403, 429 and 503.

    The key is `credential`, or what the request carries in a header or in its session. Any permission will do for None.
    """
    presented = _present(gate, request, credential)
    with unavailable():
        async with (
            asyncio.timeout(limit_s),
            gate.pool.acquire(timeout=CONNECTION_WAIT_S) as conn,
        ):
            grant = await _admit(gate, conn, request, presented)
            if permission is not None:
                access.require(grant, permission)
            yield conn, grant


def _present(gate: Gate, request: Request, credential: str | None) -> PresentedKey:
    """The key of a request, before anything is asked of the database."""
    text = _read_credentials(gate, request) if credential is None else credential
    presented = access.read_key(text)
    wait_s = gate.tries.refuse_after(_address(request), presented and presented.key_id, time.monotonic())
    if wait_s is not None:
        raise RequestError(
            "too many invalid keys came from this address; wait a moment and check the key",
            status=429,
            code="too-many-tries",
        )
    if presented is None:
        gate.tries.failed(_address(request), time.monotonic())
        raise _invalid_key()
    request.state.key_id = presented.key_id
    return presented


async def _admit(gate: Gate, conn: PooledConnection, request: Request, presented: PresentedKey) -> Grant:
    grant = await keys.find_grant(conn, presented, now=gate.clock())
    if grant is None:
        gate.tries.failed(_address(request), time.monotonic())
        raise _invalid_key()
    gate.tries.succeeded(presented.key_id)
    return grant


def _read_credentials(gate: Gate, request: Request) -> str:
    """The key in a header; without one, that of the browser's session."""
    bearers = request.headers.getlist("authorization")
    texts = [*bearers, *request.headers.getlist("x-api-key")]
    session = None if texts else read_session(request, now=gate.clock())
    if session is not None:
        return session[0]
    if not texts:
        raise RequestError(
            "no key was given; send one as `Authorization: Bearer anlyt_...`", status=401, code="unauthorized"
        )
    scheme, _, text = texts[0].partition(" ") if bearers else ("bearer", "", texts[0])
    if len(texts) > 1 or scheme.lower() != "bearer":
        raise RequestError(
            "send one key, as `Authorization: Bearer anlyt_...` or as `X-API-Key: anlyt_...`",
            status=401,
            code="unauthorized",
        )
    return text.strip()


def _invalid_key() -> RequestError:
    return RequestError(
        "this key is not valid: it is unknown, mistyped, expired or revoked", status=401, code="unauthorized"
    )


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"
