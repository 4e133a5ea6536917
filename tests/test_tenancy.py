"""The tenancy matrix: every route, by every kind of caller, about own, foreign and unknown ids.

What is expected stands here in a few rules of its own; the routes come from the app, so that a route without a row in
ROUTES fails. Foreign rows carry a number that may never reach a tenant, whatever is asked and however it is answered.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import asyncpg
import httpx2
import pytest

from anlyt import access, api, keys
from anlyt.access import make_grant
from anlyt.postgres import connect, ensure_partitions
from anlyt.session import PLAIN_COOKIE
from anlyt.telemetry import Telemetry
from anlyt.tokens import trusted
from issuing import EC_KEY, OTHER_RSA_KEY, RSA_KEY, claims, key_server, sign
from serving import problem_of
from support import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = datetime.now(UTC)
HOUR = NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
DAY = HOUR.replace(hour=0)
OWN = {"OPERATOR": "0b1d6f2e-0000-4000-8000-0000000000e1", "ACCOUNT": "0b1d6f2e-0000-4000-8000-00000000acc1"}
FOREIGN = {"OPERATOR": "0b1d6f2e-0000-4000-8000-0000000000e2", "ACCOUNT": "0b1d6f2e-0000-4000-8000-00000000acc2"}
UNKNOWN = "ffffffff-ffff-4fff-8fff-ffffffffffff"
MINE, SECRET = 1111, 424_242  # messages of an own row, and of any other row

Asked = Literal["nothing", "own", "foreign", "unknown", "own and foreign", "the other kind", "platform"]
ASKED: list[Asked] = ["nothing", "own", "foreign", "unknown", "own and foreign", "the other kind", "platform"]


class Route(NamedTuple):
    """What a route is for. `parameter` is the one that takes ids, `only` the scope whose rows it has."""

    permission: str | None  # None: any will do
    kind: Literal["open", "rows", "live", "summary", "status", "names", "staff", "events", "session"]
    parameter: str = ""
    only: str = ""
    body: Any = None
    media_type: str = "application/json"
    path: str = ""  # with a place for `{...}`


EVENT = {
    "specversion": "1.0",
    "id": "tenancy-1",
    "source": "/tenancy",
    "type": "message.submitted",
    "time": NOW.isoformat(),
    "data": {"messageId": "m", "accountId": OWN["ACCOUNT"]},
}
ROUTES: dict[tuple[str, str], Route] = {
    ("GET", "/v1/metrics/hourly"): Route("metrics:read", "rows", "scopeId"),
    ("GET", "/v1/metrics/daily"): Route("metrics:read", "rows", "scopeId"),
    ("GET", "/v1/operators/performance"): Route("metrics:read", "rows", "operatorId", "OPERATOR"),
    ("GET", "/v1/accounts/usage"): Route("metrics:read", "rows", "accountId", "ACCOUNT"),
    ("GET", "/v1/summary"): Route("metrics:read", "summary", "scopeId"),
    ("GET", "/v1/status"): Route("metrics:read", "status"),
    ("GET", "/v1/live"): Route("metrics:read", "live", "scopeId"),
    ("GET", "/v1/names"): Route("metrics:read", "names"),
    ("POST", "/v1/events"): Route("events:write", "events", body=EVENT),
    ("GET", "/v1/dead-letters"): Route("admin", "staff"),
    ("GET", "/v1/dead-letters/{sequence}/{index}"): Route("admin", "staff", path="/v1/dead-letters/1/0"),
    ("POST", "/v1/dead-letters/retry"): Route("admin", "staff", body={"reason": "stale"}),
    ("POST", "/v1/dead-letters/discard"): Route("admin", "staff", body={"reason": "stale"}),
    ("GET", "/v1/session"): Route(None, "session"),
    ("POST", "/v1/session"): Route("", "open", body={"key": "nonsense"}),  # the key is in the body: test_session.py
    ("DELETE", "/v1/session"): Route("", "open"),
    ("GET", "/livez"): Route("", "open"),
    ("GET", "/readyz"): Route("", "open"),
    ("GET", "/metrics"): Route("", "open"),
    ("GET", "/openapi.json"): Route("", "open"),
    ("GET", "/asyncapi.json"): Route("", "open"),
    ("GET", "/docs"): Route("", "open"),
    ("GET", "/"): Route("", "open"),
    ("GET", "/assets/{version}/{name}"): Route("", "open", path="/assets/0/app.js"),
}
GUARDED = [place for place, route in ROUTES.items() if route.kind != "open"]


class Caller(NamedTuple):
    """Who asks. A caller without a scope is not valid."""

    name: str
    headers: dict[str, str]
    scope: str = ""
    permissions: tuple[str, ...] = ()


class World(NamedTuple):
    """An API with rows of everybody, its callers, and the statements its one session was asked."""

    app: Any
    conn: asyncpg.Connection[Any]
    callers: list[Caller]
    statements: list[str]

    async def ask(self, place: tuple[str, str], caller: Caller, address: str, **parameters: Any) -> httpx2.Response:
        """One request, from an address of its own."""
        route, (method, path) = ROUTES[place], place
        transport = httpx2.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 1))
        body = None if route.body is None else json.dumps(route.body)
        headers = caller.headers | ({} if body is None else {"content-type": route.media_type})
        async with httpx2.AsyncClient(transport=transport, base_url="http://anlyt") as client:
            return await client.request(method, route.path or path, params=parameters, headers=headers, content=body)


@asynccontextmanager
async def world(url: str) -> AsyncIterator[World]:
    """The API over one session, whose statements are noted."""
    statements: list[str] = []

    async def listen(conn: asyncpg.Connection[Any]) -> None:
        conn.add_query_logger(lambda record: statements.append(record.query))

    pool = await asyncpg.create_pool(url, min_size=1, max_size=1, init=listen, server_settings={"TimeZone": "UTC"})
    conn = await connect(url, application="anlyt-tests")
    names = Path(mkdtemp()) / "names.json"
    named = {f"{scope.lower()}s": {i: f"name of {i}" for i in (OWN[scope], FOREIGN[scope])} for scope in OWN}
    names.write_text(json.dumps(named), encoding="utf-8")
    try:
        await fill(conn)
        async with key_server() as server:
            settings = server.settings(database_url=url, names_file=names)
            async with trusted(settings) as issuer:
                app = api.build_app(pool=pool, settings=settings, telemetry=Telemetry(), issuer=issuer)
                yield World(app, conn, [*await good_callers(conn), *await bad_callers(conn)], statements)
    finally:
        shutil.rmtree(names.parent)
        await conn.close()
        pool.terminate()


async def fill(conn: asyncpg.Connection[Any]) -> None:
    await ensure_partitions(conn, [HOUR])
    everybody = [("PLATFORM", "platform"), *OWN.items(), *FOREIGN.items()]
    for scope, scope_id in everybody:
        number = MINE if scope_id in OWN.values() else SECRET
        await conn.execute("INSERT INTO anlyt.metrics_hourly VALUES ($1, $2, $3, $4)", HOUR, scope, scope_id, number)
        await conn.execute("INSERT INTO anlyt.metrics_daily VALUES ($1, $2, $3, $4)", DAY, scope, scope_id, number)
    for ids, number in ((OWN, MINE), (FOREIGN, SECRET)):
        await conn.execute("INSERT INTO anlyt.operator_performance VALUES ($1, $2, $3)", HOUR, ids["OPERATOR"], number)
        await conn.execute("INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, $3)", DAY, ids["ACCOUNT"], number)
    await conn.execute("INSERT INTO anlyt.ingest_totals (stream, slot, counted_events) VALUES ('T', 0, $1)", SECRET)


OWN_PAGE = {"sec-fetch-site": "same-origin"}
ALL = ("metrics:read", "events:write", "admin")


async def good_callers(conn: asyncpg.Connection[Any]) -> list[Caller]:
    """Every scope with every permission, by key, by session and by token."""
    made: list[Caller] = []
    for scope in ("PLATFORM", "OPERATOR", "ACCOUNT"):
        ids = [OWN[scope]] if scope in OWN else []
        for permissions in (("metrics:read",), ("events:write",), ("admin",), ALL):
            label = f"{scope} {'+'.join(permissions)}"
            key = (await keys.create_key(conn, make_grant(scope, ids, permissions), name="test")).key
            cookie = f"{PLAIN_COOKIE}={int(time.time()) + 300}~{key}"
            token = sign(claims(scope, *ids, scope=" ".join(permissions)), key=EC_KEY, key_id="ec", algorithm="ES256")
            made += [
                Caller(f"{label} by key", {"authorization": f"Bearer {key}"}, scope, permissions),
                Caller(f"{label} by token", {"authorization": f"Bearer {token}"}, scope, permissions),
                Caller(f"{label} by session", {"cookie": cookie} | OWN_PAGE, scope, permissions),
            ]
        nothing = sign(claims(scope, *ids, scope="openid"))
        made.append(Caller(f"{scope} without permissions", {"authorization": f"Bearer {nothing}"}, scope))
    return made


async def bad_callers(conn: asyncpg.Connection[Any]) -> list[Caller]:
    """Everybody who must not get in, and says to be platform staff."""

    async def key(**changes: Any) -> access.NewKey:
        return await keys.create_key(conn, make_grant("PLATFORM", (), ALL), name="test", **changes)

    good, revoked, expired = await key(), await key(), await key(expires_at=NOW - timedelta(seconds=1))
    await keys.revoke_key(conn, revoked.key_id)
    unknown = access.new_key().key
    stolen = unknown.replace(unknown[6:18], good.key_id)[:-6]
    late = int(time.time()) - 3600
    staff = claims("PLATFORM", scope=" ".join(ALL))
    texts = {
        "nonsense": "nonsense",
        "mistyped key": good.key[:30] + ("x" if good.key[30] != "x" else "y") + good.key[31:],
        "cut key": good.key[:-1],
        "unknown key": unknown,
        "forged key of a known id": stolen + access._checksum(stolen),
        "expired key": expired.key,
        "revoked key": revoked.key,
        "expired token": sign(staff | {"exp": late}),
        "forged token": sign(staff, key=OTHER_RSA_KEY),
        "unsigned token": sign(staff).rpartition(".")[0] + ".",
        "token for somebody else": sign(staff | {"aud": "other"}),
        "token of another issuer": sign(staff | {"iss": "https://other.test"}),
        "token of an unknown key": sign(staff, key_id="unknown"),
        "token without a scope": sign({name: value for name, value in staff.items() if name != "anlyt_scope"}),
        "token with the wrong algorithm": sign(staff, key=RSA_KEY, algorithm="PS256"),
    }
    made = [Caller(name, {"authorization": f"Bearer {text}"}) for name, text in texts.items()]
    for name in ("revoked key", "forged token"):
        cookie = f"{PLAIN_COOKIE}={int(time.time()) + 300}~{texts[name]}"
        made.append(Caller(f"{name} in a session", {"cookie": cookie} | OWN_PAGE))
    return [*made, Caller("nobody", {}), Caller("basic", {"authorization": "Basic YTpi"})]


# --------------------------------------------------------------------------------------------------------------- rules


def asked_ids(caller: Caller, route: Route, asked: Asked) -> list[str]:
    """The ids of a question, of the kind the route has rows of."""
    scope = route.only or (caller.scope if caller.scope in OWN else "ACCOUNT")
    other = "OPERATOR" if scope == "ACCOUNT" else "ACCOUNT"
    return {
        "nothing": [],
        "own": [OWN[scope]],
        "foreign": [FOREIGN[scope]],
        "unknown": [UNKNOWN],
        "own and foreign": [OWN[scope], FOREIGN[scope]],
        "the other kind": [OWN[other]],
        "platform": ["platform"],
    }[asked]


def expected_status(caller: Caller, route: Route, asked: Asked) -> int:
    """What the contract says, without a look at the code."""
    if not caller.scope:
        return 401
    lacks = route.permission is not None and route.permission not in caller.permissions
    if lacks or (route.kind == "staff" and caller.scope != "PLATFORM"):
        return 403
    if route.parameter:
        return status_of_ids(caller, route, asked)
    if route.kind == "staff" and route.path:
        return 404  # there is no such letter
    if route.kind == "events":
        return 422 if caller.scope == "OPERATOR" else 503  # an account's event; and there is no stream here
    return 200


def status_of_ids(caller: Caller, route: Route, asked: Asked) -> int:
    """What a caller who may read gets for a question about ids."""
    if asked == "platform" and (route.only or (route.kind == "summary" and caller.scope != "PLATFORM")):
        return 422  # not a UUID, where only UUIDs can be meant
    owns = asked == "own" and route.only in {"", caller.scope}
    let_in = 503 if route.kind == "live" else 200  # test_live.py has what a feed sends to whom; here is none
    return let_in if caller.scope == "PLATFORM" or asked == "nothing" or owns else 404


def seen_ids(caller: Caller, route: Route, ids: list[str]) -> set[str]:
    """The ids whose rows an answer may hold, of those the caller asked for."""
    if caller.scope != "PLATFORM":
        return {OWN[caller.scope]} if not route.only or route.only == caller.scope else set()
    everybody = {"platform", *OWN.values(), *FOREIGN.values()}
    if route.only:
        everybody = {OWN[route.only], FOREIGN[route.only]}
    return everybody & set(ids) if ids else everybody


def parameters_of(caller: Caller, route: Route, ids: list[str]) -> dict[str, Any]:
    if not route.parameter:
        return {}
    scoped = route.kind == "summary" and ids and ids != ["platform"]
    scope = caller.scope if caller.scope in OWN else "ACCOUNT"
    period = {} if route.kind == "live" else {"from": "-3d"}
    return period | ({route.parameter: ids} if ids else {}) | ({"scope": scope} if scoped else {})


# -------------------------------------------------------------------------------------------------------------- matrix


def test_every_route_of_the_app_has_its_row_in_the_matrix(database_url: str) -> None:
    async def story() -> None:
        async with world(database_url) as here:
            served = {(method, route.path) for route in here.app.routes for method in route.methods if method != "HEAD"}

            assert served == set(ROUTES), "a route was added or taken away: say in ROUTES who may use it"

    run(story())


def questions(callers: list[Caller], route: Route) -> list[tuple[Caller, Asked]]:
    return [(caller, asked) for caller in callers for asked in (ASKED if route.parameter else ASKED[:1])]


def check_rows(caller: Caller, route: Route, ids: list[str], response: httpx2.Response) -> None:
    """What an answer that is a 200 may hold."""
    if route.kind == "rows":
        rows = response.json()["data"]
        shown = {row.get("scopeId") or row.get("operatorId") or row.get("accountId") for row in rows}

        assert shown == seen_ids(caller, route, ids)
    if route.kind == "names":
        ids = [*OWN.values(), *FOREIGN.values()] if caller.scope == "PLATFORM" else [OWN[caller.scope]]

        assert sorted(name["name"] for name in response.json()["data"]) == sorted(f"name of {i}" for i in ids)
    if route.kind == "summary" and caller.scope != "PLATFORM":
        assert [row["totalMessages"] for row in response.json()["data"]] == [MINE]


@pytest.mark.parametrize("place", GUARDED, ids=" ".join)
def test_every_caller_gets_what_is_his_and_nothing_else(database_url: str, place: tuple[str, str]) -> None:
    route = ROUTES[place]

    async def story() -> None:
        refusals: dict[int, set[bytes]] = {}
        async with world(database_url) as here:
            for number, (caller, asked) in enumerate(questions(here.callers, route)):
                ids = asked_ids(caller, route, asked)
                parameters = parameters_of(caller, route, ids)
                response = await here.ask(place, caller, f"10.0.{number % 250}.{number // 250}", **parameters)
                case = f"{caller.name} asks for {asked}: {response.text}"

                assert response.status_code == expected_status(caller, route, asked), case
                if caller.scope != "PLATFORM":
                    assert not any(text in response.text for text in (str(SECRET), *FOREIGN.values())), case
                if response.status_code == 200:
                    check_rows(caller, route, ids, response)
                else:
                    problem_of(response)
                    if caller.name not in {"nobody", "basic"}:
                        refusals.setdefault(response.status_code, set()).add(response.content)
        assert len(refusals[401]) == 1
        assert len(refusals.get(404, {b""})) == 1

    run(story())


@pytest.mark.parametrize(
    "place", [p for p in ROUTES if ROUTES[p].kind == "open" and p[1] != "/v1/session"], ids=" ".join
)
def test_what_is_open_to_everybody_tells_nobodys_numbers(database_url: str, place: tuple[str, str]) -> None:
    async def story() -> None:
        async with world(database_url) as here:
            response = await here.ask(place, Caller("nobody", {}), "10.0.0.1")

            assert response.status_code in {200, 204, 401, 404}
            assert str(SECRET) not in response.text
            assert not any(i in response.text for i in (*OWN.values(), *FOREIGN.values()))

    run(story())


# ---------------------------------------------------------------------------------------------------------------- time


@pytest.mark.parametrize("place", [place for place in GUARDED if ROUTES[place].parameter], ids=" ".join)
@pytest.mark.parametrize("scope", ["OPERATOR", "ACCOUNT"])
def test_a_foreign_id_takes_the_steps_of_an_unknown_one(database_url: str, place: tuple[str, str], scope: str) -> None:
    """Time tells nothing either: the same statements are asked, and none of them is about rows."""
    route = ROUTES[place]

    async def story() -> None:
        async with world(database_url) as here:
            (caller, *_) = [each for each in here.callers if each.name == f"{scope} metrics:read by key"]
            kind = route.only or scope

            async def steps(scope_id: str) -> tuple[list[str], bytes]:
                here.statements.clear()
                response = await here.ask(place, caller, "10.0.0.1", **{route.parameter: scope_id})
                return list(here.statements), response.content

            await steps(UNKNOWN)  # the first request also notes when the key was used
            foreign, unknown = await steps(FOREIGN[kind]), await steps(UNKNOWN)

            assert foreign == unknown
            assert len(foreign[0]) > 0
            assert not any("metrics_" in query or "operator_perf" in query or "usage" in query for query in foreign[0])

    run(story())


def test_an_unknown_key_takes_the_steps_of_a_revoked_one(database_url: str) -> None:
    async def story() -> None:
        async with world(database_url) as here:
            found: dict[str, list[str]] = {}
            for caller in here.callers:
                if caller.name in {"unknown key", "forged key of a known id", "expired key", "revoked key"}:
                    here.statements.clear()
                    await here.ask(("GET", "/v1/status"), caller, "10.0.0.1")
                    found[caller.name] = list(here.statements)

            assert len(found) == 4
            assert len(set(map(tuple, found.values()))) == 1

    run(story())
