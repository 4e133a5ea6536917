"""The gate of the API: what a request carries becomes a Grant and a connection to read with, or a refusal.

In: a request and the permission its route asks. Out: `admitted`, the one place where a key or token becomes a Grant: a
handler gets its connection from there, so a route without a Grant has nothing to read with (I8). Unknown, mistyped,
expired, revoked and forged ones are refused alike, and an address that fails too often is refused before the database
is asked. Whatever way a request says who it comes from (a header, a session's cookie), `_read_credentials` reads it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable  # noqa: TC003 - msgspec reads the annotations of Gate
from contextlib import asynccontextmanager
from datetime import datetime  # noqa: TC003 - the same
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_plus

import msgspec
from asyncpg import Pool, Record  # noqa: TC002 - the same

from anlyt import access, keys, tokens
from anlyt.errors import RequestError
from anlyt.limits import Kind, Limits  # noqa: TC001 - msgspec reads the annotations of Gate
from anlyt.postgres import unavailable
from anlyt.session import read_session
from anlyt.tokens import Bearer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from asyncpg.pool import PoolConnectionProxy
    from fastapi import Request

    from anlyt.access import Grant, PresentedKey

    PooledConnection = PoolConnectionProxy[Record]

CONNECTION_WAIT_S: Final = 1.5  # for a free connection; then 503
NO_KEY: Final = "no key was given; send a key or a token as `Authorization: Bearer ...`"
KEY_IN_ADDRESS: Final = (
    "a key in an address is not taken: addresses end up in logs and histories, so revoke this one, make another and "
    "send it as `Authorization: Bearer ...`"
)
ANSWER_LIMIT_S: Final = 8.0  # for a whole request; the pool's statements have a shorter limit of their own


class Gate(msgspec.Struct, frozen=True):
    """What it takes to judge a request."""

    pool: Pool[Record]
    tries: access.Tries
    clock: Callable[[], datetime]
    limits: Limits
    issuer: tokens.Issuer | None = None  # whose tokens are taken


@asynccontextmanager
async def admitted(
    gate: Gate,
    request: Request,
    permission: access.Permission | None,
    *,
    limit_s: float = ANSWER_LIMIT_S,
    kind: Kind = "light",
    credential: str | None = None,
) -> AsyncGenerator[tuple[PooledConnection, Grant]]:
    """The Grant of a request's key or token, and a connection to read with. Raises the 401, 403, 429 and 503.

    The key is `credential`, or what the request carries in a header or in its session. Any permission will do for None.
    A question of some `kind` waits for a turn before it takes a session of the database.
    """
    with unavailable():
        async with asyncio.timeout(limit_s):
            presented = await _present(gate, request, credential)
            request.state.presented = presented
            caller = _caller(presented)
            gate.limits.check_pace(caller, time.monotonic())
            async with gate.limits.lane(kind).turn(caller), gate.pool.acquire(timeout=CONNECTION_WAIT_S) as conn:
                grant = await _admit(gate, conn, request, presented)
                if permission is not None:
                    access.require(grant, permission)
                yield conn, grant


@asynccontextmanager
async def reading(gate: Gate, request: Request, *, kind: Kind) -> AsyncGenerator[PooledConnection]:
    """A connection for a request that was admitted, when it is its caller's turn. Raises the 429 and 503."""
    turn = gate.limits.lane(kind).turn(_caller(request.state.presented))
    with unavailable():
        async with asyncio.timeout(ANSWER_LIMIT_S), turn, gate.pool.acquire(timeout=CONNECTION_WAIT_S) as conn:
            yield conn


def _caller(presented: PresentedKey | Bearer) -> str:
    """Whose turns and pace a request counts for."""
    return presented.caller if isinstance(presented, Bearer) else presented.key_sha256.hex()


async def _present(gate: Gate, request: Request, credential: str | None) -> PresentedKey | Bearer:
    """Who a request says it comes from, before anything is asked of the database; a token tells it all."""
    text = _read_credentials(gate, request) if credential is None else credential
    key = access.read_key(text)
    wait_s = gate.tries.refuse_after(_address(request), key and key.key_id, time.monotonic())
    if key is not None and wait_s is None:
        request.state.key_id = key.key_id
        return key
    token = tokens.read_token(text) if gate.issuer is not None and key is None else None
    if gate.issuer is not None and token is not None and (wait_s is None or gate.issuer.keys.knows(token)):
        bearer = await gate.issuer.admit(token, gate.clock())
        if bearer is not None:
            request.state.key_id = bearer.caller
            return bearer
    if wait_s is not None:
        raise RequestError(
            "too many invalid keys came from this address; wait a moment and check the key",
            status=429,
            code="too-many-tries",
        )
    raise _invalid(gate, request)


async def _admit(gate: Gate, conn: PooledConnection, request: Request, presented: PresentedKey | Bearer) -> Grant:
    if isinstance(presented, Bearer):
        grant: Grant | None = presented.grant
    else:
        grant = await keys.find_grant(conn, presented, now=gate.clock())
    if grant is None:
        raise _invalid(gate, request)
    gate.tries.succeeded(request.state.key_id)
    return grant


def _read_credentials(gate: Gate, request: Request) -> str:
    """The key in a header; without one, that of the browser's session."""
    bearers = request.headers.getlist("authorization")
    texts = [*bearers, *request.headers.getlist("x-api-key")]
    session = None if texts else read_session(request, now=gate.clock())
    if session is not None:
        return session[0]
    if not texts:
        in_address = access.spot_credential(unquote_plus(request.scope["query_string"].decode("latin-1")))
        raise RequestError(KEY_IN_ADDRESS if in_address else NO_KEY, status=401, code="unauthorized")
    scheme, _, text = texts[0].partition(" ") if bearers else ("bearer", "", texts[0])
    if len(texts) > 1 or scheme.lower() != "bearer":
        raise RequestError(
            "send one key or token as `Authorization: Bearer ...`, or a key as `X-API-Key: anlyt_...`",
            status=401,
            code="unauthorized",
        )
    return text.strip()


def carries_credentials(request: Request) -> bool:
    """Whether a request says in a header who it comes from. Whether that is true only `admitted` tells."""
    return "authorization" in request.headers or "x-api-key" in request.headers


def _invalid(gate: Gate, request: Request) -> RequestError:
    """The one answer to every key and token that is not valid, and a note of the failure."""
    gate.tries.failed(_address(request), time.monotonic())
    return RequestError(
        "this key or token is not valid: it is unknown, mistyped, expired or revoked", status=401, code="unauthorized"
    )


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"
