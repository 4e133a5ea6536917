"""The HTTP interface over a real PostgreSQL: who sees what, what every answer carries, what is refused and how."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2
import pytest
from structlog.testing import capture_logs

from anlyt import access, api, jobs, keys, listener
from anlyt.access import make_grant
from anlyt.crash import CrashPoints
from anlyt.errors import ConfigurationError, UsageError
from anlyt.postgres import connect, ensure_partitions, open_pool
from anlyt.settings import Settings
from anlyt.telemetry import Telemetry
from serving import key_for, problem_of, service
from serving import listening as listening_live
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
DAY = HOUR.replace(hour=0)
OWN = {"OPERATOR": "0b1d6f2e-0000-4000-8000-0000000000e1", "ACCOUNT": "0b1d6f2e-0000-4000-8000-00000000acc1"}
FOREIGN = {"OPERATOR": "0b1d6f2e-0000-4000-8000-0000000000e2", "ACCOUNT": "0b1d6f2e-0000-4000-8000-00000000acc2"}
UNKNOWN = "ffffffff-ffff-4fff-8fff-ffffffffffff"
ROUTES = {
    "/v1/metrics/hourly": "scopeId",
    "/v1/metrics/daily": "scopeId",
    "/v1/operators/performance": "operatorId",
    "/v1/accounts/usage": "accountId",
}
ONLY = {"/v1/operators/performance": "OPERATOR", "/v1/accounts/usage": "ACCOUNT"}
OPEN = ["/livez", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json", "/docs", "/"]
BIG = 2**63 - 1


async def fill(conn: asyncpg.Connection[Any]) -> None:
    await ensure_partitions(conn, [HOUR])
    everybody = [("PLATFORM", "platform"), *OWN.items(), *FOREIGN.items()]
    for scope, scope_id in everybody:
        await conn.execute(
            "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id) VALUES ($1, $2, $3)", HOUR, scope, scope_id
        )
        await conn.execute(
            "INSERT INTO anlyt.metrics_daily (day_bucket, scope, scope_id) VALUES ($1, $2, $3)", DAY, scope, scope_id
        )
    for ids in (OWN, FOREIGN):
        await conn.execute(
            "INSERT INTO anlyt.operator_performance (hour_bucket, operator_id) VALUES ($1, $2)", HOUR, ids["OPERATOR"]
        )
        await conn.execute(
            "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id) VALUES ($1, $2)", DAY, ids["ACCOUNT"]
        )


def ids_of(response: httpx2.Response) -> set[str]:
    return {row.get("scopeId") or row.get("operatorId") or row.get("accountId") for row in response.json()["data"]}


# ------------------------------------------------------------------------------------------------------- who sees what


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("scope", ["PLATFORM", "OPERATOR", "ACCOUNT"])
@pytest.mark.parametrize("asked", ["none", "own", "foreign", "unknown", "own and foreign", "upper case"])
def test_every_key_sees_its_own_rows_on_every_route(database_url: str, route: str, scope: str, asked: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn)
            of = scope if scope != "PLATFORM" else ONLY.get(route, "ACCOUNT")
            headers = await key_for(conn, scope, *([OWN[scope]] if scope != "PLATFORM" else []))
            ids = {
                "none": [],
                "own": [OWN[of]],
                "foreign": [FOREIGN[of]],
                "unknown": [UNKNOWN],
                "own and foreign": [OWN[of], FOREIGN[of]],
                "upper case": [OWN[of].upper()],
            }[asked]
            response = await client.get(route, params={ROUTES[route]: ids, "from": "-3d"}, headers=headers)
            other_table = scope not in {"PLATFORM", ONLY.get(route, scope)}

            if scope == "PLATFORM":
                assert response.status_code == 200
                everything = (
                    {"platform", *OWN.values(), *FOREIGN.values()} if route not in ONLY else {OWN[of], FOREIGN[of]}
                )
                assert ids_of(response) == ({i.lower() for i in ids} - {UNKNOWN} if ids else everything)
            elif asked == "none" or (asked in {"own", "upper case"} and not other_table):
                assert response.status_code == 200
                assert ids_of(response) == (set() if other_table else {OWN[scope]})
            else:
                assert response.status_code == 404
                reference = await client.get(route, params={ROUTES[route]: UNKNOWN, "from": "-3d"}, headers=headers)
                assert problem_of(response) == problem_of(reference)

    run(story())


@pytest.mark.parametrize("route", [*ROUTES, "/v1/status"])
def test_keys_that_are_not_valid_all_get_the_same_401(database_url: str, route: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            good = await key_for(conn, "PLATFORM")
            revoked, expired = await key_for(conn, "PLATFORM"), await key_for(conn, "PLATFORM", expires_at=HOUR)
            await keys.revoke_key(conn, revoked["Authorization"][13:25])
            text = good["Authorization"]
            forged = access.new_key().key
            stolen_id = forged.replace(forged[6:18], text[13:25])
            headers = {
                "revoked": revoked,
                "expired": expired,
                "unknown": {"Authorization": f"Bearer {forged}"},
                "id of another": {"Authorization": f"Bearer {stolen_id[:-6]}{access._checksum(stolen_id[:-6])}"},
                "cut": {"Authorization": text[:-1]},
                "mistyped": {"Authorization": text[:30] + ("x" if text[30] != "x" else "y") + text[31:]},
                "nonsense": {"X-API-Key": "' OR 1=1 --"},
                "long": {"X-API-Key": "x" * 5_000},
            }
            bodies = set()
            for case, header in headers.items():
                response = await client.get(route, headers=header)

                assert response.status_code == 401, case
                assert response.headers["www-authenticate"] == 'Bearer realm="anlyt"'
                problem_of(response)
                bodies.add(response.content)

            assert len(bodies) == 1
            assert (await client.get(route, headers=good)).status_code == 200

    run(story())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Basic YW5seXQ6eA=="},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer a", "X-API-Key": "a"},
    ],
)
def test_without_one_key_there_is_a_401_and_no_data(database_url: str, headers: dict[str, str]) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            for route in (*ROUTES, "/v1/status"):
                response = await client.get(route, headers=headers)

                assert response.status_code == 401
                assert problem_of(response)["type"] == "urn:anlyt:problem:unauthorized"

    run(story())


def test_a_key_in_the_address_is_no_key(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            text = headers["Authorization"].removeprefix("Bearer ")

            with capture_logs() as entries:
                alone = await client.get("/v1/status", params={"key": text})
            assert alone.status_code == 401
            assert "revoke" in problem_of(alone)["detail"]
            (warning,) = [entry for entry in entries if entry["event"] == "key-in-address"]
            assert warning["key_id"] == text[6:18]
            for route in (*ROUTES, "/v1/status"):
                response = await client.get(route, params={"api_key": text}, headers=headers)
                assert response.status_code == 422
                assert problem_of(response)["parameter"] == "api_key"
                assert "should be revoked" in problem_of(response)["detail"]
                assert text not in response.text

    run(story())


def test_either_header_takes_a_key(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            text = (await key_for(conn, "PLATFORM"))["Authorization"].removeprefix("Bearer ")
            for headers in (
                {"X-API-Key": text},
                {"Authorization": f"bearer {text}"},
                {"Authorization": f"Bearer  {text} "},
            ):
                assert (await client.get("/v1/status", headers=headers)).status_code == 200

    run(story())


def test_a_key_without_the_permission_gets_a_403(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM", permission="events:write")
            for route in (*ROUTES, "/v1/status"):
                response = await client.get(route, headers=headers)

                assert response.status_code == 403
                assert "metrics:read" in problem_of(response)["detail"]

    run(story())


def test_a_revoked_key_stops_at_the_next_request_and_an_overlapping_one_goes_on(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            old, new = await key_for(conn, "PLATFORM"), await key_for(conn, "PLATFORM")

            assert [(await client.get("/v1/status", headers=key)).status_code for key in (old, new)] == [200, 200]
            await keys.revoke_key(conn, old["Authorization"][13:25])
            assert [(await client.get("/v1/status", headers=key)).status_code for key in (old, new)] == [401, 200]

    run(story())


def test_wrong_keys_are_slowed_down_and_good_ones_are_not(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            good = await key_for(conn, "PLATFORM")
            assert (await client.get("/v1/status", headers=good)).status_code == 200
            answers = [
                await client.get("/v1/status", headers={"X-API-Key": access.new_key().key})
                for _ in range(access.TRIES_MAX + 5)
            ]

            assert [answer.status_code for answer in answers] == [401] * access.TRIES_MAX + [429] * 5
            assert int(answers[-1].headers["retry-after"]) > 0
            problem_of(answers[-1])
            assert (await client.get("/v1/status", headers=good)).status_code == 200

    run(story())


def test_the_last_use_of_a_key_is_remembered_at_most_once_a_minute(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "ACCOUNT", OWN["ACCOUNT"])
            (before,) = await keys.list_keys(conn)
            await client.get("/v1/status", headers=headers)
            (first,) = await keys.list_keys(conn)
            await client.get("/v1/status", headers=headers)
            (second,) = await keys.list_keys(conn)
            await conn.execute("UPDATE anlyt.api_keys SET last_used_at = last_used_at - interval '61 s'")
            await client.get("/v1/status", headers=headers)
            (third,) = await keys.list_keys(conn)

            assert before.last_used_at is None
            assert first.last_used_at is not None
            assert first.last_used_at == second.last_used_at
            assert third.last_used_at is not None
            assert third.last_used_at > first.last_used_at

    run(story())


# ---------------------------------------------------------------------------------------------------------------- keys


def test_the_table_holds_no_key(database_url: str) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        made = await keys.create_key(conn, make_grant("ACCOUNT", [OWN["ACCOUNT"]], ["metrics:read"]), name="portal")
        dump = str(await conn.fetch("SELECT * FROM anlyt.api_keys"))
        (shown,) = await keys.list_keys(conn)
        await conn.close()

        assert made.key not in dump
        assert made.key[19:51] not in dump
        assert (shown.key_id, shown.name, shown.scope_ids) == (made.key_id, "portal", [OWN["ACCOUNT"]])

    run(story())


def test_revoking_twice_keeps_the_first_time_and_unknown_keys_are_named(database_url: str) -> None:
    async def story() -> None:
        conn = await connect(database_url, application="anlyt-tests")
        made = await keys.create_key(conn, make_grant("PLATFORM", [], ["admin"]), name="ops")

        assert await keys.revoke_key(conn, made.key_id) == await keys.revoke_key(conn, made.key_id)
        with pytest.raises(UsageError, match="nosuchkey"):
            await keys.revoke_key(conn, "nosuchkey")
        with pytest.raises(UsageError, match="1 to 100"):
            await keys.create_key(conn, make_grant("PLATFORM", [], ["admin"]), name="a\nb")
        await conn.close()

    run(story())


# -------------------------------------------------------------------------------------------------------------- answers


def test_numbers_and_money_arrive_exactly(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await ensure_partitions(conn, [HOUR])
            for scope_id, total, cost in (
                ("a", BIG, "999999999999.999999"),
                ("b", 2**53 + 1, "0.000001"),
                ("c", 0, "-0.000001"),
            ):
                await conn.execute(
                    "INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, total_cost)"
                    " VALUES ($1, 'ACCOUNT', $2, $3, $4::text::numeric)",
                    HOUR,
                    scope_id,
                    total,
                    cost,
                )
            response = await client.get("/v1/metrics/hourly", headers=await key_for(conn, "PLATFORM"))

            found = [(row["totalMessages"], row["totalCost"]) for row in response.json()["data"]]
            assert found == [(BIG, "999999999999.999999"), (2**53 + 1, "0.000001"), (0, "-0.000001")]
            assert f'"totalMessages":{BIG}' in response.text
            assert response.json()["meta"]["currency"] == "USD"

    run(story())


def test_pages_are_followed_by_their_cursor(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn)
            headers = await key_for(conn, "PLATFORM")
            whole = (await client.get("/v1/metrics/hourly", headers=headers)).json()["data"]
            joined: list[Any] = []
            parameters: dict[str, str] = {"limit": "2"}
            while parameters:
                page = (await client.get("/v1/metrics/hourly", params=parameters, headers=headers)).json()
                joined += page["data"]
                parameters = {"limit": "2", "cursor": page["next"]} if page["next"] else {}

            assert len(whole) == 5
            assert whole == joined

    run(story())


def test_a_cursor_of_another_tenant_is_a_400(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill(conn)
            page = await client.get("/v1/metrics/hourly", params={"limit": 1}, headers=await key_for(conn, "PLATFORM"))
            tenant = await key_for(conn, "ACCOUNT", OWN["ACCOUNT"])
            response = await client.get("/v1/metrics/hourly", params={"cursor": page.json()["next"]}, headers=tenant)

            assert response.status_code == 400
            assert problem_of(response)["parameter"] == "cursor"

    run(story())


@pytest.mark.parametrize(
    ("query", "status", "parameter"),
    [
        ("limit=0", 422, "limit"),
        ("limit=abc", 422, "limit"),
        ("limit=1&limit=2", 422, "limit"),
        ("from=-1h&to=-2h", 422, "from"),
        ("from=9999-12-31T00:00:00Z", 422, "from"),
        ("to=infinity", 422, "to"),
        ("from=-366d", 422, "from"),
        ("scope=account", 422, "scope"),
        ("scopeId=%27%20OR%201=1--", 422, "scopeId"),
        ("scopeId=%00", 422, "scopeId"),
        ("scopeId=%ff", 422, None),
        ("sort=total_cost", 422, "sort"),
        ("cursor=abc", 400, "cursor"),
        ("&".join(["scope=ACCOUNT"] * 201), 422, None),
        ("scopeId=" + "x" * 9_000, 414, None),
    ],
)
def test_a_bad_question_is_refused_by_name(database_url: str, query: str, status: int, parameter: str | None) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            response = await client.get(f"/v1/metrics/hourly?{query}", headers=headers)

            assert response.status_code == status
            assert problem_of(response).get("parameter") == parameter

    run(story())


def test_every_answer_carries_the_security_headers(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            answers = [await client.get(route, headers=headers) for route in [*ROUTES, "/v1/status", *OPEN]]
            answers += [await client.get("/v1/status"), await client.get("/nowhere"), await client.post("/v1/status")]

            good = len([*ROUTES, "/v1/status", *OPEN])
            assert [answer.status_code for answer in answers] == [200] * good + [401, 404, 405]
            for answer in answers:
                assert answer.headers["content-security-policy"].startswith("default-src 'none'")
                assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["referrer-policy"] == "no-referrer"
                is_page = answer.request.url.path == "/"
                assert answer.headers["cache-control"] == ("no-cache" if is_page else "no-store")
                assert re.fullmatch("[0-9a-f]{16}", answer.headers["x-request-id"])
                assert "server" not in answer.headers
                assert "access-control-allow-origin" not in answer.headers

    run(story())


def test_head_is_answered_like_get_without_the_body(database_url: str) -> None:
    """Files and live events, which would go on and on, end with their headers."""
    files = ["/v1/metrics/hourly?format=csv", "/v1/accounts/usage?format=parquet"]

    async def story() -> None:
        async with listening_live(database_url) as url, service(database_url) as (_, conn):
            headers = await key_for(conn, "PLATFORM")
            async with httpx2.AsyncClient(base_url=url, headers=headers) as client:
                for path in [*ROUTES, "/v1/status", *OPEN, *files, "/v1/nowhere", "/v1/metrics/hourly?limit=x"]:
                    wanted, got = await client.get(path), await client.head(path)

                    assert (got.status_code, got.content) == (wanted.status_code, b""), path
                    assert set(got.headers) == set(wanted.headers), path
                    assert got.headers.get("content-type") == wanted.headers.get("content-type"), path
                live = await client.head("/v1/live")

                assert (live.status_code, live.content) == (200, b"")
                assert live.headers["content-type"].startswith("text/event-stream")
                assert (await client.head("/v1/events")).headers["allow"] == "POST"
                assert (await client.head("/v1/status", headers={"authorization": "Bearer x"})).status_code == 401

    run(story())


def test_unknown_addresses_methods_bodies_and_representations_are_problems(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            wanted = {
                404: [await client.get("/v1/metrics"), await client.get("/v1/status/"), await client.get("/redoc")],
                405: [
                    await client.request(method, "/v1/status") for method in ("POST", "PUT", "TRACE", "OPTIONS", "HACK")
                ],
                406: [await client.get("/v1/status", headers={**headers, "Accept": "text/html"})],
                400: [await client.request("GET", "/v1/status", headers=headers, content=b"{}")],
            }
            for status, answers in wanted.items():
                for answer in answers:
                    assert answer.status_code == status
                    problem_of(answer)
            assert {answer.headers["allow"] for answer in wanted[405]} == {"GET, HEAD"}
            for accept in ("*/*", "application/json", "text/html;q=0.9, application/*;q=0.1", ""):
                assert (await client.get("/v1/status", headers={**headers, "Accept": accept})).status_code == 200

    run(story())


def test_a_mistake_of_ours_is_a_500_without_a_word_about_it(database_url: str) -> None:
    async def story() -> None:
        telemetry = Telemetry()

        def broken_clock() -> datetime:
            raise RuntimeError("SELECT canary FROM postgresql://secret")

        async with service(database_url, clock=broken_clock, telemetry=telemetry) as (client, conn):
            response = await client.get("/v1/status", headers=await key_for(conn, "PLATFORM"))

            assert response.status_code == 500
            assert "canary" not in response.text
            assert problem_of(response)["type"] == "urn:anlyt:problem:internal-error"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert re.fullmatch("[0-9a-f]{16}", response.headers["x-request-id"])
            labels = {"route": "/v1/status", "status": "500"}
            assert telemetry.registry.get_sample_value("anlyt_http_requests_total", labels) == 1

    run(story())


def test_requests_are_counted_and_logged_without_secrets(database_url: str) -> None:
    async def story() -> None:
        telemetry = Telemetry()
        async with service(database_url, telemetry=telemetry) as (client, conn):
            headers = await key_for(conn, "ACCOUNT", OWN["ACCOUNT"])
            with capture_logs() as entries:
                await client.get("/v1/metrics/daily", params={"accountId": "canary"}, headers=headers)
                await client.get("/canary")
            text = (await client.get("/metrics")).text

            assert 'anlyt_http_requests_total{route="/v1/metrics/daily",status="422"} 1.0' in text
            assert 'route="unmatched",status="404"' in text
            assert OWN["ACCOUNT"] not in text
            (first, second) = [entry for entry in entries if entry["event"] == "http-answered"]
            assert (first["key_id"], first["route"], first["status"]) == (
                headers["Authorization"][13:25],
                "/v1/metrics/daily",
                422,
            )
            assert (second["key_id"], second["route"]) == (None, "unmatched")
            assert "canary" not in str(entries)
            assert headers["Authorization"][7:] not in str(entries)

    run(story())


def test_staff_get_the_whole_status_and_tenants_the_freshness(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            staff = (await client.get("/v1/status", headers=await key_for(conn, "PLATFORM"))).json()
            tenant = (await client.get("/v1/status", headers=await key_for(conn, "ACCOUNT", OWN["ACCOUNT"]))).json()

            assert {"counted", "duplicates", "deadLetters", "jobs", "partitions", "requestsByKey"} <= set(staff)
            assert sum(staff["requestsByKey"].values()) == 1
            assert staff["jobs"] == []
            assert set(tenant) == {"asOf", "completeThrough", "lagSeconds"}

    run(story())


def test_status_and_metrics_tell_how_each_job_did(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "METRICS_AGE_S", 0.0)

    async def story() -> None:
        async with service(database_url) as (client, conn):
            await jobs.run_job(database_url, "purge", CrashPoints())
            await conn.execute("ALTER TABLE anlyt.second_counts RENAME TO elsewhere")
            with pytest.raises(asyncpg.UndefinedTableError):
                await jobs.run_job(database_url, "purge", CrashPoints())
            await conn.execute("ALTER TABLE anlyt.elsewhere RENAME TO second_counts")
            staff = (await client.get("/v1/status", headers=await key_for(conn, "PLATFORM"))).json()
            metrics = (await client.get("/metrics")).text

            [purge] = staff["jobs"]
            assert (purge["job"], purge["outcome"]) == ("purge", "failed")
            assert purge["succeededAt"] < purge["startedAt"] < purge["finishedAt"]
            succeeded = datetime.fromisoformat(purge["succeededAt"]).timestamp()
            assert 'anlyt_job_last_run_ok{job="purge"} 0.0' in metrics
            assert succeeded == pytest.approx(sample_of(metrics, "anlyt_job_last_success_timestamp_seconds"), abs=0.01)
            assert sample_of(metrics, "anlyt_job_last_run_seconds") >= 0

    def sample_of(metrics: str, name: str) -> float:
        [value] = re.findall(rf'^{name}{{job="purge"}} (\S+)$', metrics, re.MULTILINE)
        return float(value)

    run(story())


def test_the_metrics_tell_what_the_database_knows_of_all_processes_and_no_more_when_it_is_gone(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "METRICS_AGE_S", 0.0)

    async def story() -> None:
        async with service(database_url) as (client, conn):
            await conn.execute(
                "INSERT INTO anlyt.ingest_totals (stream, slot, counted_events, duplicate_events, dead_letter_events)"
                " VALUES ('T', 0, 7, 2, 1), ('T', 1, 3, 0, 0), ('OTHER', 0, 100, 0, 0)"
            )
            await conn.execute("SELECT anlyt.ensure_partition('metrics_hourly', now())")
            staff = await key_for(conn, "PLATFORM")
            told = (await client.get("/metrics", headers=staff)).text
            without_key = (await client.get("/metrics")).text
            await conn.execute("ALTER TABLE anlyt.ingest_totals RENAME TO ingest_totals_away")
            after = await client.get("/metrics", headers=staff)
            tenant = await client.get("/metrics", headers=await key_for(conn, "ACCOUNT", OWN["ACCOUNT"]))
            nobody = await client.get("/metrics", headers={"X-API-Key": access.new_key().key})

            assert 'anlyt_recorded_events{outcome="counted"} 10.0' in told
            assert 'anlyt_recorded_events{outcome="duplicate"} 2.0' in told
            assert 'anlyt_partition_runway_seconds{table="metrics_hourly"}' in told
            assert 'anlyt_partition_runway_seconds{table="metrics_hourly"}' in without_key
            assert "anlyt_recorded_events{" not in without_key
            assert (tenant.status_code, nobody.status_code) == (403, 401)
            assert after.status_code == 200
            assert "anlyt_recorded_events{" not in after.text

    run(story())


def test_the_page_asks_nobody_else(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            response = await client.get("/")

            assert response.headers["content-type"].startswith("text/html")
            assert not re.search(r"https?://|//[a-z]|style=|<script(?![^>]* src=)", response.text)
            for link in re.findall(r'(?:href|src)="(/[^"]+)"', response.text):
                assert (await client.get(link)).status_code == (401 if link == "/v1/session" else 200)

    run(story())


def test_the_description_names_every_route_and_parameter(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            document = (await client.get("/openapi.json")).json()

            assert set(document["paths"]) == {
                *ROUTES,
                "/v1/summary",
                "/v1/status",
                "/v1/events",
                "/v1/live",
                "/v1/names",
                "/v1/dead-letters",
                "/v1/dead-letters/{sequence}/{index}",
                "/v1/dead-letters/retry",
                "/v1/dead-letters/discard",
                "/v1/session",
                "/livez",
                "/readyz",
                "/metrics",
            }
            hourly = document["paths"]["/v1/metrics/hourly"]["get"]
            assert [p["name"] for p in hourly["parameters"]] == [
                "scope",
                "scopeId",
                "from",
                "to",
                "limit",
                "cursor",
                "format",
                "If-None-Match",
            ]
            operations = [route for path in document["paths"].values() for route in path.values()]
            assert len(operations) == len({operation["operationId"] for operation in operations})
            named = {name for operation in operations for scheme in operation.get("security", []) for name in scheme}
            assert named == set(document["components"]["securitySchemes"])

    run(story())


async def count_through(conn: asyncpg.Connection[Any], moment: datetime) -> None:
    """Everything published before `moment` has been counted."""
    await conn.execute(
        "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, complete_through, stream_created_at)"
        " SELECT 'T', slot, 1, $1, now() FROM generate_series(0, 15) AS slot"
        " ON CONFLICT (stream, slot) DO UPDATE SET complete_through = excluded.complete_through",
        moment,
    )


OLD = DAY - timedelta(days=20)
PERIOD = {"from": OLD.isoformat().replace("+00:00", "Z"), "to": (OLD + timedelta(days=1)).isoformat()[:19] + "Z"}
CHANGES = {
    "/v1/metrics/hourly": "UPDATE anlyt.metrics_hourly SET total_messages = 8 WHERE scope_id = $1",
    "/v1/metrics/daily": "UPDATE anlyt.metrics_daily SET total_messages = 8 WHERE scope_id = $1",
    "/v1/accounts/usage": "UPDATE anlyt.account_usage_daily SET messages_sent = 8 WHERE account_id = $1::TEXT::UUID",
    "/v1/summary": "UPDATE anlyt.metrics_hourly SET total_messages = 8 WHERE scope_id = $1",
}


async def fill_old(conn: asyncpg.Connection[Any]) -> None:
    await ensure_partitions(conn, [OLD])
    own = OWN["ACCOUNT"]
    await conn.execute("INSERT INTO anlyt.metrics_hourly VALUES ($1, 'ACCOUNT', $2, 7)", OLD, own)
    await conn.execute("INSERT INTO anlyt.metrics_daily VALUES ($1, 'ACCOUNT', $2, 7)", OLD, own)
    await conn.execute("INSERT INTO anlyt.account_usage_daily VALUES ($1, $2, 7)", OLD, own)


@pytest.mark.parametrize("route", CHANGES)
def test_an_answer_about_a_final_period_has_an_etag_until_its_rows_change(database_url: str, route: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill_old(conn)
            await count_through(conn, datetime.now(UTC))
            key = await key_for(conn, "ACCOUNT", OWN["ACCOUNT"])
            period = PERIOD | ({"groupBy": "hour"} if route == "/v1/summary" else {})

            async def ask(tag: str = "", **changes: str) -> httpx2.Response:
                headers = key | ({"If-None-Match": tag} if tag else {})
                return await client.get(route, params=period | changes, headers=headers)

            first = await ask()
            tag = first.headers["etag"]
            await count_through(conn, datetime.now(UTC))
            for known in (tag, tag.removeprefix("W/"), f'"x", {tag}', "*"):
                same = await ask(known)
                assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
                assert same.headers["cache-control"] == "private, no-cache"
                assert set(same.headers["vary"].split(", ")) == {"Authorization", "X-API-Key", "Cookie"}
            assert all(row["final"] for row in first.json()["data"])
            assert (await ask('W/"other"')).status_code == 200
            await conn.execute(CHANGES[route], OWN["ACCOUNT"])
            changed = await ask(tag)

            assert changed.status_code == 200
            assert changed.headers["etag"] != tag

    run(story())


def test_an_etag_is_for_those_who_may_read_and_for_final_periods_only(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await fill_old(conn)
            await count_through(conn, datetime.now(UTC))
            key = await key_for(conn, "ACCOUNT", OWN["ACCOUNT"])
            other = await key_for(conn, "ACCOUNT", FOREIGN["ACCOUNT"])

            async def ask(headers: dict[str, str], **changes: str) -> httpx2.Response:
                return await client.get("/v1/metrics/hourly", params=PERIOD | changes, headers=headers)

            tag = (await ask(key)).headers["etag"]
            cached = {"If-None-Match": tag}
            end = OLD + timedelta(days=1)
            assert (await ask(other | cached)).status_code == 200
            assert (await ask(key | cached, limit="1000", scope="ACCOUNT")).status_code == 304  # another way to say it
            assert "etag" not in (await ask(key | cached, to="now")).headers
            assert (await ask(key | cached, format="csv")).status_code == 200
            await count_through(conn, end + timedelta(days=7) - timedelta(microseconds=1))
            not_yet = await ask(key | cached)
            assert (not_yet.status_code, not_yet.headers["cache-control"]) == (200, "no-store")
            assert "etag" not in not_yet.headers
            await count_through(conn, end + timedelta(days=7))
            assert (await ask(key | cached)).status_code == 304
            inside = (end - timedelta(minutes=30)).isoformat()[:19] + "Z"
            assert "etag" in (await ask(key, to=inside)).headers
            await count_through(conn, end + timedelta(days=7) - timedelta(minutes=1))
            assert "etag" not in (await ask(key, to=inside)).headers  # its last bucket ends with the hour
            await keys.revoke_key(conn, key["Authorization"][13:25])
            assert (await ask(key | cached)).status_code == 401

    run(story())


CORS = ["https://app.example.com", "http://localhost:5173"]


@pytest.mark.parametrize("origin", CORS)
def test_pages_of_the_origins_that_are_set_may_read_the_answers(database_url: str, origin: str) -> None:
    async def story() -> None:
        settings = Settings.model_validate({"stream": "T", "cors_origins": CORS})
        async with service(database_url, settings=settings) as (client, conn):
            headers = {**await key_for(conn, "PLATFORM"), "Origin": origin}
            asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
            preflight = await client.options("/v1/status", headers=asked)
            answers = [await client.get("/v1/status", headers=headers), await client.get("/v1/status"), preflight]

            assert (preflight.status_code, preflight.content) == (204, b"")
            assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
            assert [answer.headers.get("access-control-allow-origin") for answer in answers] == [origin, None, origin]
            for answer in answers:
                assert answer.headers["vary"] == "Origin"
                assert "access-control-allow-credentials" not in answer.headers
                assert answer.headers["x-content-type-options"] == "nosniff"

    run(story())


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.test", "null", "*", "https://app.example.com.evil.test", "https://evil.app.example.com"),
        *("http://app.example.com", "https://app.example.com:8443", "HTTPS://APP.EXAMPLE.COM", ""),
    ],
)
def test_pages_of_other_origins_may_not(database_url: str, origin: str) -> None:
    async def story() -> None:
        for origins in ([], CORS):
            settings = Settings.model_validate({"stream": "T", "cors_origins": origins})
            async with service(database_url, settings=settings) as (client, conn):
                headers = {**await key_for(conn, "PLATFORM"), "Origin": origin}
                asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
                for answer in (
                    await client.get("/v1/status", headers=headers),
                    await client.options("/v1/status", headers=asked),
                ):
                    assert [name for name in answer.headers if name.startswith("access-control-")] == []
                    assert answer.headers.get("vary") == ("Origin" if origins else None)

    run(story())


# ---------------------------------------------------------------------------------------------------------- the world


def test_readiness_tells_what_is_missing(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            assert (await client.get("/readyz")).json() == {"status": "ready"}
            await conn.execute("DELETE FROM anlyt.migrations")
            response = await client.get("/readyz")

            assert response.status_code == 503
            assert "anlyt migrate" in problem_of(response)["detail"]
            assert int(response.headers["retry-after"]) > 0

    run(story())


def test_without_postgresql_every_answer_comes_soon_and_says_so(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            name = database_url.rpartition("/")[2]
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anlyt-api'"
            )
            assert (await client.get("/v1/status", headers=headers)).status_code in {200, 503}
            await conn.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anlyt-api'"
            )
            for route in (*ROUTES, "/v1/status", "/readyz"):
                started = asyncio.get_running_loop().time()
                response = await client.get(route, headers=headers)

                assert response.status_code == 503
                assert asyncio.get_running_loop().time() - started < 2
                assert int(response.headers["retry-after"]) > 0
                problem_of(response)
                assert "127.0.0.1" not in response.text
            assert (await client.get("/livez")).status_code == 200
            await conn.execute(f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            assert (await client.get("/v1/status", headers=headers)).status_code == 200

    run(story())


def test_an_answer_that_takes_too_long_is_a_503_that_says_so(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            assert (await client.get("/v1/status", headers=headers)).status_code == 200
            name = database_url.rpartition("/")[2]
            await conn.execute(f"ALTER DATABASE {name} SET lock_timeout = 0")
            async with conn.transaction():
                await conn.execute("LOCK TABLE anlyt.metrics_hourly")
                response = await client.get("/v1/metrics/hourly", headers=headers)

            assert response.status_code == 503
            assert problem_of(response)["type"] == "urn:anlyt:problem:too-slow"
            assert (await client.get("/v1/metrics/hourly", headers=headers)).status_code == 200

    run(story())


# -------------------------------------------------------------------------------------------------------------- server


@asynccontextmanager
async def listening(database_url: str) -> AsyncIterator[str]:
    pool = await open_pool(database_url, application="anlyt-api", size_max=2, statement_timeout_s=5)
    app = api.build_app(pool=pool, settings=Settings.model_validate({}), telemetry=Telemetry())
    stop, found = asyncio.Event(), list[str]()
    task = asyncio.create_task(listener.serve(app, host="127.0.0.1", port=0, stop=stop, on_ready=found.append))
    try:
        yield await wait_until(lambda: found[0] if found else None)
    finally:
        stop.set()
        await task
        pool.terminate()


def test_the_server_tells_its_real_port_and_stops_when_told(database_url: str) -> None:
    async def story() -> None:
        async with listening(database_url) as url, httpx2.AsyncClient() as client:
            response = await client.get(f"{url}/livez")

            assert response.json() == {"status": "alive"}
            assert "server" not in response.headers
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0

    run(story())


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 65_536 + b"\r\n\r\n", {431, 400}),
        (b"GET /livez?" + b"x" * 65_536 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414, 400}),
        (b"GET /livez?" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", {414}),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", {400}),
        (b"nonsense\r\n\r\n", {400}),
    ],
)
def test_oversized_and_broken_requests_are_refused(database_url: str, request_bytes: bytes, status: set[int]) -> None:
    """What is far too long may arrive in pieces, and is given up as no HTTP before it is whole."""

    async def story() -> None:
        async with listening(database_url) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(request_bytes)
            answer = await reader.readuntil(b"\r\n")
            writer.close()

            assert int(answer.split()[1]) in status

    run(story())


def test_a_taken_port_and_a_strange_host_are_told_plainly(database_url: str) -> None:
    async def story() -> None:
        async with listening(database_url) as url:
            port = int(url.rpartition(":")[2])
            with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*ANLYT_HTTP_PORT"):
                await listener.serve(_nothing, host="127.0.0.1", port=port, stop=asyncio.Event())
        with pytest.raises(ConfigurationError, match="ANLYT_HTTP_HOST"):
            await listener.serve(_nothing, host="no such host", port=0, stop=asyncio.Event())

    run(story())


async def _nothing(*_: object) -> None:
    """An app that is never asked."""
