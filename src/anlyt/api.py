"""HTTP: parse, authorise, ask reports, encode. Nothing is computed here.

In: requests. Out: JSON in camelCase, Prometheus text, one page; errors become problem+json in web.py. Every /v1 route
goes through `gate.admitted`, the one place where a key becomes a Grant; a handler gets its connection from there, so a
route without a Grant has nothing to read with (I8).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable  # noqa: TC003 - msgspec reads the annotations of Service
from contextlib import aclosing
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl

import msgspec
import structlog
from asyncpg import PostgresError
from fastapi import FastAPI, Request, Response

from anlyt import access, asyncapi, desk, exports, intake, live, manual, openapi, pages, reports, summaries, web
from anlyt.assets import load_assets
from anlyt.clickhouse import ClickHouse  # noqa: TC001 - msgspec reads the annotations of Service
from anlyt.crash import CrashPoints
from anlyt.errors import DatabaseUnavailable, RequestError, StreamUnavailable
from anlyt.events import Decoder, rules_of, to_instant
from anlyt.gate import Gate, admitted, carries_credentials, reading
from anlyt.limits import Kind, Limits, Pace, Together
from anlyt.names import Names
from anlyt.postgres import pending_migrations, unavailable
from anlyt.publishing import Publisher  # noqa: TC001 - msgspec reads the annotations of Service
from anlyt.queries import (
    REPORTS,
    ReportName,
    read_letters_query,
    read_live_query,
    read_query,
    read_summary,
    refuse_parameters,
)
from anlyt.telemetry import METRICS_CONTENT_TYPE, Telemetry

if TYPE_CHECKING:
    from asyncpg import Pool, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Grant
    from anlyt.settings import Settings
    from anlyt.tokens import Issuer

    PooledConnection = PoolConnectionProxy[Record]
    DeskWork = Callable[["Service", Request], Awaitable[object]]
    Handler = Callable[["Service", PooledConnection, Grant, Request], Awaitable[Any]]
    Pairs = list[tuple[str, str]]
    Finder = Callable[["Service", PooledConnection, Grant, Pairs], Awaitable[web.Answer]]

EXPORT_LIMIT_S: Final = 600.0  # for a whole export
READY_LIMIT_S: Final = 1.5
METRICS_AGE_S: Final = 5.0  # what /metrics tells from PostgreSQL is at most so old
FIELDS_MAX: Final = 200  # parameters of one request
DESK_CHANGES_MAX: Final = 2  # retries and discards at the same time; more wait
BODIES_MAX: Final = 32  # read and judged at the same time, each up to BODY_BYTES_MAX

log = structlog.get_logger("anlyt.api")


class Service(msgspec.Struct, frozen=True):
    """What every route uses."""

    settings: Settings
    telemetry: Telemetry
    gate: Gate
    together: Together[web.Answer]
    publisher: Publisher | None
    feed: live.Feed | None
    clickhouse: ClickHouse | None
    decoder: Decoder
    pace: Pace  # of events
    bodies: asyncio.Semaphore
    desk: asyncio.Semaphore


def build_app(  # noqa: PLR0913 - one parameter a part of the process
    *,
    pool: Pool[Record],
    settings: Settings,
    telemetry: Telemetry,
    publisher: Publisher | None = None,
    clickhouse: ClickHouse | None = None,
    issuer: Issuer | None = None,
    feed: live.Feed | None = None,
    clock: Callable[[], datetime] | None = None,
) -> FastAPI:
    """The API over a pool whose statements have a time limit.

    Without a publisher it takes no events, without an issuer no tokens, without a feed, which the caller runs, no live
    readers, and without an archive only what is hot is there.

    `clock` gives aware UTC instants, for tests.
    """
    service = Service(
        settings=settings,
        telemetry=telemetry,
        gate=Gate(pool, access.Tries(), clock or _utc_now, Limits(settings.requests_per_s), issuer),
        together=Together(),
        publisher=publisher,
        feed=feed,
        clickhouse=clickhouse,
        decoder=Decoder(rules_of(settings)),
        pace=Pace(intake.EVENTS_PER_S_MAX, intake.EVENTS_BURST_MAX),
        bodies=asyncio.Semaphore(BODIES_MAX),
        desk=asyncio.Semaphore(DESK_CHANGES_MAX),
    )
    app = FastAPI(
        title="anlyt",
        version=metadata.version("anlyt"),
        summary="Exactly-once analytics of an A2P messaging platform.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=web.EXCEPTION_HANDLERS,
    )
    app.add_middleware(cast("Any", web.headed))
    app.add_middleware(cast("Any", web.cross_origin), origins=settings.cors_origins)
    app.add_middleware(cast("Any", web.protected), telemetry=telemetry)  # the last one is the outermost
    for name, report in REPORTS.items():
        _add(app, report.path, _rows(service, name), **openapi.describe_rows(name))
    _add(app, "/v1/status", _guarded(service, "metrics:read", _status), **openapi.describe_status())
    _add(app, "/v1/summary", _shared(service, _summary, kind="heavy"), **openapi.describe_summary())
    _add(app, "/v1/events", _events(service), method="POST", **openapi.describe_events())
    _add(app, "/v1/live", _live(service), **openapi.describe_live())
    letters = "/v1/dead-letters"
    _add(app, letters, _desk(service, _list_letters), **openapi.describe_letters())
    _add(app, letters + "/{sequence}/{index}", _desk(service, _show_letter), **openapi.describe_letter())
    _add(app, letters + "/retry", _desk(service, _retry_letters), method="POST", **openapi.describe_retry())
    _add(app, letters + "/discard", _desk(service, _discard_letters), method="POST", **openapi.describe_discard())
    _add(app, "/livez", _livez, **openapi.describe_liveness())
    _add(app, "/readyz", _readyz(service), **openapi.describe_readiness())
    _add(app, "/metrics", _metrics(service), **openapi.describe_metrics())
    _add(app, pages.SESSION_ROUTE, pages.sign_in(service.gate), method="POST", **openapi.describe_sign_in())
    _add(app, pages.SESSION_ROUTE, pages.who(service.gate), **openapi.describe_session())
    _add(app, pages.SESSION_ROUTE, pages.sign_out(), method="DELETE", **openapi.describe_sign_out())
    _add(app, "/v1/names", pages.list_names(service.gate, Names(settings.names_file)), **openapi.describe_names())
    files = load_assets()
    _add(app, "/", pages.page(files), include_in_schema=False)
    _add(app, pages.ASSET_ROUTE, pages.asset(files), include_in_schema=False)
    events = msgspec.json.encode(asyncapi.describe(settings))
    _add(app, "/asyncapi.json", _document(events, "application/json"), include_in_schema=False)
    _add(app, "/docs", _manual(app), include_in_schema=False)
    openapi.complete(app)
    return app


def _add(
    app: FastAPI,
    path: str,
    endpoint: Callable[..., Any],
    *,
    method: str = "GET",
    **description: Any,  # noqa: ANN401 - FastAPI's own
) -> None:
    app.add_api_route(path, endpoint, methods=[method], response_model=None, **description)


# -------------------------------------------------------------------------------------------------------------- routes


def _rows(service: Service, name: ReportName) -> Callable[[Request], Awaitable[Response]]:
    """One of the four row routes: a page of JSON, or the whole period as a file."""
    page = _shared(service, _page_finder(name), kind="light")

    async def endpoint(request: Request) -> Response:
        wanted = [value for parameter, value in _read_pairs(request) if parameter == "format"]
        if not wanted or wanted == ["json"]:
            return await page(request)
        return web.Streamed(lambda begin, piece: _export(service, name, request, (begin, piece)))

    return endpoint


def _page_finder(name: ReportName) -> Finder:
    async def rows(service: Service, conn: PooledConnection, grant: Grant, pairs: Pairs) -> web.Answer:
        query = read_query(name, pairs, grant=grant, now=service.gate.clock())
        page = await reports.read_page(conn, grant, query, settings=service.settings, clickhouse=service.clickhouse)
        version = reports.version_of(
            (page.data, page.next), page.meta, reports.end_of_buckets(query), service.settings.max_message_age
        )
        return web.Answer(msgspec.json.encode(page), version)

    return rows


async def _export(service: Service, name: ReportName, request: Request, answer: tuple[web.Begin, web.Piece]) -> None:
    """Write a whole period. An export holds a connection, so there are few at a time, and one of each key."""
    begin, piece = answer
    async with admitted(service.gate, request, "metrics:read", limit_s=EXPORT_LIMIT_S, kind="file") as (conn, grant):
        query = read_query(name, _read_pairs(request), grant=grant, now=service.gate.clock())
        whole = reports.stream_rows(conn, grant, query, settings=service.settings, clickhouse=service.clickhouse)
        async with aclosing(whole) as stream:
            fresh, _ = await anext(stream)
            encoder = exports.open_encoder(query, fresh, currency=service.settings.currency)
            await begin(exports.headers(query, fresh))
            await piece(encoder.encode_head())
            async for _, rows in stream:
                await piece(encoder.encode_rows(rows))
            await piece(encoder.encode_end())


async def _summary(service: Service, conn: PooledConnection, grant: Grant, pairs: Pairs) -> web.Answer:
    query = read_summary(pairs, grant=grant, now=service.gate.clock())
    sums = await summaries.read_summary(conn, grant, query, settings=service.settings, clickhouse=service.clickhouse)
    end = max(span.end for span in query.spans)
    version = reports.version_of(sums.data, sums.meta, end, service.settings.max_message_age)
    return web.Answer(msgspec.json.encode(sums), version)


async def _status(service: Service, conn: PooledConnection, grant: Grant, request: Request) -> reports.Status:
    refuse_parameters(_read_pairs(request))
    status = await reports.read_status(conn, grant, settings=service.settings)
    if grant.scope != "PLATFORM":
        return status
    return msgspec.structs.replace(status, requests_by_key=dict(service.gate.tries.requests))


def _live(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """`GET /v1/live`: rows as they change. The connection that admits the key is given back before it listens."""

    async def endpoint(request: Request) -> Response:
        web.check_accept(request, "text/event-stream")
        return web.Streamed(lambda begin, piece: _listen(service, request, (begin, piece)))

    return endpoint


async def _listen(service: Service, request: Request, answer: tuple[web.Begin, web.Piece]) -> None:
    begin, piece = answer
    async with admitted(service.gate, request, "metrics:read") as (_, grant):
        scope, ids = read_live_query(_read_pairs(request))
        visible = access.see(grant, scope, ids, parameter="scopeId")
    if service.feed is None:
        raise RequestError("this process sends no live events", status=503, code="unavailable")
    caller = live.Caller(request.state.key_id, grant, request.state.presented)
    listener = service.feed.join(caller, visible, last_event_id=request.headers.get("last-event-id"))
    try:
        await begin(live.HEADERS)
        async for events in listener.events():
            async with asyncio.timeout(live.WRITE_LIMIT_S):
                await piece(events)
    except TimeoutError:
        log.warning("live-reader-dropped", key_id=request.state.key_id, limit_s=live.WRITE_LIMIT_S)
        raise RequestError("the reader took nothing for too long", status=408, code="too-slow") from None
    finally:
        service.feed.leave(listener)


def _events(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """`POST /v1/events`: 1. admit the key  2. read the body  3. judge each event  4. publish  5. tell the fates.

    The connection of step 1 is given back before the body is read: a slow sender holds up no reader.
    """

    async def endpoint(request: Request) -> Response:
        web.check_accept(request)
        web.check_body_headers(request, intake.MEDIA_TYPES)
        refuse_parameters(_read_pairs(request))
        async with admitted(service.gate, request, "events:write") as (_, grant):
            pass
        async with service.bodies:
            body = await web.read_body(request)
            taken = _judge(service, grant, body)
        wait_s = service.pace.spend(request.state.key_id, len(taken.fates), time.monotonic())
        if wait_s is not None:
            return web.too_fast(wait_s, f"this key may send {intake.EVENTS_PER_S_MAX} events a second")
        return _receipt(await _publish(service, taken))

    return endpoint


def _judge(service: Service, grant: Grant, body: bytes) -> intake.Intake:
    subject = service.settings.subjects.removesuffix(">") + "http"
    return intake.judge(service.decoder, grant, body, subject=subject, now_us=to_instant(service.gate.clock()))


async def _publish(service: Service, taken: intake.Intake) -> list[intake.Fate]:
    """The fates, when JetStream has what was to be published. Raises StreamUnavailable."""
    if taken.outgoing is None:
        return taken.fates
    if service.publisher is None:
        raise StreamUnavailable("this process was started without NATS")
    published = await service.publisher.publish(taken.outgoing)
    return taken.fates if published.stored else intake.known_already(taken.fates)


def _receipt(fates: list[intake.Fate]) -> Response:
    """A 202 when anything was taken, or nothing had to be; a 422 when all there is was rejected."""
    tally = intake.count(fates)
    if tally.rejected and tally.rejected + tally.ignored == len(fates):
        return web.problem(
            422,
            "no-valid-event",
            f"none of the {len(fates)} events can be counted; `events` says why, nothing was published",
            events=fates,
        )
    return web.json_answer(intake.Receipt(fates, tally), status=202)


def _desk(service: Service, work: DeskWork) -> Callable[[Request], Awaitable[Response]]:
    """A route of the staff's desk. The connection that admits the key is given back before the work begins."""

    async def endpoint(request: Request) -> Response:
        web.check_accept(request)
        async with admitted(service.gate, request, "admin") as (_, grant):
            access.require_staff(grant)
        return web.json_answer(await work(service, request))

    return endpoint


