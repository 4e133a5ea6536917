"""Counting from scratch, by the contract alone: the second opinion that `anlyt audit` holds against the tables. Pure.

In: a message's body, headers and JetStream time. Out: Facts (what an event says, checked), reasons of what cannot be
counted, and from the facts of an hour or a day the cells of the four tables. Nothing here is shared with events.py,
rollup.py or store.py, on purpose: a mistake in one of the two readings shows as a difference. Plain Python, slower and
simpler: json, Decimal, one event at a time. Instants are microseconds since 1970 UTC, money millionths.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import unquote

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

MINUTE_US: Final = 60_000_000
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US
BODY_BYTES_MAX: Final = 1_048_576
BATCH_EVENTS_MAX: Final = 1_000
IDENTITY_BYTES_MAX: Final = 512
FUTURE_US: Final = 5 * MINUTE_US
STALE_US: Final = 48 * HOUR_US - 15 * MINUTE_US
HOT_US: Final = 90 * DAY_US
ID_KEPT_US: Final = 48 * HOUR_US  # a copy published later than this after the first may be counted again
SECOND_KEPT_US: Final = 6 * HOUR_US - 10 * MINUTE_US  # copies of one second further apart may under-report a peak
INT_CHARS_MAX: Final = 4_000  # Python reads no longer ones
TYPES: Final = frozenset(
    {
        "message.submitted",
        "message.routed",
        "message.delivered",
        "message.failed",
        "message.charged",
        "operator.error",
    }
)
OUTCOME: Final = {"message.delivered": "DELIVERED", "message.failed": "FAILED"}
STATUS_COLUMN: Final = {"PENDING": "pending_messages", "DELIVERED": "delivered_messages", "FAILED": "failed_messages"}

_REQUIRED: Final = ("specversion", "id", "source", "type", "time")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_COST: Final = re.compile(r"(-?)(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)

# What each table holds of an accumulated cell: column: name in the cell.
_ROLL_UP: Final = {
    name: name
    for name in (
        "total_messages",
        "delivered_messages",
        "failed_messages",
        "pending_messages",
        "total_cost",
        "latency_sum_ms",
        "latency_sample_count",
        "peak_tps",
    )
}
COLUMNS: Final[Mapping[str, Mapping[str, str]]] = {
    "metrics_hourly": _ROLL_UP,
    "metrics_daily": _ROLL_UP,
    "operator_performance": {
        **{name: name for name in _ROLL_UP if name not in {"pending_messages", "total_cost"}},
        "error_count": "error_count",
    },
    "account_usage_daily": {
        "messages_sent": "total_messages",
        "messages_delivered": "delivered_messages",
        "messages_failed": "failed_messages",
        "total_cost": "total_cost",
        "total_segments": "total_segments",
    },
}

Owner = tuple[str, str]  # scope, id
Cells = dict[Owner, dict[str, int]]  # column: value; what is not there is 0


class Rules(Struct, frozen=True):
    """What a deployment decides about events."""

    currency: str
    max_message_age_us: int
    ignored_types: tuple[str, ...]
    retried: bool = False  # what was counted from a dead letter counts, whatever its age, currency and type


class Fact(Struct, array_like=True):
    """What one event says. `operator` and the like are "" where it says nothing."""

    key: str
    kind: str
    published: int
    sequence: int
    at: int
    account: str = ""
    operator: str = ""
    left: str = ""  # the operator a message was routed away from
    cost: int = 0
    segments: int = 0
    latency_ms: int = 0
    before: str = "PENDING"
    errors: int = 0


class Read(Struct):
    """What a message holds: events that may be counted, and why others may not."""

    facts: list[Fact]
    reasons: Counter[str]
    ignored: int
    skipped: int = 0

    @property
    def elements(self) -> int:
        """How many events, good or bad."""
        return len(self.facts) + self.reasons.total() + self.ignored + self.skipped


class _Refused(Exception):
    """The event cannot be counted; args[0] is the reason."""


# ------------------------------------------------------------------------------------------------------------- reading


def read_message(
    body: bytes,
    headers: Mapping[str, str] | None,
    *,
    published: int,
    sequence: int,
    rules: Rules,
    skip: Container[int] = (),
) -> Read:
    """What the events of one message say, without those at the places `skip` in the batch."""
    read = Read([], Counter(), 0)
    named = {name.lower(): value for name, value in (headers or {}).items()}
    load = named.get("anlyt-backfill")
    for index, element in enumerate(_elements(body, named, read, skip)):
        if index in skip:
            read.skipped += 1
            continue
        try:
            fact = _read_event(element, published, sequence, rules=rules, load=load)
        except _Refused as no:
            read.reasons[no.args[0]] += 1
            continue
        if fact is None:
            read.ignored += 1
        else:
            read.facts.append(fact)
    return read


def _decoded(attributes: Mapping[str, str]) -> dict[str, object]:
    """The required attributes of a binary-mode message; one whose bytes are no text refuses the event."""
    try:
        return {name: unquote(attributes[name], errors="strict") for name in _REQUIRED if name in attributes}
    except UnicodeDecodeError:
        _refuse("malformed")


def _elements(body: bytes, headers: Mapping[str, str], read: Read, skip: Container[int]) -> Sequence[object]:
    """The events of a body as JSON values; a reason for the whole of it when there are none."""
    try:
        if len(body) > BODY_BYTES_MAX:
            _refuse("too_large")
        value = _parse(body)
        attributes = {name[3:]: text for name, text in headers.items() if name.startswith("ce-")}
        if attributes and not headers.get("content-type", "").strip().lower().startswith("application/cloudevents"):
            return [_decoded(attributes) | {"data": value}]
        if not isinstance(value, list):
            return [value]
        elements = cast("list[object]", value)
        if len(elements) > BATCH_EVENTS_MAX:
            _refuse("too_large")
    except _Refused as no:
        if 0 in skip:
            read.skipped += 1
        else:
            read.reasons[no.args[0]] += 1
        return []
    return elements


def _parse(body: bytes) -> object:
    try:
        return json.loads(body.decode(), parse_float=_decimal, parse_int=_integer, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise _Refused("malformed") from None


def _refuse_constant(_name: str) -> NoReturn:
    raise _Refused("malformed")


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) <= INT_CHARS_MAX else Decimal(text)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation:  # an exponent beyond what Decimal holds
        return Decimal("NaN")


def _refuse(reason: str) -> NoReturn:
    raise _Refused(reason)


def _need(met: object, reason: str = "invalid_field") -> None:
    if not met:
        _refuse(reason)


def _read_event(
    element: object,
    published: int,
    sequence: int,
    *,
    rules: Rules,
    load: str | None,
) -> Fact | None:
    """The event, checked in the order of the contract; None for a type that is skipped. Raises _Refused."""
    _need(isinstance(element, dict) and _is_text(cast("object", element)), "malformed")
    event = cast("dict[str, Any]", element)
    _need(event.get("specversion") == "1.0", "malformed")
    for name in ("id", "source", "type", "time"):
        _need(isinstance(event.get(name), str) and event[name], "malformed")
    _need(isinstance(event.get("data"), dict), "malformed")
    kind = event["type"]
    if not rules.retried and any(fnmatch.fnmatchcase(kind, pattern) for pattern in rules.ignored_types):
        return None
    _need(kind in TYPES, "unknown_type")
    fact = Fact(_identity(event["id"], event["source"]), kind, published, sequence, 0)
    _need(load is None or (0 < len(load) <= 200 and load.isprintable()))  # noqa: PLR2004 - the contract's number
    time, data = _instant(event["time"]), cast("dict[str, Any]", event["data"])
    if kind == "operator.error":
        fact.at, fact.operator = time, _uuid(data.get("operatorId"))
        fact.errors = _whole(data.get("count", 1), 1, 1_000_000)
    else:
        _read_data(fact, data, time)
        _need(rules.retried or data.get("currency", rules.currency) == rules.currency, "currency_mismatch")
    _need(time - published <= FUTURE_US, "in_future")
    if load is None:
        _need(rules.retried or published - time <= STALE_US, "stale")
    age_max_us = rules.max_message_age_us if load is None else HOT_US
    _need(rules.retried or published - fact.at <= age_max_us, "too_late")
    return fact


def _is_text(event: object) -> bool:
    """Whether no string of an event holds half a surrogate pair."""
    try:
        json.dumps(event, ensure_ascii=False, default=str).encode()
    except (UnicodeEncodeError, RecursionError):
        return False
    return True


def _read_data(fact: Fact, data: Mapping[str, Any], time: int) -> None:
    kind = fact.kind
    _need(isinstance(data.get("messageId"), str) and data["messageId"])
    fact.account = _uuid(data.get("accountId"))
    if data.get("operatorId") is not None or kind == "message.routed":
        fact.operator = _uuid(data.get("operatorId"))
    given = data.get("submittedAt")
    fact.at = time if given is None and kind == "message.submitted" else _instant(given)
    _need(fact.at - time <= FUTURE_US)
    if kind == "message.routed":
        fact.left = "" if data.get("fromOperatorId") is None else _uuid(data["fromOperatorId"])
        return
    if data.get("cost") is not None or kind == "message.charged":
        fact.cost = _cost(data.get("cost"))
    if kind == "message.submitted":
        fact.segments = _whole(data.get("segments", 1), 1, 1_000)
    elif kind == "message.delivered":
        passed_ms = min(max(0, (time - fact.at) // 1_000), 2**31 - 1)
        fact.latency_ms = passed_ms if data.get("latencyMs") is None else _whole(data["latencyMs"], 0, 2**31 - 1)
    if kind in OUTCOME:
        before = data.get("previousStatus", "PENDING")
        _need(isinstance(before, str) and before in STATUS_COLUMN and before != OUTCOME[kind])
        fact.before = before


def _identity(event_id: str, source: str) -> str:
    _need(event_id.isprintable() and event_id == event_id.strip())
    _need(source.isprintable() and " " not in source)
    key = f"{event_id} {source}"
    _need(len(key.encode()) <= IDENTITY_BYTES_MAX)
    return key


def _instant(value: object) -> int:
    _need(isinstance(value, str) and _TIME.fullmatch(value))
    try:
        return (datetime.fromisoformat(str(value).upper()) - _EPOCH) // timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise _Refused("invalid_field") from None


def _uuid(value: object) -> str:
    _need(isinstance(value, str) and _UUID.fullmatch(value))
    return str(value).lower()


def _whole(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        _refuse("invalid_field")
    return value


def _cost(value: object) -> int:
    """Millionths of a decimal string or number with at most 9 digits before the point and 6 after it."""
    if isinstance(value, str):
        match = _COST.fullmatch(value)
        if match is None:
            _refuse("invalid_field")
        sign, whole, fraction = match.groups()
        return int(f"{sign}{whole}{(fraction or '').ljust(6, '0')}")
    if type(value) is int:
        _need(abs(value) < 10**9)
        return value * 1_000_000
    if not isinstance(value, Decimal) or not value.is_finite():
        _refuse("invalid_field")
    sign, digits, exponent = value.as_tuple()
    text = "".join(map(str, digits)).rstrip("0")
    if not text:
        return 0
    assert isinstance(exponent, int), "finite"
    exponent += len(digits) - len(text)
    _need(exponent >= -6 and value.adjusted() < 9)  # noqa: PLR2004 - the contract's numbers
    return int(text) * 10 ** (exponent + 6) * (-1 if sign else 1)


# ------------------------------------------------------------------------------------------------------------- counting


def drop_copies(facts: list[Fact]) -> tuple[list[Fact], int]:
    """Each event once, and how many contradict the copy that counted. In any order.

    The first copy counts. One published ID_KEPT_US after it may count again: a backfill, or a letter retried late.
    """
    facts.sort(key=lambda fact: (fact.key, fact.published, fact.sequence))
    kept: list[Fact] = []
    contradictions = 0
    for fact in facts:
        last = kept[-1] if kept and kept[-1].key == fact.key else None
        if last is None or fact.published - last.published > ID_KEPT_US:
            kept.append(fact)
        elif _said(fact) != _said(last):
            contradictions += 1
    return kept, contradictions


def _said(fact: Fact) -> tuple[Any, ...]:
    return (fact.kind, fact.at, fact.account, fact.operator, fact.left, fact.cost, fact.segments, fact.latency_ms,
            fact.before, fact.errors)  # fmt: skip


class Count:
    """Cells of one hour, or of one day, added up fact by fact."""

    def __init__(self) -> None:
        self.cells: Cells = defaultdict(lambda: defaultdict(int))
        self.samples: dict[str, list[int]] = defaultdict(list)  # latencies by operator
        self._seconds: dict[tuple[int, str, str], list[int]] = defaultdict(list)  # publications in each second
        self.least_peaks: dict[Owner, int] = {}  # what a peak must reach although seconds are forgotten

    def add(self, fact: Fact) -> None:
        """Add one event, as the table of event types in the contract says."""
        for scope, who, column, value in _changes(fact):
            self.cells[scope, who][column] += value

    def add_closely(self, fact: Fact) -> None:
        """Add one event of an hour, with its second and its latency."""
        self.add(fact)
        if fact.kind == "message.delivered" and fact.operator:
            self.samples[fact.operator].append(fact.latency_ms)
        if fact.kind in {"message.submitted", "message.routed"}:
            for scope, who in _owners(fact):
                self._seconds[fact.at // 1_000_000, scope, who].append(fact.published)

    def close_hour(self) -> None:
        """Find the peaks, once everything of an hour has been added."""
        for (_, scope, who), published in self._seconds.items():
            owner = scope, who
            self.cells[owner]["peak_tps"] = max(self.cells[owner]["peak_tps"], len(published))
            self.least_peaks[owner] = max(self.least_peaks.get(owner, 0), _least(published))
        self._seconds.clear()

    def take_peaks(self, hour: Count) -> None:
        """A day's peak is that of its busiest hour."""
        for owner, least in hour.least_peaks.items():
            cell = self.cells[owner]
            cell["peak_tps"] = max(cell["peak_tps"], hour.cells[owner]["peak_tps"])
            self.least_peaks[owner] = max(self.least_peaks.get(owner, 0), least)


