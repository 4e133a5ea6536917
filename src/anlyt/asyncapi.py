"""The events as an AsyncAPI 3.0 document, and their JSON schemas: what producers may send.

In: the closed sets, limits and forms that the decoder checks with (events.py, cloudevents.py), and the settings that
decide about events. Out: the document of /asyncapi.json, and the schemas that /openapi.json shows for POST /v1/events.
The decoder is the law; property tests hold that it counts what a schema accepts and that a schema accepts what it
counts, but for what a schema cannot say: the bytes of id and source together, days a month does not have, characters
that do not print, and that 1.0 is no integer.
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any, Final, get_args

from msgspec import Struct

from anlyt.cloudevents import ATTRIBUTES, BATCH_BODY_EVENTS_MAX
from anlyt.events import (
    BACKFILL_NAME_CHARS_MAX,
    COST_DIGITS_MAX,
    COST_SCALE,
    ERROR_COUNT_MAX,
    LATENCY_MS_MAX,
    OUTCOME_OF,
    SEGMENTS_MAX,
    EventType,
    Status,
)
from anlyt.glossary import ACCOUNT, OPERATOR
from anlyt.intake import BATCH_TYPE, SINGLE_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anlyt.settings import Settings

    Schema = dict[str, Any]

_OTHER_OPERATOR: Final = OPERATOR[:-1] + "2"
_NO_CONTROL: Final = r"\x00-\x1f\x7f-\x9f"
_TIME: Final = {
    "type": "string",
    "format": "date-time",
    "pattern": (
        r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt]([01][0-9]|2[0-3])(:[0-5][0-9]){2}(\.[0-9]+)?"
        r"([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
    ),
}
_UUID: Final = {
    "type": "string",
    "format": "uuid",
    "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
}
_COST_END: Final = 10**COST_DIGITS_MAX
_ATTRIBUTES: Final[Mapping[str, Schema]] = {
    "specversion": {"const": "1.0", "description": "Version of CloudEvents."},
    "id": {
        "type": "string",
        "pattern": rf"^[^\s{_NO_CONTROL}]+( +[^\s{_NO_CONTROL}]+)*$",
        "maxLength": 510,
        "description": "With `source` the identity of the event: the same pair counts once. UUIDv7 or ULID are best.",
        "examples": ["0196f1c2-7a11-7c50-8f0e-5a1f3c2b0001"],
    },
    "source": {
        "type": "string",
        "pattern": rf"^[^\s{_NO_CONTROL}]+$",
        "maxLength": 510,
        "description": "Who sends; a URI reference of the producer's own. With `id` at most 511 bytes.",
        "examples": ["/gateway/eu-1"],
    },
    "time": _TIME | {"description": "When it happened, with an offset.", "examples": ["2026-04-18T10:00:01.250Z"]},
}
_MEMBERS: Final[Mapping[str, Schema]] = {
    "messageId": {"type": "string", "minLength": 1, "description": "Id of the message.", "examples": ["m-1"]},
    "accountId": _UUID | {"description": "Account that sent the message.", "examples": [ACCOUNT]},
    "operatorId": _UUID | {"description": "Operator that has the message.", "examples": [OPERATOR]},
    "fromOperatorId": _UUID
    | {"description": "Operator that had the message before, and failed.", "examples": [_OTHER_OPERATOR]},
    "submittedAt": _TIME
    | {
        "description": "When the message was submitted: the hour and day it is counted in.",
        "examples": ["2026-04-18T10:00:00Z"],
    },
    "segments": {
        "type": "integer",
        "minimum": 1,
        "maximum": SEGMENTS_MAX,
        "default": 1,
        "description": "Segments of the message.",
        "examples": [1],
    },
    "latencyMs": {
        "type": "integer",
        "minimum": 0,
        "maximum": LATENCY_MS_MAX,
        "description": "Milliseconds from submission to delivery; else `time` less `submittedAt`.",
        "examples": [1250],
    },
    "cost": {
        "anyOf": [
            {"type": "string", "pattern": rf"^-?[0-9]{{1,{COST_DIGITS_MAX}}}(\.[0-9]{{1,{COST_SCALE}}})?$"},
            {
                "type": "number",
                "exclusiveMinimum": -_COST_END,
                "exclusiveMaximum": _COST_END,
                "multipleOf": 10**-COST_SCALE,
            },
        ],
        "description": "Added to the cost; negative takes away. A string is best: no JSON library rounds it.",
        "examples": ["0.045000"],
    },
    "currency": {"type": "string", "description": "Must be the deployment's currency.", "examples": ["EUR"]},
    "count": {
        "type": "integer",
        "minimum": 1,
        "maximum": ERROR_COUNT_MAX,
        "default": 1,
        "description": "How many errors this reports.",
        "examples": [1],
    },
    "code": {"description": "The operator's code; for people, not counted.", "examples": ["SMPP-88"]},
    "previousStatus": {
        "type": "string",
        "default": "PENDING",
        "description": "What was reported before, when this corrects it.",
        "examples": ["PENDING"],
    },
}
_NULLABLE: Final = frozenset({"operatorId", "fromOperatorId", "submittedAt", "latencyMs", "cost"})  # null: not there


class Kind(Struct, frozen=True):
    """A type of event: what its data must and may hold, and what it adds to the numbers."""

    meaning: str
    required: tuple[str, ...]
    optional: tuple[str, ...]


_MESSAGE: Final = ("messageId", "accountId")
_OUTCOME: Final = (*_MESSAGE, "submittedAt")
KINDS: Final[Mapping[EventType, Kind]] = {
    "message.submitted": Kind(
        "A message was handed in: one more message, pending, with its segments and cost.",
        _MESSAGE,
        ("operatorId", "submittedAt", "segments", "cost", "currency"),
    ),
    "message.routed": Kind(
        "A message went to an operator, perhaps after another failed; the account's numbers stay.",
        (*_OUTCOME, "operatorId"),
        ("fromOperatorId", "currency"),
    ),
    "message.delivered": Kind(
        "A message arrived: delivered instead of pending, with one latency sample.",
        _OUTCOME,
        ("operatorId", "latencyMs", "cost", "previousStatus", "currency"),
    ),
    "message.failed": Kind(
        "A message will not arrive: failed instead of pending.",
        _OUTCOME,
        ("operatorId", "cost", "previousStatus", "currency"),
    ),
    "message.charged": Kind(
        "A cost that became known later, or a refund; no message is counted.",
        (*_OUTCOME, "cost"),
        ("operatorId", "currency"),
    ),
    "operator.error": Kind(
        "An operator reported errors that belong to no message.", ("operatorId",), ("count", "code")
    ),
}


def event_schemas(currency: str | None = None) -> dict[EventType, Schema]:
    """The JSON schema of an event of each type; with `currency` only that one is accepted."""
    return {kind: _event(kind, currency) for kind in KINDS}


def any_event(currency: str | None = None) -> Schema:
    """The schema of an event of any type."""
    return {"oneOf": list(event_schemas(currency).values())}


def any_batch(currency: str | None = None) -> Schema:
    """The schema of a batch."""
    return {"type": "array", "items": any_event(currency), "maxItems": BATCH_BODY_EVENTS_MAX}


def _event(kind: EventType, currency: str | None) -> Schema:
    members = {name: _ATTRIBUTES[name] for name in ATTRIBUTES if name != "type"}
    word = {"const": kind, "description": "What happened."}
    properties = {**members, "type": word, "data": _data(kind, currency)}
    return {
        "title": _title(kind),
        "description": KINDS[kind].meaning,
        "type": "object",
        "required": [*ATTRIBUTES, "data"],
        "properties": properties,
    }


def _data(kind: EventType, currency: str | None) -> Schema:
    names = (*KINDS[kind].required, *KINDS[kind].optional)
    schema = {name: _member(kind, name) for name in names}
    if currency is not None and "currency" in schema:
        schema["currency"] = {**schema["currency"], "const": currency, "examples": [currency]}
    return {
        "title": f"{_title(kind)}Data",
        "type": "object",
        "required": list(KINDS[kind].required),
        "properties": schema,
    }


def _member(kind: EventType, name: str) -> Schema:
    schema = _MEMBERS[name]
    if name == "previousStatus":
        return {**schema, "enum": [status for status in get_args(Status) if status != OUTCOME_OF[kind]]}
    if name not in _NULLABLE or name in KINDS[kind].required:
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return {**schema, "type": [schema["type"], "null"]}


def _title(kind: EventType) -> str:
    return kind.title().replace(".", "")


# ------------------------------------------------------------------------------------------------------------- examples


def example_of(kind: EventType, *, whole: bool = True, **changes: object) -> Schema:
    """An event of a type as producers write it; not `whole`: only what is required. `changes` are members of data."""
    names = (*KINDS[kind].required, *(KINDS[kind].optional if whole else ()))
    return {
        "specversion": "1.0",
        "id": _ATTRIBUTES["id"]["examples"][0],
        "source": _ATTRIBUTES["source"]["examples"][0],
        "type": kind,
        "time": _MEMBERS["submittedAt"]["examples"][0]
        if kind == "message.submitted"
        else _ATTRIBUTES["time"]["examples"][0],
        "data": {name: _MEMBERS[name]["examples"][0] for name in names if name != "currency"} | changes,
    }


def examples_of(kind: EventType) -> Iterator[tuple[str, Schema]]:
    """Examples of a type, each with its name."""
    yield "whole", example_of(kind)
    yield "small", example_of(kind, whole=False)
    if kind in OUTCOME_OF:
        other = next(status for status in OUTCOME_OF.values() if status != OUTCOME_OF[kind])
        yield "correction", example_of(kind, whole=False, previousStatus=other)
    if kind == "message.charged":
        yield "refund", example_of(kind, whole=False, cost="-0.045000")


# ------------------------------------------------------------------------------------------------------------- document


def describe(settings: Settings) -> Schema:
    """The AsyncAPI document of a deployment."""
    messages: Schema = {_title(kind): _message(kind) for kind in KINDS}
    messages |= {"Batch": _batch(), "BinaryEvent": _binary()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "anlyt: events",
            "version": metadata.version("anlyt"),
            "description": (
                "Events of an A2P messaging platform as CloudEvents 1.0, each counted exactly once by `source` and "
                "`id`. Members that are not listed are ignored. What cannot be counted becomes a dead letter with the "
                "reason; publishing the same event again is always safe."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": SINGLE_TYPE,
        "channels": {"events": _channel(settings, list(messages))},
        "operations": {
            "countEvents": {
                "action": "receive",
                "channel": {"$ref": "#/channels/events"},
                "summary": "Count each event once.",
                "messages": [{"$ref": f"#/channels/events/messages/{name}"} for name in messages],
            }
        },
        "components": {"messages": messages, "schemas": _schemas(settings.currency)},
    }


def _channel(settings: Settings, messages: list[str]) -> Schema:
    return {
        "address": settings.subjects.removesuffix(">") + "{topic}",
        "description": f"JetStream stream {settings.stream}. Wait for the acknowledgement; without one, publish again.",
        "parameters": {
            "topic": {"description": "Anything, one or more tokens: the subject never matters to the counts."}
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _schemas(currency: str) -> Schema:
    events = {_title(kind): schema for kind, schema in event_schemas(currency).items()}
    data = {f"{name}Data": event["properties"]["data"] for name, event in events.items()}
    for name, event in events.items():
        event["properties"]["data"] = {"$ref": f"#/components/schemas/{name}Data"}
    references = [{"$ref": f"#/components/schemas/{name}"} for name in events]
    batch = {"type": "array", "items": {"oneOf": references}, "maxItems": BATCH_BODY_EVENTS_MAX}
    return {**events, **data, "Batch": batch}


def _message(kind: EventType) -> Schema:
    return {
        "name": kind,
        "title": kind,
        "summary": KINDS[kind].meaning,
        "contentType": SINGLE_TYPE,
        "headers": {"type": "object", "properties": _stream_headers()},
        "payload": {"$ref": f"#/components/schemas/{_title(kind)}"},
        "examples": [{"name": name, "payload": example} for name, example in examples_of(kind)],
    }


def _batch() -> Schema:
    first, second = example_of("message.submitted"), example_of("message.delivered")
    return {
        "name": "batch",
        "title": "Batch",
        "summary": "Up to 1,000 events; each stands alone, and a bad one never harms its neighbours.",
        "contentType": BATCH_TYPE,
        "headers": {"type": "object", "properties": _stream_headers()},
        "payload": {"$ref": "#/components/schemas/Batch"},
        "examples": [{"name": "two", "payload": [first, second | {"id": "0196f1c2-7a11-7c50-8f0e-5a1f3c2b0002"}]}],
    }


def _binary() -> Schema:
    """Attributes in headers, values percent-encoded where they must be; the body is `data`."""
    attributes = {name: schema for name, schema in _ATTRIBUTES.items() if name != "specversion"}
    headers = {"specversion": _ATTRIBUTES["specversion"], **attributes, "type": {"enum": list(KINDS)}}
    example = example_of("message.submitted")
    return {
        "name": "binary",
        "title": "Event in binary mode",
        "summary": "The attributes stand in headers, which may be percent-encoded; the body is `data`.",
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "required": [f"ce-{name}" for name in ATTRIBUTES],
            "properties": {f"ce-{name}": headers[name] for name in ATTRIBUTES} | _stream_headers(),
        },
        "payload": {"anyOf": [{"$ref": f"#/components/schemas/{_title(kind)}Data"} for kind in KINDS]},
        "examples": [
            {
                "name": "submitted",
                "headers": {f"ce-{name}": example[name] for name in ATTRIBUTES},
                "payload": example["data"],
            }
        ],
    }


def _stream_headers() -> Schema:
    return {
        "Nats-Msg-Id": {
            "type": "string",
            "description": "Not needed; if set, as unique as `<id> <source>`.",
        },
        "Anlyt-Backfill": {
            "type": "string",
            "minLength": 1,
            "maxLength": BACKFILL_NAME_CHARS_MAX,
            "description": "Name of a load of older events, which may change final buckets.",
        },
    }


assert set(get_args(EventType)) == set(KINDS)
