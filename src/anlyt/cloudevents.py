"""A message's body and headers in, CloudEvents envelopes out: structured, batch and binary mode. Pure.

A fast reader (msgspec) reads what producers normally send; what it refuses is read again by the letter of RFC 8259, so
that the verdict and its sentence come from one strict reading. Members anlyt does not know are skipped, not kept.
Nothing is decided here but whether there is an envelope at all: too_large and malformed. The rest is events.py's (I6).
"""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast
from urllib.parse import unquote

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from anlyt.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BODY_BYTES_MAX: Final = 1_048_576
BATCH_BODY_EVENTS_MAX: Final = 1_000
INT_DIGITS_MAX: Final = 4_000  # Python's own limit is 4,300
SHOWN_CHARS_MAX: Final = 80  # of an offending value, in a letter's sentence
ATTRIBUTES: Final = ("specversion", "id", "source", "type", "time")
_BACKSLASH: Final = ord("\\")  # a byte is found in bytes at a sixth of the price of bytes of length one
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_COMMA: Final = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
_KINDS: Final = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


class Data(Struct, gc=False, rename="camel"):
    """The members of `data` that anlyt knows; anything else is skipped."""

    message_id: Any = UNSET
    account_id: Any = UNSET
    operator_id: Any = UNSET
    from_operator_id: Any = UNSET
    submitted_at: Any = UNSET
    segments: Any = UNSET
    latency_ms: Any = UNSET
    cost: Raw = Raw()  # money is read from its text, never from a float
    previous_status: Any = UNSET
    count: Any = UNSET
    currency: Any = UNSET


class Envelope(Struct, gc=False):
    """The required attributes of a CloudEvent; anything else is skipped."""

    specversion: Any = UNSET
    id: Any = UNSET
    source: Any = UNSET
    type: Any = UNSET
    time: Any = UNSET
    data: Data | UnsetType = UNSET


class EnvelopeReader:
    """Reads bodies; keeps nothing but its compiled decoders and the last body it took apart."""

    def __init__(self) -> None:
        self._apart: tuple[bytes, Sequence[bytes | Raw]] = (b"", [b""])
        self._envelope = msgspec.json.Decoder(Envelope).decode
        self._envelopes = msgspec.json.Decoder(list[Envelope]).decode
        self._data = msgspec.json.Decoder(Data).decode
        self._elements = msgspec.json.Decoder(list[Raw]).decode

    def open(self, body: bytes) -> Sequence[Envelope | bytes | Raw]:
        """The events of a body, read already where none needs a closer look. Raises Rejected as `split` does."""
        if len(body) <= BODY_BYTES_MAX and _BACKSLASH not in body and body.isascii():
            try:
                envelopes = self._envelopes(body) if body[:1] == b"[" else [self._envelope(body)]
            except (msgspec.DecodeError, RecursionError):
                return self.split(body)
            if len(envelopes) <= BATCH_BODY_EVENTS_MAX:
                return envelopes
        return self.split(body)

    def split(self, body: bytes) -> Sequence[bytes | Raw]:
        """The single events of a body as they stand. Raises Rejected (too_large, malformed) for the whole of it."""
        if body is not self._apart[0]:  # else one of its events was refused before
            self._apart = (body, _split(body, self._elements))
        return self._apart[1]

    def read(self, body: bytes | Raw) -> Envelope:
        """A structured event. Raises Rejected (malformed)."""
        raw = bytes(body)
        try:
            envelope = self._envelope(raw)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return _envelope_of(_parse_strictly(raw))
        if b"\\" in raw or not raw.isascii():  # members that were skipped were not looked at closely
            _parse_strictly(raw)
        return envelope

    def read_binary(self, attributes: dict[str, str], body: bytes) -> Envelope:
        """A binary-mode event: attributes from the headers, percent-decoded; `data` is the body. Raises Rejected."""
        if len(body) > BODY_BYTES_MAX:
            raise Rejected("too_large", f"The body has {len(body)} bytes; at most {BODY_BYTES_MAX} are allowed.")
        try:
            data = self._data(body)
            if b"\\" in body or not body.isascii():
                _parse_strictly(body)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            data = _data_of(_parse_strictly(body))
        members = {name: _percent_decoded(name, attributes[name]) for name in ATTRIBUTES if name in attributes}
        return Envelope(**members, data=data)


