"""A worker among others: hand-over, zombies, commits of unknown outcome, signals, missing servers, memory."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
from bisect import bisect_left
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from structlog.testing import capture_logs

import fleet
import oracle
import pipeline
from anlyt import jetstream, publishing, worker
from anlyt.crash import CrashPoints
from anlyt.embedded import EmbeddedNats
from anlyt.errors import DatabaseUnavailable, StreamUnavailable
from anlyt.events import to_instant
from anlyt.patience import BACKOFF_MAX_S, BACKOFF_MIN_S, backoff, ended_after
from anlyt.slots import SLOTS
from anlyt.telemetry import Telemetry
from fault_proxy import Fault, faulty
from support import run, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, MutableMapping

    from anlyt.settings import Settings

STOP_LIMIT_S = 10
MEMORY_MAX_KIB = 300 * 1024


def events(seed: int, number: int) -> list[pipeline.Copy]:
    """Traffic, some of it twice, in random order."""
    return pipeline.copies_of(
        random.Random(seed), oracle.generate(seed, number, datetime.now(UTC), batches=0.03), most=2
    )


@asynccontextmanager
async def worker_process(settings: Settings, *, until_idle: bool = False) -> AsyncGenerator[fleet.WorkerProcess]:
    """A worker process for the length of the block."""
    process = fleet.WorkerProcess(settings, until_idle=until_idle)
    try:
        yield process
    finally:
        process.close()


# ------------------------------------------------------------------------------------------------------------ hand-over


def test_a_worker_frozen_in_the_middle_counts_nothing_twice_when_it_wakes(settings: Settings) -> None:
    """Another one has counted on meanwhile, because PostgreSQL has ended the frozen one's sessions."""
    settings = settings.model_copy(update={"partitions": 4, "batch_events_max": 5})
    copies = events(21, 600)

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc, worker_process(settings) as zombie:
            stored = await pipeline.publish(nc, settings, copies)
            await wait_until(lambda: counted_some(settings), 20, what="the first worker counts")
            zombie.send(signal.SIGSTOP)
            async with pipeline.database(settings) as conn:
                await conn.execute(fleet.END_SESSIONS)
            await pipeline.count(settings)
            zombie.send(signal.SIGCONT)
            stored += await pipeline.publish(nc, settings, events(22, 60))
            await pipeline.all_counted(nc, settings)
            zombie.send(signal.SIGTERM)
            assert await zombie.exited(STOP_LIMIT_S) == 0
        return await pipeline.differences(settings, stored, datetime.now(UTC))

    assert run(scenario()) == []


async def counted_some(settings: Settings) -> bool:
    """Whether a position has moved."""
    return await pipeline.progress(settings) > 0


@pytest.mark.parametrize("fault", Fault)
def test_a_commit_of_unknown_outcome_is_counted_once(settings: Settings, fault: Fault) -> None:
    """The connection breaks before or after the commit, or goes silent; the position tells what became of it."""
    copies = events(23, 150)

    async def scenario() -> list[str]:
        assert settings.database_url is not None
        async with faulty(settings.database_url.get_secret_value()) as (proxy, url), pipeline.stream_of(settings) as nc:
            proxy.plan += [fault] * 4
            changed = {"database_url": SecretStr(url), "batch_events_max": 20, "batch_deadline_s": 0.5}
            stored = await pipeline.publish(nc, settings, copies)
            await pipeline.count(settings.model_copy(update=changed))
            assert proxy.done == [fault] * 4
        return await pipeline.differences(settings, stored, datetime.now(UTC), totals=False)

    assert run(scenario()) == []


def test_a_session_ended_between_the_steps_of_a_statement_is_met_by_reading_again(settings: Settings) -> None:
    """Asyncpg then asks a protocol that is no longer there; any other mistake of that kind stays what it is."""

    async def scenario() -> None:
        async with pipeline.database(settings) as conn:
            conn.terminate()
            with pytest.raises(DatabaseUnavailable, match="ended in the middle"), ended_after(conn, 60):
                await conn._execute("SELECT 1", (), 1, None)
        async with pipeline.database(settings) as conn:
            with pytest.raises(AttributeError), ended_after(conn, 60):
                await conn.nothing_of_this_name()

    run(scenario())