async def _list_letters(service: Service, request: Request) -> desk.ListedPage:
    return await desk.list_page(service.settings, read_letters_query(_read_pairs(request)))


async def _show_letter(service: Service, request: Request) -> desk.ShownLetters:
    refuse_parameters(_read_pairs(request))
    return await desk.show(service.settings, request.path_params["sequence"], request.path_params["index"])


async def _retry_letters(service: Service, request: Request) -> desk.RetriedPart:
    body = await _read_choice(request)
    async with service.desk:
        done = await desk.retry(service.settings, body, crash=CrashPoints())
    log.info("letters-retried", key_id=request.state.key_id, **msgspec.structs.asdict(done.data))
    return done


async def _discard_letters(service: Service, request: Request) -> desk.DiscardedPart:
    body = await _read_choice(request)
    async with service.desk:
        done = await desk.discard(service.settings, body)
    log.info("letters-discarded", key_id=request.state.key_id, **msgspec.structs.asdict(done.data))
    return done


async def _read_choice(request: Request) -> bytes:
    refuse_parameters(_read_pairs(request))
    web.check_body_headers(request, ["application/json"])
    return await web.read_body(request)


async def _livez() -> Response:
    return web.json_answer({"status": "alive"})


def _readyz(service: Service) -> Callable[[], Awaitable[Response]]:
    async def readyz() -> Response:
        with unavailable():
            async with asyncio.timeout(READY_LIMIT_S), service.gate.pool.acquire(timeout=READY_LIMIT_S) as conn:
                missing = await pending_migrations(conn)
        if missing:
            raise RequestError(
                f"the schema is {len(missing)} migrations behind: run anlyt migrate",
                status=503,
                code="unavailable",
            )
        return web.json_answer({"status": "ready"})

    return readyz


