"""recount: a second reading of the contract, which must come to the same verdicts and sums as the first."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings

import oracle
from anlyt import recount
from anlyt.events import Decoder, Event, Message, Rules
from anlyt.rollup import fold
from test_events import BAD_COSTS, GOOD_COSTS, NOW, PUBLISHED, REFUSED, body, changed_bodies

DECODER = Decoder(Rules())
RULES = recount.Rules("EUR", 7 * recount.DAY_US, ())


def read(raw: bytes, *, headers: dict[str, str] | None = None) -> recount.Read:
    return recount.read_message(raw, headers, published=PUBLISHED, sequence=1, rules=RULES)


def agree(raw: bytes, headers: dict[str, str] | None = None) -> bool:
    """Whether both readings say the same of a message, field by field."""
    found = DECODER.decode([Message("s", headers, raw, 1, PUBLISHED)])
    ours = read(raw, headers=headers)
    reasons: defaultdict[str, int] = defaultdict(int)
    for letter in found.letters:
        reasons[letter.reason] += 1
    return [as_fact(event) for event in found.events] == ours.facts and reasons == ours.reasons


def as_fact(event: Event) -> recount.Fact:
    return recount.Fact(
        event.key,
        event.type,
        PUBLISHED,
        1,
        event.at,
        event.account or "",
        event.operator or "",
        event.from_operator or "",
        event.cost,
        event.segments,
        event.latency_ms,
        event.before,
        event.error_count,
    )


@pytest.mark.parametrize("event", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_one_reading_refuses_the_other_refuses_for_the_same_reason(event: Any) -> None:
    assert agree(event if isinstance(event, bytes) else json.dumps(event).encode())


@pytest.mark.parametrize("text", [*BAD_COSTS, *GOOD_COSTS])
def test_costs_are_the_same_to_the_last_digit(text: str) -> None:
    raw = json.dumps(body(data={"cost": "COST"})).replace('"COST"', text).encode()

    assert agree(raw)


@settings(max_examples=1000, deadline=None)
@given(changed_bodies())
def test_any_changed_body_is_read_the_same(raw: bytes) -> None:
    assert agree(raw)


@pytest.mark.parametrize(
    "headers",
    [
        {"Anlyt-Backfill": "march"},
        {"Anlyt-Backfill": ""},
        {"anlyt-backfill": "x" * 201},
        {"Content-Type": "application/cloudevents+json", "ce-id": "1"},
        {"ce-id": "1", "ce-source": "/s", "ce-type": "message.submitted", "ce-time": "2026-03-29T11:00:00Z"},
        {"ce-id": "%41", "ce-source": "/s", "ce-type": "x", "ce-specversion": "1.0", "ce-time": "2026-03-29T11:00:00Z"},
        {"ce-id": "%FF", "ce-source": "/s", "ce-type": "x", "ce-specversion": "1.0", "ce-time": "2026-03-29T11:00:00Z"},
    ],
    ids=[
        "load",
        "no name",
        "a long name",
        "structured",
        "binary, no version",
        "binary, unknown type",
        "binary, no text",
    ],
)
@pytest.mark.parametrize("age", ["2026-03-29T11:00:00Z", "2026-03-20T11:00:00Z", "2025-03-20T11:00:00Z"])
def test_headers_are_read_the_same(headers: dict[str, str], age: str) -> None:
    assert agree(json.dumps(body(time=age, data={"submittedAt": age})).encode(), headers)
    assert agree(json.dumps(body()["data"]).encode(), headers)


@pytest.mark.parametrize("seed", range(6))
def test_both_count_the_same_from_the_same_events(seed: int) -> None:
    bodies = oracle.generate(seed, 500, NOW)
    decoded = DECODER.decode([Message("s", None, raw, 1, PUBLISHED) for raw in bodies])
    first = {event.key: event for event in reversed(decoded.events)}
    facts, contradictions = recount.drop_copies([fact for raw in bodies for fact in read(raw).facts])
    random.Random(seed).shuffle(facts)
    counts: defaultdict[int, recount.Count] = defaultdict(recount.Count)
    for fact in facts:
        counts[fact.at // recount.HOUR_US * recount.HOUR_US].add_closely(fact)

    deltas = fold(first.values())
    assert contradictions == 0
    assert first.keys() == {fact.key for fact in facts}
    for key, cell in deltas.hourly.items():
        ours = counts[key.bucket].cells[key.scope, key.scope_id]
        assert cell.total == ours["total_messages"]
        assert cell.delivered == ours["delivered_messages"]
        assert cell.failed == ours["failed_messages"]
        assert cell.cost == ours["total_cost"]
        assert cell.segments == ours["total_segments"]
        assert cell.errors == ours["error_count"] or key.scope != "OPERATOR"
        assert (cell.latency, cell.samples) == (ours["latency_sum_ms"], ours["latency_sample_count"])


def test_a_copy_counts_again_only_when_the_id_may_be_gone() -> None:
    day = recount.DAY_US
    facts = [recount.Fact("a", "operator.error", hours * day // 24, 1, 0) for hours in (60, 0, 30, 48, 49, 100)]
    kept, contradictions = recount.drop_copies(facts)

    assert [fact.published * 24 // day for fact in kept] == [0, 49, 100]
    assert contradictions == 0


def test_a_second_whose_messages_came_far_apart_may_have_a_lower_peak() -> None:
    hours = [0, 1, 7, 13, 13, 13]
    count = recount.Count()
    for n, late in enumerate(hours):
        count.add_closely(recount.Fact(f"e{n}", "message.submitted", late * recount.HOUR_US, n, 0, "account"))
    count.close_hour()

    assert count.cells["ACCOUNT", "account"]["peak_tps"] == len(hours)
    assert count.least_peaks["ACCOUNT", "account"] == 3


def test_nearest_rank_is_the_value_at_the_rank_rounded_up() -> None:
    assert [recount.nearest_rank(list(range(1, n + 1)), 95) for n in (1, 19, 20, 21, 100)] == [1, 19, 19, 20, 95]
