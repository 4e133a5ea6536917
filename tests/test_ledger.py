"""What counts, once, whatever happens to streams, servers, workers and clocks: each case with its agreed outcome."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

import oracle
import pipeline
from anlyt import jetstream, jobs, postgres, store, worker
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedNats
from anlyt.errors import PositionMoved
from anlyt.events import Decoder, Message, to_instant
from anlyt.slots import SLOTS
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from asyncpg import Connection
    from nats.aio.client import Client

    from anlyt.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=0)


class Ledger:
    """One partition counted batch by batch, with JetStream times of the test's choice."""

    def __init__(self, conn: Connection, settings: Settings, position: store.Position) -> None:
        assert settings.database_url is not None
        self.url = settings.database_url.get_secret_value()
        self.conn = conn
        self.position = position
        self._decoder = Decoder(worker.rules_of(settings))

    async def count(self, *bodies: bytes, published: datetime = NOW, expect_new: bool = False) -> store.Applied:
        """Apply a batch of messages that JetStream stored at `published`."""
        first = self.position.last_seq + 1
        at = to_instant(published)
        messages = [Message("any", None, body, first + n, at) for n, body in enumerate(bodies)]
        decoded = self._decoder.decode(messages)
        await postgres.ensure_partitions(self.conn, {published, *(published - timedelta(days=n) for n in range(9))})
        expected = store.Expected() if expect_new else None
        if expected is not None:
            for event in decoded.events:
                expected.add([event])
        batch = store.Batch(messages, decoded, messages[-1].sequence, at, at, expected=expected)
        applied = await store.apply(self.conn, self.position, batch, CrashPoints())
        self.position = applied.position
        return applied

    async def age(self, by: timedelta) -> None:
        """Let everything counted so far have been counted that much earlier."""
        await self.conn.execute("UPDATE anlyt.processed_events SET processed_at = processed_at - $1::INTERVAL", by)

    async def purge(self) -> None:
        """Run the purge job."""
        await jobs.purge(self.conn, jobs.Means(self.url, CrashPoints()))


@asynccontextmanager
async def ledger(settings: Settings, slots: range = range(SLOTS)) -> AsyncGenerator[Ledger]:
    """An empty ledger of some slots of a stream that need not exist."""
    assert settings.database_url is not None
    info = jetstream.StreamInfo(to_instant(NOW), 1, 0, 0, 0, to_instant(NOW), {})
    async with postgres.session(settings.database_url.get_secret_value(), application="test") as conn:
        resume = await store.open_position(conn, settings.stream, tuple(slots), info, seen=None)
        yield Ledger(conn, settings, resume.position)


async def letters(conn: Connection) -> list[str]:
    """Reasons of the dead letters, in the order of their messages."""
    rows = await conn.fetch("SELECT reason FROM anlyt.dead_letters ORDER BY sequence, batch_index")
    return [row["reason"] for row in rows]


async def rollups(settings: Settings) -> list[list[tuple[Any, ...]]]:
    """All rows of the four roll-up tables, except what only says when they were written."""
    async with pipeline.database(settings) as conn:
        return [
            sorted(tuple(v for k, v in row.items() if k != "updated_at") for row in await conn.fetch(query))
            for query in (f"SELECT * FROM anlyt.{table}" for table in pipeline.TABLES)  # noqa: S608 - our own list
        ]


async def total_messages(conn: Connection) -> int:
    """PLATFORM's total over all hours."""
    query = "SELECT coalesce(sum(total_messages), 0)::BIGINT FROM anlyt.metrics_hourly WHERE scope = 'PLATFORM'"
    return int(await conn.fetchval(query))


# ----------------------------------------------------------------------------------------------------------- duplicates


@pytest.mark.parametrize("known", [0, 1, 57, 3 * store.COPY_IDS_MIN], ids=["none", "one", "some", "all"])
def test_ids_that_are_copied_in_first_are_claimed_as_exactly(settings: Settings, known: int) -> None:
    bodies = [pipeline.submitted(NOW) for _ in range(3 * store.COPY_IDS_MIN)]

    async def scenario() -> tuple[int, int, int]:
        async with ledger(settings) as book:
            for at in range(0, known, 7):
                await book.count(*bodies[at : min(at + 7, known)])
            applied = await book.count(*bodies, bodies[-1], expect_new=True)
            ids = await book.conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
            return await total_messages(book.conn), applied.duplicates, ids

    assert run(scenario()) == (len(bodies), known + 1, len(bodies))