def _split(body: bytes, elements_of: Callable[[bytes], list[Raw]]) -> Sequence[bytes | Raw]:
    if len(body) > BODY_BYTES_MAX:
        raise Rejected("too_large", f"The body has {len(body)} bytes; at most {BODY_BYTES_MAX} are allowed.")
    if body[:1] == b"{" or body.lstrip(b" \t\r\n")[:1] != b"[":
        return [body]
    try:
        if not body.isascii():
            body.decode()
        elements: Sequence[bytes | Raw] = elements_of(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        elements = _split_strictly(body)
    if len(elements) > BATCH_BODY_EVENTS_MAX:
        detail = f"The batch has {len(elements)} events; at most {BATCH_BODY_EVENTS_MAX} are allowed."
        raise Rejected("too_large", detail)
    return elements


def binary_attributes(headers: dict[str, str]) -> dict[str, str] | None:
    """The CloudEvents attributes of a binary-mode message as its headers hold them; None for any other message."""
    if headers.get("content-type", "").strip().lower().startswith("application/cloudevents"):
        return None
    return {name[3:]: value for name, value in headers.items() if name.startswith("ce-")} or None


def _percent_decoded(name: str, value: str) -> str:
    """The text of an attribute's header. Bytes that are no text are refused: replaced, they would make two ids one."""
    try:
        return unquote(value, errors="strict")
    except UnicodeDecodeError:
        raise Rejected("malformed", f"The header ce-{name} is not valid UTF-8: it is {show(value)}.") from None


def _kind(value: object) -> str:
    return next((words for kind, words in _KINDS.items() if isinstance(value, kind)), "a number")


def describe(value: object) -> str:
    """`is missing` or `is <value>`, for a letter's sentence."""
    return "is missing" if value is UNSET else f"is {show(value)}"


def show(value: object) -> str:
    """A value as a letter's sentence shows it: printable, short."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    try:
        return clip(ascii(value))
    except RecursionError:  # just shallow enough to be read
        return "nested too deeply to be shown"


def clip(text: str) -> str:
    """Text in printable ASCII, at most SHOWN_CHARS_MAX characters."""
    text = text.encode("ascii", "backslashreplace").decode()
    if not text.isprintable():
        text = "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in text)
    return text if len(text) <= SHOWN_CHARS_MAX else text[: SHOWN_CHARS_MAX - 3] + "..."


def _read_int(text: str) -> int | Decimal:
    """An integer, or a Decimal for one so long that Python refuses it; no member of ours takes that."""
    return int(text) if len(text) <= INT_DIGITS_MAX else Decimal(text)


def _read_decimal(text: str) -> Decimal:
    """A number with a point or exponent; NaN, which no member of ours takes, for an exponent beyond Decimal."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


_STRICT: Final = json.JSONDecoder(parse_float=_read_decimal, parse_int=_read_int, parse_constant=_refuse_constant)


def _split_strictly(body: bytes) -> list[bytes]:
    """The elements of a JSON array, for what the fast reader refuses: one element must not harm the others."""
    _load_strictly(body)
    text = body.decode()
    elements: list[bytes] = []
    at = _SPACE.match(text, text.index("[") + 1).end()  # pyright: ignore[reportOptionalMemberAccess] - matches anything
    while text[at] != "]":
        _, end = _STRICT.raw_decode(text, at)
        elements.append(text[at:end].encode())
        at = _COMMA.match(text, end).end()  # pyright: ignore[reportOptionalMemberAccess] - matches anything
    return elements


def _parse_strictly(body: bytes) -> object:
    """Any JSON value by the letter of RFC 8259, numbers exact, text encodable. Raises Rejected (malformed)."""
    value = _load_strictly(body)
    if b"\\u" in body:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError:
            raise Rejected("malformed", "The body holds a lone surrogate, which is not text.") from None
        except RecursionError:
            raise Rejected("malformed", "The body is nested too deeply to be read.") from None
    return value


def _load_strictly(body: bytes) -> object:
    try:
        return _STRICT.decode(body.decode())
    except UnicodeDecodeError:
        raise Rejected("malformed", "The body is not valid UTF-8.") from None
    except RecursionError:
        raise Rejected("malformed", "The body is nested too deeply to be read.") from None
    except ValueError as error:
        raise Rejected("malformed", f"The body is not JSON: {clip(str(error))}.") from None


def _envelope_of(value: object) -> Envelope:
    """An envelope from parsed JSON, for what the fast reader refuses. Raises Rejected (malformed)."""
    if not isinstance(value, dict):
        raise Rejected("malformed", f"An event must be a JSON object, but this is {_kind(value)}.")
    found = cast("dict[str, Any]", value)
    members = {name: found[name] for name in ATTRIBUTES if name in found}
    return Envelope(**members, data=_data_of(found["data"]) if "data" in found else UNSET)


def _data_of(value: object) -> Data:
    if not isinstance(value, dict):
        raise Rejected("malformed", f"data must be an object, but is {_kind(value)}.")
    names = zip(Data.__struct_fields__, Data.__struct_encode_fields__, strict=True)
    found = cast("dict[str, Any]", value)
    members = {field: found[name] for field, name in names if name in found}
    if "cost" in members:
        cost = members["cost"]
        members["cost"] = Raw(
            str(cost).encode() if isinstance(cost, Decimal) else json.dumps(cost, default=str).encode()
        )
    return Data(**members)