def test_a_partition_that_fails_again_is_tried_later_and_later_until_a_batch_is_counted(settings: Settings) -> None:
    """The stream goes, twice; each time the failures are counted from one."""
    telemetry, stop = Telemetry(), asyncio.Event()
    subject = settings.subjects.replace(">", "any")

    async def scenario(log: list[MutableMapping[str, Any]]) -> list[int]:
        def failures() -> list[int]:
            return [line["failures"] for line in log if line["event"] == "partition-retry"]

        async with pipeline.stream_of(settings) as nc:
            working = asyncio.create_task(
                worker.run(settings, telemetry=telemetry, crash=CrashPoints(), stop=stop), name="worker"
            )
            for counted, times in ((1, 4), (2, 2)):
                await nc.jetstream().publish(subject, pipeline.submitted(datetime.now(UTC)))
                await wait_until(lambda number=counted: telemetry.totals()["counted"] == number, 60, what="it counts")
                goal = len(failures()) + times
                await jetstream.request(nc, f"STREAM.DELETE.{settings.stream}")
                await wait_until(lambda number=goal: len(failures()) >= number, 60, what="it fails again and again")
                await jetstream.ensure_stream(nc, settings.stream, settings.subjects)
            stop.set()
            await working
        return failures()

    with capture_logs() as log:
        found = run(scenario(log), 110)

    again = found.index(1, 1)
    assert again >= 4
    assert found == [*range(1, again + 1), *range(1, len(found) - again + 1)]


@given(failures=st.integers(min_value=1, max_value=10_000))
def test_the_wait_doubles_up_to_a_limit_and_is_never_the_same_for_all(failures: int) -> None:
    longest = BACKOFF_MIN_S + min(BACKOFF_MAX_S, BACKOFF_MIN_S * 2.0 ** min(failures, 100))
    waits = {backoff(failures) for _ in range(20)}

    assert len(waits) > 1
    assert all(BACKOFF_MIN_S <= wait <= longest for wait in waits)


def test_a_nats_server_that_hangs_up_at_once_is_one_that_cannot_be_reached() -> None:
    async def hang_up(_: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        client.write(b'INFO {"server_id":"x","max_payload":1048576,"headers":true}\r\n')
        await client.drain()
        client.transport.abort()

    async def scenario() -> None:
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(30):
                with pytest.raises(StreamUnavailable):
                    await jetstream.connect(f"nats://127.0.0.1:{port}", name="test")

    run(scenario())


def test_partitions_change_under_a_live_stream(settings: Settings) -> None:
    """With traffic before, between and during, and workers of both numbers side by side for a while."""

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, events(30, 100))
            before = settings
            for step, partitions in enumerate((1, 4, 2, 16, 3, 1)):
                now = settings.model_copy(update={"partitions": partitions, "batch_events_max": 20})
                async with pipeline.counting(before), pipeline.counting(now):
                    stored += await pipeline.publish(nc, settings, events(31 + step, 100))
                async with pipeline.counting(now):
                    stored += await pipeline.publish(nc, settings, events(41 + step, 60))
                before = now
            await pipeline.count(before)
        return await pipeline.differences(settings, stored, datetime.now(UTC), totals=False)

    assert run(scenario()) == []


