"""`anlyt top`: the operators of this moment, worst first, as frames for a terminal of any size.

In: a connection, what to sort by. Out: a Frame read in one snapshot's time, and what it looks like at a width and
height. Delivery, failures and latency are those of the messages submitted since `since`, as /v1/summary sums them;
rates come from the counts per second, and end where everything has been counted, so that lag is no dip.
"""

from __future__ import annotations

import asyncio
import math
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, assert_never, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from anlyt.access import PLATFORM_ID, make_grant
from anlyt.errors import Retry, UsageError
from anlyt.periods import HOUR
from anlyt.postgres import session, sql
from anlyt.queries import LIMIT_MAX, read_summary
from anlyt.screen import QUIT, Screen
from anlyt.summaries import Summary, SummaryRow
from anlyt.summaries import read_summary as sum_up
from anlyt.terminal import sparkline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractAsyncContextManager

    from asyncpg import Connection, Record

    from anlyt.settings import Settings

SortBy = Literal["delivery", "failed", "latency", "rate"]
SORTS: Final[tuple[SortBy, ...]] = get_args(SortBy)

STEP_S: Final = 10  # of the little graph of rates
STEPS: Final = 18  # three minutes
RATE_STEPS: Final = 6  # the rate is that of the last minute
SETTLED_S: Final = 2  # messages of a second arrive a little after it
WINDOW_MAX: Final = timedelta(hours=24)
LAG_MAX_S: Final = 60.0  # more is said loudly
SICK_RATE: Final = 0.90
WEAK_RATE: Final = 0.97
FIXED_LINES: Final = 5  # of a frame, around the operators
RETRY_S: Final = 1.0
WHOLE_RATE: Final = 10_000  # messages a second, from which there is no decimal
COUNT_WRITTEN_OUT: Final = 100_000  # counts from here on get a unit: k, M, G
ID_CHARS: Final = 36
ID_CHARS_NARROW: Final = 13
WIDE: Final = 80  # columns, from which ids are shown whole
WIDE_TREND: Final = 104  # and from which there is a graph


class Traffic(Struct, frozen=True, rename="camel"):
    """What an operator, or the platform, does now."""

    scope_id: str
    messages_per_second: float
    trend: tuple[float, ...]  # messages a second, STEP_S a step, the oldest first
    total_messages: int
    delivered_messages: int
    failed_messages: int
    pending_messages: int
    delivery_rate: float | None
    latency_p95_ms: int | None


class Frame(Struct, frozen=True, rename="camel"):
    """One look at the service."""

    as_of: datetime
    complete_through: datetime | None
    lag_seconds: float | None
    since: datetime
    platform: Traffic
    operators: list[Traffic]


class View(Struct, frozen=True):
    """How the frame is looked at; keys change it."""

    sort: SortBy = "delivery"
    paused: bool = False
    scrolled: int = 0


# ------------------------------------------------------------------------------------------------------------- reading


async def read_frame(conn: Connection[Record], settings: Settings, *, window: timedelta, now: datetime) -> Frame:
    """The operators' traffic since the start of the hour `window` ago. Raises DatabaseUnavailable."""
    since = (now - window).replace(minute=0, second=0, microsecond=0)
    operators = await _sum(conn, settings, since, now, scope="OPERATOR", group_by="scopeId")
    platform = await _sum(conn, settings, since, now, scope="PLATFORM", group_by="none")
    meta = operators.meta
    counted = min(meta.as_of, meta.complete_through or meta.as_of)
    end = counted.replace(microsecond=0) - timedelta(seconds=SETTLED_S)
    seconds: dict[str, list[float]] = {}
    for scope_id, step, messages in map(tuple, await conn.fetch(sql("top/list_seconds"), end, STEP_S, STEPS)):
        seconds.setdefault(scope_id, [0.0] * STEPS)[step] = messages / STEP_S
    return Frame(
        as_of=meta.as_of,
        complete_through=meta.complete_through,
        lag_seconds=meta.lag_seconds,
        since=since,
        platform=_traffic(platform.data[0], seconds),
        operators=[_traffic(row, seconds) for row in operators.data],
    )