def _least(published: list[int]) -> int:
    """The longest run of publications without a pause in which the second may have been forgotten."""
    published.sort()
    longest = run = 1
    for earlier, later in pairwise(published):
        run = run + 1 if later - earlier <= SECOND_KEPT_US else 1
        longest = max(longest, run)
    return longest


def _owners(fact: Fact) -> Iterator[Owner]:
    """The rows an event counts in."""
    if fact.account and fact.kind != "message.routed":
        yield "PLATFORM", "platform"
        yield "ACCOUNT", fact.account
    if fact.operator:
        yield "OPERATOR", fact.operator


def _changes(fact: Fact) -> Iterator[tuple[str, str, str, int]]:
    """Every cell an event changes, and by how much."""
    if fact.kind == "operator.error":
        yield "OPERATOR", fact.operator, "error_count", fact.errors
        return
    for scope, who in _owners(fact):
        if fact.kind in {"message.submitted", "message.routed"}:
            yield scope, who, "total_messages", 1
            yield scope, who, "pending_messages", 1
        if fact.kind in OUTCOME:
            yield scope, who, STATUS_COLUMN[OUTCOME[fact.kind]], 1
            yield scope, who, STATUS_COLUMN[fact.before], -1
        if fact.kind == "message.delivered":
            yield scope, who, "latency_sum_ms", fact.latency_ms
            yield scope, who, "latency_sample_count", 1
        yield scope, who, "total_cost", fact.cost
        yield scope, who, "total_segments", fact.segments
    if fact.kind == "message.failed" and fact.operator:
        yield "OPERATOR", fact.operator, "error_count", 1
    if fact.left:
        yield "OPERATOR", fact.left, "failed_messages", 1
        yield "OPERATOR", fact.left, "pending_messages", -1
        yield "OPERATOR", fact.left, "error_count", 1


def nearest_rank(samples: list[int], percent: int) -> int:
    """The nearest-rank percentile of samples, at least one of them."""
    return sorted(samples)[-(-len(samples) * percent // 100) - 1]


def rows_of(count: Count, table: str) -> Iterable[tuple[str, str, dict[str, int]]]:
    """What a table must hold of a count: scope, id and the columns that are not 0."""
    wanted = {"operator_performance": "OPERATOR", "account_usage_daily": "ACCOUNT"}.get(table)
    for (scope, who), cell in count.cells.items():
        if wanted in {None, scope}:
            yield scope, who, {column: cell[name] for column, name in COLUMNS[table].items() if cell.get(name)}