def test_everything_published_before_complete_through_has_been_counted(settings: Settings) -> None:
    """Looked at again and again, in one snapshot each, while two workers count what is being published."""
    settings = settings.model_copy(update={"partitions": 8, "batch_events_max": 50})
    copies = [pipeline.Copy(b"", pipeline.submitted(datetime.now(UTC)), {}, "") for _ in range(6_000)]

    async def scenario() -> list[tuple[datetime, int, int]]:
        looks: list[tuple[datetime, int]] = []
        async with pipeline.stream_of(settings) as nc, pipeline.counting(settings, workers=2):
            async with pipeline.database(settings) as conn:
                publishing_all = asyncio.create_task(pipeline.publish(nc, settings, copies))
                while not publishing_all.done():
                    row = await conn.fetchrow(LOOK)
                    assert row is not None
                    looks += [(row["complete_through"], row["counted"])] if row["slots"] == SLOTS else []
                await publishing_all
            await pipeline.all_counted(nc, settings)
            times = await pipeline.published_times(nc, settings.stream)
        return [
            (through, counted, due)
            for through, counted in looks
            if counted < (due := bisect_left(times, to_instant(through)))
        ]

    assert run(scenario()) == []


LOOK = """
    SELECT min(complete_through) AS complete_through, count(complete_through) AS slots,
        (SELECT count(*) FROM anlyt.processed_events) AS counted
    FROM anlyt.stream_positions"""


# -------------------------------------------------------------------------------------------------------------- signals


def test_eight_workers_that_meet_at_the_same_rows_never_deadlock(settings: Settings) -> None:
    """All of them add to the same hours and seconds, in one order; in random order they begin again and again."""
    settings = settings.model_copy(update={"partitions": 8, "batch_events_max": 10})

    async def scenario() -> list[str]:
        async with pipeline.stream_of(settings) as nc:
            stored = await pipeline.publish(nc, settings, events(53, 1_500))
            with capture_logs() as logs:
                await pipeline.count(settings, workers=8)
            again = [entry["cause"] for entry in logs if entry["event"] == "partition-retry"]
            assert [cause for cause in again if "deadlock" in cause or "serialize" in cause] == []
        return await pipeline.differences(settings, stored, datetime.now(UTC))

    assert run(scenario(), 300) == []


def test_sigterm_finishes_the_batch_and_leaves_with_exit_0(settings: Settings) -> None:
    settings = settings.model_copy(update={"partitions": 2, "batch_events_max": 10})

    async def scenario() -> tuple[int, list[str]]:
        async with pipeline.stream_of(settings) as nc, worker_process(settings) as process:
            stored = await pipeline.publish(nc, settings, events(50, 600))
            await wait_until(lambda: counted_some(settings), 20, what="the worker counts")
            process.send(signal.SIGTERM)
            code = await process.exited(STOP_LIMIT_S)
            assert await pipeline.counted_through(settings) < len(stored), "there was more to count"
            await pipeline.count(settings)
        return code, await pipeline.differences(settings, stored, datetime.now(UTC))

    assert run(scenario()) == (0, [])


def test_a_second_sigterm_ends_a_worker_that_waits_for_postgresql_at_once(settings: Settings) -> None:
    async def scenario() -> tuple[int, list[str]]:
        async with pipeline.stream_of(settings) as nc, worker_process(settings) as process:
            async with pipeline.database(settings) as conn, conn.transaction():
                await conn.execute("LOCK TABLE anlyt.processed_events")
                stored = await pipeline.publish(nc, settings, events(51, 50))
                await wait_until(lambda: somebody_waits(settings), 20, what="the worker waits for the lock")
                code = await wait_until(lambda: told_again(process), STOP_LIMIT_S, what="the worker ends")
            await pipeline.count(settings)
        return code, await pipeline.differences(settings, stored, datetime.now(UTC))

    assert STOP_LIMIT_S < worker.STOP_LIMIT_S, "or it would end by itself"
    assert run(scenario()) == (1, [])


