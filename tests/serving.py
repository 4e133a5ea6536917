"""The API over real servers as a test's client sees it: the app, keys, and what every problem has to have."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2

from anlyt import api, keys, listener, live, web
from anlyt.access import make_grant
from anlyt.postgres import connect, open_pool
from anlyt.settings import Settings
from anlyt.telemetry import Telemetry
from support import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg


@asynccontextmanager
async def service(url: str, **changes: Any) -> AsyncIterator[tuple[httpx2.AsyncClient, asyncpg.Connection[Any]]]:
    """A client of the API over the database at `url`, and a connection of the test's own."""
    pool = await open_pool(url, application="anlyt-api", size_max=4, statement_timeout_s=5)
    conn = await connect(url, application="anlyt-tests")
    settings = changes.pop("settings", None) or Settings.model_validate(
        {"stream": "T", "currency": "USD", "database_url": url}
    )
    app = api.build_app(pool=pool, settings=settings, telemetry=changes.pop("telemetry", Telemetry()), **changes)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx2.AsyncClient(transport=transport, base_url="http://anlyt") as client:
            yield client, conn
    finally:
        await conn.close()
        pool.terminate()


@asynccontextmanager
async def listening(url: str, **changes: Any) -> AsyncIterator[str]:
    """The address of a real server of the API with its live feed, over the database at `url`."""
    settings = changes.pop("settings", None) or Settings.model_validate({"stream": "T", "database_url": url})
    telemetry = changes.pop("telemetry", Telemetry())
    pool = await open_pool(url, application="anlyt-api", size_max=4, statement_timeout_s=5)
    feed = live.Feed(settings, telemetry, lambda: datetime.now(UTC))
    app = api.build_app(pool=pool, settings=settings, telemetry=telemetry, feed=feed, **changes)
    stop, found = asyncio.Event(), list[str]()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(feed.run(stop))
            tasks.create_task(listener.serve(app, host="127.0.0.1", port=0, stop=stop, on_ready=found.append))
            try:
                yield await wait_until(lambda: found[0] if found else None)
            finally:
                stop.set()
    finally:
        pool.terminate()


async def key_for(
    conn: asyncpg.Connection[Any],
    scope: str,
    *ids: str,
    expires_at: datetime | None = None,
    permission: str = "metrics:read",
) -> dict[str, str]:
    """Headers with a new key."""
    made = await keys.create_key(conn, make_grant(scope, ids, [permission]), name="test", expires_at=expires_at)
    return {"Authorization": f"Bearer {made.key}"}


def problem_of(response: httpx2.Response) -> dict[str, Any]:
    """The problem a response carries, with what every problem has to have checked."""
    body = response.json()

    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == response.status_code
    assert body["type"].removeprefix(web.PROBLEM_BASE) in web.PROBLEMS
    assert body["title"]
    assert body["detail"]
    assert not re.search(r"Traceback|SELECT|asyncpg|postgresql://|/src/anlyt/|\.py\b", response.text)
    return body