def test_two_workers_that_copy_the_same_ids_at_once_count_them_once(settings: Settings) -> None:
    """Each claims a stretch that overlaps the other's; whoever comes second waits for the first to commit."""
    bodies = [pipeline.submitted(NOW) for _ in range(4 * store.COPY_IDS_MIN)]

    async def scenario() -> tuple[int, int]:
        half = SLOTS // 2
        async with ledger(settings, range(half)) as one, ledger(settings, range(half, 2 * half)) as other:
            await asyncio.gather(
                one.count(*bodies[: 3 * store.COPY_IDS_MIN], expect_new=True),
                other.count(*bodies[store.COPY_IDS_MIN :], expect_new=True),
            )
            ids = await one.conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
            return await total_messages(one.conn), ids

    assert run(scenario()) == (len(bodies), len(bodies))


def test_a_batch_of_nothing_but_duplicates_counts_nothing(settings: Settings) -> None:
    bodies = [pipeline.submitted(NOW), pipeline.submitted(NOW)]

    async def scenario() -> tuple[int, int, int]:
        async with ledger(settings) as book:
            first = await book.count(*bodies)
            again = await book.count(*bodies)
            return await total_messages(book.conn), first.duplicates, again.duplicates

    assert run(scenario()) == (2, 0, 2)


def test_a_duplicate_three_days_later_is_stale_though_its_id_is_long_forgotten(settings: Settings) -> None:
    then = NOW - timedelta(days=3)
    body = pipeline.submitted(then)

    async def scenario() -> tuple[int, int, list[str]]:
        async with ledger(settings) as book:
            await book.count(body, published=then)
            await book.age(timedelta(days=3))
            await book.count(pipeline.submitted(NOW))
            await book.purge()
            forgotten = await book.conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
            await book.count(body, pipeline.submitted(NOW))
            return forgotten, await total_messages(book.conn), await letters(book.conn)

    assert run(scenario()) == (1, 3, ["stale"])


def test_a_duplicate_within_the_window_meets_its_id_whatever_the_backlog_and_the_purge(settings: Settings) -> None:
    """Both copies are older than a week when they are read, days after each other, with the purge in between."""
    then = NOW - timedelta(days=8)
    body = pipeline.submitted(then)

    async def scenario() -> tuple[int, int]:
        async with ledger(settings) as book:
            await book.count(body, published=then)
            await book.age(timedelta(days=4))
            await book.purge()
            again = await book.count(body, published=then + timedelta(hours=47, minutes=44))
            return await total_messages(book.conn), again.duplicates

    assert run(scenario()) == (1, 1)


@pytest.mark.parametrize(
    ("age", "reasons"),
    [
        (timedelta(hours=49), ["stale"]),
        (timedelta(hours=47, minutes=46), ["stale"]),
        (timedelta(hours=47, minutes=44), []),
        (timedelta(minutes=-4), []),
        (timedelta(minutes=-6), ["in_future"]),
    ],
)
def test_an_event_counts_inside_the_window_and_is_kept_as_a_letter_outside(
    settings: Settings, age: timedelta, reasons: list[str]
) -> None:
    async def scenario() -> tuple[int, list[str]]:
        async with ledger(settings) as book:
            await book.count(pipeline.submitted(NOW - age), pipeline.submitted(NOW))
            return await total_messages(book.conn), await letters(book.conn)

    assert run(scenario()) == (2 - len(reasons), reasons)


def test_a_batch_from_a_position_that_somebody_moved_leaves_nothing_behind(settings: Settings) -> None:
    """What the zombie read counts once: by whoever moved the position."""

    async def scenario() -> int:
        async with ledger(settings) as book:
            stale = book.position
            await book.count(pipeline.submitted(NOW))
            book.position = stale
            with pytest.raises(PositionMoved):
                await book.count(pipeline.submitted(NOW), b"not an event")
            assert await letters(book.conn) == []
            return await total_messages(book.conn)

    assert run(scenario()) == 1


