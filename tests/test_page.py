"""The page in a real browser: what people do with it, and every number on it against the API's own answer."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from browser import axe, settled, sign_in, texts
from pipeline import count, database, stream_of, submitted
from support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

    from browser import Site

pytestmark = pytest.mark.timeout(600)  # the first test waits for the sample, and for a browser to be installed

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
FROM, TO = TODAY - timedelta(days=7), TODAY - timedelta(days=1)
WEEK = f"from={FROM:%Y-%m-%dT%H:%M:%SZ}&to={TO:%Y-%m-%dT%H:%M:%SZ}"  # whole, past: its numbers stand still
TWO_DAYS = f"from={TO - timedelta(days=2):%Y-%m-%dT%H:%M:%SZ}&to={TO:%Y-%m-%dT%H:%M:%SZ}"  # with two counted before
# Until long after the test, so that no hour leaves it meanwhile.
AROUND_NOW = f"/?from={TO:%Y-%m-%dT%H:%M:%SZ}&to={TODAY + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
DASH = "\u2013"
FIGURES = ["submitted", "rate", "failed", "pending", "latency", "cost"]


async def figure(page: Page, name: str) -> str:
    (text,) = await texts(page, f"[data-figure={name}] .value")
    return text


def rounded(value: float, places: int) -> str:
    """With so many places; of two that are equally near the larger one, as browsers do and format() does not."""
    return str(Decimal(value).quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def percent(rate: float | None) -> str:
    if rate is None:
        return DASH
    text = rounded(rate * 100, 2)
    if text == "100.00" and rate < 1:
        return "99.99 %"
    return "< 0.01 %" if text == "0.00" and rate > 0 else f"{text} %"


def seconds(ms: float | None) -> str:
    """A latency as the page writes it, in its two largest units."""
    if ms is None:
        return DASH
    if ms < 999.5:
        return f"{rounded(ms, 0)} ms"
    if ms < 59_995:
        return f"{rounded(ms / 1000, 2)} s"
    minutes, rest = divmod(int(rounded(ms / 1000, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")][0 if hours else 1 :]
    return " ".join(f"{amount} {unit}" for amount, unit in parts[:2] if amount)


def amount(text: str) -> str:
    """An amount as the API writes it, of one as the page does."""
    return text.replace(",", "").replace("\u2212", "-")


async def cells(page: Page, panel: str) -> list[list[str]]:
    rows = page.locator(f"#panel-{panel} tbody tr")
    return [
        [" ".join(cell.split()) for cell in await rows.nth(n).locator("th, td").all_inner_texts()]
        for n in range(await rows.count())
    ]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


# ----------------------------------------------------------------------------------------------------------- signing in


@pytest.mark.parametrize(
    ("key", "heading", "panels"),
    [
        ("platform", "Platform", ["numbers", "volume", "latency", "peak", "operators", "accounts"]),
        ("operator", "Alpha Mobile", ["numbers", "volume", "latency", "peak", "hours"]),
        ("operators", "2 operators", ["numbers", "volume", "latency", "peak", "operators"]),
        ("account", "Lindner Savings Bank", ["numbers", "volume", "latency", "peak", "usage"]),
    ],
)
def test_each_kind_of_key_has_its_own_view(site: Site, key: str, heading: str, panels: list[str]) -> None:
    async def story() -> None:
        async with site.page(key=key) as page:
            shown = await page.locator("anlyt-panel").evaluate_all("found => found.map((each) => each.id)")

            assert await texts(page, "h1") == [heading]
            assert shown == [f"panel-{name}" for name in panels]
            assert await page.locator(".state.error").count() == 0
            assert await page.get_by_role("link", name="Status").count() == (key == "platform")

    site.run(story)


def test_a_wrong_key_is_told_so_and_a_key_that_may_not_read_too(site: Site) -> None:
    async def story() -> None:
        async with site.page(key=None) as page:
            await sign_in(page, "anlyt_wrong")
            await page.get_by_role("alert").filter(has_text="not valid").wait_for()
            await sign_in(page, site.keys["writer"])
            await page.get_by_role("alert").filter(has_text="metrics:read").wait_for()

            assert await page.get_by_label("API key").is_visible()

    site.run(story)


def test_the_key_is_nowhere_in_the_browser_but_in_a_cookie_no_script_sees(site: Site) -> None:
    async def story() -> None:
        async with site.page() as page:
            key = site.keys["platform"]
            inside = await page.evaluate("() => [document.cookie, JSON.stringify({...localStorage}), location.href]")
            document = await page.content()
            (cookie,) = await page.context.cookies()

            assert key not in document
            assert not any(key in each for each in inside)
            assert inside[0] == ""
            assert key in cookie["value"]
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")

    site.run(story)


def test_a_session_survives_a_reload_and_ends_with_signing_out(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}", key="account") as page:
            await page.reload()
            await settled(page)
            await page.get_by_role("button", name="Sign out").click()
            await page.get_by_label("API key").wait_for()
            await page.reload()
            await page.get_by_label("API key").wait_for()

            assert await page.context.cookies() == []

    site.run(story)


# ---------------------------------------------------------------------------------------------------- numbers are right


@pytest.mark.parametrize("key", ["platform", "operator", "account"])
def test_the_six_figures_are_the_apis(site: Site, key: str) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}", key=key) as page:
            (row,) = (await site.ask(f"/v1/summary?{WEEK}", key))["data"]
            ranks = (await site.ask(f"/v1/summary?{WEEK}&scope=OPERATOR", key))["data"][0] if key != "account" else row
            p95 = "" if key == "account" else f" / {seconds(ranks['latencyP95Ms'])}"
            whole, _, rest = row["totalCost"].partition(".")

            assert row["totalMessages"] > 0
            assert [await figure(page, name) for name in FIGURES] == [
                f"{row['totalMessages']:,}",
                percent(row["deliveryRate"]),
                f"{row['failedMessages']:,}",
                f"{row['pendingMessages']:,}",
                seconds(row["avgLatencyMs"]) + p95,
                f"{int(whole):,}.{rest}",
            ]

    site.run(story)


@pytest.mark.parametrize("key", ["platform", "operator", "account"])
def test_figures_are_compared_with_the_period_before(site: Site, key: str) -> None:
    async def story() -> None:
        async with site.page(f"/?{TWO_DAYS}", key=key) as page:
            (row,) = (await site.ask(f"/v1/summary?{TWO_DAYS}&compare=previous", key))["data"]
            before = row["previous"]
            changed = abs((row["totalMessages"] - before["totalMessages"]) / before["totalMessages"]) * 100
            assert "compared with" in (await texts(page, "#panel-numbers .note"))[0]
            assert f"{rounded(changed, 1)} %" in (await texts(page, "[data-figure=submitted] .change"))[0]

    site.run(story)


def test_a_period_before_that_was_not_counted_whole_is_not_compared_with(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?range=90d") as page:
            since = (await site.ask("/v1/summary?from=-24h&compare=previous"))["meta"]["countedSince"]
            (note,) = await texts(page, "#panel-numbers .note")
            changes = await texts(page, "[data-figure=submitted] .change")

            assert f"counted since {datetime.fromisoformat(since).day} " in note
            assert changes == ["no comparison"]
            assert await page.locator("#panel-operators .points:not(:empty)").count() == 0
        async with site.page(f"/?{TWO_DAYS}") as page:
            assert await page.locator("#panel-operators .points:not(:empty)").count() > 0

    site.run(story)


def test_operators_are_the_apis_worst_first(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            question = f"/v1/summary?{WEEK}&scope=OPERATOR&groupBy=scopeId&sort=deliveryRate&order=asc"
            rows = (await site.ask(question))["data"]
            names = site.members.names()
            shown = await cells(page, "operators")

            assert [row[0] for row in shown] == [names[row["scopeId"]] for row in rows]
            assert [row[1].partition(" %")[0] + " %" for row in shown] == [percent(row["deliveryRate"]) for row in rows]
            assert [row[2:] for row in shown] == [
                [
                    percent(row["errorRate"]),
                    f"{row['totalMessages']:,}",
                    f"{row['failedMessages']:,}",
                    f"{row['pendingMessages']:,}",
                    seconds(row["avgLatencyMs"]),
                    seconds(row["latencyP95Ms"]),
                    f"{row['peakTps']:,}",
                ]
                for row in rows
            ]
            assert await page.locator("#panel-operators svg.spark").count() == len(rows)

    site.run(story)


def excess(row: dict[str, Any], usual: float) -> float:
    """How many more messages of an hour failed than usual; 0 where that is not worth a word."""
    more = row["failedMessages"] - row["totalMessages"] * usual
    return more if more >= 3 and row["failedMessages"] >= 2 * row["totalMessages"] * usual else 0.0


def test_the_hour_in_which_most_failed_is_named_and_opens_its_day(site: Site) -> None:
    week = f"from={FROM:%Y-%m-%dT%H:%M:%SZ}&to={FROM + timedelta(days=8):%Y-%m-%dT%H:%M:%SZ}"  # with the last evening
    names = site.members.names()

    async def story() -> None:
        async with site.page(f"/?{week}") as page:
            sums = (await site.ask(f"/v1/summary?{week}&scope=OPERATOR&groupBy=scopeId"))["data"]
            usual = {row["scopeId"]: row["errorRate"] for row in sums}
            told = await texts(page, "#panel-operators .callout")
            rows: list[dict[str, Any]] = []
            for operator in usual:
                path = f"/v1/metrics/hourly?{week}&scope=OPERATOR&scopeId={operator}&limit=1000"
                rows += (await site.ask(path))["data"]
            most = max(excess(row, usual[row["scopeId"]]) for row in rows)
            worst = [row for row in rows if abs(excess(row, usual[row["scopeId"]]) - most) < 1e-6]
            sentences = [
                f"Worst hour: {names[row['scopeId']]}, {at:%a} {at.day} {at:%b}, {at:%H:%M}{DASH}"
                f"{at + timedelta(hours=1):%H:%M}: {row['failedMessages']} of {row['totalMessages']} failed, "
                f"{percent(row['failedMessages'] / row['totalMessages'])}; "
                f"usual for it are {percent(usual[row['scopeId']])}."
                for row in worst
                for at in [datetime.fromisoformat(row["hourBucket"])]
            ]

            if most == 0:  # of few messages none need have failed
                assert told == []
                return
            assert len(told) == 1
            assert told[0] in sentences
            await page.locator(".callout").get_by_role("link").click()
            await page.locator("#panel-hours tbody tr").first.wait_for()
            row = worst[sentences.index(told[0])]
            day = datetime.fromisoformat(row["hourBucket"]).replace(hour=0)
            assert query_of(page) == {
                "operator": [row["scopeId"]],
                "from": [f"{day:%Y-%m-%dT%H:%M:%SZ}"],
                "to": [f"{day + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"],
            }

    site.run(story)


def test_accounts_are_the_apis_with_all_six_decimals_and_their_segments(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            question = f"/v1/summary?{WEEK}&scope=ACCOUNT&groupBy=scopeId&sort=totalCost&limit=10"
            rows = (await site.ask(question))["data"]
            usage = (await site.ask(f"/v1/accounts/usage?{WEEK}&limit=1000"))["data"]
            segments = {
                row["scopeId"]: sum(day["totalSegments"] for day in usage if day["accountId"] == row["scopeId"])
                for row in rows
            }
            names = site.members.names()
            shown = [[row[0], amount(row[1]), row[3], row[4]] for row in await cells(page, "accounts")]

            assert shown == [
                [names[row["scopeId"]], row["totalCost"], f"{segments[row['scopeId']]:,}", f"{row['totalMessages']:,}"]
                for row in rows
            ]
            told = await texts(page, "#panel-accounts .foot")
            assert [line.rpartition(".")[0] or line for line in told] == [
                "10 of 23 shown",
                "1 without traffic: Dormant Ventures",
            ]
            await page.get_by_role("button", name="Show all").click()
            await page.wait_for_function("() => document.querySelectorAll('#panel-accounts tbody tr').length == 23")
            assert await texts(page, "#panel-accounts .foot") == ["1 without traffic: Dormant Ventures"]

    site.run(story)


def test_numbers_beyond_two_to_the_53_are_shown_to_the_last_digit(site: Site) -> None:
    bucket = TODAY - timedelta(days=2)
    big, odd = 2**63 - 1, 2**53 + 1

    async def story() -> None:
        (account,) = (await site.ask("/v1/session", "new"))["scopeIds"]
        async with database(site.settings) as conn:
            for table, column in (("metrics_hourly", "hour_bucket"), ("metrics_daily", "day_bucket")):
                await conn.execute(
                    f"INSERT INTO anlyt.{table} ({column}, scope, scope_id, total_messages, delivered_messages,"  # noqa: S608 - ours
                    " failed_messages, total_cost) VALUES ($1, 'ACCOUNT', $2, $3, $4, $5, 999999999999.999999)",
                    bucket,
                    account,
                    big,
                    odd,
                    big - odd,
                )
        async with site.page(f"/?{WEEK}&table=volume,numbers", key="new") as page:
            figures = {row[0]: row[1] for row in await cells(page, "numbers")}
            volume = [row for row in await cells(page, "volume") if row[1] != "0"]

            assert figures["Submitted"] == "9,223,372,036,854,775,807"
            assert figures["Failed"] == f"{big - odd:,}"
            assert figures["Cost, EUR"] == "999,999,999,999.999999"
            assert [row[1:4] for row in volume] == [[f"{big:,}", f"{odd:,}", f"{big - odd:,}"]]

    site.run(story)


def test_where_nothing_happened_rates_are_a_dash_and_charts_say_so(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}", key="idle") as page:
            assert await texts(page, "h1") == ["Dormant Ventures"]
            assert [await figure(page, name) for name in FIGURES] == ["0", DASH, "0", "0", DASH, "0.000000"]
            assert "Nothing was submitted" in (await texts(page, "#panel-volume .state"))[0]
            assert await page.locator("anlyt-chart").count() == 0

    site.run(story)


# --------------------------------------------------------------------------------------------------------- moving about


def test_the_period_is_chosen_moved_and_kept_in_the_address(site: Site) -> None:
    async def story() -> None:
        async with site.page() as page:
            chosen = page.locator(".segmented [aria-pressed=true]")

            assert (await texts(page, ".segmented [aria-pressed=true]"), query_of(page)) == (["7 d"], {})
            await page.get_by_role("button", name="24 h").click()
            await settled(page)
            assert query_of(page) == {"range": ["24h"]}
            assert await page.get_by_role("button", name="The period after").is_disabled()
            await page.get_by_role("button", name="The period before").click()
            await settled(page)
            moved = {name: datetime.fromisoformat(value) for name, (value,) in query_of(page).items()}
            assert moved["to"] - moved["from"] == timedelta(hours=24)
            assert timedelta(hours=23) <= datetime.now(UTC) - moved["to"] <= timedelta(hours=25)
            await page.get_by_role("button", name="The period after").click()
            await settled(page)
            await page.go_back()
            await page.go_back()
            await settled(page)
            assert query_of(page) == {"range": ["24h"]}
            assert await chosen.inner_text() == "24 h"

    site.run(story)


def test_days_of_ones_own_are_chosen_with_the_last_one_included(site: Site) -> None:
    async def story() -> None:
        async with site.page() as page:
            await page.get_by_role("button", name="Days…").click()
            await page.get_by_label("From").fill(f"{TO:%Y-%m-%d}")
            await page.get_by_label("To, that").fill(f"{FROM:%Y-%m-%d}")
            await page.get_by_role("button", name="Show", exact=True).click()
            await page.get_by_role("alert").filter(has_text="after the last").wait_for()
            await page.get_by_label("From").fill(f"{FROM:%Y-%m-%d}")
            await page.get_by_label("To, that").fill(f"{TO - timedelta(days=1):%Y-%m-%d}")
            await page.get_by_role("button", name="Show", exact=True).click()
            await settled(page)
            (row,) = (await site.ask(f"/v1/summary?{WEEK}"))["data"]

            assert urlsplit(page.url).query == WEEK
            assert await figure(page, "submitted") == f"{row['totalMessages']:,}"

    site.run(story)


def test_an_operator_opens_to_its_hours_and_back(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            await page.locator("#panel-operators").get_by_role("link", name="Nordtel", exact=True).click()
            await page.locator("#panel-hours tbody tr").first.wait_for()
            operator = next(each for each in site.members.operators if each.name == "Nordtel")
            rows = (await site.ask(f"/v1/operators/performance?{WEEK}&operatorId={operator.id}&limit=1000"))["data"]
            await page.get_by_role("button", name="Show all").click()
            shown = await cells(page, "hours")

            assert query_of(page)["operator"] == [operator.id]
            assert await texts(page, "h1") == ["Nordtel"]
            assert len(shown) == len(rows)
            assert shown[0][1:8] == [
                f"{rows[-1]['totalMessages']:,}",
                f"{rows[-1]['deliveredMessages']:,}",
                f"{rows[-1]['failedMessages']:,}",
                f"{rows[-1]['errorCount']:,}",
                percent(rows[-1]["deliveryRate"]),
                seconds(rows[-1]["avgLatencyMs"]),
                seconds(rows[-1]["latencyP95Ms"] if rows[-1]["latencySampleCount"] else None),
            ]
            await page.get_by_role("link", name="All", exact=True).click()
            await page.locator("#panel-accounts tbody tr").first.wait_for()
            assert await texts(page, "h1") == ["Platform"]

    site.run(story)


def test_a_day_of_a_chart_opens_its_hours(site: Site) -> None:
    async def story() -> None:
        days = {datetime.now(UTC).date()}
        async with site.page("/?range=30d") as page:
            days.add(datetime.now(UTC).date())
            chart = page.get_by_role("slider", name="Messages by status")
            await chart.focus()
            await page.keyboard.press("End")
            await page.keyboard.press("ArrowLeft")
            await page.keyboard.press("Enter")
            await settled(page)
            opened = {name: datetime.fromisoformat(value) for name, (value,) in query_of(page).items()}

            assert opened["to"].date() in days
            assert opened["to"] - opened["from"] == timedelta(days=1)
            assert "by hour" in (await texts(page, "#panel-volume .note"))[0]

    site.run(story)


# ------------------------------------------------------------------------------------------------- what a panel can do


def test_a_panel_turns_into_a_table_and_the_address_remembers(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            await page.get_by_role("button", name="Messages as a table").click()
            rows = (await site.ask(f"/v1/summary?{WEEK}&groupBy=hour"))["data"]
            shown = await cells(page, "volume")

            assert len(shown) == len(rows) == 6 * 24
            assert [row[1] for row in shown] == [f"{row['totalMessages']:,}" for row in rows]
            assert [amount(row[6]) for row in shown] == [row["totalCost"] for row in rows]
            assert query_of(page)["table"] == ["volume"]
            await page.reload()
            await settled(page)
            assert len(await cells(page, "volume")) == len(rows)
            await page.get_by_role("button", name="Messages as a picture").click()
            assert await page.locator("#panel-volume anlyt-chart").count() == 1

    site.run(story)


@pytest.mark.parametrize(
    ("panel", "key", "first", "column"),
    [
        ("Operators", "operators", "scopeId", "totalCost"),
        ("Messages", "volume", "start", "totalCost"),
        ("Accounts", "accounts", "scopeId", "totalCost"),
    ],
)
def test_a_file_has_the_exact_values_of_the_table(site: Site, panel: str, key: str, first: str, column: str) -> None:
    questions = {
        "operators": "&scope=OPERATOR&groupBy=scopeId&sort=deliveryRate&order=asc",
        "volume": "&groupBy=hour",
        "accounts": "&scope=ACCOUNT&groupBy=scopeId&sort=totalCost&limit=10",
    }

    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page, page.expect_download() as coming:
            await page.get_by_role("button", name=f"{panel} as CSV").click()
            download = await coming.value
            text = read(await download.path())
            rows = (await site.ask(f"/v1/summary?{WEEK}{questions[key]}"))["data"]
            found = list(csv.DictReader(io.StringIO(text)))

            assert download.suggested_filename == f"anlyt-{key}.csv"
            assert [(row[first], row[column]) for row in found] == [(row[first], row[column]) for row in rows]
            assert [row["totalMessages"] for row in found] == [str(row["totalMessages"]) for row in rows]

    site.run(story)


def test_the_copied_command_asks_the_same_question_without_a_key_in_it(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}", permissions=["clipboard-read", "clipboard-write"]) as page:
            await page.get_by_role("button", name="Copy Key figures as curl").click()
            text = await wait_until(lambda: page.evaluate("() => navigator.clipboard.readText()"))
            commands = re.findall(r"""^curl -H "Authorization: Bearer \$ANLYT_KEY" '([^']+)'$""", text, re.MULTILINE)
            answers = [await site.ask(command.removeprefix(site.address)) for command in commands]

            assert len(commands) == len(text.splitlines()) == 2
            assert f"{answers[0]['data'][0]['totalMessages']:,}" == await figure(page, "submitted")
            assert seconds(answers[1]["data"][0]["latencyP95Ms"]) in await figure(page, "latency")

    site.run(story)


