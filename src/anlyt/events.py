"""The wire contract: a JetStream message in, checked events and dead letters out. Pure; nothing here waits or writes.

In: Message (body as stored, JetStream timestamp). Out: Event, in which every value is allowed and normalised, or Letter
with the first reason that applies, in the order too_large, malformed, unknown_type, invalid_field, currency_mismatch,
in_future, stale, too_late. Judged by the JetStream timestamp, never by the clock, so a replay judges the same (I6).
Inside the pipeline an instant is an int of microseconds since 1970 UTC and money an int of millionths; no floats.
cloudevents.py only reads; what is allowed is said once, in the `_check` functions.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from fnmatch import translate
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, get_args

from msgspec import UNSET, Raw, Struct

from anlyt.cloudevents import Data, Envelope, EnvelopeReader, binary_attributes, clip, describe, show
from anlyt.errors import Rejected
from anlyt.settings import format_duration

if TYPE_CHECKING:
    from anlyt.settings import Settings

EventType = Literal[
    "message.submitted",
    "message.routed",
    "message.delivered",
    "message.failed",
    "message.charged",
    "operator.error",
]
Status = Literal["PENDING", "DELIVERED", "FAILED"]
Overflow = Literal["costs", "sums"]  # what does not fit its column any more: money, or any other sum

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

KEY_BYTES_MAX: Final = 512
SEGMENTS_MAX: Final = 1_000
LATENCY_MS_MAX: Final = 2**31 - 1
ERROR_COUNT_MAX: Final = 1_000_000
COST_DIGITS_MAX: Final = 9  # before the point
COST_SCALE: Final = 6  # after it
COST_SUM_MAX: Final = Decimal("999999999999.999999")  # NUMERIC(18,6)
SUM_MAX: Final = 2**63 - 1  # BIGINT
KNOWN_MAX: Final = 100_000  # remembered ids, seconds, costs, headers; more are read again
KNOWN_CHARS_MAX: Final = 100  # of a cost or of header names; longer ones are read each time

DEDUPE_WINDOW_US: Final = 48 * HOUR_US  # W of the exactly-once window
CLOCK_MARGIN_US: Final = 15 * MINUTE_US  # W is shortened by this, so that ids outlive every accepted copy
FUTURE_MAX_US: Final = 5 * MINUTE_US
REASONS: Final = (  # of dead letters, in the order they are checked
    "too_large",
    "malformed",
    "unknown_type",
    "invalid_field",
    "currency_mismatch",
    "in_future",
    "stale",
    "too_late",
)
HOT_RETENTION_US: Final = 90 * DAY_US  # a backfill must lie inside it

BACKFILL_HEADER: Final = "anlyt-backfill"
BACKFILL_NAME_CHARS_MAX: Final = 200
_TYPES: Final = frozenset(get_args(EventType))
_STATUSES: Final = frozenset(get_args(Status))
OUTCOME_OF: Final = {"message.delivered": "DELIVERED", "message.failed": "FAILED"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]([01]\d|2[0-3]):\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_NO_COST: Final = frozenset({b"", b"null"})
_COST: Final = re.compile(rb"(-?[0-9]{1,9})(?:\.([0-9]{1,6}))?")


class Message(Struct, frozen=True, gc=False):
    """One message as JetStream stored it. `published` is its JetStream time in microseconds since 1970 UTC."""

    subject: str
    headers: dict[str, str] | None
    body: bytes
    sequence: int
    published: int


class Event(Struct, frozen=True, gc=False):
    """One event that may be counted. Ids are lower case; `at` and `time` in microseconds; `cost` in millionths."""

    key: str  # '<id> <source>', the event's identity
    type: EventType
    time: int
    at: int  # when the message was submitted: its cohort
    account: str | None = None
    operator: str | None = None
    from_operator: str | None = None
    cost: int = 0
    segments: int = 0
    latency_ms: int = 0
    before: Status = "PENDING"
    error_count: int = 0
    backfill: str | None = None


class Letter(Struct, frozen=True, gc=False):
    """One event, or one whole body, that cannot be counted, with the first reason and a sentence about it."""

    message: Message
    batch_index: int
    reason: str
    detail: str
    body: bytes
    backfill: str | None = None
    key: str | None = None  # the event's identity, where it could be read


class Rules(Struct, frozen=True):
    """What a deployment decides about events."""

    currency: str = "EUR"
    max_message_age_us: int = 7 * DAY_US
    ignored_types: tuple[str, ...] = ()


def rules_of(settings: Settings) -> Rules:
    """What the settings say about events."""
    return Rules(
        currency=settings.currency,
        max_message_age_us=int(settings.max_message_age.total_seconds()) * SECOND_US,
        ignored_types=settings.ignored_types,
    )


class Decoded(Struct, frozen=True):
    """What became of a run of messages: every element of every body is in exactly one of the three."""

    events: list[Event]
    letters: list[Letter]
    ignored: int


class _Ignored(Exception):
    """The event is of a type the deployment skips."""


class _Uuids(dict[Any, str]):
    """Canonical form of every UUID seen lately. A value that is no UUID raises KeyError."""

    def __missing__(self, value: object) -> str:
        if not isinstance(value, str) or _UUID.fullmatch(value) is None:
            raise KeyError(value)
        if len(self) >= KNOWN_MAX:
            self.clear()
        self[value] = canonical = value.lower()
        return canonical


class _Seconds(dict[str, int]):
    """Microseconds of every `YYYY-MM-DDTHH:MM:SS` (UTC) seen lately. Anything else raises KeyError."""

    def __missing__(self, value: str) -> int:
        try:
            instant = parse_instant(value + "Z")
        except ValueError:
            raise KeyError(value) from None
        if len(self) >= KNOWN_MAX:
            self.clear()
        self[value] = instant
        return instant


class _Costs(dict[bytes, int]):
    """Millionths of every cost seen lately, by its JSON text: tariffs are few. Other texts raise KeyError."""

    def __missing__(self, text: bytes) -> int:
        millionths = _read_cost(text)
        if millionths is None:
            raise KeyError(text)
        if len(text) <= KNOWN_CHARS_MAX:
            if len(self) >= KNOWN_MAX:
                self.clear()
            self[text] = millionths
        return millionths


class _HeaderNames(dict[tuple[str, ...], bool]):
    """Whether any header of such names says something about the events; most messages carry the same few names."""

    def __missing__(self, names: tuple[str, ...]) -> bool:
        telling = any(name.lower().startswith("ce-") or name.lower() == BACKFILL_HEADER for name in names)
        if sum(map(len, names)) <= KNOWN_CHARS_MAX:
            if len(self) >= KNOWN_MAX:
                self.clear()
            self[names] = telling
        return telling


_FRACTIONS: Final = {"Z": 0} | {f".{ms:03d}Z": ms * 1000 for ms in range(1000)}


class Decoder:
    """Reads messages by the rules of one deployment. Keeps nothing but caches of ids and seconds."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._ignored = re.compile("|".join(map(translate, rules.ignored_types))) if rules.ignored_types else None
        self._uuids = _Uuids()
        self._seconds = _Seconds()
        self._costs = _Costs()
        self._header_names = _HeaderNames()
        self._reader = EnvelopeReader()

    def decode(self, messages: list[Message], *, overflow: Overflow | None = None) -> Decoded:
        """Every event of `messages`, in order; every one that cannot be counted as a letter. Never raises for input.

        With an `overflow` of costs an event with a cost is refused, with one of sums every event: what they add to
        would not fit its column any more.
        """
        events: list[Event] = []
        letters: list[Letter] = []
        ignored = 0
        for message in messages:
            backfill = binary = load = None
            if message.headers and self._header_names[tuple(message.headers)]:
                headers = {name.lower(): value for name, value in message.headers.items()}
                backfill = headers.get(BACKFILL_HEADER)
                load = backfill if backfill is not None and _names_a_load(backfill) else None
                binary = binary_attributes(headers)
            try:
                elements = self._reader.open(message.body) if binary is None else [message.body]
            except Rejected as no:
                letters.append(Letter(message, 0, no.reason, no.detail, message.body, load))
                continue
            for index, element in enumerate(elements):
                envelope = element if type(element) is Envelope else None
                try:
                    envelope = envelope or self._read(element, binary)
                    event = self._check(envelope, message.published, backfill)
                    if overflow is not None:
                        _refuse(event, overflow)
                    events.append(event)
                except Rejected as no:
                    text = message.body if binary is not None else bytes(self._reader.split(message.body)[index])
                    letters.append(Letter(message, index, no.reason, no.detail, text, load, _known_key(envelope)))
                except _Ignored:
                    ignored += 1
        return Decoded(events, letters, ignored)

    def _read(self, element: Envelope | bytes | Raw, binary: dict[str, str] | None) -> Envelope:
        assert not isinstance(element, Envelope)  # those are read already
        return self._reader.read(element) if binary is None else self._reader.read_binary(binary, bytes(element))

    def judge(self, body: bytes, *, published: int) -> list[tuple[bytes, Event | Rejected | None]]:
        """Every element of a structured body with what would become of it, were it published then; None: ignored.

        Raises Rejected (too_large, malformed) for the whole body.
        """
        return [(bytes(element), self._verdict(element, published)) for element in self._reader.split(body)]

    def _verdict(self, element: bytes | Raw, published: int) -> Event | Rejected | None:
        try:
            return self._check(self._reader.read(element), published, None)
        except Rejected as no:
            return no
        except _Ignored:
            return None

    def _check(self, envelope: Envelope, published: int, backfill: str | None) -> Event:
        """The checked event, or Rejected with the first reason that applies."""
        kind, key = self._check_envelope(envelope)
        if backfill is not None and not _names_a_load(backfill):
            limits = f"1 to {BACKFILL_NAME_CHARS_MAX} printable characters"
            raise Rejected("invalid_field", f"The header Anlyt-Backfill must have {limits}, but is {show(backfill)}.")
        time = self._instant(envelope.time, "time")
        data = envelope.data
        assert type(data) is Data
        if kind == "operator.error":
            operator = self._uuid(data.operator_id, "operatorId")
            count = _whole(data.count, "count", 1, ERROR_COUNT_MAX, default=1)
            event = Event(key, kind, time, time, operator=operator, error_count=count, backfill=backfill)
        else:
            event = self._check_message((kind, key, time, backfill), data)
            if data.currency is not UNSET and data.currency != self._rules.currency:
                shown = show(data.currency)
                detail = f"data.currency must be {self._rules.currency}, this deployment's, but is {shown}."
                raise Rejected("currency_mismatch", detail)
        if (
            backfill is not None
            or not -FUTURE_MAX_US <= published - event.time <= DEDUPE_WINDOW_US - CLOCK_MARGIN_US
            or published - event.at > self._rules.max_message_age_us
        ):
            self._check_window(event, published)
        return event

    def _check_envelope(self, envelope: Envelope) -> tuple[EventType, str]:
        """Type and identity. Raises Rejected (malformed, unknown_type, invalid_field)."""
        if envelope.specversion != "1.0":
            raise Rejected("malformed", f'specversion must be "1.0", but {describe(envelope.specversion)}.')
        event_id, source, kind = envelope.id, envelope.source, envelope.type
        if not (
            type(event_id) is type(source) is type(kind) is type(envelope.time) is str
            and event_id
            and source
            and kind
            and envelope.time
        ):
            _refuse_attributes(envelope)
        if envelope.data is UNSET:
            raise Rejected("malformed", "data is missing; it must be an object.")
        if self._ignored is not None and self._ignored.match(kind):
            raise _Ignored
        if kind not in _TYPES:
            raise Rejected(
                "unknown_type", f"type must be one of {', '.join(get_args(EventType))}, but is {show(kind)}."
            )
        key = f"{event_id} {source}"
        if not key.isprintable() or event_id != event_id.strip() or " " in source or len(key) > KEY_BYTES_MAX // 4:
            _check_identity(event_id, source, key)
        return kind, key

    def _check_message(self, head: _Head, data: Data) -> Event:
        """The five message.* types. Raises Rejected (invalid_field)."""
        if type(data.message_id) is not str or not data.message_id:
            detail = f"data.messageId must be a string that is not empty, but {describe(data.message_id)}."
            raise Rejected("invalid_field", detail)
        kind, key, time, backfill = head
        account = self._uuid(data.account_id, "accountId")
        operator, at = self._operator_and_cohort(kind, time, data)
        if kind == "message.submitted":
            cost = self._cost(data.cost)
            segments = _whole(data.segments, "segments", 1, SEGMENTS_MAX, default=1)
            return Event(key, kind, time, at, account, operator, None, cost, segments, backfill=backfill)
        if kind == "message.delivered":
            cost = self._cost(data.cost)
            latency = _latency(data.latency_ms, time - at)
            before = _previous_status(data.previous_status, kind)
            return Event(key, kind, time, at, account, operator, None, cost, 0, latency, before, backfill=backfill)
        if kind == "message.failed":
            cost = self._cost(data.cost)
            before = _previous_status(data.previous_status, kind)
            return Event(key, kind, time, at, account, operator, None, cost, before=before, backfill=backfill)
        if kind == "message.charged":
            cost = self._cost(data.cost, required=True)
            return Event(key, kind, time, at, account, operator, None, cost, backfill=backfill)
        assert kind == "message.routed"
        left = data.from_operator_id
        from_operator = None if left is UNSET or left is None else self._uuid(left, "fromOperatorId")
        return Event(key, kind, time, at, account, operator, from_operator, backfill=backfill)

    def _operator_and_cohort(self, kind: EventType, time: int, data: Data) -> tuple[str | None, int]:
        """The operator, if the event carries one, and when the message was submitted."""
        operator = None
        if kind == "message.routed" or not (data.operator_id is UNSET or data.operator_id is None):
            operator = self._uuid(data.operator_id, "operatorId")
        if kind == "message.submitted" and (data.submitted_at is UNSET or data.submitted_at is None):
            return operator, time
        at = self._instant(data.submitted_at, "data.submittedAt")
        if at - time > FUTURE_MAX_US:
            shown = show(data.submitted_at)
            raise Rejected("invalid_field", f"data.submittedAt must be at most 5 min later than time, but is {shown}.")
        return operator, at

    def _check_window(self, event: Event, published: int) -> None:
        """The exactly-once window. Raises Rejected (in_future, stale, too_late)."""
        publication, submitted = f"its publication at {format_instant(published)}", format_instant(event.at)
        if event.time - published > FUTURE_MAX_US:
            raise Rejected("in_future", f"time {format_instant(event.time)} is more than 5 min after {publication}.")
        age = published - event.at
        if event.backfill is not None:
            if age > HOT_RETENTION_US:
                raise Rejected("too_late", f"submitted at {submitted}, more than 90 days before {publication}.")
            return
        if published - event.time > DEDUPE_WINDOW_US - CLOCK_MARGIN_US:
            raise Rejected("stale", f"time {format_instant(event.time)} is more than 47 h 45 min before {publication}.")
        if age > self._rules.max_message_age_us:
            limit = format_duration(timedelta(microseconds=self._rules.max_message_age_us))
            raise Rejected("too_late", f"submitted at {submitted}, more than {limit} before {publication}.")

    def _uuid(self, value: object, name: str) -> str:
        try:
            return self._uuids[value]
        except (KeyError, TypeError):  # not a UUID; not even hashable
            raise Rejected("invalid_field", f"data.{name} must be a UUID, but {describe(value)}.") from None

    def _cost(self, raw: Raw, *, required: bool = False) -> int:
        """Money in millionths. Raises Rejected (invalid_field)."""
        text = bytes(raw)
        if not required and text in _NO_COST:
            return 0
        try:
            return self._costs[text]
        except KeyError:
            limits = f"a decimal with at most {COST_DIGITS_MAX} digits before the point and {COST_SCALE} after it"
            shown = "is missing" if not text else f"is {clip(text.decode('utf-8', 'replace'))}"
            raise Rejected("invalid_field", f"data.cost must be {limits}, but {shown}.") from None

    def _instant(self, value: Any, name: str) -> int:  # noqa: ANN401 - as it came off the wire
        try:
            return self._seconds[value[:19]] + _FRACTIONS[value[19:]]
        except (KeyError, TypeError):  # any other form RFC 3339 allows, or none
            pass
        try:
            return parse_instant(value)
        except ValueError:
            detail = (
                f"{name} must be an RFC 3339 time with an offset, like 2026-01-31T23:59:59.999Z, but {describe(value)}."
            )
            raise Rejected("invalid_field", detail) from None


