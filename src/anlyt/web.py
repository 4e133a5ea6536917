"""What all HTTP answers have in common: problems, security headers, limits and the access log.

In: an ASGI app, errors. Out: RFC 9457 problem+json for every error, the same headers on every answer, one log line and
one count a request. Causes go to the log, never to the caller: no answer carries a stack, SQL or an address of ours
(I9).
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Sequence  # noqa: TC003 - msgspec reads the annotations of Problem
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

import msgspec
import structlog
from asyncpg import InsufficientPrivilegeError, InternalClientError, QueryCanceledError
from fastapi import Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from anlyt.access import spot_credential
from anlyt.cloudevents import BODY_BYTES_MAX
from anlyt.errors import (
    ArchiveUnavailable,
    DatabaseUnavailable,
    RequestError,
    StreamUnavailable,
)
from anlyt.intake import Fate  # noqa: TC001 - the same

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping

    from fastapi import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from anlyt.telemetry import Telemetry

    Begin = Callable[[Mapping[str, str]], Awaitable[None]]
    Piece = Callable[[bytes], Awaitable[None]]

QUERY_BYTES_MAX: Final = 8_192  # of the part of an address behind the question mark
HEADERS_BYTES_MAX: Final = 16_384
RETRY_AFTER_S: Final = 2
BODY_LIMIT_S: Final = 10.0  # for a body to arrive
TRIES_RETRY_AFTER_S: Final = 10

PROBLEM_BASE: Final = "urn:anlyt:problem:"
PROBLEMS: Final[Mapping[str, str]] = {
    "invalid-request": "The request cannot be read",
    "invalid-cursor": "The cursor does not fit",
    "unauthorized": "A valid key is needed",
    "forbidden": "The key lacks a permission",
    "cross-site": "The request comes from another site",
    "insecure-connection": "The connection is not encrypted",
    "not-found": "Not found",
    "method-not-allowed": "The method is not allowed",
    "not-acceptable": "There is no such representation",
    "query-too-long": "The query is too long",
    "headers-too-long": "The headers are too long",
    "invalid-parameter": "A parameter is not valid",
    "unknown-parameter": "A parameter is not known",
    "repeated-parameter": "A parameter is repeated",
    "period-too-long": "The period is too long",
    "too-many-tries": "Too many invalid keys",
    "too-large": "The request is too large",
    "too-fast": "Too much in too short a time",
    "too-slow-body": "The body did not arrive in time",
    "unsupported-media-type": "The body is of a type that is not taken",
    "no-valid-event": "No event can be counted",
    "internal-error": "Something went wrong on our side",
    "not-installed": "What this needs is not installed",
    "unavailable": "The service is not available",
    "too-slow": "The answer took too long",
}
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
KEPT_HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "private, no-cache",
    "vary": "Authorization, X-API-Key, Cookie",
}
CORS_PREFLIGHT: Final[Mapping[str, str]] = {
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "Authorization, X-API-Key, Content-Type, If-None-Match, Last-Event-ID",
    "access-control-max-age": "600",
}
CORS_EXPOSED: Final[Mapping[str, str]] = {
    "access-control-expose-headers": "ETag, Retry-After, X-Request-Id, Content-Disposition, "
    "Anlyt-As-Of, Anlyt-Complete-Through",
}
_STATUS_HEADERS: Final[Mapping[int, Mapping[str, str]]] = {
    401: {"www-authenticate": 'Bearer realm="anlyt"'},
    408: {"connection": "close"},  # what is left of the body is not read
    413: {"connection": "close"},
    429: {"retry-after": str(TRIES_RETRY_AFTER_S)},
    503: {"retry-after": str(RETRY_AFTER_S)},
}
_HTTP_CODES: Final[Mapping[int, tuple[str, str]]] = {
    404: ("not-found", "there is nothing at this address"),
    405: ("method-not-allowed", "this address does not take this method; the header Allow lists those it takes"),
}
_UNMATCHED: Final = "unmatched"  # route label of addresses that do not exist

log = structlog.get_logger("anlyt.api")


# ------------------------------------------------------------------------------------------------------------- answers


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """RFC 9457 problem details; `parameter` is the one that is wrong, `events` the fate of each event sent."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None
    events: Sequence[Fate] | None = None


def json_answer(answer: object, *, status: int = 200) -> Response:
    """A record as JSON: BIGINT as integer, NUMERIC as string, instants in UTC with a Z."""
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


class Answer(msgspec.Struct, frozen=True):
    """JSON, and what tells this content from the next; without a version it may still change."""

    body: bytes
    version: str | None