def test_how_a_number_is_counted_is_told_beside_it(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            asked = page.get_by_role("button", name="How is Messages counted?")
            await asked.focus()
            await page.keyboard.press("Enter")
            dialog = page.get_by_role("dialog", name="How is Messages counted?")
            await dialog.wait_for()

            assert "submitted = delivered + failed + pending" in await dialog.inner_text()
            assert await axe(page) == []
            await page.keyboard.press("Escape")
            await dialog.wait_for(state="detached")
            assert await asked.evaluate("(button) => button === document.activeElement")

    site.run(story)


def test_charts_are_read_with_the_keyboard_alone(site: Site) -> None:
    async def story() -> None:
        async with site.page(f"/?{WEEK}") as page:
            rows = (await site.ask(f"/v1/summary?{WEEK}&groupBy=hour"))["data"]
            chart = page.get_by_role("slider", name="Messages by status")
            await chart.focus()
            said: list[str | None] = []
            for key in ("ArrowRight", "ArrowLeft", "Home", "PageDown", "End"):
                await page.keyboard.press(key)
                said.append(await chart.get_attribute("aria-valuetext"))
            places = [len(rows) - 1, len(rows) - 2, 0, 24, len(rows) - 1]

            for place, text in zip(places, said, strict=True):
                row = rows[place]
                assert text is not None
                assert text.endswith(
                    f": delivered {row['deliveredMessages']:,}, failed {row['failedMessages']:,}, "
                    f"pending {row['pendingMessages']:,}"
                )
                assert f"{datetime.fromisoformat(row['start']):%H:%M}{DASH}" in text
            latency = page.get_by_role("slider", name="Latency")
            assert await latency.get_attribute("aria-valuenow") == str(places[-1])
            assert await page.locator("#panel-volume .tip").is_visible()
            await page.keyboard.press("Escape")
            assert await page.locator("#panel-volume .tip").is_hidden()

    site.run(story)


# ------------------------------------------------------------------------------------------------------ live and broken


def test_what_is_counted_appears_without_a_reload(site: Site) -> None:
    async def story() -> None:
        async with site.page(AROUND_NOW, key="account") as page:
            before = await figure(page, "submitted")
            async with stream_of(site.settings) as nc:
                body = submitted(datetime.now(UTC), accountId=site.members.accounts[0].id)
                await nc.jetstream().publish(site.settings.subjects.replace(">", "sms"), body)
            await count(site.settings)
            expected = f"{int(before.replace(',', '')) + 1:,}"
            await page.wait_for_function(
                "(text) => document.querySelector('[data-figure=submitted] .value').innerText.trim() === text",
                arg=expected,
            )

            assert "Complete through" in (await texts(page, ".badge"))[0]

    site.run(story)


def test_where_nothing_is_sent_live_the_page_asks_by_itself(site: Site) -> None:
    async def story() -> None:
        async with site.context() as context:
            page = await context.new_page()
            await page.route("**/v1/live?*", lambda route: route.fulfill(status=503))
            await page.clock.install()
            await page.goto(site.address + AROUND_NOW)
            await sign_in(page, site.keys["account"])
            await settled(page)
            before = int((await figure(page, "submitted")).replace(",", ""))
            async with stream_of(site.settings) as nc:
                body = submitted(datetime.now(UTC), accountId=site.members.accounts[0].id)
                await nc.jetstream().publish(site.settings.subjects.replace(">", "sms"), body)
            await count(site.settings)
            await page.clock.fast_forward(15_000)
            shown = page.locator("[data-figure=submitted] .value")

            await shown.get_by_text(f"{before + 1:,}", exact=True).wait_for()

    site.run(story)


def test_when_the_service_goes_away_the_numbers_stay_and_say_so_until_it_is_back(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?range=24h", key="account") as page:
            before = await figure(page, "submitted")
            await page.context.set_offline(offline=True)
            badge = page.locator(".badge")
            await badge.filter(has_text="No connection since").wait_for()

            assert await figure(page, "submitted") == before
            assert await page.locator(".panel.stale").count() > 0
            assert "no longer renewed" in (await texts(page, "#panel-numbers .told"))[0]
            assert await axe(page) == []
            await page.context.set_offline(offline=False)
            await page.get_by_role("button", name="Try again").first.click()
            await badge.filter(has_text="Complete through").wait_for()
            await page.wait_for_function("() => !document.querySelector('.panel.stale')")

    site.run(story)


def test_one_question_that_fails_leaves_the_others_and_can_be_asked_again(site: Site) -> None:
    problem = (
        '{"type":"urn:anlyt:problem:too-slow","title":"The answer took too long","status":503,"detail":"ask less"}'
    )

    async def story() -> None:
        async with site.context() as context:
            page = await context.new_page()

            async def fail(route: Any) -> None:
                await route.fulfill(status=503, content_type="application/problem+json", body=problem)

            await page.route("**/v1/summary?*groupBy=scopeId*scope=OPERATOR*", fail)
            await page.route("**/v1/summary?*scope=OPERATOR*groupBy=scopeId*", fail)
            await page.goto(f"{site.address}/?{WEEK}")
            await sign_in(page, site.keys["platform"])
            await settled(page)
            broken = page.locator("#panel-operators .state.error")

            assert "The answer took too long" in await broken.inner_text()
            assert len(await cells(page, "accounts")) == 10
            await page.unroute_all()
            await broken.get_by_role("button", name="Try again").click()
            await page.locator("#panel-operators tbody tr").first.wait_for()

    site.run(story)


def test_a_revoked_key_ends_at_the_sign_in_page_with_the_reason(site: Site) -> None:
    async def story() -> None:
        async with site.page("/?range=24h", key="operators") as page:
            async with database(site.settings) as conn:
                await conn.execute("UPDATE anlyt.api_keys SET revoked_at = now() WHERE name = 'operators'")
            await page.get_by_role("button", name="7 d").click()
            await page.get_by_role("alert").filter(has_text="revoked").wait_for()
            async with database(site.settings) as conn:
                await conn.execute("UPDATE anlyt.api_keys SET revoked_at = NULL WHERE name = 'operators'")

            assert await page.get_by_label("API key").is_visible()

    site.run(story)


# --------------------------------------------------------------------------------------------------------------- looks


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/", None),
        (f"/?{WEEK}", "platform"),
        (f"/?{WEEK}&table=numbers,volume,latency,peak,operators,accounts", "platform"),
        (f"/?{WEEK}", "operator"),
        ("/", "idle"),
    ],
)
def test_axe_finds_nothing_serious(site: Site, path: str, key: str | None, theme: str) -> None:
    async def story() -> None:
        async with site.page(path, key=key, color_scheme=theme) as page:
            assert await axe(page) == []

    site.run(story)