def test_a_position_put_back_by_a_restored_backup_counts_nothing_again(settings: Settings) -> None:
    rng = random.Random(3)
    bodies = oracle.generate(3, 300, datetime.now(UTC))

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies))
            await pipeline.count(settings)
            before = await rollups(settings)
            async with pipeline.database(settings) as conn:
                await conn.execute("UPDATE anlyt.stream_positions SET last_seq = slot, last_published_at = NULL")
            await pipeline.count(settings, workers=2)
        assert before == await rollups(settings)
        return await pipeline.differences(settings, stored, datetime.now(UTC), totals=False)

    assert run(scenario()) == []


# ---------------------------------------------------------------------------------------------------- the stream's head


def test_a_message_that_its_consumer_has_not_heard_of_yet_is_not_passed_over(settings: Settings) -> None:
    """nats-server tells its consumers a little after it has stored; here one that never hears stands for a late one."""

    async def scenario() -> tuple[bool, int]:
        async with pipeline.stream_of(settings) as nc:
            reader = await jetstream.open_reader(nc, settings.stream, subject=None, after=0)
            await jetstream.request(nc, f"CONSUMER.DELETE.{settings.stream}.{reader._consumer}")
            deaf = {"name": reader._consumer, "ack_policy": "none", "filter_subject": "nobody.publishes.this"}
            await nc.publish(settings.subjects.replace(">", "any"), pipeline.submitted(NOW))
            api = f"CONSUMER.CREATE.{settings.stream}.{reader._consumer}"
            await jetstream.request(nc, api, {"stream_name": settings.stream, "config": deaf})
            head = await reader.caught_up()
            await reader.close()
            return head is not None, (await jetstream.stream_info(nc, settings.stream)).last_seq

    assert run(scenario()) == (False, 1)


def test_complete_through_is_never_ahead_of_what_is_stored(settings: Settings) -> None:
    """A head's `now` is an instant before which nothing can be stored behind the head any more."""

    async def scenario() -> list[tuple[int, int]]:
        async with pipeline.stream_of(settings) as nc, pipeline.stream_of(settings) as producer:
            reader = await jetstream.open_reader(nc, settings.stream, subject="nobody.>", after=0)
            heads: list[jetstream.StreamInfo] = []
            for _ in range(150):
                for _ in range(50):
                    await producer.publish(settings.subjects.replace(">", "any"), b"{}")
                head = await reader.caught_up()
                assert head is not None
                heads.append(head)
            await reader.close()
            await producer.flush()
            published = await pipeline.published_times(nc, settings.stream)
            return [(h.now, published[h.last_seq]) for h in heads if h.last_seq < len(published)]

    late = [published - now for now, published in run(scenario()) if published < now]

    assert late == []


# --------------------------------------------------------------------------------- streams that are not what they were


async def publish(nc: Client, settings: Settings, *bodies: bytes) -> None:
    """Publish one by one."""
    js = nc.jetstream(timeout=10)
    for body in bodies:
        await js.publish(settings.subjects.replace(">", "any"), body)


async def counted(settings: Settings) -> int:
    """PLATFORM's total."""
    async with pipeline.database(settings) as conn:
        return await total_messages(conn)


async def positions(settings: Settings, column: str) -> set[Any]:
    """The values of a column of all slots' positions."""
    async with pipeline.database(settings) as conn:
        rows = await conn.fetch(f"SELECT {column} FROM anlyt.stream_positions")  # noqa: S608 - a column of ours
    return {row[0] for row in rows}