def versioned_answer(request: Request, answer: Answer) -> Response:
    """An answer with its ETag, or a 304 when the caller has that version; without a version nothing may be kept.

    It is a weak one: `meta` also tells how fresh the rows are, which moves on while they stay the same. Whoever keeps
    an answer asks each time whether it still holds, with a key, so that a revoked key reads no cache.
    """
    if answer.version is None:
        return Response(answer.body, media_type="application/json")
    headers = {"etag": f'W/"{answer.version}"', **KEPT_HEADERS}
    known = [tag.strip() for line in request.headers.getlist("if-none-match") for tag in line.split(",")]
    if "*" in known or f'"{answer.version}"' in {tag.removeprefix("W/") for tag in known}:
        return Response(status_code=304, headers=headers)
    return Response(answer.body, media_type="application/json", headers=headers)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    parameter: str | None = None,
    events: Sequence[Fate] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error as application/problem+json. It carries the security headers itself: a 500 passes no middleware."""
    body = Problem(PROBLEM_BASE + code, PROBLEMS[code], status, detail, parameter, events)
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type="application/problem+json",
        headers={**SECURITY_HEADERS, **_STATUS_HEADERS.get(status, {}), **(headers or {})},
    )


def too_fast(wait_s: float, limit: str) -> Response:
    """A 429 that says when to come back."""
    seconds = str(math.ceil(wait_s))
    return problem(429, "too-fast", f"{limit}; send this again in {seconds} s", headers={"retry-after": seconds})


class Streamed(Response):
    """An answer that writes itself piece by piece, and is given up when the caller goes away.

    `write` gets a function that begins the answer and one that sends a piece. Until it has begun, errors become
    problems as everywhere; after that they break the connection, so that a part is never taken for the whole.
    """

    def __init__(self, write: Callable[[Begin, Piece], Coroutine[Any, Any, None]]) -> None:
        super().__init__()
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the answer, as long as somebody reads it; nothing but its headers for a HEAD request."""
        begun = asyncio.Event()

        async def begin(headers: Mapping[str, str]) -> None:
            pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 200, "headers": pairs})
            begun.set()

        async def piece(body: bytes) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": True})

        writing = asyncio.create_task(self._write(begin, piece), name="streamed answer")
        leaving = asyncio.create_task(_left(receive), name="wait for the caller to leave")
        tasks: list[asyncio.Task[Any]] = [writing, leaving]
        head_only = scope["state"].get("head_only", False)
        if head_only:
            tasks.append(asyncio.create_task(begun.wait(), name="wait for the headers"))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            whole = writing.done() or (head_only and begun.is_set())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if whole:  # and by now everything that it held is free
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _on_request_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return problem(error.status, error.code, str(error), parameter=error.parameter, headers=headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error.headers = {"allow": _allowed(request)}
    code, detail = _HTTP_CODES.get(error.status_code, ("invalid-request", HTTPStatus(error.status_code).phrase))
    return problem(error.status_code, code, detail, headers=error.headers)


def _allowed(request: Request) -> str:
    """The methods of an address: each has a route of its own, which knows of no other."""
    routes = [route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE]
    methods = {method for route in routes for method in route.methods}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


async def _on_unavailable(_request: Request, error: Exception) -> Response:
    if isinstance(error.__cause__, QueryCanceledError):
        return problem(503, "too-slow", "the answer took too long; ask for a shorter period or fewer ids")
    log.warning("http-unavailable", cause=str(error))
    return problem(503, "unavailable", "the database cannot be reached at the moment; try again in a few seconds")


async def _on_stream_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("http-unavailable", cause=str(error))
    return problem(
        503,
        "unavailable",
        "the stream did not confirm these events; send the same again in a few seconds, each is counted once",
    )


async def _on_archive_unavailable(_request: Request, error: Exception) -> Response:
    log.warning("http-unavailable", cause=str(error))
    return problem(
        503,
        "unavailable",
        "a part of this period is in the archive, which cannot be reached at the moment; ask for a later period, or "
        "try again in a few seconds",
    )


async def _on_denied(_request: Request, error: Exception) -> Response:
    log.warning("http-denied", cause=str(error))
    return problem(
        403,
        "forbidden",
        "the database role of this API may not write that; use the command anlyt dead-letters instead",
    )


async def _on_mistake(request: Request, _error: Exception) -> Response:
    """The cause is in the log: the server writes what passes here with its traceback."""
    return problem(
        500,
        "internal-error",
        "this is a mistake of the service; its log has the cause, near the line with this answer's X-Request-Id",
        headers={"x-request-id": request.state.request_id},
    )


EXCEPTION_HANDLERS: Final[dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]] = {
    RequestError: _on_request_error,
    HTTPException: _on_http_error,
    DatabaseUnavailable: _on_unavailable,
    StreamUnavailable: _on_stream_unavailable,
    ArchiveUnavailable: _on_archive_unavailable,
    InsufficientPrivilegeError: _on_denied,
    # asyncpg says this when the server has ended an idle session and the end has not been noticed yet.
    InternalClientError: _on_unavailable,
    Exception: _on_mistake,
}


def check_accept(request: Request, media_type: str = "application/json") -> None:
    """Raise a 406 for a caller that would not take what the route answers in."""
    accepted = ",".join(request.headers.getlist("accept"))
    ranges = {part.partition(";")[0].strip().lower() for part in accepted.split(",")} - {""}
    if ranges and ranges.isdisjoint({"*/*", media_type, f"{media_type.partition('/')[0]}/*"}):
        raise RequestError(f"this route answers in {media_type} only", status=406, code="not-acceptable")


