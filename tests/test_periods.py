"""Periods cut into spans and rows: days of 23, 24 and 25 hours, every row in one span once, odd zones refused."""

from __future__ import annotations

import zoneinfo
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anlyt.errors import RequestError
from anlyt.periods import (
    DAY,
    HOT_DAYS,
    HOT_HOURS,
    HOUR,
    SPANS_MAX,
    Span,
    by_weeks,
    by_whole_days,
    cut,
    find_buckets,
    read_zone,
)

if TYPE_CHECKING:
    import random

NOW = datetime(2026, 6, 1, 10, 37, tzinfo=UTC)
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "Africa/Cairo",
    "Asia/Tokyo",
    "Pacific/Auckland",
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "Z" if "T" in text else text + "T00:00Z")


def zone(name: str) -> zoneinfo.ZoneInfo:
    return zoneinfo.ZoneInfo(name)


def test_a_local_day_is_as_long_as_its_clocks_make_it() -> None:
    spring = cut(at("2026-03-27T23:00"), at("2026-03-30T22:00"), "day", zone("Europe/Berlin"))
    autumn = cut(at("2026-10-23T22:00"), at("2026-10-26T23:00"), "day", zone("Europe/Berlin"))

    assert [(span.end - span.start) // HOUR for span in spring] == [24, 23, 24]
    assert [(span.end - span.start) // HOUR for span in autumn] == [24, 25, 24]
    assert spring[1] == Span(at("2026-03-28T23:00"), at("2026-03-29T22:00"))


def test_where_midnight_is_skipped_the_day_begins_when_clocks_jump() -> None:
    """In Cairo clocks go from 00:00 to 01:00 on the last Friday of April."""
    days = cut(at("2026-04-22T22:00"), at("2026-04-25T21:00"), "day", zone("Africa/Cairo"))

    assert [(span.end - span.start) // HOUR for span in days] == [24, 23, 24]


def test_months_are_the_calendar_s() -> None:
    months = cut(at("2026-01-15"), at("2026-04-01"), "month")

    assert months == [
        Span(at("2026-01-15"), at("2026-02-01")),
        Span(at("2026-02-01"), at("2026-03-01")),
        Span(at("2026-03-01"), at("2026-04-01")),
    ]


def test_a_bucket_belongs_to_the_period_it_begins_in() -> None:
    assert cut(at("2026-05-31T10:37"), at("2026-06-01T10:37"), "none") == [
        Span(at("2026-05-31T11:00"), at("2026-06-01T11:00"))
    ]


@given(
    minutes=st.integers(0, 57 * 24 * 60),
    hours=st.integers(1, 24 * 28),
    group_by=st.sampled_from(["none", "hour", "day", "month"]),
    name=st.sampled_from(ZONES),
)
@settings(deadline=None)
def test_every_hour_of_a_period_is_in_one_span_and_one_row(minutes: int, hours: int, group_by: str, name: str) -> None:
    start = at("2026-03-05") + timedelta(minutes=minutes)
    spans = cut(start, start + hours * HOUR, group_by, read_zone(name))  # type: ignore[arg-type] - drawn from its values
    buckets = find_buckets(spans, NOW)
    covered = [(hour, span) for hour, span in zip(buckets.hours, buckets.hour_spans, strict=True)]
    for day, span in zip(buckets.days, buckets.day_spans, strict=True):
        covered += [(day + n * HOUR, span) for n in range(24)]

    assert all(before.end == behind.start for before, behind in pairwise(spans))
    assert spans[0].start - start < HOUR
    assert spans[-1].end - spans[0].start == hours * HOUR
    assert len({hour for hour, _ in covered}) == len(covered) == hours
    assert all(spans[span].start <= hour < spans[span].end for hour, span in covered)
    assert all(day == day.replace(hour=0) for day in buckets.days)


def test_a_long_period_is_few_rows() -> None:
    buckets = find_buckets(cut(NOW - timedelta(days=89), NOW, "none"), NOW)

    assert (len(buckets.days), len(buckets.hours)) == (88, 24)


@pytest.mark.parametrize(
    ("name", "offset"),
    [
        ("Asia/Kolkata", r"\+5:30"),
        ("Asia/Kathmandu", r"\+5:45"),
        ("America/St_Johns", "-2:30"),
        ("Australia/Lord_Howe", "10:30"),
    ],
)
def test_a_zone_off_the_hour_is_refused_with_the_reason(name: str, offset: str) -> None:
    with pytest.raises(RequestError, match=f"{offset}.*whole hours") as caught:
        cut(NOW - 30 * DAY, NOW, "day", zone(name))

    assert caught.value.parameter == "timezone"


@pytest.mark.parametrize(
    "name", ["", "Mars/Base", "../etc/passwd", "/etc/localtime", "Europe", "EST5EDT4,M3\0", "x" * 500]
)
def test_what_is_no_zone_is_none(name: str) -> None:
    assert read_zone(name) is None


@pytest.mark.parametrize(
    ("start", "end", "group_by", "parameter"),
    [
        (NOW - timedelta(minutes=30), NOW - timedelta(minutes=20), "none", "from"),
        (NOW - (SPANS_MAX + 1) * HOUR, NOW, "hour", "groupBy"),
        (NOW - HOT_HOURS - 2 * HOUR, NOW, "none", "from"),
        (NOW - HOT_DAYS - 2 * DAY, NOW, "month", "from"),
    ],
)
def test_periods_that_cannot_be_summed_are_refused(
    start: datetime, end: datetime, group_by: str, parameter: str
) -> None:
    with pytest.raises(RequestError) as caught:
        find_buckets(cut(start, end, group_by), NOW)  # type: ignore[arg-type] - drawn from its values

    assert (caught.value.status, caught.value.parameter) == (422, parameter)


def test_whole_days_can_be_summed_when_their_hours_are_gone() -> None:
    buckets = find_buckets(cut(at("2025-06-02"), NOW, "month"), NOW)

    assert buckets.days[0] == at("2025-06-02")
    assert min(buckets.hours) >= at("2026-06-01")


@given(
    start=st.datetimes(datetime(2026, 3, 20), datetime(2026, 5, 25)).map(  # noqa: DTZ001 - hypothesis wants them so
        lambda moment: moment.replace(minute=0, second=0, microsecond=0, tzinfo=UTC)
    ),
    hours=st.integers(1, 120),
    name=st.sampled_from(ZONES),
    border=st.one_of(st.none(), st.integers(0, 120)),
)
def test_whole_days_less_some_hours_are_the_same_hours(
    start: datetime, hours: int, name: str, border: int | None
) -> None:
    hours_from = start - DAY if border is None else start + border * HOUR
    spans = cut(start, start + hours * HOUR, "day", zone(name))
    asked = find_buckets(spans, NOW)
    some = list(zip(asked.hours, asked.hour_spans, strict=True))
    days = list(zip(asked.days, asked.day_spans, strict=True))
    found = by_whole_days(asked, hours_from)

    def count(hours: list[datetime], spans: list[int], signs: list[int]) -> Counter[tuple[datetime, int]]:
        counted: Counter[tuple[datetime, int]] = Counter()
        for hour, span, sign in zip(hours, spans, signs, strict=True):
            counted[hour, span] += sign
        return counted

    whole = [(day + n * HOUR, span) for day, span in zip(found.days, found.day_spans, strict=True) for n in range(24)]
    wanted = Counter(some) + Counter(
        (day + n * HOUR, span) for day, span in zip(asked.days, asked.day_spans, strict=True) for n in range(24)
    )
    rows = count(found.hours, found.hour_spans, found.signs)
    rows.update(whole)

    assert {place: n for place, n in rows.items() if n} == dict(wanted)
    assert len(found.hours) + len(found.days) <= len(asked.hours) + len(asked.days)
    assert found.reduced == [(day, span) not in days for day, span in zip(found.days, found.day_spans, strict=True)]
    assert all(day >= hours_from for day, reduced in zip(found.days, found.reduced, strict=True) if reduced)
    assert all(
        hour >= hours_from or (hour, span) in some for hour, span in zip(found.hours, found.hour_spans, strict=True)
    )


@given(
    start=st.dates(date(2026, 1, 1), date(2026, 3, 1)),
    lengths=st.lists(st.integers(0, 40), max_size=3),
    missing=st.sets(st.integers(0, 120), max_size=4),
    rng=st.randoms(use_true_random=False),
)
def test_weeks_and_the_days_that_are_left_are_the_same_days(
    start: date, lengths: list[int], missing: set[int], rng: random.Random
) -> None:
    spans = [span for span, length in enumerate(lengths) for _ in range(length)]
    first = datetime(start.year, start.month, start.day, tzinfo=UTC)
    asked = [(first + n * DAY, span) for n, span in enumerate(spans) if n not in missing]
    rng.shuffle(asked)
    found = by_weeks([day for day, _ in asked], [span for _, span in asked])
    weeks = list(zip(found.weeks, found.week_spans, strict=True))
    days = list(zip(found.days, found.day_spans, strict=True))

    assert sorted([(week + n * DAY, span) for week, span in weeks for n in range(7)] + days) == sorted(asked)
    assert all(week.isoweekday() == 1 for week, _ in weeks)
    left = set(days)
    assert not [
        day for day, span in days if day.isoweekday() == 1 and left >= {(day + n * DAY, span) for n in range(7)}
    ]
