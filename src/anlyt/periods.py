"""A period cut into spans, and spans into the buckets whose rows add up to them. Pure.

In: a half-open period, what to group by, a time zone. Out: Spans in UTC with whole hours as bounds, and for each the
day rows that lie inside of it whole and the hour rows of what is left, so that a year is summed from few rows and still
exactly. A bucket belongs to the period it starts in. A local day has 23, 24 or 25 hours; a zone whose offset is not
whole hours has days that no sum of hours is, and is refused.
"""

from __future__ import annotations

import zoneinfo
from bisect import bisect_left, bisect_right
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct

from anlyt.errors import RequestError
from anlyt.events import HOT_RETENTION_US

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GroupBy = Literal["none", "scopeId", "hour", "day", "month"]

SPANS_MAX: Final = 1_000
HOUR: Final = timedelta(hours=1)
DAY: Final = timedelta(days=1)
WEEK: Final = timedelta(weeks=1)
HOURS_A_DAY: Final = 24
DAYS_A_WEEK: Final = 7
MONDAY: Final = 0
HOT_HOURS: Final = timedelta(microseconds=HOT_RETENTION_US)  # how long hour rows are kept
HOT_DAYS: Final = timedelta(days=365)  # and day rows


class Span(Struct, frozen=True):
    """One group of a summary: from `start` up to but not including `end`, whole hours of UTC."""

    start: datetime
    end: datetime


class Buckets(Struct, frozen=True):
    """The rows that make up spans: bucket starts, each with the number of its span."""

    hours: list[datetime]
    hour_spans: list[int]
    days: list[datetime]
    day_spans: list[int]


class SignedBuckets(Struct, frozen=True):
    """The rows that make up spans, some of them to be taken away: hours with sign -1, each from its day.

    `reduced`: for each day whether hours are taken from it.
    """

    hours: list[datetime]
    hour_spans: list[int]
    signs: list[int]
    days: list[datetime]
    day_spans: list[int]
    reduced: list[bool]


class Weeks(Struct, frozen=True):
    """Days of spans as whole weeks, from Monday on, and the days that are left."""

    weeks: list[datetime]
    week_spans: list[int]
    days: list[datetime]
    day_spans: list[int]


def read_zone(name: str) -> tzinfo | None:
    """The zone of an IANA name; None when there is none."""
    if name == "UTC":
        return UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (OSError, ValueError, zoneinfo.ZoneInfoNotFoundError):
        return None


def cut(start: datetime, end: datetime, group_by: GroupBy, zone: tzinfo = UTC) -> list[Span]:
    """The spans of a period, in order. Raises RequestError 422 for a zone or a number of spans that cannot be."""
    start, end = ceil_hour(start), ceil_hour(end)
    if start == end:
        raise _refused("from", "invalid-parameter", "no hour begins in this period; ask for at least one hour")
    if group_by in {"none", "scopeId"}:
        return [Span(start, end)]
    _check_offsets(start, end, zone)
    spans: list[Span] = []
    for lower, upper in _bounds(start, end, group_by, zone):
        if upper > start:
            spans.append(Span(max(lower, start), min(upper, end)))
        if len(spans) > SPANS_MAX:
            raise _refused(
                "groupBy",
                "period-too-long",
                f"the period has more than {SPANS_MAX} times one {group_by}; ask in parts, or by something longer",
            )
    return spans


def find_buckets(spans: Sequence[Span], now: datetime, *, archived: bool = False) -> Buckets:
    """The rows that add up to each span. Raises RequestError 422 for rows that are not kept, where no archive is."""
    buckets = Buckets([], [], [], [])
    for number, span in enumerate(spans):
        first_day = ceil_day(span.start)
        last_day = max(first_day, span.end.replace(hour=0))
        whole_days = first_day < last_day
        for day in _steps(first_day, last_day, DAY):
            buckets.days.append(day)
            buckets.day_spans.append(number)
        edges = ((span.start, first_day), (last_day, span.end)) if whole_days else ((span.start, span.end),)
        for lower, upper in edges:
            for hour in _steps(lower, upper, HOUR):
                buckets.hours.append(hour)
                buckets.hour_spans.append(number)
    if archived:
        return buckets
    if buckets.days and min(buckets.days) + DAY <= now - HOT_DAYS:
        raise _refused("from", "period-too-long", f"rows are kept for {HOT_DAYS.days} days; begin later")
    if buckets.hours and min(buckets.hours) + HOUR <= now - HOT_HOURS:
        raise _refused(
            "from",
            "period-too-long",
            f"rows of hours are kept for {HOT_HOURS.days} days; further back only whole days of UTC can be summed: "
            "begin at midnight UTC (a date), with groupBy=none, scopeId, day or month and timezone=UTC",
        )
    return buckets