def test_sigterm_ends_a_worker_whose_nats_server_says_nothing_any_more(settings: Settings, server_dir: Path) -> None:
    async def scenario() -> tuple[int, list[str]]:
        async with EmbeddedNats(server_dir / "nats", sync_interval="1m") as server:
            here = settings.model_copy(update={"nats_url": SecretStr(server.url), "partitions": 2})
            async with pipeline.stream_of(here) as nc, worker_process(here) as process:
                stored = await pipeline.publish(nc, here, events(52, 50))
                await pipeline.all_counted(nc, here)
                os.kill(server.pid, signal.SIGSTOP)
                try:
                    process.send(signal.SIGTERM)
                    code = await process.exited(60)
                finally:
                    os.kill(server.pid, signal.SIGCONT)
                return code, await pipeline.differences(here, stored, datetime.now(UTC))

    assert run(scenario()) == (0, [])


def told_again(process: fleet.WorkerProcess) -> int | None:
    """Send SIGTERM; its exit code once it has ended."""
    process.send(signal.SIGTERM)
    return process.poll()


async def somebody_waits(settings: Settings) -> bool:
    """Whether a session waits for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with pipeline.database(settings) as conn:
        return bool(await conn.fetchval(query))


# ---------------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("missing", ["database_url", "nats_url"])
def test_a_worker_whose_server_is_not_there_at_the_start_exits_4_and_names_it(settings: Settings, missing: str) -> None:
    address = {"database_url": "postgresql://anlyt:secret@127.0.0.1:1/x", "nats_url": "nats://anlyt:secret@127.0.0.1:1"}
    changed = settings.model_copy(update={missing: SecretStr(address[missing])})

    async def scenario() -> tuple[int, str]:
        async with worker_process(changed) as process:
            return await process.exited(), process.said

    code, said = run(scenario())

    assert code == 4
    assert "127.0.0.1:1" in said
    assert "secret" not in said


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_stays_bounded_with_200_000_messages_waiting(settings: Settings) -> None:
    """The highest it ever was, after many full batches and with most of the backlog still to come."""
    subject = settings.subjects.replace(">", "any")
    bodies = [pipeline.submitted(datetime.now(UTC)) for _ in range(10_000)]
    backlog = (jetstream.Outgoing(subject, body, {}) for _ in range(20) for body in bodies)

    async def scenario() -> int:
        async with pipeline.stream_of(settings) as nc:
            await publishing.publish_fast(nc, backlog)
            async with worker_process(settings) as process:
                await wait_until(lambda: counted_many(settings), 60, what="many batches are counted")
                return highest_memory_kib(process.pid)

    assert run(scenario(), 110) < MEMORY_MAX_KIB


def test_what_did_not_fit_into_a_batch_is_filled_up_with_what_follows(settings: Settings) -> None:
    """Else every second batch would be a small remainder, at the price of a whole transaction."""
    settings = settings.model_copy(update={"batch_events_max": 3})
    at = datetime.now(UTC)
    pair = [json.loads(pipeline.submitted(at, padding="x" * worker.DECODE_BYTES)) for _ in range(2)]
    body = json.dumps(pair).encode()
    bodies = 12 * [pipeline.Copy(body, body, {}, "")]

    async def scenario() -> list[int]:
        async with pipeline.stream_of(settings) as nc, pipeline.database(settings) as conn:
            await pipeline.publish(nc, settings, bodies)
            context = worker.Context(settings, nc, Telemetry(), CrashPoints(), asyncio.Event())
            lane = worker.Lane("")
            counter = worker.Counter(context, lane, conn, await worker._resume(context, lane, conn))
            reader = lane.reader
            assert reader is not None
            await reader.take(0, bytes_max=1, wait_s=5)
            await wait_until(lambda: len(reader._buffer) == len(bodies), what="all messages have arrived")
            sizes: list[int] = []
            while sum(sizes) < len(bodies):
                batch = await counter.next_batch()
                assert batch is not None
                sizes.append(len(batch.messages))
            await reader.close()
            return sizes

    assert run(scenario()) == 6 * [2]


async def counted_many(settings: Settings) -> bool:
    """Whether several batches of the largest size have been counted."""
    return await pipeline.progress(settings) >= 5 * settings.batch_events_max


def highest_memory_kib(pid: int) -> int:
    """The most memory a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    highest = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert highest is not None
    return int(highest[1])
