"""What only a browser needs: the page, its files, and signing in with a key.

In: requests of a browser. Out: static answers; for a key that is valid a cookie (session.py), for a cookie who it is.
The page reads its numbers from the same routes as everybody; nothing here shows any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from fastapi import Request, Response

from anlyt import access, web
from anlyt.assets import ASSETS_PATH, Assets, answer_asset, answer_page
from anlyt.errors import RequestError
from anlyt.gate import Gate, admitted, carries_credentials
from anlyt.queries import refuse_parameters
from anlyt.session import (
    SESSION_BODY_BYTES_MAX,
    Session,
    SignIn,
    check_own_page,
    end_session,
    read_session,
    start_session,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from anlyt.names import Names

    Endpoint = Callable[..., Awaitable[Response]]

ASSET_ROUTE: Final = ASSETS_PATH + "/{version}/{name}"
SESSION_ROUTE: Final = "/v1/session"


def page(assets: Assets) -> Endpoint:
    """`GET /`."""

    async def endpoint(request: Request) -> Response:
        return answer_page(assets, request)

    return endpoint


def asset(assets: Assets) -> Endpoint:
    """`GET /assets/{version}/{name}`."""

    async def endpoint(request: Request, version: str, name: str) -> Response:
        answer = answer_asset(assets, request, version, name)
        if answer is None:
            raise RequestError("there is no such file; load the page anew", status=404, code="not-found")
        return answer

    return endpoint


def sign_in(gate: Gate) -> Endpoint:
    """`POST /v1/session`: 1. own page?  2. read the key  3. admit it as everywhere  4. answer with the cookie."""

    async def endpoint(request: Request) -> Response:
        check_own_page(request)
        web.check_body_headers(request, ["application/json"])
        key = _read_key(await web.read_body(request))
        async with admitted(gate, request, None, credential=key) as (_, grant):
            cookie, expires_at = start_session(request, key, now=gate.clock())
        answer = web.json_answer(_session(grant, expires_at))
        answer.headers["set-cookie"] = cookie
        return answer

    return endpoint


def who(gate: Gate) -> Endpoint:
    """`GET /v1/session`."""

    async def endpoint(request: Request) -> Response:
        async with admitted(gate, request, None) as (_, grant):
            found = None if carries_credentials(request) else read_session(request, now=gate.clock())
        return web.json_answer(_session(grant, found and found[1]))

    return endpoint


def list_names(gate: Gate, names: Names) -> Endpoint:
    """`GET /v1/names`."""

    async def endpoint(request: Request) -> Response:
        web.check_accept(request)
        refuse_parameters(request.query_params.multi_items())
        async with admitted(gate, request, "metrics:read") as (_, grant):
            return web.json_answer(names.visible(grant))

    return endpoint


def sign_out() -> Endpoint:
    """`DELETE /v1/session`. The cookie is all there is to end."""

    async def endpoint(request: Request) -> Response:
        check_own_page(request)
        return Response(status_code=204, headers={"set-cookie": end_session(request)})

    return endpoint


def _read_key(body: bytes) -> str:
    try:
        if len(body) > SESSION_BODY_BYTES_MAX:
            raise msgspec.ValidationError
        return msgspec.json.decode(body, type=SignIn).key.strip()
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RequestError('the body must be like {"key": "anlyt_..."}', status=422, code="invalid-request") from None


def _session(grant: access.Grant, expires_at: datetime | None) -> Session:
    return Session(grant.scope, sorted(grant.scope_ids), sorted(grant.permissions), expires_at)