def by_whole_days(buckets: Buckets, whole_from: datetime) -> SignedBuckets:
    """The same rows as fewer ones, for sums that can be taken from each other.

    A day of which most hours are wanted becomes the whole day less the others, so a local day takes a few rows. Days
    that begin before `whole_from` may have lost their row, or some of their hours. Buckets and spans ascend.
    """
    found = SignedBuckets([], [], [], [*buckets.days], [*buckets.day_spans], [False] * len(buckets.days))
    first = 0
    while first < len(buckets.hours):
        lower, span = buckets.hours[first], buckets.hour_spans[first]
        day = lower.replace(hour=0)
        last = bisect_left(buckets.hours, day + DAY, first, bisect_right(buckets.hour_spans, span, first))
        hours, sign = buckets.hours[first:last], 1
        if 2 * len(hours) > HOURS_A_DAY and day >= whole_from:
            found.days.append(day)
            found.day_spans.append(span)
            found.reduced.append(True)
            hours, sign = [*_steps(day, lower, HOUR), *_steps(hours[-1] + HOUR, day + DAY, HOUR)], -1
        found.hours.extend(hours)
        found.hour_spans.extend([span] * len(hours))
        found.signs.extend([sign] * len(hours))
        first = last
    return found


def by_weeks(days: Sequence[datetime], day_spans: Sequence[int]) -> Weeks:
    """The same days as fewer rows: seven of one span from a Monday on are a week. No day is twice in a span."""
    found = Weeks([], [], [], [])
    places = sorted(zip(day_spans, days, strict=True))
    first = 0
    while first < len(places):
        span, day = places[first]
        if day.weekday() == MONDAY and places[first + DAYS_A_WEEK - 1 :][:1] == [(span, day + WEEK - DAY)]:
            found.weeks.append(day)
            found.week_spans.append(span)
            first += DAYS_A_WEEK
        else:
            found.days.append(day)
            found.day_spans.append(span)
            first += 1
    return found


def split_buckets(buckets: Buckets, hours_from: datetime, days_from: datetime) -> tuple[Buckets, Buckets]:
    """The buckets before the borders, and from them on."""
    before, behind = Buckets([], [], [], []), Buckets([], [], [], [])
    for hour, span in zip(buckets.hours, buckets.hour_spans, strict=True):
        side = before if hour < hours_from else behind
        side.hours.append(hour)
        side.hour_spans.append(span)
    for day, span in zip(buckets.days, buckets.day_spans, strict=True):
        side = before if day < days_from else behind
        side.days.append(day)
        side.day_spans.append(span)
    return before, behind


def ceil_hour(moment: datetime) -> datetime:
    """The first start of an hour that is not before `moment`."""
    floor = moment.replace(minute=0, second=0, microsecond=0)
    return floor if floor == moment else floor + HOUR


def ceil_day(moment: datetime) -> datetime:
    """The first start of a UTC day that is not before `moment`."""
    floor = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return floor if floor == moment else floor + DAY


def _steps(start: datetime, end: datetime, step: timedelta) -> Iterator[datetime]:
    while start < end:
        yield start
        start += step


def _bounds(start: datetime, end: datetime, group_by: GroupBy, zone: tzinfo) -> Iterator[tuple[datetime, datetime]]:
    """Starts and ends of the hours, local days or local months that touch a period."""
    if group_by == "hour":
        yield from ((hour, hour + HOUR) for hour in _steps(start, end, HOUR))
        return
    day = start.astimezone(zone).date()
    day = day.replace(day=1) if group_by == "month" else day
    lower = _midnight(day, zone)
    while lower < end:
        day = (day.replace(day=1) + 31 * DAY).replace(day=1) if group_by == "month" else day + DAY
        upper = _midnight(day, zone)
        yield lower, upper
        lower = upper


def _midnight(day: date, zone: tzinfo) -> datetime:
    """The instant a local day begins at; where clocks skip midnight, the instant they do."""
    return datetime.combine(day, time(), zone).astimezone(UTC)


def _check_offsets(start: datetime, end: datetime, zone: tzinfo) -> None:
    for moment in (*_steps(start, end, DAY), end):  # no zone keeps an offset for less than a day
        offset = moment.astimezone(zone).utcoffset()
        assert offset is not None, "an aware instant has an offset"
        if offset % HOUR:
            raise _refused(
                "timezone",
                "invalid-parameter",
                f"the clocks of {zone} differ from UTC by {_shown(offset)} in this period, but numbers are kept by "
                "whole hours of UTC, so its days cannot be summed; take a zone that differs by whole hours, or UTC",
            )


def _shown(offset: timedelta) -> str:
    minutes = abs(offset) // timedelta(minutes=1)
    return f"{'-' if offset < timedelta() else '+'}{minutes // 60}:{minutes % 60:02}"


def _refused(parameter: str, code: str, detail: str) -> RequestError:
    return RequestError(detail, status=422, code=code, parameter=parameter)