@pytest.mark.parametrize("partitions", [1, 4])
@pytest.mark.parametrize("running", [False, True], ids=["stopped", "running"])
def test_a_recreated_stream_counts_what_is_new_in_it(settings: Settings, partitions: int, *, running: bool) -> None:
    """Old events published again count no second time, new ones count, though their sequences were used before."""
    settings = settings.model_copy(update={"partitions": partitions})
    old, new = [pipeline.submitted(NOW) for _ in range(30)], [pipeline.submitted(NOW) for _ in range(20)]

    async def scenario() -> int:
        async with pipeline.stream_of(settings) as nc, AsyncExitStack() as workers:
            await publish(nc, settings, *old)
            await pipeline.count(settings)
            if running:
                await workers.enter_async_context(pipeline.counting(settings))
            await jetstream.request(nc, f"STREAM.DELETE.{settings.stream}")
            await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
            await publish(nc, settings, *old[:10], *new)
            if not running:
                await pipeline.count(settings)
            await wait_until(lambda: reached(settings, len(old) + len(new)), 30, what="the new events are counted")
            return await counted(settings)

    assert run(scenario()) == 50


async def reached(settings: Settings, total: int) -> bool:
    """Whether that many messages have been counted."""
    return await counted(settings) >= total


@pytest.mark.parametrize("after", [3, 10, 40], ids=["shorter", "as long", "longer"])
def test_a_stream_restored_from_an_older_copy_loses_nothing_of_what_it_gets_then(
    settings: Settings, server_dir: Path, after: int
) -> None:
    """Its sequences are used a second time, for other messages; the position says so by the time of its message."""
    first, lost, then = ([pipeline.submitted(NOW) for _ in range(n)] for n in (5, 10, after))

    async def scenario(nats: EmbeddedNats) -> int:
        here = settings.model_copy(update={"nats_url": SecretStr(nats.url)})
        store_dir, backup = server_dir / "nats" / "data", server_dir / "backup"
        async with pipeline.stream_of(here) as nc:
            await publish(nc, here, *first)
        await nats.stop()
        copy_all(store_dir, backup)
        await nats.start()
        async with pipeline.stream_of(here) as nc:
            await publish(nc, here, *lost)
        await pipeline.count(here)
        await nats.stop()
        shutil.rmtree(store_dir)
        copy_all(backup, store_dir)
        await nats.start()
        async with pipeline.stream_of(here) as nc:
            await publish(nc, here, *then)
        await pipeline.count(here)
        return await counted(here)

    async def whole() -> int:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as nats:
            return await scenario(nats)

    assert run(whole()) == 15 + after


def copy_all(source: Path, target: Path) -> None:
    """Copy a directory with its owners and rights."""
    subprocess.run(["cp", "-a", source, target], check=True)  # noqa: S607 - whatever cp this machine has


@pytest.mark.parametrize("partitions", [1, 4])
def test_messages_the_stream_dropped_unread_are_counted_as_lost_and_the_rest_counts(
    settings: Settings, partitions: int
) -> None:
    settings = settings.model_copy(update={"partitions": partitions})

    async def scenario() -> tuple[int, set[Any]]:
        async with pipeline.stream_of(settings) as nc:
            await publish(nc, settings, *(pipeline.submitted(NOW) for _ in range(10)))
            await pipeline.count(settings)
            await publish(nc, settings, *(pipeline.submitted(NOW) for _ in range(7)))
            await jetstream.request(nc, f"STREAM.PURGE.{settings.stream}")
            await publish(nc, settings, *(pipeline.submitted(NOW) for _ in range(5)))
            await pipeline.count(settings)
        return await counted(settings), await positions(settings, "lost_messages")

    assert run(scenario()) == (15, {7})


def test_a_quiet_partition_follows_the_head_and_raises_no_alarm_when_old_messages_expire(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 16})

    async def scenario() -> tuple[int, set[Any]]:
        async with pipeline.stream_of(settings) as nc:
            await publish(nc, settings, pipeline.submitted(NOW), pipeline.submitted(NOW))
            await pipeline.count(settings)
            assert await positions(settings, "last_seq") == {2}
            await jetstream.request(nc, f"STREAM.PURGE.{settings.stream}")
            await publish(nc, settings, pipeline.submitted(NOW))
            await pipeline.count(settings)
        return await counted(settings), await positions(settings, "lost_messages")

    assert run(scenario()) == (3, {0})
