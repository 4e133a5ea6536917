"""The status page for platform staff: the service's own state, and dead letters looked at, retried and discarded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from anlyt.postgres import session
from browser import axe, settled, texts

if TYPE_CHECKING:
    from playwright.async_api import Page

    from browser import Site

pytestmark = pytest.mark.timeout(600)  # the first test waits for the sample, and for a browser to be installed


async def kept(site: Site) -> dict[str, int]:
    """Open dead letters by reason, as the service tells them."""
    return (await site.ask("/v1/status"))["deadLettersKept"]


async def choose(page: Page, reason: str) -> None:
    await page.get_by_role("button", name=reason).click()
    await settled(page)
    await page.locator("#panel-letters tbody tr").first.wait_for()


def test_staff_see_the_state_of_the_service(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status") as page:
            status = await site.ask("/v1/status")
            figures = {
                name: (await texts(page, f"[data-figure={name}] .value"))[0]
                for name in ("counted", "duplicates", "open", "lost")
            }
            tables = {
                name: await texts(page, f"#panel-{name} tbody th") for name in ("jobs", "partitions", "backfills")
            }

            assert figures == {
                "counted": f"{status['counted']:,}",
                "duplicates": f"{status['duplicates']:,}",
                "open": f"{sum(status['deadLettersKept'].values()):,}",
                "lost": "0",
            }
            assert tables == {
                "jobs": [run["job"] for run in status["jobs"]],
                "partitions": [runway["table"] for runway in status["partitions"]],
                "backfills": [load["name"] for load in status["backfills"]],
            }
            assert await texts(page, "#panel-slots tbody th") == ["0\u201315"]

    site.run(story)


def test_tenants_have_no_status_page(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status", key="account") as page:
            assert await page.locator("#panel-letters").count() == 0
            assert await page.locator("#panel-numbers").count() == 1

    site.run(story)


def test_staff_without_the_permission_are_told_which_one_is_missing(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status", key="reader") as page:
            assert "permission admin" in (await texts(page, "#panel-letters .state"))[0]
            assert await page.get_by_role("button", name="Discard").count() == 0

    site.run(story)


def test_a_letter_is_shown_whole(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status&reason=invalid_field") as page:
            listed = (await site.ask("/v1/dead-letters?reason=invalid_field&limit=15"))["data"]
            rows = page.locator("#panel-letters tbody tr")
            place = f"{listed[0]['sequence']}/{listed[0]['batchIndex']}"
            whole = (await site.ask(f"/v1/dead-letters/{place}"))["data"][0]

            assert await rows.count() == len(listed)
            assert " ".join(listed[0]["detail"].split()) in " ".join((await rows.first.inner_text()).split())
            await rows.first.get_by_role("button").click()
            dialog = page.get_by_role("dialog", name=f"Dead letter {place}")
            await dialog.wait_for()
            shown = await dialog.locator("pre").inner_text()
            assert shown == whole["body"] or json.loads(shown) == json.loads(whole["body"])
            assert whole["subject"] in await dialog.inner_text()
            assert await axe(page) == []

    site.run(story)


MARKUP = "<img src=nowhere onerror=\"document.title='run'\"><script>document.title='run'</script><b>bold</b>"
KEEP = """
    INSERT INTO anlyt.dead_letters (stream, sequence, batch_index, published_at, reason, detail, subject, headers, body)
    VALUES (
        $1, 9_000_000_000, 0, now(), 'too_large', $2, $2, json_build_object($2::TEXT, $2::TEXT), convert_to($2, 'UTF8')
    )"""


def test_markup_in_a_letter_is_text(site: Site) -> None:
    """In its sentence, its subject, its headers and its body; no other letter of the sample is too large."""
    assert site.settings.database_url is not None
    url = site.settings.database_url.get_secret_value()

    async def story() -> None:
        async with session(url, application="test") as conn:
            await conn.execute(KEEP, site.settings.stream, MARKUP)
            try:
                async with site.page("/?view=status&reason=too_large") as page:
                    title = await page.title()
                    row = page.locator("#panel-letters tbody tr").first
                    assert MARKUP in await row.inner_text()
                    await row.get_by_role("button").click()
                    dialog = page.get_by_role("dialog", name="Dead letter 9000000000/0")
                    await dialog.wait_for()

                    assert await dialog.locator("pre").inner_text() == MARKUP
                    assert (await dialog.inner_text()).count(MARKUP) >= 3
                    assert await page.locator("img[src=nowhere], dialog b, #panel-letters b").count() == 0
                    assert await page.title() == title != "run"
            finally:
                await conn.execute("DELETE FROM anlyt.dead_letters WHERE sequence = 9_000_000_000")

    site.run(story)


def test_nothing_is_discarded_without_a_yes(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status") as page:
            before = await kept(site)
            reason = "malformed"
            await choose(page, reason)
            await page.get_by_role("button", name="Discard these…").click()
            question = page.get_by_role("dialog", name="Discard dead letters?")
            await question.wait_for()

            assert reason in await question.inner_text()
            assert await axe(page) == []
            await question.get_by_role("button", name="Cancel").click()
            await question.wait_for(state="detached")
            assert await kept(site) == before
            await page.get_by_role("button", name="Discard these…").click()
            await question.get_by_role("button", name="Discard").click()
            await page.locator(".result", has_text=f"{before[reason]:,} discarded").wait_for()
            assert reason not in await kept(site)
            discarded = (await site.ask(f"/v1/dead-letters?reason={reason}&state=discarded&limit=1000"))["data"]
            assert len(discarded) == before[reason]

    site.run(story)


def test_a_retry_tells_what_became_of_each_letter(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?view=status") as page:
            before = await kept(site)
            await choose(page, "unknown_type")
            await page.get_by_role("button", name="Retry these…").click()
            question = page.get_by_role("dialog", name="Retry dead letters?")
            await question.get_by_role("button", name="Retry").click()
            await page.locator(".result", has_text=f"{before['unknown_type']:,} failed again").wait_for()

            assert (await kept(site))["unknown_type"] == before["unknown_type"]

    site.run(story)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_status_page(site: Site, theme: Any) -> None:
    async def story() -> None:
        async with site.page("/?view=status", color_scheme=theme) as page:
            assert await axe(page) == []

    site.run(story)
