"""Every route as its description says: no 5xx and no answer outside of the schema, whatever is asked, whoever asks.

schemathesis makes requests from docs/reference/openapi.json, right ones and wrong ones; the service is a real one.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from hypothesis import settings as rounds
from schemathesis.specs.openapi.checks import (
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)

from anlyt import jetstream, keys
from anlyt.access import make_grant
from anlyt.postgres import connect, ensure_partitions
from anlyt.publishing import Publisher
from anlyt.settings import Settings
from databases import execute
from serving import listening
from support import run, server_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Connection

    from anlyt.embedded import EmbeddedNats, EmbeddedPostgres

DOCUMENT = Path(__file__).parent.parent / "docs/reference/openapi.json"
DESCRIPTION = schemathesis.openapi.from_path(DOCUMENT)
BRIEFLY = schemathesis.openapi.from_path(DOCUMENT)
BRIEFLY.config.phases.coverage.enabled = False  # every value at every edge of every member: thousands of requests
for described in (DESCRIPTION, BRIEFLY):  # what does not fit may also be too long to be looked at
    refused = described.config.checks.negative_data_rejection
    refused.expected_statuses = [*refused.expected_statuses, "413", "414", "431"]
ACCOUNT, OPERATOR = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-0000000000c1"
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=2)
ANSWER_LIMIT_S = 20
FEW, MANY = 6, 150


class Site(NamedTuple):
    """Where the service is, and the headers of each kind of caller."""

    url: str
    callers: dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def site(postgres_server: EmbeddedPostgres, nats_server: EmbeddedNats, template_database: str) -> Iterator[Site]:
    """A service in a thread of its own, for a client that knows nothing of asyncio."""
    word = secrets.token_hex(6)
    run(execute(postgres_server.admin_url, f"CREATE DATABASE r_{word} OWNER anlyt TEMPLATE {template_database}"))
    with server_directory() as directory:
        settings = Settings.model_validate(
            {
                "database_url": postgres_server.url.removesuffix("/anlyt") + f"/r_{word}",
                "nats_url": nats_server.url,
                "stream": f"R{word}",
                "subjects": f"r{word}.events.>",
                "data_dir": directory,
            }
        )
        serving = Serving(settings)
        yield serving.start()
        serving.stop()
    run(execute(postgres_server.admin_url, f"DROP DATABASE r_{word} WITH (FORCE)"))


class Serving:
    """A service and the thread it runs in."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._done = asyncio.Event()
        self._site: Site | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def start(self) -> Site:
        self._thread.start()
        assert self._ready.wait(30), "the service did not start"
        assert self._site is not None
        return self._site

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._done.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        settings = self._settings
        assert settings.database_url is not None
        assert settings.nats_url is not None
        database_url, nats_url = settings.database_url.get_secret_value(), settings.nats_url.get_secret_value()
        nc = await jetstream.connect(nats_url, name="anlyt-tests")
        await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
        conn = await connect(database_url, application="anlyt-tests")
        await plant(conn, settings.stream)
        callers = await make_callers(conn)
        await conn.close()
        publisher = Publisher(nats_url, settings.stream, name="anlyt-tests")
        try:
            async with listening(database_url, settings=settings, publisher=publisher) as url:
                self._site = Site(url, callers)
                self._ready.set()
                await self._done.wait()
        finally:
            await publisher.close()
            await nc.jetstream().delete_stream(settings.stream)
            await nc.close()


async def make_callers(conn: Connection[Any]) -> dict[str, dict[str, str]]:
    everything = ["metrics:read", "events:write", "admin"]
    grants = {
        "staff": make_grant("PLATFORM", [], everything),
        "operator": make_grant("OPERATOR", [OPERATOR], everything),
        "account": make_grant("ACCOUNT", [ACCOUNT], ["metrics:read"]),
        "producer": make_grant("ACCOUNT", [ACCOUNT], ["events:write"]),
        "revoked": make_grant("PLATFORM", [], everything),
    }
    made = {name: await keys.create_key(conn, grant, name=name) for name, grant in grants.items()}
    await keys.revoke_key(conn, made["revoked"].key_id)
    return {"nobody": {}} | {name: {"Authorization": f"Bearer {key.key}"} for name, key in made.items()}


