"""Counting stops, loudly, before a whole stream ends up as dead letters; a flood beside good events stops nothing."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fleet
import pipeline
from anlyt import doctor, reports
from anlyt.breaker import REFUSED_EVENTS_MAX, weigh
from anlyt.errors import NothingUnderstood
from anlyt.events import Decoded, Event, Letter, Message
from anlyt.postgres import session
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anlyt.settings import Settings

BODY_EVENTS = 1_000
BODIES = 60  # more than it takes, in whatever batches they come: one below the limit, and a whole one on top of it
NOW = datetime.now(UTC).replace(microsecond=0)
BAD = json.dumps([0] * BODY_EVENTS).encode()
MESSAGE = Message("x", None, b"", 4711, 0)


def decoded(*, good: int = 0, bad: int = 0, reason: str = "malformed", ignored: int = 0) -> Decoded:
    """So many events, and so many letters of one reason."""
    event, letter = Event("1 /", "message.submitted", 0, 0), Letter(MESSAGE, 0, reason, "It is a number.", b"0")
    return Decoded([event] * good, [letter] * bad, ignored)


def weighed(batches: Iterable[Decoded], *, share_max: float = 0.999) -> int:
    """The balance behind all of them."""
    balance = 0
    for batch in batches:
        balance = weigh(balance, batch, share_max=share_max, where="a test")
    return balance


# ------------------------------------------------------------------------------------------------------------- weighing


def test_it_stops_at_the_first_batch_that_is_no_better_when_the_limit_is_reached() -> None:
    batches = [decoded(bad=REFUSED_EVENTS_MAX // 2)] * 2

    assert weighed(batches) == REFUSED_EVENTS_MAX
    with pytest.raises(NothingUnderstood, match=r"a test has stopped.*1 malformed; message 4711: It is a number"):
        weighed([*batches, decoded(bad=1)])


@pytest.mark.parametrize(
    "better",
    [
        decoded(),
        decoded(good=1),
        decoded(good=1, bad=500),
        decoded(ignored=1),
        decoded(bad=500, reason="stale"),
        decoded(bad=1, reason="too_late"),
    ],
    ids=["nothing", "good", "some good", "ignored", "stale", "too late"],
)
def test_what_is_understood_or_empty_never_stops_it(better: Decoded) -> None:
    assert weighed([decoded(bad=REFUSED_EVENTS_MAX), better]) <= REFUSED_EVENTS_MAX


@pytest.mark.parametrize("reason", ["too_large", "malformed", "unknown_type", "invalid_field", "currency_mismatch"])
def test_every_reason_but_age_counts(reason: str) -> None:
    assert weighed([decoded(bad=7, reason=reason)]) == 7


def test_a_share_of_one_lets_everything_become_dead_letters_and_forgets() -> None:
    assert weighed([decoded(bad=REFUSED_EVENTS_MAX)] * 3, share_max=1) == 0


@given(st.lists(st.integers(min_value=0, max_value=900), max_size=200))
def test_bad_events_within_the_share_never_stop_it_in_whatever_order(runs: list[int]) -> None:
    """Up to 900 of them before each good one, a batch each."""
    weighed(each for bad in runs for each in (decoded(bad=bad), decoded(good=1)))


@given(st.lists(st.integers(min_value=2_000, max_value=5_000), min_size=40, max_size=60))
def test_more_than_the_share_stops_it_in_the_end(runs: list[int]) -> None:
    with pytest.raises(NothingUnderstood):
        weighed(each for bad in runs for each in (decoded(bad=bad), decoded(good=1)))


# --------------------------------------------------------------------------------------------------------- real streams


def body(number: int, *, good: int, bad: int = 0, **data: Any) -> bytes:
    """A batch of good events with ids of its own, and of bad ones."""
    made = [json.loads(pipeline.submitted(NOW, event_id=f"{number}-{each}", **data)) for each in range(good)]
    return json.dumps(made + [0] * bad).encode()


def copies(bodies: Iterable[bytes]) -> list[pipeline.Copy]:
    return [pipeline.Copy(each, each, {}, "") for each in bodies]


async def state(settings: Settings) -> tuple[int, int, int]:
    """Events counted, letters kept, and the sequence up to which."""
    async with pipeline.database(settings) as conn:
        return (
            await conn.fetchval("SELECT count(*) FROM anlyt.processed_events"),
            await conn.fetchval("SELECT count(*) FROM anlyt.dead_letters"),
            await conn.fetchval("SELECT min(last_seq) FROM anlyt.stream_positions"),
        )


async def stopped(settings: Settings) -> str:
    """What a worker process says that stops."""
    process = fleet.WorkerProcess(settings, until_idle=False)
    try:
        assert await process.exited() == 1, process.said
        return process.said
    finally:
        process.close()


def test_a_worker_stops_before_the_stream_is_emptied_into_dead_letters(settings: Settings) -> None:
    """Whoever starts it again without a change learns the same; asked to, it goes through, and all is there."""
    bodies = [BAD] * BODIES + [body(1, good=2)]

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, copies(bodies))
            first = await stopped(settings)
            before = _, letters, last_seq = await state(settings)
            second = await stopped(settings)
            assert before == await state(settings), "nothing moves while nobody does anything about it"
            await says_so(settings)
            await pipeline.count(settings.model_copy(update={"dead_letter_share_max": 1.0}))
        assert before == (0, last_seq * BODY_EVENTS, last_seq)
        assert REFUSED_EVENTS_MAX <= letters < BODIES * BODY_EVENTS
        for said in first, second:
            assert "next to nothing in it can be understood" in said
            assert f"malformed; message {last_seq + 1}: " in said
            assert "ANLYT_DEAD_LETTER_SHARE_MAX=1" in said
            assert "Traceback" not in said
        return await pipeline.differences(settings, stored, NOW)

    assert run(scenario()) == []


async def says_so(settings: Settings) -> None:
    """The metric and doctor, for whoever was not there when it stopped."""
    assert settings.database_url is not None
    async with session(settings.database_url.get_secret_value(), application="test") as conn:
        assert (await reports.read_totals(conn, settings=settings)).refused >= REFUSED_EVENTS_MAX
    problems = [finding for finding in await doctor.examine(settings) if finding.level == "problem"]
    assert any("workers stop" in each.finding and "ANLYT_CURRENCY" in each.remedy for each in problems), problems


def test_counting_goes_on_where_it_stopped_when_the_currency_is_put_right(settings: Settings) -> None:
    bodies = [body(number, good=BODY_EVENTS, currency="USD") for number in range(BODIES)]
    mended = settings.model_copy(update={"currency": "USD"})

    async def scenario() -> tuple[int, int, int]:
        async with pipeline.stream_of(settings) as nc:
            await pipeline.publish(nc, settings, copies(bodies))
            with pytest.raises(NothingUnderstood, match="currency_mismatch"):
                await pipeline.count(settings)
            await pipeline.count(mended)
        return await state(settings)

    counted, letters, last_seq = run(scenario())

    assert REFUSED_EVENTS_MAX <= letters < BODIES * BODY_EVENTS
    assert (counted + letters, last_seq) == (BODIES * BODY_EVENTS, BODIES)


def test_a_flood_of_bad_events_beside_a_few_good_ones_stops_nothing(settings: Settings) -> None:
    bodies = [body(number, good=1, bad=BODY_EVENTS - 1) for number in range(BODIES)]

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, copies(bodies))
            await pipeline.count(settings)
        return await pipeline.differences(settings, stored, NOW)

    assert run(scenario()) == []


@pytest.mark.parametrize(
    "point",
    [
        pytest.param(point, marks=() if point in {"after-letters", "after-commit"} else pytest.mark.long)
        for point in fleet.INGEST_POINTS
    ],
)
def test_it_stops_at_the_same_message_however_often_workers_die_on_the_way(settings: Settings, point: str) -> None:
    small = settings.model_copy(update={"batch_events_max": 3})
    bodies = [body(0, good=3, bad=5), *[BAD] * BODIES, body(1, good=2)]

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, copies(bodies))
            await die_at(small, point)
            await stopped(small)
            _, letters, last_seq = await state(settings)
            assert letters == 5 + (last_seq - 1) * BODY_EVENTS
            assert REFUSED_EVENTS_MAX <= letters < REFUSED_EVENTS_MAX + 6 * BODY_EVENTS
            await pipeline.count(settings.model_copy(update={"dead_letter_share_max": 1.0}))
        return await pipeline.differences(settings, stored, NOW)

    assert run(scenario()) == []


async def die_at(settings: Settings, point: str) -> None:
    """Let workers die there three times, or stop before."""
    for _ in range(3):
        process = fleet.WorkerProcess(settings, until_idle=False, crash_points=f"{point}=0.5")
        try:
            assert await process.exited() in {1, -signal.SIGKILL}, process.said
        finally:
            process.close()
