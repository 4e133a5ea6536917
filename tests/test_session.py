"""Signing in to the page: what the cookie carries, for whom it counts, and when it ends."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from anlyt import keys
from anlyt.session import PLAIN_COOKIE, SECURE_COOKIE, SESSION_LIFETIME
from serving import key_for, listening, problem_of, service
from support import run

if TYPE_CHECKING:
    import asyncpg

ACCOUNT = "0b1d6f2e-0000-4000-8000-00000000acc1"
LOCAL = "http://127.0.0.1:8080"
OWN_PAGE = {"sec-fetch-site": "same-origin"}


async def sign_in(
    client: httpx2.AsyncClient, conn: asyncpg.Connection[Any], scope: str = "PLATFORM", *ids: str, at: str = LOCAL
) -> httpx2.Response:
    key = (await key_for(conn, scope, *ids))["Authorization"].removeprefix("Bearer ")
    return await client.post(f"{at}/v1/session", json={"key": key}, headers=OWN_PAGE)


def cookie_of(response: httpx2.Response) -> tuple[str, str, set[str]]:
    """Name, value and flags of the one cookie an answer sets."""
    (line,) = response.headers.get_list("set-cookie")
    pair, *flags = [part.strip() for part in line.split(";")]
    name, _, value = pair.partition("=")
    assert SimpleCookie(line)[name].value == value
    return name, value, set(flags)


def test_signing_in_gives_a_cookie_that_no_script_and_no_other_site_gets(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await sign_in(client, conn)
            name, value, flags = cookie_of(response)

            assert response.status_code == 200
            assert name == PLAIN_COOKIE
            assert flags == {"Path=/", f"Max-Age={12 * 3600}", "HttpOnly", "SameSite=Strict"}
            assert response.headers["cache-control"] == "no-store"
            assert value.partition("~")[2] not in response.text
            ends = datetime.fromisoformat(response.json()["expiresAt"])
            assert timedelta(hours=11, minutes=59) < ends - datetime.now(UTC) <= SESSION_LIFETIME

    run(story())


def test_over_https_the_cookie_is_bound_to_the_host_and_to_https(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            name, value, flags = cookie_of(await sign_in(client, conn, at="https://numbers.example"))
            carried = {"cookie": f"{name}={value}"}

            assert name == SECURE_COOKIE
            assert {"Secure", "Path=/", "HttpOnly", "SameSite=Strict"} < flags
            assert not any(flag.startswith("Domain") for flag in flags)
            assert (await client.get("https://numbers.example/v1/session", headers=carried)).status_code == 200
            # A cookie without the prefix could have been planted by a neighbour.
            planted = {"cookie": f"{PLAIN_COOKIE}={value}"}
            assert (await client.get("https://numbers.example/v1/session", headers=planted)).status_code == 401

    run(story())


@pytest.mark.parametrize(("believed", "status"), [("127.0.0.1", 200), ("10.0.0.0/8, ::1", 403)])
def test_https_that_ends_at_a_proxy_counts_when_the_proxy_is_believed(
    database_url: str, monkeypatch: pytest.MonkeyPatch, believed: str, status: int
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", believed)
    passed_on = OWN_PAGE | {"host": "numbers.example", "x-forwarded-proto": "https", "x-forwarded-for": "192.0.2.7"}

    async def story() -> None:
        async with listening(database_url) as url, service(database_url) as (_, conn):
            key = (await key_for(conn, "PLATFORM"))["Authorization"].removeprefix("Bearer ")
            async with httpx2.AsyncClient() as client:
                response = await client.post(f"{url}/v1/session", json={"key": key}, headers=passed_on)

            assert response.status_code == status
            assert response.headers.get("set-cookie", "").startswith(SECURE_COOKIE) == (status == 200)

    run(story())


def test_an_open_connection_to_another_machine_takes_no_key(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            response = await sign_in(client, conn, at="http://numbers.example")

            assert response.status_code == 403
            assert problem_of(response)["type"].endswith(":insecure-connection")
            assert "set-cookie" not in response.headers

    run(story())


def test_a_session_sees_what_its_key_sees(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            signed_in = await sign_in(client, conn, "ACCOUNT", ACCOUNT)
            who = await client.get(f"{LOCAL}/v1/session", headers=OWN_PAGE)
            own = await client.get(f"{LOCAL}/v1/accounts/usage", headers=OWN_PAGE)
            foreign = await client.get(f"{LOCAL}/v1/accounts/usage?accountId={ACCOUNT[:-1]}2", headers=OWN_PAGE)

            assert who.json() == signed_in.json()
            assert who.json() | {"expiresAt": None} == {
                "scope": "ACCOUNT",
                "scopeIds": [ACCOUNT],
                "permissions": ["metrics:read"],
                "expiresAt": None,
            }
            assert (own.status_code, foreign.status_code) == (200, 404)

    run(story())


def test_a_key_in_a_header_goes_before_the_session_and_has_no_end(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await sign_in(client, conn, "ACCOUNT", ACCOUNT)
            who = await client.get(f"{LOCAL}/v1/session", headers=await key_for(conn, "PLATFORM"))

            assert who.json() == {
                "scope": "PLATFORM",
                "scopeIds": ["platform"],
                "permissions": ["metrics:read"],
                "expiresAt": None,
            }

    run(story())


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:9999"},  # another port of this machine
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {},
    ],
)
def test_nothing_is_done_in_the_name_of_a_browser_that_another_site_sent(
    database_url: str, headers: dict[str, str]
) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await sign_in(client, conn)
            answers = [
                await client.post(f"{LOCAL}/v1/events", json=[], headers=headers),
                await client.post(f"{LOCAL}/v1/dead-letters/discard", json={"all": True}, headers=headers),
                await client.post(f"{LOCAL}/v1/session", json={"key": "anlyt_x"}, headers=headers),
                await client.delete(f"{LOCAL}/v1/session", headers=headers),
            ]

            for answer in answers:
                assert answer.status_code == 403
                assert problem_of(answer)["type"].endswith(":cross-site")
                assert "set-cookie" not in answer.headers

    run(story())


def test_another_site_cannot_even_read_with_the_session(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await sign_in(client, conn)
            read = [
                (await client.get(f"{LOCAL}/v1/summary", headers={"sec-fetch-site": site})).status_code
                for site in ("same-origin", "none", "same-site", "cross-site")
            ]

            assert read == [200, 200, 403, 403]

    run(story())


def test_a_browser_that_tells_only_the_origin_can_use_the_page(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            key = (await key_for(conn, "PLATFORM"))["Authorization"].removeprefix("Bearer ")
            own = {"origin": LOCAL}
            entered = await client.post(f"{LOCAL}/v1/session", json={"key": key}, headers=own)
            left = await client.delete(f"{LOCAL}/v1/session", headers=own)

            assert (entered.status_code, left.status_code) == (200, 204)

    run(story())


def test_a_revoked_key_ends_its_sessions_at_the_next_request(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await sign_in(client, conn)
            before = await client.get(f"{LOCAL}/v1/session")
            (key,) = await keys.list_keys(conn)
            await keys.revoke_key(conn, key.key_id)

            assert before.status_code == 200
            assert (await client.get(f"{LOCAL}/v1/session")).status_code == 401

    run(story())


def test_a_session_ends_after_its_lifetime_whatever_the_browser_thinks(database_url: str) -> None:
    moment = datetime.now(UTC)

    async def story() -> None:
        nonlocal moment
        async with service(database_url, clock=lambda: moment) as (client, conn):
            name, value, _ = cookie_of(await sign_in(client, conn))
            carried = {"cookie": f"{name}={value}"}
            client.cookies.clear()
            moment += SESSION_LIFETIME - timedelta(seconds=2)
            still = await client.get(f"{LOCAL}/v1/session", headers=carried)
            moment += timedelta(seconds=3)
            over = await client.get(f"{LOCAL}/v1/session", headers=carried)

            assert (still.status_code, over.status_code) == (200, 401)
            assert "12 hours" in problem_of(over)["detail"]

    run(story())


def test_signing_out_makes_the_browser_forget(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, conn):
            await sign_in(client, conn)
            response = await client.delete(f"{LOCAL}/v1/session", headers=OWN_PAGE)
            name, value, flags = cookie_of(response)

            assert (response.status_code, name, value) == (204, PLAIN_COOKIE, "")
            assert "Max-Age=0" in flags
            assert (await client.get(f"{LOCAL}/v1/session")).status_code == 401

    run(story())


@pytest.mark.parametrize("body", ["{}", '{"key": 1}', '{"key": "a", "more": 1}', "[]", "", "\xff"])
def test_a_body_that_is_no_sign_in_is_refused_with_an_example(database_url: str, body: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            headers = {**OWN_PAGE, "content-type": "application/json"}
            response = await client.post(f"{LOCAL}/v1/session", content=body.encode("latin-1"), headers=headers)

            assert response.status_code == 422
            assert '{"key": "anlyt_..."}' in problem_of(response)["detail"]

    run(story())


def test_wrong_keys_are_all_refused_alike_and_slowed_down(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            answers = [
                await client.post(f"{LOCAL}/v1/session", json={"key": f"anlyt_{n}"}, headers=OWN_PAGE)
                for n in range(25)
            ]

            assert [answer.status_code for answer in answers] == [401] * 20 + [429] * 5
            assert not any("set-cookie" in answer.headers for answer in answers)

    run(story())


@pytest.mark.parametrize(
    "value", ["", "~", "1~", "x~anlyt_a", "9" * 40 + "~a", "999999999999~anlyt_a", "9999999999~a b", "0~anlyt_a"]
)
def test_a_broken_cookie_is_no_session(database_url: str, value: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            response = await client.get(f"{LOCAL}/v1/session", headers={"cookie": f"{PLAIN_COOKIE}={value}"})

            assert response.status_code == 401
            assert not re.search(r"anlyt_a\b", response.text)

    run(story())
