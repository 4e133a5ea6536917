"""Events in, additive deltas out: what each table row grows by. Pure.

Only ACCOUNT and OPERATOR cells are folded, event by event; everything else is derived from them by addition, so the
identities hold by construction (I1): PLATFORM is the sum of the accounts, a day the sum of its hours,
operator_performance the OPERATOR rows, account_usage_daily the ACCOUNT days, and pending_messages is
total - delivered - failed. Folding commutes: any split, order or grouping of the same events adds up to the same.
Instants are microseconds since 1970 UTC, money millionths.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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


class Folding:
    """Adds up events that come some at a time."""

    def __init__(self) -> None:
        self._accounts: defaultdict[int, defaultdict[str, Cell]] = defaultdict(_cells)  # by hour and id
        self._operators: defaultdict[int, defaultdict[str, Cell]] = defaultdict(_cells)
        self._account_seconds: defaultdict[int, defaultdict[str, int]] = defaultdict(_counts)  # by second and id
        self._operator_seconds: defaultdict[int, defaultdict[str, int]] = defaultdict(_counts)
        self._latencies: defaultdict[tuple[int, str], defaultdict[int, int]] = defaultdict(_counts)

    def add(self, events: Iterable[Event]) -> None:
        """Take in `events`, each of which counts (duplicates are gone already)."""
        hour = second = -DAY_US  # those of the event before: events come nearly in order
        accounts = operators = _cells()
        account_seconds = operator_seconds = _counts()
        for event in events:
            at, kind, account, operator = event.at, event.type, event.account, event.operator
            if not hour <= at < hour + HOUR_US:
                hour = bucket_hour(at)
                accounts, operators = self._accounts[hour], self._operators[hour]
            submits = kind == "message.submitted" or kind == "message.routed"  # noqa: PLR1714 - a set is slower here
            if submits and not second <= at < second + SECOND_US:
                second = at - at % SECOND_US
                account_seconds, operator_seconds = self._account_seconds[second], self._operator_seconds[second]
            if account is not None and kind != "message.routed":
                _count(accounts[account], event, kind)
                if submits:
                    account_seconds[account] += 1
            if operator is not None:
                _count(operators[operator], event, kind)
                if submits:
                    operator_seconds[operator] += 1
                elif kind == "message.delivered":
                    self._latencies[hour, operator][latency_bucket(event.latency_ms)] += 1
            if event.from_operator is not None:
                left = operators[event.from_operator]
                left.failed += 1
                left.errors += 1
                left.events += 1

    def deltas(self) -> Deltas:
        """What all of them add."""
        hourly = _with_platform(self._accounts, self._operators)
        seconds = _seconds_with_platform(self._account_seconds, self._operator_seconds)
        return Deltas(hourly, _by_day(hourly), seconds, self._latencies)


def fold(events: Iterable[Event]) -> Deltas:
    """The deltas of `events`, each of which counts (duplicates are gone already)."""
    folding = Folding()
    folding.add(events)
    return folding.deltas()


def _cells() -> defaultdict[str, Cell]:
    return defaultdict(Cell)


def _counts() -> defaultdict[Any, int]:
    return defaultdict(int)


def _count(cell: Cell, event: Event, kind: str) -> None:
    """Add one event to one cell, as the table of event types says."""
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
    accounts: Mapping[int, Mapping[str, Cell]], operators: Mapping[int, Mapping[str, Cell]]
) -> dict[Key, Cell]:
    cells: dict[Key, Cell] = {}
    for hour, found in accounts.items():
        platform = Cell()
        for account, cell in found.items():
            cells[Key(hour, "ACCOUNT", account)] = cell
            platform.add(cell)
        if found:
            cells[Key(hour, "PLATFORM", PLATFORM_ID)] = platform
    for hour, found in operators.items():
        for operator, cell in found.items():
            cells[Key(hour, "OPERATOR", operator)] = cell
    return cells


def _seconds_with_platform(
    accounts: Mapping[int, Mapping[str, int]], operators: Mapping[int, Mapping[str, int]]
) -> dict[Key, int]:
    counts = {Key(second, "ACCOUNT", who): n for second, found in accounts.items() for who, n in found.items()}
    counts |= {Key(second, "OPERATOR", who): n for second, found in operators.items() for who, n in found.items()}
    return counts | {
        Key(second, "PLATFORM", PLATFORM_ID): sum(found.values()) for second, found in accounts.items() if found
    }


def _by_day(hourly: Mapping[Key, Cell]) -> dict[Key, Cell]:
    daily: defaultdict[Key, Cell] = defaultdict(Cell)
    for (hour, scope, scope_id), cell in hourly.items():
        daily[Key(bucket_day(hour), scope, scope_id)].add(cell)
    return dict(daily)
