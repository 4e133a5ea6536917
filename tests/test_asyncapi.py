"""The description of the events: valid, served, and in one mind with the decoder about what may be sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import settings as rounds
from hypothesis import strategies as st

from anlyt import asyncapi
from anlyt.events import Decoded, Decoder, Message, Rules, parse_instant
from anlyt.settings import Settings
from serving import service
from support import run

COMMITTED = Path(__file__).parent.parent / "docs/reference/asyncapi.json"
DOCUMENT = asyncapi.describe(Settings.model_validate({}))
PUBLISHED = parse_instant("2026-04-18T10:00:05Z")

UUIDS = [
    "0196f1c2-7a11-7c50-8f0e-5a1f3c2ba001",
    "0196F1C2-7A11-7C50-8F0E-5A1F3C2BA0FF",
    "0196f1c27a117c508f0e5a1f3c2ba001",
    "{0196f1c2-7a11-7c50-8f0e-5a1f3c2ba001}",
    "0196f1c2-7a11-7c50-8f0e-5a1f3c2ba001\n",
    "0196f1c2-7a11-7c50-8f0e-5a1f3c2ba00g",
    "",
    None,
    7,
    ["0196f1c2-7a11-7c50-8f0e-5a1f3c2ba001"],
]
TIMES = [
    "2026-04-18T10:00:00Z",
    "2026-04-18T10:00:00.123Z",
    "2026-04-18T10:00:00.1234567Z",
    "2026-04-18t10:00:00z",
    "2026-04-18T15:30:00+05:30",
    "2026-04-17T10:00:00-23:59",
    "2026-04-18T10:00:00",
    "2026-04-18 10:00:00Z",
    "2026-04-18T10:00:00.Z",
    "2026-04-18T10:00Z",
    "2026-04-18T24:00:00Z",
    "2026-04-18T09:60:00Z",
    "2026-04-18T09:59:60Z",
    "2026-13-18T10:00:00Z",
    "2026-04-32T10:00:00Z",
    "2026-04-18T10:00:00+24:00",
    "2026-04-18T10:00:00Z\n",
    "2026-04-18",
    "",
    None,
    1776506400,
]
WHOLE = [1, 2, 999, 1000, 1001, 1_000_000, 1_000_001, 2**31 - 1, 2**31, 0, -1, 1.5, "1", True, None, [], {}]
COSTS = [
    *("0", "1", "-1", "0.000001", "-0.000001", "999999999.999999", "-999999999.999999", "000000001.5", "-0"),
    *("1000000000", "0.0000001", "1.", ".5", "+1", "1e3", " 1", "1,5", "", "NaN", "1\n"),
    *(0, 1, -1, 0.5, 0.000001, -0.000001, 0.1 + 0.2, 1e-7, 999999999, 1_000_000_000, -1_000_000_000, 1e30, 12.345678),
    *(None, True, [], {"amount": "1"}),
]
WORDS = ["m-1", "x", "é", "", None, 1, True, [], {}]
NAMES = [
    *("e-1", "ü", "/gateway/eu-1", "urn:x", "two words", "two  words", "\U0001f4e8", "x" * 500),
    *(" e", "e ", "", "a\tb", "a\nb", "\x00", "a\x7f", "a\u00a0b", "\u2028", "x" * 513, None, 1, []),
]
POOLS: dict[str, list[Any]] = {
    "messageId": WORDS,
    "accountId": UUIDS,
    "operatorId": UUIDS,
    "fromOperatorId": UUIDS,
    "submittedAt": TIMES,
    "segments": WHOLE,
    "latencyMs": WHOLE,
    "count": WHOLE,
    "cost": COSTS,
    "currency": ["EUR", "eur", "USD", "", None, 978],
    "previousStatus": ["PENDING", "DELIVERED", "FAILED", "delivered", "", None, 1],
    "code": WORDS,
    "somethingElse": WORDS,
}
ATTRIBUTE_POOLS: dict[str, list[Any]] = {
    "specversion": ["1.0", "1.1", "", None, 1.0],
    "id": NAMES,
    "source": NAMES,
    "time": TIMES,
    "type": [*asyncapi.KINDS, "message.lost", "MESSAGE.SUBMITTED", "", None],
    "data": [None, [], "x", 1],
    "subject": WORDS,
}
ABSENT = object()


def validator(schema: dict[str, Any]) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"components": DOCUMENT["components"], **schema})


ANY_EVENT = validator(
    {"oneOf": [{"$ref": f"#/components/schemas/{kind.title().replace('.', '')}"} for kind in asyncapi.KINDS]}
)


def decode(event: object, headers: dict[str, str] | None = None) -> Decoded:
    message = Message("messaging.events.x", headers, json.dumps(event).encode(), 1, PUBLISHED)
    return Decoder(Rules()).decode([message])


@st.composite
def altered_events(draw: st.DrawFn) -> dict[str, Any]:
    """An event in order, with some members taken away or set to something at the edge of what is allowed."""
    event = asyncapi.example_of(draw(st.sampled_from(sorted(asyncapi.KINDS))), whole=draw(st.booleans()))
    names = draw(st.lists(st.sampled_from(sorted({*POOLS} | {*ATTRIBUTE_POOLS})), max_size=3, unique=True))
    for name in names:
        place, pool = (event.get("data"), POOLS[name]) if name in POOLS else (event, ATTRIBUTE_POOLS[name])
        value = draw(st.sampled_from([ABSENT, *pool]))
        if not isinstance(place, dict):
            continue
        place.pop(name, None)
        if value is not ABSENT:
            place[name] = value
    return event


def too_long(event: dict[str, Any]) -> bool:
    """What a schema cannot say: how many bytes id and source have together."""
    named = [event.get(name) for name in ("id", "source")]
    return all(isinstance(name, str) for name in named) and len(" ".join(map(str, named)).encode()) > 512


@given(altered_events())
@rounds(max_examples=2_000, deadline=None)
def test_schema_and_decoder_are_of_one_mind(event: dict[str, Any]) -> None:
    decoded = decode(event)
    fits = ANY_EVENT.is_valid(event)

    assert fits == bool(decoded.events) or (fits and too_long(event)), (
        decoded.letters and decoded.letters[0].detail,
        [error.message for error in ANY_EVENT.iter_errors(event)],
    )


@pytest.mark.parametrize("kind", sorted(asyncapi.KINDS))
@pytest.mark.parametrize("whole", [True, False])
def test_every_single_change_of_an_event_is_judged_alike(kind: Any, whole: bool) -> None:  # noqa: FBT001 - a table's column
    """The same, without chance: each member by itself with each value."""
    for name, pool in (POOLS | ATTRIBUTE_POOLS).items():
        for value in [ABSENT, *pool]:
            event = asyncapi.example_of(kind, whole=whole)
            place = event["data"] if name in POOLS else event
            place.pop(name, None)
            if value is not ABSENT:
                place[name] = value
            counted = bool(decode(event).events)

            assert ANY_EVENT.is_valid(event) == counted or too_long(event), (name, value, counted)


@pytest.mark.parametrize("name", sorted(DOCUMENT["components"]["messages"]))
def test_every_example_fits_and_is_counted(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]

    assert message["examples"]
    for example in message["examples"]:
        validator(message["payload"]).validate(example["payload"])
        validator(message["headers"]).validate(example.get("headers", {}))
        decoded = decode(example["payload"], example.get("headers"))

        assert decoded.letters == []
        assert len(decoded.events) == (len(example["payload"]) if name == "Batch" else 1)


def test_every_member_has_a_meaning_and_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        place: Any = DOCUMENT
        for name in reference.split("/"):
            place = place[name]
    silent = [
        f"{title}.{name}"
        for title, schema in DOCUMENT["components"]["schemas"].items()
        for name, member in schema.get("properties", {}).items()
        if "$ref" not in member and "description" not in member
    ]

    assert silent == []


def test_a_deployment_describes_its_own_subjects_and_currency(database_url: str) -> None:
    settings = Settings.model_validate(
        {"database_url": database_url, "subjects": "eu.traffic.>", "stream": "EU", "currency": "CHF"}
    )

    async def story() -> None:
        async with service(database_url, settings=settings) as (client, _):
            document = (await client.get("/asyncapi.json")).json()

            assert document["channels"]["events"]["address"] == "eu.traffic.{topic}"
            assert document["components"]["schemas"]["MessageChargedData"]["properties"]["currency"]["const"] == "CHF"

    run(story())


def test_what_is_served_by_default_is_what_is_committed(database_url: str) -> None:
    settings = Settings.model_validate({"database_url": database_url})

    async def story() -> None:
        async with service(database_url, settings=settings) as (client, _):
            served = (await client.get("/asyncapi.json")).json()

            assert served == json.loads(COMMITTED.read_text(encoding="utf-8"))

    run(story())