async def _sum(conn: Connection[Record], settings: Settings, since: datetime, now: datetime, **asked: str) -> Summary:
    grant = make_grant("PLATFORM", [], ["metrics:read"])
    end = now.replace(minute=0, second=0, microsecond=0) + HOUR
    pairs = [("scope", asked["scope"]), ("groupBy", asked["group_by"]), ("from", _iso(since)), ("to", _iso(end))]
    if asked["group_by"] == "scopeId":
        pairs.append(("limit", str(LIMIT_MAX)))
    return await sum_up(conn, grant, read_summary(pairs, grant=grant, now=now), settings=settings)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _traffic(row: SummaryRow, seconds: Mapping[str, list[float]]) -> Traffic:
    scope_id = row.scope_id or PLATFORM_ID
    trend = seconds.get(scope_id, [0.0] * STEPS)
    return Traffic(
        scope_id=scope_id,
        messages_per_second=round(sum(trend[-RATE_STEPS:]) / RATE_STEPS, 3),
        trend=tuple(trend),
        total_messages=row.total_messages,
        delivered_messages=row.delivered_messages,
        failed_messages=row.failed_messages,
        pending_messages=row.pending_messages,
        delivery_rate=row.delivery_rate,
        latency_p95_ms=row.latency_p95_ms,
    )


# ------------------------------------------------------------------------------------------------------------ watching


