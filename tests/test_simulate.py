"""The simulator: the same bytes for a seed, the rhythm and the story it promises, a tally the oracle agrees with."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any

import msgspec
import pytest

import oracle
from anlyt.errors import UsageError
from anlyt.events import DAY_US, HOUR_US, MINUTE_US, Decoder, Message, Rules, to_datetime, to_instant
from anlyt.sample import roster, story
from anlyt.simulate import (
    BACKFILL_HEADER,
    Publication,
    Tally,
    Traffic,
    backfill_name,
    bodies,
    plain,
    rhythm,
    simulate,
)

START = datetime(2026, 3, 26, 12, 0, 0, 123_457, tzinfo=UTC)  # a Thursday; between two milliseconds
LIVE = Traffic(start=START, seed=7, rate=60, duration=timedelta(minutes=3), bad=0.02)
DAY = Traffic(start=START, seed=7, rate=0.2, history=timedelta(days=1), bad=0.02)
MONTH = Traffic(start=START, seed=7, rate=0.02, history=timedelta(days=30))


def structured(publication: Publication) -> bytes:
    """The body of a message; a binary-mode event is written as a structured one."""
    headers = publication.headers
    if "ce-id" not in headers:
        return publication.body
    names = ("specversion", "id", "source", "type", "time")
    return json.dumps({name: headers[f"ce-{name}"] for name in names} | {"data": json.loads(publication.body)}).encode()


def elements(publications: list[Publication]) -> list[tuple[Publication, dict[str, Any]]]:
    """Every event of good traffic, with the message it came in."""
    found: list[tuple[Publication, dict[str, Any]]] = []
    for publication in publications:
        value = msgspec.json.decode(structured(publication))
        found += [(publication, event) for event in (value if isinstance(value, list) else [value])]
    return found


@lru_cache(maxsize=2)
def good(traffic: Traffic) -> list[dict[str, Any]]:
    """Every distinct event of the traffic, were nothing wrong with it."""
    publications, _ = made(msgspec.structs.replace(traffic, bad=0.0))
    return list({(event["source"], event["id"]): event for _, event in elements(publications)}.values())


def made(traffic: Traffic) -> tuple[list[Publication], Tally]:
    tally = Tally()
    return list(simulate(traffic, tally)), tally


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


@pytest.mark.parametrize("traffic", [LIVE, DAY, plain(LIVE)])
def test_the_same_traffic_gives_the_same_bytes(traffic: Traffic) -> None:
    assert made(traffic) == made(traffic)


def test_another_seed_gives_other_events_and_other_participants() -> None:
    other = msgspec.structs.replace(LIVE, seed=8)

    assert not {body for body in bodies(LIVE) if b'"id"' in body and b"msg-" in body} & set(bodies(other))
    assert not roster(7).names().keys() & roster(8).names().keys()


def test_a_later_run_of_the_same_seed_is_no_repetition_of_the_first() -> None:
    later = msgspec.structs.replace(LIVE, start=START + timedelta(minutes=3))
    first, second = ({(event["source"], event["id"]) for event in good(traffic)} for traffic in (LIVE, later))

    assert not first & second


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("traffic", [LIVE, DAY, plain(LIVE)])
def test_the_oracle_counts_what_the_tally_says(traffic: Traffic, seed: int) -> None:
    traffic = msgspec.structs.replace(traffic, seed=seed)
    publications, tally = made(traffic)
    published = START if traffic.history else START + timedelta(minutes=3)

    expected = oracle.expect([structured(publication) for publication in publications], published)

    assert expected["processed_events"] == tally.events
    assert expected["dead_letters"] == dict(tally.bad)
    assert len(publications) == tally.messages
    platform = [row for (_, scope, _), row in expected["metrics_daily"].items() if scope == "PLATFORM"]
    assert sum(row["total_messages"] for row in platform) == tally.submitted


def test_the_tally_also_holds_for_traffic_published_when_it_is_long_over() -> None:
    traffic = msgspec.structs.replace(LIVE, rate=0.2, duration=timedelta(hours=40))
    publications, tally = made(traffic)

    expected = oracle.expect([structured(publication) for publication in publications], START + timedelta(hours=40))

    assert expected["dead_letters"] == dict(tally.bad)


@pytest.mark.parametrize("traffic", [LIVE, DAY, MONTH])
def test_our_decoder_finds_what_the_tally_says(traffic: Traffic) -> None:
    publications, tally = made(traffic)
    messages = [
        Message(p.subject, p.headers, p.body, n, to_instant(START) if traffic.history else p.publish_at)
        for n, p in enumerate(publications, 1)
    ]

    decoded = Decoder(Rules()).decode(messages)

    assert len(decoded.events) == tally.events + tally.duplicates
    assert len({event.key for event in decoded.events}) == tally.events
    assert Counter(letter.reason for letter in decoded.letters) == tally.bad


def test_every_reason_of_a_dead_letter_occurs_but_too_large() -> None:
    live = made(msgspec.structs.replace(LIVE, bad=0.1))[1].bad.keys()
    history = made(msgspec.structs.replace(DAY, bad=0.1))[1].bad.keys()

    reasons = {"malformed", "unknown_type", "invalid_field", "currency_mismatch", "in_future", "stale", "too_late"}
    assert live == reasons
    assert history == reasons - {"stale"}


def test_the_shares_are_about_those_asked_for() -> None:
    publications, tally = made(msgspec.structs.replace(LIVE, rhythm=False, rate=1_000, duration=timedelta(minutes=2)))
    batched = sum(len(json.loads(p.body)) for p in publications if ".batch." in p.subject)
    binary = sum("ce-id" in p.headers for p in publications)

    assert tally.events == pytest.approx(120_000, rel=0.05)
    assert tally.duplicates / tally.events == pytest.approx(0.02, rel=0.1)
    assert tally.bad.total() / tally.events == pytest.approx(0.02, rel=0.1)
    assert batched / tally.events == pytest.approx(0.2, rel=0.4)
    assert binary / len(publications) == pytest.approx(0.03, rel=0.2)


def test_plain_traffic_is_one_structured_event_a_message() -> None:
    publications, tally = made(plain(LIVE))

    assert len(publications) == tally.events + tally.duplicates + tally.bad.total()
    assert not any("ce-id" in p.headers or p.body.startswith(b"[") for p in publications)


@pytest.mark.parametrize("traffic", [LIVE, DAY, plain(LIVE), MONTH])
def test_publications_come_in_order_and_within_the_time_asked_for(traffic: Traffic) -> None:
    publications, _ = made(traffic)
    times = [publication.publish_at for publication in publications]
    begin = to_instant(START - (traffic.history or timedelta(0)))
    length = (traffic.history or traffic.duration or timedelta(0)) // timedelta(microseconds=1)

    assert all(before <= after for before, after in pairwise(times))
    assert begin - 1_000 < times[0]
    assert times[-1] < begin + length


def test_no_event_that_counts_is_dated_after_its_publication() -> None:
    publications, _ = made(msgspec.structs.replace(LIVE, bad=0.0))

    for publication, event in elements(publications):
        assert to_instant(datetime.fromisoformat(event["time"])) <= publication.publish_at


def test_a_history_is_a_backfill_of_its_range_and_nothing_later() -> None:
    publications, _ = made(MONTH)
    names = {publication.headers.get(BACKFILL_HEADER) for publication in publications}
    events = good(MONTH)
    submitted = [datetime.fromisoformat(e["data"].get("submittedAt", e["time"])) for e in events]

    assert names == {backfill_name(MONTH)}
    assert START - timedelta(days=30, milliseconds=1) <= min(submitted)
    assert max(datetime.fromisoformat(e["time"]) for e in events) <= START
    assert timedelta(days=29) < max(submitted) - min(submitted)


def test_live_traffic_is_no_backfill_and_leaves_deduplication_to_anlyt() -> None:
    publications, _ = made(LIVE)

    assert not any(name in p.headers for p in publications for name in (BACKFILL_HEADER, "Nats-Msg-Id"))


def test_afternoons_are_busier_than_nights_and_midweek_than_sundays() -> None:
    events = of_type(good(MONTH), "message.submitted")
    hours = Counter(int(event["time"][11:13]) for event in events)
    days = Counter(datetime.fromisoformat(event["time"]).weekday() for event in events)

    assert sum(hours[h] for h in range(13, 18)) > 3 * sum(hours[h] for h in range(1, 6))
    assert days[2] > 1.3 * days[6]


def test_the_rhythm_is_one_on_the_average_of_a_week() -> None:
    factors = [rhythm(to_instant(START) + minute * MINUTE_US) for minute in range(7 * 24 * 60)]

    assert sum(factors) / len(factors) == pytest.approx(1, abs=0.01)
    assert min(factors) > 0.1


def test_accounts_differ_in_size_and_the_last_one_never_sends() -> None:
    members = roster(LIVE.seed)
    events = of_type(good(LIVE), "message.submitted")
    sent = Counter(event["data"]["accountId"].lower() for event in events)

    assert members.accounts[-1].id not in sent
    assert sent[members.accounts[0].id] > 3 * sent[members.accounts[9].id] > 0
    assert len(members.names()) == len(set(members.names().values())) == 6 + 24


def test_a_large_roster_still_has_a_name_and_an_id_for_each() -> None:
    members = roster(1, operators=20, accounts=1_000)

    assert len(members.names()) == len(set(members.names().values())) == 1_020


def test_every_outcome_belongs_to_a_message_that_was_submitted() -> None:
    events = good(LIVE)
    submitted = {event["data"]["messageId"] for event in of_type(events, "message.submitted")}
    others = {e["data"]["messageId"] for e in events if e["type"] not in {"message.submitted", "operator.error"}}

    assert others <= submitted
    assert len(others) > 0.9 * len(submitted)


def test_lives_have_reroutes_corrections_credits_late_receipts_and_numbers_as_costs() -> None:
    events = good(msgspec.structs.replace(DAY, rate=0.5))
    submitted = {e["data"]["messageId"]: e for e in of_type(events, "message.submitted")}
    delivered = of_type(events, "message.delivered")
    waited = [datetime.fromisoformat(e["time"]) - datetime.fromisoformat(e["data"]["submittedAt"]) for e in delivered]

    assert any("operatorId" not in event["data"] for event in submitted.values())
    assert any("fromOperatorId" in event["data"] for event in of_type(events, "message.routed"))
    assert {e["data"].get("previousStatus") for e in delivered} == {None, "FAILED"}
    assert {e["data"].get("previousStatus") for e in of_type(events, "message.failed")} == {None, "DELIVERED"}
    assert {event["data"]["cost"][0] == "-" for event in of_type(events, "message.charged")} == {True, False}
    assert {type(event["data"].get("cost")) for event in submitted.values()} == {str, float, type(None)}
    assert max(waited) > timedelta(hours=1)
    assert of_type(events, "operator.error")


def test_operators_differ_in_latency_and_failures() -> None:
    members = roster(LIVE.seed)
    events = good(LIVE)
    quick, slow = members.operators[2].id, members.operators[5].id
    samples = {
        who: sorted(
            e["data"]["latencyMs"] for e in events if e["data"].get("operatorId") == who and "latencyMs" in e["data"]
        )
        for who in (quick, slow)
    }

    assert samples[slow][len(samples[slow]) // 2] > 3 * samples[quick][len(samples[quick]) // 2]


def test_last_evening_one_operator_was_slow_and_failed_much() -> None:
    traffic = msgspec.structs.replace(DAY, rate=1)
    incident = story(roster(traffic.seed), to_instant(START)).incident
    failed: Counter[bool] = Counter()
    outcomes: Counter[bool] = Counter()
    for event in good(traffic):
        if event["data"].get("operatorId") == incident.operator.id and event["type"] in {
            "message.delivered",
            "message.failed",
        }:
            inside = incident.start <= to_instant(datetime.fromisoformat(event["data"]["submittedAt"])) < incident.end
            outcomes[inside] += 1
            failed[inside] += event["type"] == "message.failed"

    assert datetime(2026, 3, 25, 20, tzinfo=UTC) == to_datetime(incident.start)
    assert incident.end - incident.start == 2 * HOUR_US
    assert failed[True] / outcomes[True] == pytest.approx(0.6, abs=0.1)
    assert failed[False] / outcomes[False] < 0.1


def test_an_incident_that_is_not_over_was_the_evening_before() -> None:
    incident = story(roster(1), to_instant(datetime(2026, 3, 26, 21, tzinfo=UTC))).incident

    assert datetime(2026, 3, 25, 20, tzinfo=UTC) == to_datetime(incident.start)


def test_three_days_ago_one_operator_sent_no_receipts_and_then_all_at_once() -> None:
    traffic = msgspec.structs.replace(DAY, rate=0.6, history=timedelta(days=4))
    outage = story(roster(traffic.seed), to_instant(START)).outage
    receipts: Counter[int] = Counter()
    for event in good(traffic):
        first = event["type"] in {"message.delivered", "message.failed"} and "previousStatus" not in event["data"]
        if first and event["data"]["operatorId"] == outage.operator.id:
            receipts[to_instant(datetime.fromisoformat(event["time"])) // MINUTE_US] += 1
    flush = outage.end // MINUTE_US
    silent = sum(receipts[minute] for minute in range(outage.start // MINUTE_US, flush))

    assert outage.end - outage.start == 90 * MINUTE_US
    assert 2 * DAY_US < to_instant(START) - outage.end < 4 * DAY_US
    assert receipts[flush] == max(receipts.values())
    assert silent < receipts[flush] / 10  # late ones of before


def test_traffic_without_an_end_goes_on() -> None:
    endless = msgspec.structs.replace(LIVE, duration=None)
    tally = Tally()
    iterator = simulate(endless, tally)
    for _ in range(1_000):
        next(iterator)

    assert tally.messages == 999


def test_a_message_that_was_handed_out_last_may_still_be_left_out() -> None:
    tally = Tally()
    iterator = simulate(plain(LIVE), tally)
    next(iterator)

    assert tally == Tally()

    next(iterator)

    assert (tally.messages, tally.events) == (1, 1)


def test_subjects_begin_with_the_prefix_of_the_stream() -> None:
    publications, _ = made(msgspec.structs.replace(LIVE, subject_prefix="own.prefix."))

    assert all(publication.subject.startswith("own.prefix.") for publication in publications)


def test_another_currency_is_used_throughout() -> None:
    publications, tally = made(msgspec.structs.replace(LIVE, currency="SEK"))

    expected = oracle.expect([structured(p) for p in publications], START + timedelta(minutes=3), "SEK")

    assert expected["processed_events"] == tally.events


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "rate must be from 0.001 to 1e\\+06, but is 0"),
        ({"rate": float("nan")}, "rate must be"),
        ({"duplicates": 0.9}, "duplicates must be from 0 to 0.5, but is 0.9"),
        ({"bad": -0.1}, "bad must be"),
        ({"operators": 1}, "operators must be from 2 to 100, but is 1"),
        ({"accounts": 1}, "accounts must be"),
        ({"history": timedelta(days=90)}, "history must be more than nothing and at most 89 days, but is 90 days"),
        ({"duration": timedelta(0)}, "duration must be"),
        ({"start": datetime(2026, 1, 1)}, "start must have a time zone"),  # noqa: DTZ001 - that is the point
    ],
)
def test_traffic_outside_its_limits_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Traffic(**({"start": START} | change))
