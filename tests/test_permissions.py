"""The users of NATS that the page on security describes: each can do its work and nothing else, on a real server."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

import pipeline
from anlyt import doctor, jetstream, publishing
from anlyt.credentials import identity_of
from anlyt.errors import StreamUnavailable
from guarded import nats_with
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anlyt.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
ROLES = ["worker", "api", "producer", "deploy"]


def authorization() -> str:
    """The configuration on the page, with the role's name as its password."""
    (block,) = re.findall(r"```text\n(authorization \{.*?)```", PAGE.read_text(), re.DOTALL)
    return re.sub(r"\$([A-Z]+)_PASSWORD", lambda found: f'"{found[1].lower()}"', block)


@asynccontextmanager
async def guarded_server(settings: Settings, directory: Path) -> AsyncGenerator[dict[str, Settings]]:
    """A server with the users of the page and the stream, and the settings of each role."""
    async with nats_with(directory, authorization()) as port:
        roles = {
            role: settings.model_copy(
                update={
                    "nats_url": SecretStr(f"nats://{role}:{role}@127.0.0.1:{port}"),
                    "nats_inbox": f"_INBOX_{role}",
                    "stream": "MESSAGING",
                    "subjects": "messaging.events.>",
                }
            )
            for role in ROLES
        }
        async with connection(roles["deploy"]) as nc:
            await jetstream.ensure_stream(nc, "MESSAGING", "messaging.events.>")
        yield roles


@asynccontextmanager
async def connection(settings: Settings) -> AsyncGenerator[jetstream.Client]:
    """A connection as this role."""
    nc = await jetstream.connect_as(settings, name="anlyt-tests")
    try:
        yield nc
    finally:
        await nc.close()


def test_each_role_does_its_work_with_the_rights_on_the_page(settings: Settings, tmp_path: Path) -> None:
    async def story() -> int:
        async with guarded_server(settings, tmp_path) as roles:
            message = jetstream.Outgoing("messaging.events.x", pipeline.submitted(datetime.now(UTC)), {})
            async with connection(roles["producer"]) as nc:
                await publishing.publish_fast(nc, [message])
            url = roles["api"].nats_url
            assert url is not None
            api = publishing.Publisher(
                url.get_secret_value(), "MESSAGING", name="anlyt-tests", identity=identity_of(roles["api"])
            )
            await api.publish(jetstream.Outgoing("messaging.events.y", pipeline.submitted(datetime.now(UTC)), {}))
            await api.close()
            await pipeline.count(roles["worker"].model_copy(update={"partitions": 2}))
            findings = {finding.check: finding.level for finding in await doctor.examine(roles["worker"])}
            assert findings["NATS permissions"] == "ok"
            async with pipeline.database(settings) as conn:
                return await conn.fetchval("SELECT sum(messages_sent)::INT FROM anlyt.account_usage_daily")

    assert run(story()) == 2


# role, what it may not ask of JetStream
REFUSED = [
    ("worker", "STREAM.DELETE.MESSAGING"),
    ("worker", "STREAM.PURGE.MESSAGING"),
    ("worker", "STREAM.UPDATE.MESSAGING"),
    ("worker", "STREAM.MSG.DELETE.MESSAGING"),
    ("worker", "STREAM.CREATE.OTHER"),
    ("worker", "STREAM.SNAPSHOT.MESSAGING"),
    ("worker", "STREAM.RESTORE.OTHER"),
    ("worker", "STREAM.LIST"),
    ("worker", "STREAM.NAMES"),
    ("worker", "STREAM.MSG.GET.OTHER"),
    ("worker", "CONSUMER.DELETE.OTHER.x"),
    ("worker", "CONSUMER.DURABLE.CREATE.MESSAGING.x"),
    ("worker", "CONSUMER.MSG.NEXT.OTHER.x"),
    ("worker", "CONSUMER.NAMES.MESSAGING"),
    ("worker", "INFO"),
    ("worker", "CONSUMER.CREATE.OTHER.x"),
    ("worker", "CONSUMER.LIST.MESSAGING"),
    ("worker", "STREAM.INFO.OTHER"),
    ("api", "STREAM.INFO.MESSAGING"),
    ("api", "STREAM.MSG.GET.MESSAGING"),
    ("api", "STREAM.DELETE.MESSAGING"),
    ("api", "CONSUMER.CREATE.MESSAGING.x"),
    ("producer", "STREAM.DELETE.MESSAGING"),
    ("producer", "STREAM.PURGE.MESSAGING"),
    ("producer", "STREAM.INFO.MESSAGING"),
    ("producer", "CONSUMER.CREATE.MESSAGING.x"),
    ("producer", "STREAM.MSG.GET.MESSAGING"),
    ("producer", "STREAM.SNAPSHOT.MESSAGING"),
    ("producer", "STREAM.RESTORE.MESSAGING"),
    ("deploy", "STREAM.DELETE.MESSAGING"),
    ("deploy", "STREAM.PURGE.MESSAGING"),
    ("deploy", "STREAM.CREATE.OTHER"),
    ("deploy", "CONSUMER.CREATE.MESSAGING.x"),
]


def test_no_role_does_more(settings: Settings, tmp_path: Path) -> None:
    async def refused(role: Settings, api: str) -> None:  # nats-server never answers what it refuses
        async with connection(role) as nc:
            with pytest.raises(StreamUnavailable, match=re.escape(f"does not let this user publish to $JS.API.{api};")):
                await jetstream.request(nc, api)

    async def story() -> None:
        async with guarded_server(settings, tmp_path) as roles:
            await asyncio.gather(*(refused(roles[role], api) for role, api in REFUSED))
            with capture_logs() as log:
                async with connection(roles["worker"]) as nc:
                    await nc.publish("messaging.events.x", b"{}")
                    for subject in (">", "messaging.events.>", "_INBOX_producer.>", "_INBOX.>"):
                        await nc.subscribe(subject)
                    await wait_until(lambda: len(log) >= 5, 30, what="every refusal is in the log")
                for role in ("producer", "api"):
                    async with connection(roles[role]) as nc:
                        for subject in (">", "messaging.events.>", "_INBOX_worker.>"):
                            await nc.subscribe(subject)
                        await wait_until(lambda: len(log) >= 8 if role == "producer" else len(log) >= 11, 30)  # noqa: B023 - awaited here
            assert {entry["event"] for entry in log} == {"nats-refused"}
            async with connection(roles["deploy"]) as nc:
                assert (await jetstream.stream_info(nc, "MESSAGING")).messages == 0

    run(story())


def test_who_reads_without_the_right_is_told_by_doctor(settings: Settings, tmp_path: Path) -> None:
    async def story() -> doctor.Finding:
        async with guarded_server(settings, tmp_path) as roles:
            findings = await doctor.examine(roles["deploy"])
            return next(finding for finding in findings if finding.check == "NATS permissions")

    found = run(story())

    assert found.level == "problem"
    assert "CONSUMER.CREATE.MESSAGING" in found.finding


def test_the_anonymous_and_the_wrong_are_refused(settings: Settings, tmp_path: Path) -> None:
    async def story() -> None:
        async with guarded_server(settings, tmp_path) as roles:
            assert roles["worker"].nats_url is not None
            url = roles["worker"].nats_url.get_secret_value()
            for wrong in (url.replace("worker:worker@", ""), url.replace("worker:worker", "worker:api")):
                with pytest.raises(StreamUnavailable, match="Authorization Violation"):
                    await jetstream.connect(wrong, name="anlyt-tests")

    run(story())