def test_the_theme_follows_the_system_until_it_is_chosen(site: Site) -> None:
    colours = """() => {
        const style = getComputedStyle(document.documentElement);
        const probe = document.body.appendChild(document.createElement("i"));
        const of = (name) => { probe.style.color = `var(--${name})`; return getComputedStyle(probe).color; };
        return ["delivered", "failed", "pending", "latency", "cost"].map(of);
    }"""
    light = ["#0072B2", "#C2410C", "#6B7280", "#00796B", "#8E4585"]
    dark = ["#56B4E9", "#F28E5C", "#9CA3AF", "#2FBF9B", "#D6A0C4"]

    async def story() -> None:
        async with site.page(key="account", color_scheme="dark") as page:
            assert await page.evaluate(colours) == [rgb(each) for each in dark]
            await page.get_by_role("button", name="Theme: as the system").click()
            assert await page.evaluate(colours) == [rgb(each) for each in light]
            await page.reload()
            await settled(page)
            assert await page.evaluate(colours) == [rgb(each) for each in light]
            await page.get_by_role("button", name="Theme: light").click()
            assert await page.evaluate(colours) == [rgb(each) for each in dark]

    site.run(story)


def rgb(colour: str) -> str:
    return "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))


# What sticks out on the right, once a frame has been drawn: charts follow the width of their panels in the next one.
STICKING_OUT = """async (width) => {
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const sticks = (each) => !each.closest(".scroll") && each.getBoundingClientRect().right > width + 0.5;
  const wide = [...document.querySelectorAll("body *")].filter(sticks).map((each) => each.outerHTML.slice(0, 120));
  return wide.length ? wide : document.documentElement.scrollWidth > width ? ["the page itself"] : [];
}"""
CUT_OFF = """() => {
  for (const each of document.querySelectorAll(".figure .second")) each.lastChild.textContent = "3,456.78 s";
  for (const each of document.querySelectorAll(".figure .first"))
    each.firstChild.textContent = each.closest("[data-figure=cost]") ? "12,345,678" : "3,456.78 s";
  const cut = (each) => each.scrollWidth > each.clientWidth + 1;
  return [...document.querySelectorAll(".figure .value")].filter(cut).map((each) => each.innerText);
}"""


@pytest.mark.parametrize("width", [360, 600, 834, 1024, 1440, 2200])
def test_the_page_fits_every_width(site: Site, width: int) -> None:
    async def story() -> None:
        for path in (f"/?{WEEK}", "/?view=status"):
            async with site.page(path, viewport={"width": width, "height": 900}) as page:
                assert await page.evaluate(STICKING_OUT, width) == []
                assert await page.evaluate(CUT_OFF) == []

    site.run(story)


def test_who_wants_no_motion_gets_none(site: Site) -> None:
    async def story() -> None:
        async with site.page(key="account", reduced_motion="reduce") as page:
            moving = await page.evaluate(
                "() => document.getAnimations().length + [...document.querySelectorAll('*')].filter((each) => "
                "parseFloat(getComputedStyle(each).transitionDuration) > 0).length"
            )

            assert moving == 0

    site.run(story)