async def plant(conn: Connection[Any], stream: str) -> None:
    """Rows of every table with what is hardest to answer: the largest, none to divide by, less than nothing."""
    await ensure_partitions(conn, [HOUR])
    for scope, scope_id in (("PLATFORM", "platform"), ("ACCOUNT", ACCOUNT), ("OPERATOR", OPERATOR)):
        for table, column in (("metrics_hourly", "hour_bucket"), ("metrics_daily", "day_bucket")):
            await conn.execute(
                f"INSERT INTO anlyt.{table} ({column}, scope, scope_id, total_messages, total_cost)"  # noqa: S608 - ours
                " VALUES (date_trunc($1, $2::TIMESTAMPTZ, 'UTC'), $3, $4, 9223372036854775807, -999999999999.999999)",
                "hour" if column == "hour_bucket" else "day",
                HOUR,
                scope,
                scope_id,
            )
    await conn.execute(
        "INSERT INTO anlyt.operator_performance (hour_bucket, operator_id) VALUES ($1, $2)", HOUR, OPERATOR
    )
    await conn.execute(
        "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id) VALUES (date_trunc('day', $1, 'UTC'), $2)",
        HOUR,
        ACCOUNT,
    )
    await conn.executemany(
        "INSERT INTO anlyt.dead_letters (stream, sequence, batch_index, published_at, reason, detail, subject,"
        " headers, body) VALUES ($1, $2, 0, $3, 'malformed', 'The body is not JSON.', 'x', '{}', $4)",
        [(stream, sequence, HOUR, body) for sequence, body in enumerate([b"{", b"\xff", b"", b"x" * 5_000], start=1)],
    )


# What is not asked: a request that fits may still be refused (a cursor that nobody gave out, a period that ends before
# it begins), and an address that keeps sending wrong keys gets a 429.
NOT_ASKED = [positive_data_acceptance, ignored_auth]
# A body that does not fit may be taken for those of its events that do; with another method it is a GET with a body.
NOT_ASKED_OF_BODIES = [*NOT_ASKED, negative_data_rejection, unsupported_method]


def ask(case: schemathesis.Case, site: Site) -> None:
    """The same request of every kind of caller; each answer is held against the description."""
    excluded = NOT_ASKED_OF_BODIES if case.operation.method.upper() == "POST" else NOT_ASKED
    for headers in site.callers.values():
        response = case.call(base_url=site.url, headers=headers, timeout=ANSWER_LIMIT_S)
        case.validate_response(response, excluded_checks=excluded)


UNHURRIED = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@BRIEFLY.exclude(path="/v1/live").parametrize()
@rounds(max_examples=FEW, **UNHURRIED)
def test_every_route_answers_as_it_is_described(case: schemathesis.Case, site: Site) -> None:
    ask(case, site)


@pytest.mark.long
@pytest.mark.timeout(1800)
@DESCRIPTION.exclude(path="/v1/live").parametrize()
@rounds(max_examples=MANY, **UNHURRIED)
def test_every_route_answers_as_it_is_described_for_long(case: schemathesis.Case, site: Site) -> None:
    ask(case, site)


@DESCRIPTION.include(path="/v1/live").parametrize()
@rounds(max_examples=FEW, **UNHURRIED)
def test_the_live_stream_begins_as_it_is_described(case: schemathesis.Case, site: Site) -> None:
    """It never ends by itself, so only its head is looked at."""
    for headers in site.callers.values():
        request = case.as_transport_kwargs(base_url=site.url, headers=headers)
        with requests.request(**request, stream=True, timeout=ANSWER_LIMIT_S) as response:
            described = case.operation.definition.raw["responses"].get(str(response.status_code))

            assert (described is None) == (response.status_code == 405) == (case.method.upper() not in {"GET", "HEAD"})
            assert described is None or response.headers["content-type"] in described["content"]