def _metrics(service: Service) -> Callable[[Request], Awaitable[Response]]:
    """This process's metrics, and those that PostgreSQL knows for all, read at most every METRICS_AGE_S.

    How many events there were is for platform staff; how the service is may be seen without a key.
    """
    read_at_s = -math.inf
    totals = reports.NO_TOTALS

    async def metrics(request: Request) -> Response:
        nonlocal read_at_s, totals
        staff = carries_credentials(request) and await _is_staff(service, request)
        now_s = time.monotonic()
        if now_s - read_at_s >= METRICS_AGE_S:
            read_at_s = now_s
            totals = await _read_totals(service)
        service.telemetry.recorded(
            complete_through_s=totals.complete_through_s,
            runways_s=totals.runways_s,
            refused=totals.refused,
            accounts=totals.accounts if staff else {},
            events=totals.events if staff else {},
            jobs=totals.jobs,
        )
        return Response(service.telemetry.render(), headers={"content-type": METRICS_CONTENT_TYPE})

    return metrics


async def _is_staff(service: Service, request: Request) -> bool:
    """Whether a request comes from platform staff; not, as long as the database cannot tell. Raises the 401 and 403."""
    try:
        async with admitted(service.gate, request, "metrics:read") as (_, grant):
            access.require_staff(grant)
    except DatabaseUnavailable:
        return False
    return True