_Head = tuple[EventType, str, int, str | None]  # type, key, time, backfill


def _refuse_attributes(envelope: Envelope) -> NoReturn:
    for name in ("id", "source", "type", "time"):
        value = getattr(envelope, name)
        if type(value) is not str or not value:
            raise Rejected("malformed", f"{name} must be a string that is not empty, but {describe(value)}.")
    raise AssertionError("called for an envelope that is in order")


def _names_a_load(name: str) -> bool:
    return 0 < len(name) <= BACKFILL_NAME_CHARS_MAX and name.isprintable()


def _check_identity(event_id: str, source: str, key: str) -> None:
    if not event_id.isprintable() or event_id != event_id.strip():
        detail = f"id must be printable, without white space at its ends, but is {show(event_id)}."
        raise Rejected("invalid_field", detail)
    if not source.isprintable() or " " in source:
        raise Rejected("invalid_field", f"source must be printable, without white space, but is {show(source)}.")
    size = len(key.encode())
    if size > KEY_BYTES_MAX:
        raise Rejected(
            "invalid_field", f"id and source together have {size} bytes; at most {KEY_BYTES_MAX} are allowed."
        )


def _known_key(envelope: Envelope | None) -> str | None:
    """The identity of an event that cannot be counted; None where it has none that is allowed."""
    if envelope is None or not (type(envelope.id) is type(envelope.source) is str and envelope.id and envelope.source):
        return None
    key = f"{envelope.id} {envelope.source}"
    try:
        _check_identity(envelope.id, envelope.source, key)
    except Rejected:
        return None
    return key