def check_body_headers(request: Request, media_types: Sequence[str]) -> None:
    """Raise the 415 or 413 that a body's own headers earn it, before it is read."""
    media_type, _, options = request.headers.get("content-type", "").partition(";")
    charset = options.replace(" ", "").replace('"', "").lower()
    if (
        media_type.strip().lower() not in media_types
        or charset not in {"", "charset=utf-8"}
        or request.headers.get("content-encoding", "identity") != "identity"
        or any(name.startswith("ce-") for name in request.headers)
    ):
        raise RequestError(
            f"the body must be JSON in UTF-8, not compressed, with a Content-Type of {', '.join(media_types)}; "
            "CloudEvents attributes stand in the body, not in headers",
            status=415,
            code="unsupported-media-type",
        )
    length = request.headers.get("content-length", "0")
    if length.isascii() and length.isdigit() and int(length) > BODY_BYTES_MAX:
        raise _too_large()


async def read_body(request: Request) -> bytes:
    """The body, at most BODY_BYTES_MAX within BODY_LIMIT_S. Raises RequestError 413, 408, 400."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_LIMIT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise _too_large()
    except TimeoutError:
        raise RequestError(
            f"the body did not arrive within {BODY_LIMIT_S:.0f} s; send the same again, or less at once",
            status=408,
            code="too-slow-body",
        ) from None
    except ClientDisconnect:  # nobody is left to be told
        raise RequestError("the connection ended before the body did", status=400, code="invalid-request") from None
    return bytes(body)


def _too_large() -> RequestError:
    return RequestError(
        f"the body has more than {BODY_BYTES_MAX} bytes; send the events in several requests",
        status=413,
        code="too-large",
    )


# ---------------------------------------------------------------------------------------------------------- middleware


def protected(app: ASGIApp, *, telemetry: Telemetry) -> ASGIApp:
    """Middleware: the limits of a request, the headers of every answer, one count and one log line each."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = secrets.token_hex(8)
        status = 500  # unless an answer begins

        async def send_protected(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                headers["x-request-id"] = request_id
            await send(message)

        scope.setdefault("state", {})["request_id"] = request_id
        try:
            refusal = _refuse(scope)
            await (refusal or app)(scope, receive, send_protected)
        finally:
            _record(scope, telemetry, status, time.perf_counter() - started)

    return run


def cross_origin(app: ASGIApp, *, origins: Collection[str]) -> ASGIApp:
    """Middleware: pages of exactly these origins may read the answers, with a key in a header and never by a cookie.

    Without origins nothing is said about any, which browsers take for no.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not origins:
            await app(scope, receive, send)
            return
        request = Headers(scope=scope)
        origin = request.get("origin")
        allowed = {"access-control-allow-origin": origin} if origin is not None and origin in origins else {}

        async def send_allowed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.add_vary_header("Origin")
                headers.update(allowed | (CORS_EXPOSED if allowed else {}))
            await send(message)

        preflight = scope["method"] == "OPTIONS" and "access-control-request-method" in request
        answer = Response(status_code=204, headers=dict(CORS_PREFLIGHT)) if preflight and allowed else app
        await answer(scope, receive, send_allowed)

    return run


def headed(app: ASGIApp) -> ASGIApp:
    """Middleware: HEAD is answered like GET, without the body. What writes itself ends with its headers."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        scope["state"]["head_only"] = True
        as_get = {**scope, "method": "GET"}
        try:
            await app(as_get, receive, send_head)
        finally:
            scope["route"] = as_get.get("route")  # for the log

    return run


def _refuse(scope: Scope) -> Response | None:
    headers = Headers(scope=scope)
    if len(scope["query_string"]) > QUERY_BYTES_MAX:
        return problem(
            414,
            "query-too-long",
            f"the query has {len(scope['query_string'])} bytes, but at most {QUERY_BYTES_MAX} are read",
        )
    if sum(len(name) + len(value) for name, value in headers.raw) > HEADERS_BYTES_MAX:
        return problem(431, "headers-too-long", f"the headers are longer than {HEADERS_BYTES_MAX} bytes")
    if scope["method"] == "GET" and (headers.get("content-length", "0") != "0" or "transfer-encoding" in headers):
        return problem(400, "invalid-request", "a GET request carries no body")
    return None


def _record(scope: Scope, telemetry: Telemetry, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", _UNMATCHED)
    telemetry.answered(route, status, seconds=seconds)
    exposed = spot_credential(unquote_plus(scope["query_string"].decode("latin-1")))
    if exposed is not None:
        log.warning("key-in-address", key_id=exposed, request_id=scope["state"]["request_id"])
    log.info(
        "http-answered",
        method=scope["method"],
        route=route,
        status=status,
        seconds=round(seconds, 6),
        key_id=scope["state"].get("key_id"),
        request_id=scope["state"]["request_id"],
    )
