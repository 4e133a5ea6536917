"""Events in, additive deltas out: what each table row grows by. Pure.

Only ACCOUNT and OPERATOR cells are folded, event by event; everything else is derived from them by addition, so the
identities hold by construction (I1): PLATFORM is the sum of the accounts, a day the sum of its hours,
operator_performance the OPERATOR rows, account_usage_daily the ACCOUNT days, and pending_messages is
total - delivered - failed. Folding commutes: any split, order or grouping of the same events adds up to the same.
Instants are microseconds since 1970 UTC, money millionths.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct

from anlyt.events import DAY_US, HOUR_US, SECOND_US, Event

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PLATFORM_ID: Final = "platform"
LATENCY_EXACT_BITS: Final = 7  # buckets are exact below 2^7 ms and at most 1/128 off above


class Cell(Struct, gc=False):
    """What one account or operator adds in one hour. Signed; `cost` in millionths, `latency` the sum in ms."""

    total: int = 0
    delivered: int = 0
    failed: int = 0
    cost: int = 0
    latency: int = 0
    samples: int = 0
    segments: int = 0
    errors: int = 0
    events: int = 0  # that speak of messages, so that a row stands even where they add up to nothing

    def add(self, other: Cell) -> None:
        """Add all of `other`."""
        self.total += other.total
        self.delivered += other.delivered
        self.failed += other.failed
        self.cost += other.cost
        self.latency += other.latency
        self.samples += other.samples
        self.segments += other.segments
        self.errors += other.errors
        self.events += other.events

    def counts_messages(self) -> bool:
        """Whether metrics_hourly has a row for this; operator errors alone make none."""
        return self.events > 0


class Key(NamedTuple):
    """A roll-up row: bucket (start of the hour or day), scope, id."""

    bucket: int
    scope: str
    scope_id: str


class Deltas(Struct, frozen=True):
    """What a set of events adds. Every mapping is additive; two Deltas of disjoint events add up key by key."""

    hourly: Mapping[Key, Cell]  # all three scopes
    daily: Mapping[Key, Cell]
    seconds: Mapping[Key, int]  # messages submitted (operators: or routed) in one second
    latencies: Mapping[tuple[int, str], Mapping[int, int]]  # (hour, operator): bucket: samples


def fold(events: Iterable[Event]) -> Deltas:
    """The deltas of `events`, each of which counts (duplicates are gone already)."""
    accounts: defaultdict[tuple[int, str], Cell] = defaultdict(Cell)
    operators: defaultdict[tuple[int, str], Cell] = defaultdict(Cell)
    account_seconds: defaultdict[tuple[int, str], int] = defaultdict(int)
    operator_seconds: defaultdict[tuple[int, str], int] = defaultdict(int)
    latencies: defaultdict[tuple[int, str], defaultdict[int, int]] = defaultdict(lambda: defaultdict(int))
    for event in events:
        hour = bucket_hour(event.at)
        if event.account is not None and event.type != "message.routed":
            _count(accounts[hour, event.account], event)
        if event.operator is not None:
            _count(operators[hour, event.operator], event)
            if event.type == "message.delivered":
                latencies[hour, event.operator][latency_bucket(event.latency_ms)] += 1
        if event.from_operator is not None:
            left = operators[hour, event.from_operator]
            left.failed += 1
            left.errors += 1
            left.events += 1
        if event.type == "message.submitted" or event.type == "message.routed":  # noqa: PLR1714 - a set is slower here
            second = event.at - event.at % SECOND_US
            if event.type == "message.submitted" and event.account is not None:
                account_seconds[second, event.account] += 1
            if event.operator is not None:
                operator_seconds[second, event.operator] += 1
    hourly = _with_platform(accounts, operators)
    return Deltas(hourly, _by_day(hourly), _seconds_with_platform(account_seconds, operator_seconds), latencies)


def _count(cell: Cell, event: Event) -> None:
    """Add one event to one cell, as the table of event types says."""
    kind = event.type
    if kind == "operator.error":
        cell.errors += event.error_count
        return
    cell.events += 1
    cell.cost += event.cost
    if kind == "message.submitted":
        cell.total += 1
        cell.segments += event.segments
    elif kind == "message.delivered":
        cell.delivered += 1
        if event.before == "FAILED":
            cell.failed -= 1
        cell.latency += event.latency_ms
        cell.samples += 1
    elif kind == "message.failed":
        cell.failed += 1
        cell.errors += 1
        if event.before == "DELIVERED":
            cell.delivered -= 1
    elif kind == "message.routed":
        cell.total += 1
    else:
        assert kind == "message.charged"  # its cost is all it adds


def bucket_hour(instant: int) -> int:
    """Start of the UTC hour of `instant`. UTC has no leap seconds in POSIX time, so hours are plain multiples."""
    return instant - instant % HOUR_US


def bucket_day(instant: int) -> int:
    """Start of the UTC day of `instant`."""
    return instant - instant % DAY_US


def latency_bucket(latency_ms: int) -> int:
    """Log-linear bucket number: exact below 128 ms, then 64 an octave (as HdrHistogram's), 0.8 % off at most."""
    shift = latency_ms.bit_length() - LATENCY_EXACT_BITS
    return latency_ms if shift <= 0 else (shift << (LATENCY_EXACT_BITS - 1)) + (latency_ms >> shift)


def latency_value(bucket: int) -> int:
    """The latency in ms that stands for a bucket: the value itself below 128, else the middle of the bucket."""
    half = LATENCY_EXACT_BITS - 1
    if bucket < 1 << LATENCY_EXACT_BITS:
        return bucket
    shift = (bucket >> half) - 1
    lower = ((bucket & ((1 << half) - 1)) + (1 << half)) << shift
    return lower + ((1 << shift) >> 1)


def _with_platform(
    accounts: Mapping[tuple[int, str], Cell], operators: Mapping[tuple[int, str], Cell]
) -> dict[Key, Cell]:
    cells = {Key(hour, "ACCOUNT", account): cell for (hour, account), cell in accounts.items()}
    platform: defaultdict[int, Cell] = defaultdict(Cell)
    for (hour, _), cell in accounts.items():
        platform[hour].add(cell)
    cells |= {Key(hour, "OPERATOR", operator): cell for (hour, operator), cell in operators.items()}
    cells |= {Key(hour, "PLATFORM", PLATFORM_ID): cell for hour, cell in platform.items()}
    return cells


def _seconds_with_platform(
    accounts: Mapping[tuple[int, str], int], operators: Mapping[tuple[int, str], int]
) -> dict[Key, int]:
    counts = {Key(second, "ACCOUNT", account): n for (second, account), n in accounts.items()}
    platform: defaultdict[int, int] = defaultdict(int)
    for (second, _), n in accounts.items():
        platform[second] += n
    counts |= {Key(second, "OPERATOR", operator): n for (second, operator), n in operators.items()}
    counts |= {Key(second, "PLATFORM", PLATFORM_ID): n for second, n in platform.items()}
    return counts


def _by_day(hourly: Mapping[Key, Cell]) -> dict[Key, Cell]:
    daily: defaultdict[Key, Cell] = defaultdict(Cell)
    for (hour, scope, scope_id), cell in hourly.items():
        daily[Key(bucket_day(hour), scope, scope_id)].add(cell)
    return dict(daily)
