"""Any bytes at all: every path of the decoder gives one answer, no more than one letter an event, and never raises.

Mutations of valid events, guided by nothing but luck; `make fuzz` does the same guided by coverage.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from anlyt.cloudevents import BODY_BYTES_MAX
from decoding import NEIGHBOUR, check_body

ROOT = Path(__file__).parents[1]
BASE: dict[str, Any] = json.loads(NEIGHBOUR)
KINDS = ["submitted", "routed", "delivered", "failed", "charged", "read"]
MEMBERS = {
    "operatorId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0002",
    "submittedAt": "2026-03-29T11:00:00Z",
    "latencyMs": 5,
    "cost": "0.5",
    "previousStatus": "FAILED",
    "segments": 3,
    "count": 2,
    "currency": "EUR",
}
NAMES = ["specversion", "id", "source", "type", "time", "data", "accountId", "messageId", "fromOperatorId", *MEMBERS]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=6),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Cf", "Zs", "Nd"]), max_size=4),
    st.sampled_from([*map(str, MEMBERS.values()), "1e400", "NaN", "2026-03-29T11:59:60Z", "platform", "0001-01-01"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
SPLICES = [
    b"\xff",
    b"\xef\xbb\xbf",
    b"\x00",
    b"\\ud800",
    b"\\u0000",
    b"NaN",
    b"1e999999999",
    b"[",
    b"]",
    b"{",
    b"}",
    b'"',
]
SPLICES += [
    b",",
    b":",
    b" ",
    b"\n",
    b"-",
    b"9" * 5000,
    b"[" * 2000,
    b'"id":"x",',
    b'"cost":0e-99,',
    b"\xc3",
    b"\xed\xa0\x80",
]
EXAMPLES = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # how fast a machine is says nothing
)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """A valid event, mostly, with some of its attributes and members changed, moved, dropped or added."""
    data = BASE["data"] | {name: MEMBERS[name] for name in draw(st.sets(st.sampled_from(sorted(MEMBERS))))}
    event = BASE | {"type": f"message.{draw(st.sampled_from(KINDS))}", "data": data}
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=3)):
        place = event if name in event else event.get("data")
        if not isinstance(place, dict):
            continue
        if draw(st.booleans()):
            place[name] = draw(VALUES)
        else:
            place.pop(name, None)
    return event


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """One event or a batch, as bytes that may be cut, doubled and spliced."""
    event = draw(st.one_of(events(), st.lists(events() | VALUES, max_size=4)))
    raw = json.dumps(event, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(raw)))
        to = draw(st.integers(at, min(len(raw), at + 30)))
        raw = raw[:at] + draw(st.sampled_from(SPLICES) | st.binary(max_size=4)) + raw[to:]
    return raw


@EXAMPLES
@given(bodies())
@example(b"")
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(NEIGHBOUR.ljust(BODY_BYTES_MAX + 1))
@example(b"[" + NEIGHBOUR + b"]")
@example(NEIGHBOUR.replace(b'"m"', b'"\\ud800"'))
def test_any_body_gets_one_answer_by_every_path(body: bytes) -> None:
    check_body(body)


@EXAMPLES
@given(
    st.dictionaries(
        st.sampled_from(
            ["ce-id", "ce-source", "ce-type", "ce-time", "ce-specversion", "Content-Type", "Anlyt-Backfill"]
        ),
        st.sampled_from(["1", "/s", "1.0", "message.submitted", "2026-03-29T11:00:00Z", "%00", "%ff", "%", "\x85", ""])
        | st.text(max_size=5),
    ),
    bodies(),
)
def test_any_headers_get_one_answer_by_every_path(headers: dict[str, str], body: bytes) -> None:
    check_body(body, headers or None)


@EXAMPLES
@given(st.binary(max_size=200))
def test_any_bytes_get_one_answer_by_every_path(body: bytes) -> None:
    check_body(body)


def test_the_fuzzer_is_pinned_by_its_hashes() -> None:
    lines = (ROOT / "fuzz" / "requirements.txt").read_text()

    assert re.findall(r"^[a-z]\S*", lines, re.MULTILINE) == ["atheris==3.0.0"]
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", lines)) >= 1