async def _read_totals(service: Service) -> reports.Totals:
    try:
        with unavailable():
            async with asyncio.timeout(READY_LIMIT_S), service.gate.pool.acquire(timeout=READY_LIMIT_S) as conn:
                return await reports.read_totals(conn, settings=service.settings)
    except (DatabaseUnavailable, PostgresError):  # no database, or no schema: those metrics are absent
        return reports.NO_TOTALS


def _document(body: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    """A document that stays the same as long as the process lives."""

    async def answer() -> Response:
        return Response(body, media_type=media_type)

    return answer


def _manual(app: FastAPI) -> Callable[[], Awaitable[Response]]:
    """The description for people; made when somebody first asks, because it is of all routes."""
    body = b""

    async def answer() -> Response:
        nonlocal body
        body = body or manual.write_page(app.openapi())
        return Response(body, media_type="text/html", headers={"content-security-policy": manual.POLICY})

    return answer


# ------------------------------------------------------------------------------------------------------- authorisation


def _guarded(
    service: Service, permission: access.Permission, handler: Handler
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that 1. reads the key, 2. gets a connection, 3. admits, 4. asks the permission, 5. handles."""

    async def endpoint(request: Request) -> Response:
        web.check_accept(request)
        async with admitted(service.gate, request, permission) as (conn, grant):
            answer = await handler(service, conn, grant, request)
        return answer if isinstance(answer, Response) else web.json_answer(answer)

    return endpoint


def _shared(service: Service, find: Finder, *, kind: Kind) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint that 1. admits, 2. meets others with the same Grant and question, 3. reads, once for all of them."""

    async def endpoint(request: Request) -> Response:
        web.check_accept(request)
        async with admitted(service.gate, request, "metrics:read") as (_, grant):
            pass
        pairs = _read_pairs(request)

        async def read() -> web.Answer:
            async with reading(service.gate, request, kind=kind) as conn:
                return await find(service, conn, grant, pairs)

        question = (request.url.path, grant, tuple(pairs))
        return web.versioned_answer(request, await service.together.answer(question, read))

    return endpoint


def _read_pairs(request: Request) -> list[tuple[str, str]]:
    try:
        text = request.scope["query_string"].decode("latin-1")
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX)
    except ValueError:
        raise RequestError(
            f"the part of the address behind the question mark must be UTF-8 and hold at most {FIELDS_MAX} parameters",
            status=422,
            code="invalid-request",
        ) from None


def _utc_now() -> datetime:
    return datetime.now(UTC)
