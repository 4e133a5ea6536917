"""No key and no token leaves: in no answer, no log line, no metric, wherever it was put and whatever fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from structlog.testing import capture_logs

from anlyt import access
from anlyt.session import PLAIN_COOKIE
from anlyt.tokens import trusted
from issuing import OTHER_RSA_KEY, claims, key_server, sign
from serving import key_for, service
from support import run

if TYPE_CHECKING:
    import httpx2
    import pytest

ROUTES = ["/v1/metrics/hourly", "/v1/summary", "/v1/status", "/v1/session", "/v1/dead-letters", "/metrics", "/nowhere"]
LATER = 4_000_000_000


async def ask_everywhere(client: httpx2.AsyncClient, text: str) -> list[httpx2.Response]:
    """Put a secret wherever a client could think of."""
    answers: list[httpx2.Response] = []
    for route in ROUTES:
        answers += [
            await client.get(route, headers={"Authorization": f"Bearer {text}"}),
            await client.get(route, headers={"X-API-Key": text}),
            await client.get(route, headers={"Authorization": f"Basic {text}"}),
            await client.get(route, headers={"Cookie": f"{PLAIN_COOKIE}={LATER}~{text}"}),
            await client.get(route, params={"api_key": text}),
            await client.get(route, params={text: "x", "scopeId": text, "cursor": text, "from": text}),
            await client.get(route, params={"scopeId": text}, headers={"Authorization": f"Bearer {text}"}),
            await client.get(f"{route}/{text}"),
            await client.request(text[:20], route, headers={"Authorization": f"Bearer {text}"}),
        ]
    answers += [
        await client.post("/v1/session", json={"key": text}),
        await client.post("/v1/session", json={"kee": text}),
        await client.post("/v1/events", json={"id": text}, headers={"Authorization": f"Bearer {text}"}),
    ]
    return answers


def test_no_secret_is_answered_or_logged(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx2", "httpcore", "httpcore2", "asyncio"):  # the client of this test tells what it does
        logging.getLogger(name).setLevel(logging.WARNING)

    async def story() -> None:
        async with key_server() as server, trusted(server.settings()) as issuer:
            settings = server.settings(database_url=database_url)
            async with service(database_url, settings=settings, issuer=issuer) as (client, conn):
                secrets = {
                    "good key": (await key_for(conn, "PLATFORM"))["Authorization"].removeprefix("Bearer "),
                    "unknown key": access.new_key().key,
                    "good token": sign(claims("PLATFORM", scope="metrics:read admin")),
                    "forged token": sign(claims("PLATFORM"), key=OTHER_RSA_KEY),
                }
                for where in ("as it is", "broken"):
                    with capture_logs() as entries:
                        answers = {name: await ask_everywhere(client, text) for name, text in secrets.items()}
                    statuses = {answer.status_code for each in answers.values() for answer in each}
                    told = str(entries) + caplog.text + (await client.get("/metrics")).text

                    assert {401, 422, 404, 405} <= statuses
                    assert ({200} if where == "as it is" else {500}) <= statuses
                    for name, text in secrets.items():
                        secret = text[19:] if name.endswith("key") else text.split(".")[2]
                        assert secret not in told, name
                        for answer in answers[name]:
                            headers = {k: v for k, v in answer.headers.items() if k != "set-cookie"}  # the session's
                            assert secret not in f"{headers} {answer.text}", f"{name} in {answer.request.url.path}"
                    if where == "as it is":
                        await conn.execute("DROP TABLE anlyt.api_keys")  # every question is a mistake of ours now

    run(story())