def parse_instant(value: object) -> int:
    """Microseconds since 1970 UTC of an RFC 3339 time with offset; digits past the sixth are cut. Raises ValueError."""
    if not isinstance(value, str) or _TIME.fullmatch(value) is None:
        raise ValueError(value)
    try:
        moment = datetime.fromisoformat(value.upper())
        return (moment - _EPOCH) // timedelta(microseconds=1)
    except OverflowError:
        raise ValueError(value) from None


def _whole(value: object, name: str, low: int, high: int, *, default: int) -> int:
    if value is UNSET:
        return default
    if type(value) is not int or not low <= value <= high:
        raise Rejected(
            "invalid_field", f"data.{name} must be a whole number from {low} to {high}, but {describe(value)}."
        )
    return value


def _read_cost(text: bytes) -> int | None:
    """Money in millionths, from the JSON text itself, never from a float; None when it is not allowed."""
    if text[:1] == b'"':
        match = _COST.fullmatch(text[1:-1])
        if match is None and b"\\" in text:  # written with escapes
            match = _COST.fullmatch(json.loads(text).encode("utf-8", "replace"))
        return None if match is None else _millionths(match)
    if text[:1] in b"-0123456789":
        match = _COST.fullmatch(text)
        return _millionths(match) if match is not None else _exact_millionths(text)
    return None