class _Latest:
    """The newest frame, and why there is none newer."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.note = ""


async def read_once(settings: Settings, *, window: timedelta) -> Frame:
    """One frame. Raises DatabaseUnavailable."""
    async with _session(settings) as conn:
        return await read_frame(conn, settings, window=window, now=datetime.now(UTC))


async def watch(settings: Settings, *, sort: SortBy, window: timedelta, interval_s: float, stop: asyncio.Event) -> None:
    """Draw a frame every `interval_s` until a key or `stop` ends it. Raises DatabaseUnavailable when there is none."""
    latest = _Latest(await read_once(settings, window=window))
    view, frame = View(sort), latest.frame
    async with asyncio.TaskGroup() as tasks:
        with Screen() as screen:
            helpers = [
                tasks.create_task(_keep_reading(settings, latest, screen, window=window, interval_s=interval_s)),
                tasks.create_task(_quit_at(stop, screen)),
            ]
            key = ""
            while key not in QUIT:
                width, height = screen.size
                view = press(view, key, rows=len(frame.operators), shown=rows_shown(height))
                frame = frame if view.paused else latest.frame
                screen.draw(draw(frame, view, width=width, height=height, footer=latest.note or keys_of(view)))
                key = await screen.keys.get()
            for helper in helpers:
                helper.cancel()


async def _keep_reading(
    settings: Settings, latest: _Latest, screen: Screen, *, window: timedelta, interval_s: float
) -> None:
    """New frames over one session; over another when it breaks."""
    while True:
        try:
            async with _session(settings) as conn:
                while True:
                    latest.frame = await read_frame(conn, settings, window=window, now=datetime.now(UTC))
                    latest.note = ""
                    screen.redraw()
                    await asyncio.sleep(interval_s)
        except Retry as error:
            latest.note = f"not fresh: {error}"
            screen.redraw()
            await asyncio.sleep(max(interval_s, RETRY_S))


async def _quit_at(stop: asyncio.Event, screen: Screen) -> None:
    await stop.wait()
    screen.quit()


def _session(settings: Settings) -> AbstractAsyncContextManager[Connection[Record]]:
    assert settings.database_url is not None
    return session(settings.database_url.get_secret_value(), application="anlyt-top")


# ------------------------------------------------------------------------------------------------------------- showing


def sort_operators(operators: list[Traffic], sort: SortBy) -> list[Traffic]:
    """The worst first; those without a value last."""

    def badness(operator: Traffic) -> float:
        match sort:
            case "delivery":
                return math.inf if operator.delivery_rate is None else operator.delivery_rate
            case "failed":
                return -operator.failed_messages
            case "latency":
                return math.inf if operator.latency_p95_ms is None else -operator.latency_p95_ms
            case "rate":
                return -operator.messages_per_second
            case _:
                assert_never(sort)

    return sorted(operators, key=lambda operator: (badness(operator), operator.scope_id))


def read_sort(text: str) -> SortBy:
    """What to sort by. Raises UsageError."""
    for sort in SORTS:
        if sort == text:
            return sort
    raise UsageError(f"--sort takes {', '.join(SORTS)}, not {text!r}")


def press(view: View, key: str, *, rows: int, shown: int) -> View:
    """The view after a key: s sorts by the next value, space pauses, j and k scroll; other keys change nothing."""
    last = max(0, rows - shown)
    match key:
        case "s":
            following = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]
            return View(following, view.paused, 0)
        case " " | "p":
            return View(view.sort, not view.paused, view.scrolled)
        case "j":
            return View(view.sort, view.paused, min(view.scrolled + 1, last))
        case "k":
            return View(view.sort, view.paused, max(min(view.scrolled, last) - 1, 0))
        case _:
            return view


def rows_shown(height: int) -> int:
    """How many operators a terminal of this height has room for."""
    return max(1, height - FIXED_LINES)


def draw(frame: Frame, view: View, *, width: int, height: int, footer: str = "") -> RenderableType:
    """The frame as it fits a terminal."""
    operators = sort_operators(frame.operators, view.sort)
    shown = rows_shown(height)
    first = min(view.scrolled, max(0, len(operators) - shown))
    table = _table(operators[first : first + shown], wide=width >= WIDE, trend=width >= WIDE_TREND)
    below = len(operators) - first - shown
    if not operators:
        more = f"no operator has had a message since {frame.since:%H:%M} UTC"
    else:
        more = f"{below} more below" if below > 0 else ""
    last = Text(footer, style="dim", no_wrap=True, overflow="ellipsis")
    return Group(_headline(frame, view), _platform(frame), table, Text(more, style="dim"), last)


def show(frame: Frame, sort: SortBy, *, as_json: bool) -> None:
    """One frame on stdout, every operator of it."""
    frame = replace(frame, operators=sort_operators(frame.operators, sort))
    if as_json:
        sys.stdout.write(msgspec.json.encode(frame).decode() + "\n")
        return
    console = Console(width=None if sys.stdout.isatty() else WIDE_TREND)
    console.print(draw(frame, View(sort), width=console.width, height=len(frame.operators) + FIXED_LINES))


def keys_of(view: View) -> str:
    """What the keys do."""
    words = {"delivery": "worst delivery", "failed": "most failed", "latency": "slowest", "rate": "busiest"}
    return f"q quit   s sort: {words[view.sort]} first   space {'go on' if view.paused else 'pause'}   j k scroll"


def _headline(frame: Frame, view: View) -> Text:
    line = Text("anlyt top  ", style="bold", no_wrap=True, overflow="ellipsis")
    if frame.complete_through is None or frame.lag_seconds is None:
        line.append("nothing has been counted yet: run anlyt worker", style="bold red")
    else:
        line.append(f"complete through {frame.complete_through:%Y-%m-%d %H:%M:%S} UTC, ", style="not bold")
        behind = frame.lag_seconds > LAG_MAX_S
        lag = f"{frame.lag_seconds:,.0f} s behind: is a worker running?" if behind else f"{frame.lag_seconds:.1f} s ago"
        line.append(lag, style="bold red" if behind else "not bold")
    if view.paused:
        line.append("  PAUSED", style="bold yellow")
    return line


def _platform(frame: Frame) -> Text:
    platform = frame.platform
    parts = [
        f"{_rate(platform.messages_per_second)} messages/s",
        f"{_count(platform.total_messages)} since {frame.since:%H:%M} UTC",
        f"{_percent(platform.delivery_rate)} delivered",
        f"{_count(platform.failed_messages)} failed",
        f"{_count(platform.pending_messages)} pending",
    ]
    return Text(", ".join(parts), no_wrap=True, overflow="ellipsis")


def _table(operators: list[Traffic], *, wide: bool, trend: bool) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="reverse", show_edge=False)
    table.add_column("operator", width=ID_CHARS if wide else ID_CHARS_NARROW, no_wrap=True)
    for heading, chars in (("msg/s", 8), ("delivered", 9), ("failed", 7), ("pending", 7), ("p95 ms", 7)):
        table.add_column(heading, width=chars, justify="right", no_wrap=True)
    if trend:
        table.add_column(f"{STEPS * STEP_S // 60} min", width=STEPS, no_wrap=True)
    for operator in operators:
        cells = [
            Text(operator.scope_id if wide else _short(operator.scope_id)),
            Text(_rate(operator.messages_per_second)),
            Text(_percent(operator.delivery_rate), style=_health(operator.delivery_rate)),
            Text(_count(operator.failed_messages)),
            Text(_count(operator.pending_messages)),
            Text("-" if operator.latency_p95_ms is None else _count(operator.latency_p95_ms)),
        ]
        table.add_row(*cells, *([Text(sparkline(operator.trend), style="cyan")] if trend else []))
    return table


def _health(rate: float | None) -> str:
    if rate is None or rate >= WEAK_RATE:
        return ""
    return "bold red" if rate < SICK_RATE else "yellow"


def _short(scope_id: str) -> str:
    return f"{scope_id[:4]}..{scope_id[-7:]}"


def _rate(rate: float) -> str:
    return f"{rate:,.1f}" if rate < WHOLE_RATE else _count(round(rate))


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate * 100:.1f} %"


def _count(count: int) -> str:
    """At most seven characters, whatever the count."""
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(count) >= max(10 * size, COUNT_WRITTEN_OUT):
            return f"{count / size:,.1f}{unit}"
    return f"{count:,}"
