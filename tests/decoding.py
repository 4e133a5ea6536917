"""What must be so of any bytes a producer sends, for the property tests and for the coverage-guided fuzzer (make fuzz).

One body is decoded by every path there is: alone, in a batch between good neighbours, as the HTTP API judges it, and
with the fast reader switched off, so that only the strict one reads. All must agree, and nothing may raise.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import msgspec

from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX, BODY_BYTES_MAX, SHOWN_CHARS_MAX
from anlyt.errors import Rejected
from anlyt.events import (
    COST_DIGITS_MAX,
    COST_SCALE,
    DAY_US,
    ERROR_COUNT_MAX,
    KEY_BYTES_MAX,
    LATENCY_MS_MAX,
    REASONS,
    SEGMENTS_MAX,
    Decoded,
    Decoder,
    Event,
    Letter,
    Message,
    Rules,
    parse_instant,
)
from anlyt.rollup import fold

if TYPE_CHECKING:
    from typing import NoReturn

PUBLISHED: Final = parse_instant("2026-03-29T12:00:00Z")
SEPARATORS: Final = b" \t\r\n"
ELEMENT_BYTES_MAX: Final = BODY_BYTES_MAX - 1_000  # leaves room for neighbours
DETAIL_CHARS_MAX: Final = 3 * SHOWN_CHARS_MAX + 300  # a sentence and the values it shows
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NEIGHBOUR: Final = json.dumps(
    {
        "specversion": "1.0",
        "id": "neighbour",
        "source": "/neighbour",
        "type": "message.submitted",
        "time": "2026-03-29T11:59:59Z",
        "data": {"messageId": "m", "accountId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001"},
    }
).encode()


def check_body(body: bytes, headers: dict[str, str] | None = None) -> Decoded:
    """Decode by every path; AssertionError where two disagree or a result breaks a limit. What was found."""
    found = _decode(_fast(), body, headers)
    strict = _decode(_strict(), body, headers)

    assert _verdicts(found) == _verdicts(strict), body
    assert found.events == strict.events, body
    assert [letter.message.body for letter in found.letters] == [body] * len(found.letters)
    for letter in found.letters:
        _check_letter(letter)
    for event in found.events:
        _check_event(event)
    fold(found.events)
    if headers is None:
        assert _judged(body) == _verdicts(found), body
        _check_among_neighbours(body, found)
    return found


@cache
def _fast() -> Decoder:
    return Decoder(Rules())


@cache
def _strict() -> Decoder:
    """A decoder whose fast reader refuses everything, so that the strict one reads."""

    def refuse(_body: bytes) -> NoReturn:
        raise msgspec.DecodeError

    decoder = Decoder(Rules())
    decoder._reader._envelope = decoder._reader._data = decoder._reader._elements = refuse
    return decoder


def _decode(decoder: Decoder, body: bytes, headers: dict[str, str] | None) -> Decoded:
    return decoder.decode([Message("messaging.events.x", headers, body, 7, PUBLISHED)])


def _verdicts(found: Decoded) -> list[Any]:
    """Events in order, then the reason of each letter by its place."""
    return [*found.events, *((letter.batch_index, letter.reason) for letter in found.letters)]


def _judged(body: bytes) -> list[Any]:
    """The same from the path of the HTTP API."""
    try:
        verdicts = [verdict for _, verdict in _fast().judge(body, published=PUBLISHED)]
    except Rejected as no:
        return [(0, no.reason)]
    letters = [(index, verdict.reason) for index, verdict in enumerate(verdicts) if isinstance(verdict, Rejected)]
    return [*(verdict for verdict in verdicts if isinstance(verdict, Event)), *letters]


def _check_among_neighbours(body: bytes, alone: Decoded) -> None:
    """As the middle element of a batch it is judged as alone, if it can be an element at all."""
    if len(body) > ELEMENT_BYTES_MAX or body.strip(SEPARATORS)[:1] == b"[" or not _is_json(body):
        return
    among = _decode(_fast(), b"[" + NEIGHBOUR + b"," + body + b"," + NEIGHBOUR + b"]", None)
    neighbours = [event for event in among.events if event.key == "neighbour /neighbour"]
    others = [event for event in among.events if event.key != "neighbour /neighbour"]

    assert len(neighbours) >= 2, body
    assert others == [event for event in alone.events if event.key != "neighbour /neighbour"], body
    assert [letter.reason for letter in among.letters] == [letter.reason for letter in alone.letters], body
    assert [letter.batch_index for letter in among.letters] == [1] * len(among.letters)


def _is_json(body: bytes) -> bool:
    try:
        value = json.loads(body.decode())
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return b"NaN" not in body and b"Infinity" not in body


def _check_letter(letter: Letter) -> None:
    assert letter.reason in REASONS
    assert 0 <= letter.batch_index < BATCH_BODY_EVENTS_MAX
    assert letter.detail.isascii()
    assert letter.detail.isprintable()
    assert 0 < len(letter.detail) <= DETAIL_CHARS_MAX
    if letter.key is not None:
        _check_key(letter.key)


def _check_key(key: str) -> None:
    assert key.isprintable()
    assert len(key.encode()) <= KEY_BYTES_MAX
    assert key.count(" ") >= 1


def _check_event(event: Event) -> None:
    _check_key(event.key)
    for identity in (event.account, event.operator, event.from_operator):
        assert identity is None or _UUID.fullmatch(identity)
    assert (event.account is None) == (event.type == "operator.error")
    assert abs(event.cost) < 10 ** (COST_DIGITS_MAX + COST_SCALE)
    assert 0 <= event.segments <= SEGMENTS_MAX
    assert 0 <= event.latency_ms <= LATENCY_MS_MAX
    assert 0 <= event.error_count <= ERROR_COUNT_MAX
    assert PUBLISHED - 90 * DAY_US <= event.at <= PUBLISHED + DAY_US
