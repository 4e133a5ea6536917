"""The decoder: every rule of the wire contract, held against the independent model and a catalogue of bad input."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX, BODY_BYTES_MAX
from anlyt.events import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    Decoder,
    Event,
    Letter,
    Message,
    Rules,
    parse_instant,
    to_instant,
)

NOW = datetime(2026, 3, 29, 12, 0, tzinfo=UTC)
PUBLISHED = to_instant(NOW)
ACCOUNT = "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001"
OPERATOR = "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0002"
MISSING = object()


def body(kind: str = "message.submitted", data: dict[str, Any] | None = None, **attributes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {"messageId": "m-1", "accountId": ACCOUNT}
    if kind not in {"message.submitted", "operator.error"}:
        base["submittedAt"] = "2026-03-29T11:59:00Z"
    if kind in {"message.routed", "operator.error"}:
        base["operatorId"] = OPERATOR
    if kind == "message.charged":
        base["cost"] = "0.01"
    base |= data or {}
    event = {"specversion": "1.0", "id": "e-1", "source": "/gateway", "type": kind, "time": "2026-03-29T11:59:59.5Z"}
    event |= {"data": {name: value for name, value in base.items() if value is not MISSING}} | attributes
    return {name: value for name, value in event.items() if value is not MISSING}


def decode_raw(raw: bytes, *, published: int = PUBLISHED, headers: dict[str, str] | None = None, **rules: Any) -> Any:
    return Decoder(Rules(**rules)).decode([Message("messaging.events.x", headers, raw, 7, published)])


def decode_one(event: Any, **options: Any) -> Event | Letter:
    found = decode_raw(event if isinstance(event, bytes) else json.dumps(event).encode(), **options)
    (only,) = [*found.events, *found.letters]
    return only


def reason_of(event: Any, **options: Any) -> str | None:
    found = decode_one(event, **options)
    return found.reason if isinstance(found, Letter) else None


def test_a_submission_carries_its_cohort_cost_and_segments() -> None:
    found = decode_one(body(data={"operatorId": OPERATOR.upper(), "segments": 3, "cost": "12.000001"}))

    assert isinstance(found, Event)
    assert (found.key, found.account, found.operator) == ("e-1 /gateway", ACCOUNT, OPERATOR)
    assert (found.cost, found.segments, found.at) == (12_000_001, 3, parse_instant("2026-03-29T11:59:59.5Z"))


def test_latency_defaults_to_the_time_that_passed_and_is_never_negative() -> None:
    passed = decode_one(body("message.delivered"))
    ahead = decode_one(body("message.delivered", {"submittedAt": "2026-03-29T12:03:00Z"}))

    assert isinstance(passed, Event)
    assert isinstance(ahead, Event)
    assert (passed.latency_ms, ahead.latency_ms) == (59_500, 0)


# name, event, reason, words of the sentence
REFUSED: list[tuple[str, Any, str, str]] = [
    ("empty", b"", "malformed", "not JSON"),
    ("not json", b'{"specversion":"1.0","id":"x"', "malformed", "not JSON"),
    ("trailing bytes", json.dumps(body()).encode() + b" x", "malformed", "not JSON"),
    ("byte order mark", b"\xef\xbb\xbf" + json.dumps(body()).encode(), "malformed", "not JSON"),
    ("utf-16", json.dumps(body()).encode("utf-16"), "malformed", "UTF-8"),
    ("invalid utf-8", json.dumps(body()).encode()[:-1] + b',"x":"\xff"}', "malformed", "UTF-8"),
    ("number at the top", b"12", "malformed", "object"),
    ("string at the top", b'"x"', "malformed", "object"),
    ("null at the top", b"null", "malformed", "object"),
    ("nested too deeply", b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed", "nested too deeply"),
    ("NaN literal", json.dumps(body(data={"other": float("nan")})).encode(), "malformed", "NaN"),
    ("infinite cost", json.dumps(body(data={"cost": float("inf")})).encode(), "malformed", "Infinity"),
    ("lone surrogate", json.dumps(body(data={"other": "\ud800"})).encode(), "malformed", "surrogate"),
    ("gzip bytes", b"\x1f\x8b\x08\x00\x00", "malformed", "UTF-8"),
    ("no specversion", body(specversion=MISSING), "malformed", "specversion"),
    ("other specversion", body(specversion="0.3"), "malformed", "'0.3'"),
    ("numeric specversion", body(specversion=1.0), "malformed", "specversion"),
    ("no id", body(id=MISSING), "malformed", "id must be a string that is not empty, but is missing"),
    ("empty id", body(id=""), "malformed", "id must"),
    ("numeric id", body(id=1), "malformed", "id must be a string that is not empty, but is 1"),
    ("no source", body(source=MISSING), "malformed", "source must"),
    ("null source", body(source=None), "malformed", "but is null"),
    ("no type", body(type=MISSING), "malformed", "type must"),
    ("no time", body(time=MISSING), "malformed", "time must"),
    ("numeric time", body(time=1774785599), "malformed", "time must"),
    ("no data", body(data=None) | {"data": None}, "malformed", "data must be an object, but is null"),
    ("list as data", body() | {"data": []}, "malformed", "data must be an object"),
    ("unknown type", body("message.teleported"), "unknown_type", "'message.teleported'"),
    ("type in other case", body("Message.Submitted"), "unknown_type", "message.submitted"),
    ("nul in id", body(id="a\x00b"), "invalid_field", "id must be printable"),
    ("line break in id", body(id="a\nb"), "invalid_field", "id must be printable"),
    ("zero width in id", body(id="a\u200bb"), "invalid_field", "id must be printable"),
    ("space at the end of id", body(id="a "), "invalid_field", "white space at its ends"),
    ("space in source", body(source="/a b"), "invalid_field", "source must be printable"),
    ("id too long", body(id="x" * 600), "invalid_field", "609 bytes; at most 512"),
    ("id too long in bytes", body(id="é" * 255), "invalid_field", "at most 512"),
    ("time without offset", body(time="2026-03-29T11:59:59"), "invalid_field", "time must be an RFC 3339"),
    ("time as a date", body(time="2026-03-29"), "invalid_field", "RFC 3339"),
    ("time as basic format", body(time="20260329T115959Z"), "invalid_field", "RFC 3339"),
    ("time as week date", body(time="2026-W13-7T11:59:59Z"), "invalid_field", "RFC 3339"),
    ("time as words", body(time="now"), "invalid_field", "RFC 3339"),
    ("leap second", body(time="2026-03-29T11:59:60Z"), "invalid_field", "RFC 3339"),
    ("hour 24", body(time="2026-03-28T24:00:00Z"), "invalid_field", "RFC 3339"),
    ("offset of 25 hours", body(time="2026-03-29T11:59:59+25:00"), "invalid_field", "RFC 3339"),
    ("year 0", body(time="0000-03-29T11:59:59Z"), "invalid_field", "RFC 3339"),
    ("year 1 with offset", body(time="0001-01-01T00:00:00+14:00"), "stale", "47 h 45 min"),
    ("digits of another script", body(time="٢٠٢٦-03-29T11:59:59Z"), "invalid_field", "RFC 3339"),
    ("no messageId", body(data={"messageId": MISSING}), "invalid_field", "data.messageId must"),
    ("empty messageId", body(data={"messageId": ""}), "invalid_field", "data.messageId must"),
    (
        "no accountId",
        body(data={"accountId": MISSING}),
        "invalid_field",
        "data.accountId must be a UUID, but is missing",
    ),
    ("accountId in braces", body(data={"accountId": "{" + ACCOUNT + "}"}), "invalid_field", "UUID"),
    ("accountId without dashes", body(data={"accountId": ACCOUNT.replace("-", "")}), "invalid_field", "UUID"),
    ("accountId as urn", body(data={"accountId": "urn:uuid:" + ACCOUNT}), "invalid_field", "UUID"),
    ("accountId platform", body(data={"accountId": "platform"}), "invalid_field", "'platform'"),
    ("accountId as list", body(data={"accountId": [ACCOUNT]}), "invalid_field", "UUID"),
    ("operatorId not a uuid", body(data={"operatorId": "x"}), "invalid_field", "data.operatorId must be a UUID"),
    ("routed without operator", body("message.routed", {"operatorId": None}), "invalid_field", "data.operatorId"),
    ("routed from nobody", body("message.routed", {"fromOperatorId": 5}), "invalid_field", "data.fromOperatorId"),
    ("no submittedAt", body("message.failed", {"submittedAt": MISSING}), "invalid_field", "data.submittedAt must"),
    ("null submittedAt", body("message.failed", {"submittedAt": None}), "invalid_field", "data.submittedAt must"),
    ("submitted later", body(data={"submittedAt": "2026-03-29T12:05:00Z"}), "invalid_field", "at most 5 min later"),
    ("segments 0", body(data={"segments": 0}), "invalid_field", "data.segments must be a whole number from 1 to 1000"),
    ("segments 1001", body(data={"segments": 1001}), "invalid_field", "but is 1001"),
    ("segments null", body(data={"segments": None}), "invalid_field", "but is null"),
    ("segments 1.0", body(data={"segments": 1.0}), "invalid_field", "but is 1.0"),
    ("segments true", body(data={"segments": True}), "invalid_field", "but is true"),
    ("segments text", body(data={"segments": "1"}), "invalid_field", "but is '1'"),
    ("segments 2^70", body(data={"segments": 2**70}), "invalid_field", "data.segments"),
    (
        "segments 1e400",
        json.dumps(body(data={"segments": 0})).encode().replace(b": 0}", b": 1e400}"),
        "invalid_field",
        "",
    ),
    ("latency -1", body("message.delivered", {"latencyMs": -1}), "invalid_field", "data.latencyMs must"),
    ("latency 2^31", body("message.delivered", {"latencyMs": 2**31}), "invalid_field", "2147483647"),
    ("latency 12.7", body("message.delivered", {"latencyMs": 12.7}), "invalid_field", "but is 12.7"),
    ("delivered twice", body("message.delivered", {"previousStatus": "DELIVERED"}), "invalid_field", "must differ"),
    ("failed twice", body("message.failed", {"previousStatus": "FAILED"}), "invalid_field", "must differ"),
    ("odd status", body("message.failed", {"previousStatus": "LOST"}), "invalid_field", "PENDING, DELIVERED or FAILED"),
    ("null status", body("message.failed", {"previousStatus": None}), "invalid_field", "but is null"),
    ("count 0", body("operator.error", {"count": 0}), "invalid_field", "data.count must"),
    ("count too large", body("operator.error", {"count": 1_000_001}), "invalid_field", "1000000"),
    ("charged without cost", body("message.charged", {"cost": None}), "invalid_field", "data.cost must"),
    ("charged, cost missing", body("message.charged", {"cost": MISSING}), "invalid_field", "but is missing"),
    ("other currency", body(data={"currency": "USD"}), "currency_mismatch", "EUR, this deployment's, but is 'USD'"),
    ("null currency", body(data={"currency": None}), "currency_mismatch", "but is null"),
    ("from the future", body(time="2026-03-29T12:05:00.001Z"), "in_future", "more than 5 min after"),
    ("stale", body(time="2026-03-27T12:14:59Z"), "stale", "47 h 45 min before its publication at 2026-03-29T12:00:00"),
    ("too late", body("message.failed", {"submittedAt": "2026-03-22T11:59:59Z"}), "too_late", "7 d before"),
]
BAD_COSTS = [
    *(
        '"NaN"',
        '"Infinity"',
        '"1_000"',
        '" 1"',
        '"1 "',
        '"+1"',
        '""',
        '"1e3"',
        '".5"',
        '"5."',
        '"1,5"',
        '"0x1"',
        "true",
        "[]",
    ),
    *(
        '"0.0000001"',
        '"1000000000"',
        "0.0000001",
        "1e9",
        "1e400",
        "1e-400",
        "1e999999999999",
        '"\uff11"',
        '"-"',
        "{}",
        "1e-7",
    ),
    "123456789.1234560000000000000000000000001",
]
GOOD_COSTS = {
    '"0"': 0,
    '"-0"': 0,
    '"-0.5"': -500_000,
    '"999999999.999999"': 999_999_999_999_999,
    '"0.1"': 100_000,
    '"007"': 7_000_000,
    "0.1": 100_000,
    "1.10": 1_100_000,
    "1e2": 100_000_000,
    "1E-6": 1,
    "-12.000001": -12_000_001,
    "1.0000000": 1_000_000,
    "0e-99": 0,
    "5": 5_000_000,
    '"\\u0031.5"': 1_500_000,
    "null": 0,
}


@pytest.mark.parametrize(("event", "reason", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_counted_is_a_letter_that_names_field_and_value(event: Any, reason: str, words: str) -> None:
    found = decode_one(event)

    assert isinstance(found, Letter)
    assert found.reason == reason
    assert words in found.detail


def test_a_sentence_shows_no_character_that_a_terminal_obeys() -> None:
    found = decode_one(json.dumps(body(data={"cost": "1\x7f\x1b[2J"}), ensure_ascii=False).encode())
    raw = decode_one(b'{"a": 1\x1b[2J')

    assert isinstance(found, Letter)
    assert isinstance(raw, Letter)
    assert (found.detail.isprintable(), raw.detail.isprintable()) == (True, True)
    assert "\\x7f" in found.detail


@pytest.mark.parametrize("text", BAD_COSTS)
def test_a_cost_that_is_not_exact_money_is_refused(text: str) -> None:
    raw = json.dumps(body(data={"cost": "?"})).encode().replace(b'"?"', text.encode())

    found = decode_one(raw)

    assert isinstance(found, Letter)
    assert (found.reason, "data.cost must be a decimal" in found.detail) == ("invalid_field", True)


@pytest.mark.parametrize(("text", "millionths"), GOOD_COSTS.items())
def test_money_is_read_to_the_last_digit(text: str, millionths: int) -> None:
    raw = json.dumps(body(data={"cost": "?"})).encode().replace(b'"?"', text.encode())

    found = decode_one(raw)

    assert isinstance(found, Event)
    assert found.cost == millionths


@pytest.mark.parametrize(
    "event",
    [
        body(extension=[1, {"x": None}], data={"unknown": {"deep": ["x"]}, "count": "not ours here"}),
        body(time="2026-03-29t11:59:59z"),
        body(time="2026-03-30T01:59:59+14:00"),
        body(time="2026-03-29T11:59:59.123456789Z"),
        body(time="2026-03-29T11:59:59-00:00"),
        body(id="a b", source="urn:x:ü"),
        body(id="e" * 200),
        body(data={"operatorId": None, "submittedAt": None, "cost": None}),
        body("message.delivered", {"latencyMs": None}),
        body("operator.error", {"currency": "USD", "messageId": MISSING}),
    ],
)
def test_what_the_contract_leaves_open_is_accepted(event: dict[str, Any]) -> None:
    assert reason_of(event) is None


@pytest.mark.parametrize("prefix", [b"", b'"y":"\\n",'])
def test_a_number_of_any_length_in_an_unknown_member_is_ignored(prefix: bytes) -> None:
    raw = json.dumps(body()).encode()[:-1] + b"," + prefix + b'"x":' + b"9" * 5000 + b"}"

    assert reason_of(raw) is None


def test_of_a_repeated_member_the_last_one_stands() -> None:
    found = decode_one(json.dumps(body()).encode().replace(b'"id": "e-1"', b'"id": "first", "id": "second"'))

    assert isinstance(found, Event)
    assert found.key == "second /gateway"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (body("nonsense", specversion="0.3"), "malformed"),
        (body("nonsense", id=" "), "unknown_type"),
        (body(data={"currency": "USD", "segments": 0}), "invalid_field"),
        (body(time="2026-01-01T00:00:00Z", data={"currency": "USD"}), "currency_mismatch"),
        (body(time="2026-01-01T00:00:00Z"), "stale"),
    ],
)
def test_the_first_reason_in_the_order_of_the_contract_is_given(event: dict[str, Any], reason: str) -> None:
    assert reason_of(event) == reason


@pytest.mark.parametrize(
    ("age_us", "reason"),
    [
        (-5 * MINUTE_US, None),
        (-5 * MINUTE_US - 1, "in_future"),
        (48 * HOUR_US - 15 * MINUTE_US, None),
        (48 * HOUR_US - 15 * MINUTE_US + 1, "stale"),
    ],
)
def test_the_window_is_judged_by_publication_to_the_microsecond(age_us: int, reason: str | None) -> None:
    published = parse_instant("2026-03-29T11:59:59.5Z") + age_us

    assert reason_of(body(), published=published) == reason


def test_a_backfill_may_be_old_but_not_older_than_hot_retention() -> None:
    headers = {"Anlyt-Backfill": "march"}
    old = body("message.failed", {"submittedAt": "2026-01-01T00:00:00Z"}, time="2026-01-01T00:01:00Z")
    older = body("message.failed", {"submittedAt": "2025-12-01T00:00:00Z"}, time="2025-12-01T00:01:00Z")
    future = body(time="2026-03-29T12:30:00Z")

    assert (reason_of(old), reason_of(old, headers=headers)) == ("stale", None)
    assert reason_of(older, headers=headers) == "too_late"
    assert reason_of(future, headers=headers) == "in_future"


def test_the_message_age_is_a_setting() -> None:
    event = body("message.failed", {"submittedAt": "2026-03-29T10:00:00Z"})

    assert reason_of(event, max_message_age_us=HOUR_US) == "too_late"
    assert reason_of(event, max_message_age_us=DAY_US) is None


def test_ignored_types_are_skipped_known_or_not_but_only_if_well_formed() -> None:
    rules = {"ignored_types": ("message.tele*", "message.charged")}
    events = [body("message.teleported"), body("message.charged"), body("message.teleported", id=MISSING), body()]

    found = decode_raw(json.dumps(events).encode(), **rules)

    assert (found.ignored, [letter.reason for letter in found.letters], len(found.events)) == (2, ["malformed"], 1)


def test_a_bad_element_of_a_batch_never_harms_its_neighbours() -> None:
    elements = [
        body(id="1"),
        {"x": 1},
        [],
        "x",
        body(id="2", data={"other": "\ud800"}),
        body(id="3", time="x"),
        body(id="4"),
    ]

    found = decode_raw(b" \n" + json.dumps(elements).encode())

    assert [event.key for event in found.events] == ["1 /gateway", "4 /gateway"]
    assert [(letter.batch_index, letter.reason) for letter in found.letters] == [
        (1, "malformed"),
        (2, "malformed"),
        (3, "malformed"),
        (4, "malformed"),
        (5, "invalid_field"),
    ]
    assert [json.loads(letter.body) for letter in found.letters] == elements[1:6]


def test_a_body_or_a_batch_over_the_limit_is_one_letter() -> None:
    large = decode_raw(b'{"x":"' + b"x" * BODY_BYTES_MAX + b'"}')
    many = decode_raw(json.dumps([body(id=str(n)) for n in range(BATCH_BODY_EVENTS_MAX + 1)]).encode())
    full = decode_raw(json.dumps([body(id=str(n)) for n in range(BATCH_BODY_EVENTS_MAX)]).encode())
    none = decode_raw(b"[]")

    assert [letter.reason for letter in large.letters + many.letters] == ["too_large", "too_large"]
    assert many.letters[0].detail == "The batch has 1001 events; at most 1000 are allowed."
    assert (len(full.events), full.letters) == (BATCH_BODY_EVENTS_MAX, [])
    assert (none.events, none.letters) == ([], [])


def binary(event: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    headers = {f"ce-{name}": str(value) for name, value in event.items() if name != "data"}
    return json.dumps(event["data"]).encode(), headers | {"content-type": "application/json", "Nats-Msg-Id": "1"}


def test_structured_batch_and_binary_mode_give_the_same_event() -> None:
    event = body("message.delivered", {"operatorId": OPERATOR, "cost": 0.25})
    raw, headers = binary(event)

    structured = decode_one(event, headers={"Content-Type": "application/cloudevents+json", "ce-id": "ignored"})

    assert structured == decode_one(event) == decode_one([event]) == decode_one(raw, headers=headers)


def test_binary_attributes_are_percent_decoded_and_their_case_does_not_matter() -> None:
    raw, headers = binary(body())
    headers = {name.upper(): value for name, value in headers.items()} | {"CE-ID": "Euro%20%E2%82%AC"}

    found = decode_one(raw, headers=headers)

    assert isinstance(found, Event)
    assert found.key == "Euro € /gateway"


def test_binary_ids_that_are_no_text_are_refused_and_never_taken_for_one_another() -> None:
    raw, headers = binary(body())

    letters = [decode_one(raw, headers=headers | {"ce-id": f"id-{escaped}"}) for escaped in ("%FE", "%ff", "%ED%A0%80")]

    assert [letter.reason for letter in letters if isinstance(letter, Letter)] == ["malformed"] * 3
    assert all("ce-id" in letter.detail and letter.key is None for letter in letters if isinstance(letter, Letter))


def test_a_header_that_means_nothing_to_the_counts_may_hold_anything() -> None:
    raw, headers = binary(body())

    assert isinstance(decode_one(raw, headers=headers | {"ce-comment": "%FF", "ce-id": "100%25 %zz%"}), Event)


@pytest.mark.parametrize(
    ("raw", "drop", "reason"),
    [(b"[]", "", "malformed"), (b"nope", "", "malformed"), (b"{}", "", "invalid_field"), (b"{}", "ce-id", "malformed")],
)
def test_binary_mode_is_judged_like_structured_mode(raw: bytes, drop: str, reason: str) -> None:
    _, headers = binary(body())
    headers.pop(drop, None)

    assert reason_of(raw, headers=headers) == reason


@pytest.mark.parametrize("seed", range(20))
def test_the_independent_model_agrees_about_its_own_traffic(seed: int) -> None:
    bodies = oracle.generate(seed, 600, NOW, bad=0.2)
    decoder = Decoder(Rules())

    found = decoder.decode([Message("s", None, raw, n, PUBLISHED) for n, raw in enumerate(bodies)])
    expected = oracle.expect(bodies, NOW)

    assert len({event.key for event in found.events}) == expected["processed_events"]
    assert count(letter.reason for letter in found.letters) == expected["dead_letters"]


def count(values: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return found


ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", " ", "PENDING", "FAILED", "0.5", "-1", "EUR", "1.0", ACCOUNT, ACCOUNT.upper(), OPERATOR, "message.routed"]
    ),
    st.sampled_from(
        ["2026-03-29T11:00:00Z", "2026-03-29T12:04:00.5+00:30", "2026-03-20T11:00:00Z", "2026-03-29T11:00:00"]
    ),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
MEMBERS = ["messageId", "accountId", "operatorId", "fromOperatorId", "submittedAt", "segments", "latencyMs", "cost"]


@st.composite
def changed_bodies(draw: st.DrawFn) -> bytes:
    """A valid event with attributes and members changed, dropped or added, and perhaps some bytes cut or swapped."""
    event = body(draw(st.sampled_from(sorted(oracle.TYPES))))
    for name in draw(st.lists(st.sampled_from([*event, "subject"]), max_size=1)):
        event[name] = draw(ODD_VALUES)
    if isinstance(event["data"], dict):
        for name in draw(
            st.lists(st.sampled_from([*MEMBERS, "previousStatus", "count", "currency", "other"]), max_size=3)
        ):
            event["data"][name] = draw(ODD_VALUES)
    raw = json.dumps(event, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


@settings(max_examples=1500, deadline=None)
@given(changed_bodies())
def test_any_changed_body_is_judged_as_the_independent_model_judges_it(raw: bytes) -> None:
    if raw.lstrip(b" \t\r\n")[:1] == b"[":  # elements of a batch stand alone here, and not in the model
        return

    found = decode_raw(raw)

    expected = oracle.expect([raw], NOW)
    assert len(found.events) == expected["processed_events"], raw
    assert count(letter.reason for letter in found.letters) == expected["dead_letters"], (raw, found.letters)


def test_the_same_instant_is_read_the_same_in_every_notation() -> None:
    rnd = random.Random(5)
    for _ in range(300):
        moment = NOW - timedelta(microseconds=rnd.randrange(10**12))
        offset = timedelta(minutes=rnd.randrange(-840, 840))
        local = (moment + offset).replace(tzinfo=None).isoformat(timespec="microseconds")
        sign = "-" if offset < timedelta() else "+"
        hours, minutes = divmod(abs(offset) // timedelta(minutes=1), 60)

        assert parse_instant(f"{local}{sign}{hours:02d}:{minutes:02d}") == to_instant(moment)
