"""The purge: an id goes only when no accepted copy of its event can still be waiting to be read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from anlyt import jobs
from anlyt.crash import CrashPoints
from anlyt.postgres import session
from support import run

if TYPE_CHECKING:
    from asyncpg import Connection

H = timedelta(hours=1)


async def add_ids(conn: Connection, ages: dict[str, timedelta]) -> None:
    await conn.executemany(
        "INSERT INTO anlyt.processed_events VALUES ($1, 'message.submitted', now() - $2::INTERVAL)", ages.items()
    )


async def add_positions(conn: Connection, lags: list[timedelta | None]) -> None:
    for slot, lag in enumerate(lags):
        await conn.execute(
            "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at, complete_through)"
            " VALUES ('S', $1, 1, now(), now() - $2::INTERVAL)",
            slot,
            lag,
        )


async def purge(url: str, ages: dict[str, timedelta], lags: list[timedelta | None]) -> list[str]:
    """The ids that are left."""
    async with session(url, application="test") as conn:
        await add_ids(conn, ages)
        await add_positions(conn, lags)
        await jobs.run_job(url, "purge", CrashPoints())
        rows = await conn.fetch("SELECT event_id FROM anlyt.processed_events ORDER BY 1")
        return [row["event_id"] for row in rows]


AGES = {"a 47 h": 47 * H, "b 49 h": 49 * H, "c 60 h": 60 * H, "d 90 h": 90 * H}


@pytest.mark.parametrize(
    ("lags", "left"),
    [
        ([0 * H, 0 * H], ["a 47 h"]),
        ([0 * H, 20 * H], ["a 47 h", "b 49 h", "c 60 h"]),
        ([0 * H, 60 * H], ["a 47 h", "b 49 h", "c 60 h", "d 90 h"]),
        ([-5 * H], ["a 47 h"]),
        ([0 * H, None], list(AGES)),
        ([], list(AGES)),
    ],
    ids=["up to date", "a slot 20 h behind", "a slot 60 h behind", "clock ahead", "a slot never read", "no position"],
)
def test_the_horizon_follows_what_has_been_read(
    database_url: str, lags: list[timedelta | None], left: list[str]
) -> None:
    assert run(purge(database_url, AGES, lags)) == left


def test_a_purge_of_any_size_goes_in_bounded_transactions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PURGE_ROWS_MAX", 100)
    reached: list[str] = []

    class Counting(CrashPoints):
        def reach(self, name: str) -> None:
            reached.append(name)

    async def scenario() -> Any:
        async with session(database_url, application="test") as conn:
            await add_ids(conn, {f"id {n}": 50 * H for n in range(950)})
            await add_positions(conn, [0 * H])
            return await jobs.purge(conn, jobs.Means(database_url, Counting()))

    assert run(scenario()) == {"events_purged": 950, "changes_purged": 0, "seconds_purged": 0}
    assert reached.count("job-purge-committed") == 10 + 1 + 1


@pytest.mark.parametrize(
    ("age", "resolution", "state"),
    [
        (50 * H, None, "duplicate"),
        (47 * H, None, None),
        (50 * H, "counted", "counted"),
        (50 * H, "discarded", "discarded"),
    ],
    ids=["purged", "still in the window", "counted by a retry", "discarded"],
)
def test_a_letter_whose_event_was_counted_from_another_copy_is_closed_when_the_id_goes(
    database_url: str, age: timedelta, resolution: str | None, state: str | None
) -> None:
    async def scenario() -> Any:
        async with session(database_url, application="test") as conn:
            await add_positions(conn, [0 * H])
            await add_ids(conn, {"1 /gateway": age, "2 /gateway": age})
            await conn.execute(
                "INSERT INTO anlyt.dead_letters (stream, sequence, batch_index, published_at, reason, detail, subject,"
                " headers, body, event_id, resolution)"
                " VALUES ('S', 1, 0, now(), 'invalid_field', 'x', 's', '{}', '', '2 /gateway', $1),"
                " ('S', 2, 0, now(), 'malformed', 'x', 's', '{}', '', NULL, NULL)",
                resolution,
            )
            await jobs.run_job(database_url, "purge", CrashPoints())
            return await conn.fetch("SELECT resolution FROM anlyt.dead_letters ORDER BY sequence")

    assert [state, None] == [row["resolution"] for row in run(scenario())]


def test_a_second_goes_six_hours_after_it_passed_and_was_last_touched(database_url: str) -> None:
    async def scenario() -> list[str]:
        async with session(database_url, application="test") as conn:
            for who, passed, touched in (("old", 7, 7), ("touched", 7, 5), ("new", 5, 5), ("backfilled", 700, 1)):
                await conn.execute(
                    "INSERT INTO anlyt.second_counts"
                    " VALUES (now() - $2::INTERVAL, 'ACCOUNT', $1, 1, now() - $3::INTERVAL)",
                    who,
                    passed * H,
                    touched * H,
                )
            await jobs.run_job(database_url, "purge", CrashPoints())
            rows = await conn.fetch("SELECT scope_id FROM anlyt.second_counts ORDER BY 1")
            return [row["scope_id"] for row in rows]

    assert run(scenario()) == ["backfilled", "new", "touched"]