def _millionths(match: re.Match[bytes]) -> int:
    whole, fraction = match.groups()
    return int(whole + (fraction or b"").ljust(COST_SCALE, b"0"))


def _exact_millionths(text: bytes) -> int | None:
    """A JSON number in any notation as millionths; None when it has too many digits."""
    try:
        number = Decimal(text.decode())
    except InvalidOperation:  # an exponent beyond what Decimal can hold
        return None
    sign, digits, exponent = number.as_tuple()
    if not any(digits):
        return 0
    assert isinstance(exponent, int), "JSON has no NaN and no Infinity"
    if number.adjusted() >= COST_DIGITS_MAX:
        return None
    surplus = -COST_SCALE - exponent
    if surplus > 0:
        if any(digits[-surplus:]):
            return None
        digits, exponent = digits[:-surplus], -COST_SCALE
    magnitude = int("".join(map(str, digits))) * 10 ** (exponent + COST_SCALE)
    return -magnitude if sign else magnitude


def _latency(value: object, passed_us: int) -> int:
    """The sample in ms: as given, else the time from submission to outcome, never negative."""
    if value is UNSET or value is None:
        return min(max(0, passed_us // 1000), LATENCY_MS_MAX)
    return _whole(value, "latencyMs", 0, LATENCY_MS_MAX, default=0)


def _previous_status(value: object, kind: Literal["message.delivered", "message.failed"]) -> Status:
    if value is UNSET:
        return "PENDING"
    if type(value) is not str or value not in _STATUSES:
        detail = f"data.previousStatus must be PENDING, DELIVERED or FAILED, but {describe(value)}."
        raise Rejected("invalid_field", detail)
    if value == OUTCOME_OF[kind]:
        raise Rejected("invalid_field", f"data.previousStatus must differ from the outcome of {kind}, but is {value}.")
    return value  # pyright: ignore[reportReturnType] - _STATUSES holds exactly the literals


def _refuse(event: Event, overflow: Overflow) -> None:
    """Refuse what has a part in the overflow."""
    if overflow == "sums":
        raise Rejected("invalid_field", f"data.latencyMs, segments or count would take a sum past {SUM_MAX}.")
    if event.cost:
        raise Rejected("invalid_field", f"data.cost would take total_cost past {COST_SUM_MAX}.")


def to_datetime(instant: int) -> datetime:
    """An aware UTC datetime for microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=instant)


def to_instant(moment: datetime) -> int:
    """Microseconds since 1970 UTC of an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def format_instant(instant: int) -> str:
    """RFC 3339, UTC, six digits; a number where no calendar has the instant."""
    try:
        return to_datetime(instant).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except OverflowError:
        return str(instant)
