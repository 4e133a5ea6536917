"""A real Chromium before the real page: the sample counted in a database of its own, the API on a port of its own.

Used by test_page and test_page_staff. One loop, one browser and one API serve a whole module; each test has a browser
context of its own, and fails when the page asks another host, breaks its policy or raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx2
from playwright.async_api import async_playwright

import debian
from anlyt import api, demo, jobs, keys, listener, live, publishing, simulate
from anlyt.access import make_grant
from anlyt.crash import CrashPoints
from anlyt.postgres import connect, open_pool
from anlyt.sample import Roster, roster
from anlyt.telemetry import Telemetry
from pipeline import count, stream_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from playwright.async_api import Browser, BrowserContext, Page

    from anlyt.settings import Settings

ARGUMENTS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SEED: Final = 11
HISTORY: Final = timedelta(days=10)  # a week, and two whole days before it to compare with, at any time of day
RATE: Final = 0.03  # distinct events a second: about 26,000 in all
STAFF: Final = ["metrics:read", "events:write", "admin"]


def find_chromium() -> str:
    """Debian's Chromium; without one the tests of the page are skipped, never in CI."""
    return debian.program("chromium", "chromium")


@dataclass
class Site:
    """The page as it is served, who may sign in, and a browser before it."""

    settings: Settings
    address: str
    keys: dict[str, str]
    members: Roster
    browser: Browser
    runner: asyncio.Runner
    faults: list[str] = field(default_factory=list)

    def run(self, story: Callable[[], Coroutine[Any, Any, None]], limit_s: float = 90) -> None:
        """Run a test's story in the loop that serves the page, then hold it to what the page must never do."""
        self.faults.clear()
        self.runner.run(asyncio.wait_for(story(), limit_s))

        assert self.faults == []

    def ask(self, path: str, key: str = "platform") -> Awaitable[Any]:
        """The API's own answer to a question, with big integers as they are."""

        async def answer() -> Any:
            async with httpx2.AsyncClient(base_url=self.address) as client:
                response = await client.get(path, headers={"authorization": f"Bearer {self.keys[key]}"})
                assert response.status_code == 200, response.text
                return response.json()

        return answer()

    @contextlib.asynccontextmanager
    async def context(self, **options: Any) -> AsyncGenerator[BrowserContext]:
        """A browser with nothing in it, whose clock is far from UTC."""
        options = {"viewport": {"width": 1280, "height": 900}, "timezone_id": "Asia/Kolkata"} | options
        context = await self.browser.new_context(**options)
        context.on("request", lambda request: self._check_host(request.url))
        context.on("console", lambda message: self._check_words(message.text))
        context.on("weberror", lambda error: self.faults.append(f"raised: {error.error}"))
        try:
            yield context
        finally:
            await context.close()

    @contextlib.asynccontextmanager
    async def page(self, path: str = "/", *, key: str | None = "platform", **options: Any) -> AsyncGenerator[Page]:
        """The page, signed in with `key`, when its first numbers are there."""
        async with self.context(**options) as context:
            page = await context.new_page()
            await page.goto(self.address + path)
            if key is not None:
                await sign_in(page, self.keys[key])
                await settled(page)
            yield page

    def _check_host(self, url: str) -> None:
        if urlsplit(url).scheme in {"http", "https"} and not url.startswith(self.address + "/"):
            self.faults.append(f"asked another host: {url}")
        if "anlyt_" in url:
            self.faults.append(f"a key in an address: {url}")

    def _check_words(self, text: str) -> None:
        if "Content Security Policy" in text:
            self.faults.append(text)


async def sign_in(page: Page, key: str) -> None:
    await page.get_by_label("API key").fill(key)
    await page.get_by_role("button", name="Sign in").click()


async def settled(page: Page) -> None:
    """Until every panel shows its answer."""
    await page.wait_for_selector("anlyt-panel")
    await page.wait_for_function("() => !document.querySelector('anlyt-panel[aria-busy=true]')")


async def axe(page: Page) -> list[str]:
    """What axe finds that is serious or critical: rule, and the elements it is about."""
    await page.evaluate(resources.files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = await page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:200]}"
        for each in found["violations"]
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


async def texts(page: Page, selector: str) -> list[str]:
    """What the elements say, white space made one."""
    return [" ".join(text.split()) for text in await page.locator(selector).all_inner_texts()]


# ------------------------------------------------------------------------------------------------------------- serving


def traffic(settings: Settings) -> simulate.Traffic:
    """The sample's past, up to this minute."""
    start = datetime.now(UTC).replace(second=0, microsecond=0)
    return simulate.Traffic(
        start=start,
        seed=SEED,
        rate=RATE,
        history=HISTORY,
        batches=0.9,
        bad=0.004,
        subject_prefix=settings.subjects.removesuffix(">"),
    )


async def prepare(settings: Settings) -> None:
    """Count the sample's history into the database, percentiles included."""
    past = traffic(settings)
    assert settings.database_url is not None
    async with stream_of(settings) as nc:
        await publishing.publish_fast(nc, simulate.simulate(past, simulate.Tally()), on_progress=lambda _: None)
        await count(settings)
    await jobs.run_job(settings.database_url.get_secret_value(), "percentiles", CrashPoints())


@contextlib.asynccontextmanager
async def served(settings: Settings, directory: Path, executable: str, runner: asyncio.Runner) -> AsyncGenerator[Site]:
    """The page over a prepared database, keys for everybody, and a browser."""
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    members = roster(SEED)
    names = directory / "names.json"
    names.write_bytes(demo.names(demo.Story(members, traffic(settings))))
    settings = settings.model_copy(update={"names_file": names})
    made = await _make_keys(url, members)
    pool = await open_pool(url, application="anlyt-api", size_max=10, statement_timeout_s=5)
    stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
    telemetry = Telemetry()
    feed = live.Feed(settings, telemetry, lambda: datetime.now(UTC))
    app = api.build_app(pool=pool, settings=settings, telemetry=telemetry, feed=feed)
    serving = asyncio.gather(
        feed.run(stop), listener.serve(app, host="127.0.0.1", port=0, stop=stop, on_ready=ready.set_result)
    )
    try:
        address = await ready
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
            yield Site(settings, address, made, members, browser, runner)
            await browser.close()
    finally:
        stop.set()
        await serving
        pool.terminate()


async def _make_keys(url: str, members: Roster) -> dict[str, str]:
    """A key of each kind, by name."""
    first, second = (operator.id for operator in members.operators[:2])
    grants = {
        "platform": make_grant("PLATFORM", [], STAFF),
        "reader": make_grant("PLATFORM", [], ["metrics:read"]),
        "writer": make_grant("PLATFORM", [], ["events:write"]),
        "operator": make_grant("OPERATOR", [first], ["metrics:read"]),
        "operators": make_grant("OPERATOR", [first, second], ["metrics:read"]),
        "account": make_grant("ACCOUNT", [members.accounts[0].id], ["metrics:read"]),
        "idle": make_grant("ACCOUNT", [members.accounts[-1].id], ["metrics:read"]),
        "new": make_grant("ACCOUNT", [secrets.token_hex(4) + "-0000-4000-8000-00000000acc9"], ["metrics:read"]),
    }
    conn = await connect(url, application="anlyt-tests")
    try:
        return {name: (await keys.create_key(conn, grant, name=name)).key for name, grant in grants.items()}
    finally:
        await conn.close()
