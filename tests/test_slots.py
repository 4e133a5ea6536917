"""A stream's slots: every message in exactly one part, before and after the way of dividing it is changed."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import oracle
import pipeline
from anlyt import jetstream, slots
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from nats.aio.client import Client

    from anlyt.settings import Settings

SUBJECTS = "s.events.>"
REPLICAS = (1, 3)  # a stream of one server, and of several: at random, and by a hash


def traffic(seed: int, number: int = 150) -> list[pipeline.Copy]:
    return pipeline.copies_of(random.Random(seed), oracle.generate(seed, number, datetime.now(UTC)))


# ------------------------------------------------------------------------------------------------------------ the tree


@pytest.mark.parametrize("partitions", range(1, 17))
def test_every_slot_belongs_to_one_partition(partitions: int) -> None:
    branches = slots.branches_of(partitions)

    assert len(branches) == partitions
    assert sorted(slot for branch in branches for slot in slots.slots_of(branch)) == list(range(slots.SLOTS))


@given(st.text(st.characters(exclude_characters=" .>*"), min_size=1), st.sampled_from(REPLICAS))
def test_a_subject_without_the_tokens_has_no_slot_and_stays_as_it_is(name: str, replicas: int) -> None:
    division = slots.division(SUBJECTS, replicas=replicas)

    for subject in (
        f"s.events.{name}",
        f"s.events.0.1.0.{name}",
        f"s.events.hash.0.0.0.1.{name}",
        f"other.0.1.1.0.{name}",
    ):
        assert (division.slot(subject), division.published(subject)) == (None, subject)


def test_a_stream_of_several_servers_is_not_divided_at_random() -> None:
    """Each would draw slots of its own: a part would miss some messages, another would have them twice."""
    for replicas in REPLICAS:
        transform = slots.division(SUBJECTS, replicas=replicas).transform
        on_one = slots.division_of({"num_replicas": 1, "subject_transform": transform}, SUBJECTS)
        on_three = slots.division_of({"num_replicas": 3, "subject_transform": transform}, SUBJECTS)
        assert on_one is not None
        assert on_one.hashed is (replicas > 1)
        assert on_three == (on_one if replicas > 1 else None)
    assert slots.division_of({"num_replicas": 1}, SUBJECTS) is None


def test_what_one_producer_publishes_goes_to_many_subjects() -> None:
    bodies = [json.dumps({"id": n}).encode() for n in range(10_000)]
    subjects = Counter(slots.spread("s.events.http", body) for body in bodies)

    assert len(subjects) == slots.SUBJECTS
    assert max(subjects.values()) < 4 * min(subjects.values())


# ---------------------------------------------------------------------------------------------------- as NATS makes it


@pytest.mark.parametrize("replicas", REPLICAS)
def test_nats_stores_every_message_in_the_slot_that_is_read(settings: Settings, replicas: int) -> None:
    division = slots.division(settings.subjects, replicas=replicas)
    names = [f"{division.prefix}sms.{n}" for n in range(400)]

    async def scenario() -> None:
        async with pipeline.stream_of(settings) as nc:
            await divide(nc, settings, division)
            for name in names:
                await nc.jetstream().publish(name, b"{}")
            everything = await read(nc, settings, None)
            assert [division.published(subject) for _, subject in everything] == names
            for partitions in (2, 3, 16):
                found: list[tuple[int, str]] = []
                for branch in slots.branches_of(partitions):
                    part = await read(nc, settings, division.filter(branch))
                    assert {division.slot(subject) for _, subject in part} == set(slots.slots_of(branch))
                    found += part
                assert sorted(found) == everything

    run(scenario())


async def divide(nc: Client, settings: Settings, division: slots.Division) -> None:
    """Change how the stream is divided from now on."""
    config = (await jetstream.stream_info(nc, settings.stream)).config
    await jetstream.request(nc, f"STREAM.UPDATE.{settings.stream}", config | {"subject_transform": division.transform})


async def read(nc: Client, settings: Settings, subject: str | None) -> list[tuple[int, str]]:
    """Sequence and stored subject of all messages."""
    reader = await jetstream.open_reader(nc, settings.stream, subject=subject, after=0)
    found: list[tuple[int, str]] = []
    while await reader.caught_up() is None:
        found += [(m.sequence, m.subject) for m in await reader.take(5_000, bytes_max=2**24, wait_s=0.1)]
    await reader.close()
    return found


# --------------------------------------------------------------------------------------------------------- when changed


@pytest.mark.parametrize("seed", [31, 32])
def test_parts_wait_until_what_was_stored_before_is_counted_as_one(settings: Settings, seed: int) -> None:
    """Divided at random, then by a hash, with messages left over: no part would have read those."""
    parted, undivided = (settings.model_copy(update={"partitions": number}) for number in (4, 1))

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, traffic(seed))
            await pipeline.count(parted)
            stored += await pipeline.publish(nc, settings, traffic(seed + 100))
            await divide(nc, settings, slots.division(settings.subjects, replicas=3))
            stored += await pipeline.publish(nc, settings, traffic(seed + 200))
            with capture_logs() as logs:
                async with pipeline.counting(parted):
                    await wait_until(lambda: causes(logs, "from before it was divided"), 30, what="the parts wait")
            await pipeline.count(undivided)
            stored += await pipeline.publish(nc, settings, traffic(seed + 300))
            await pipeline.count(parted)
        return await pipeline.differences(settings, stored, datetime.now(UTC))

    assert run(scenario()) == []


def test_a_part_that_is_being_counted_stops_when_the_stream_is_divided_in_another_way(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 4})

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            with capture_logs() as logs:
                async with pipeline.counting(settings):
                    stored = await pipeline.publish(nc, settings, traffic(33))
                    await pipeline.all_counted(nc, settings)
                    await divide(nc, settings, slots.division(settings.subjects, replicas=3))
                    await wait_until(lambda: causes(logs, "in another way"), 30, what="the parts have seen it")
                    stored += await pipeline.publish(nc, settings, traffic(34))
                    await pipeline.all_counted(nc, settings)
        return await pipeline.differences(settings, stored, datetime.now(UTC), totals=False)

    assert run(scenario()) == []


def causes(logs: list[MutableMapping[str, Any]], words: str) -> list[str]:
    """Why partitions had to begin again, as far as the words are in it."""
    found = [entry["cause"] for entry in logs if entry["event"] == "partition-retry"]
    return [cause for cause in found if words in cause]
