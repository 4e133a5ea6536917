"""audit: the stream counted again agrees with the tables, and every planted difference is found and named."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import oracle
import pipeline
from anlyt import audit, jetstream, jobs, letters
from anlyt.crash import CrashPoints
from anlyt.errors import AnlytError, UsageError
from anlyt.events import rules_of
from commands import anlyt, environment_of
from support import run
from test_conformance import vary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anlyt.audit import Report
    from anlyt.settings import Settings

DAY = timedelta(days=1)
NOT_ARMED = CrashPoints()


def quiet(_done: int, _total: int | None = None) -> None:
    """No progress bar."""


async def recount(settings: Settings, *, since: timedelta = 3 * DAY) -> Report:
    now = datetime.now(UTC)
    return await audit.audit(settings, now - since, now, advance=quiet)


async def run_job(settings: Settings, name: str) -> None:
    assert settings.database_url is not None
    await jobs.run_job(settings.database_url.get_secret_value(), name, NOT_ARMED)


async def execute(settings: Settings, *statements: str) -> None:
    async with pipeline.database(settings) as conn:
        for statement in statements:
            assert await conn.execute(statement) not in {"UPDATE 0", "DELETE 0"}, statement


async def count_traffic(settings: Settings, seed: int, *, events: int = 300, most: int = 3) -> list[bytes]:
    """Seeded traffic, published and counted, percentiles written; what was stored."""
    rng = random.Random(seed)
    now = datetime.now(UTC)
    bodies = oracle.generate(seed, events, now) + pipeline.dear_bodies(rng, now)
    async with pipeline.stream_of(settings) as nc:
        stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies, most=most))
    await pipeline.count(settings, workers=rng.choice((1, 2)))
    await run_job(settings, "percentiles")
    return stored


async def publish(settings: Settings, *bodies: bytes, headers: dict[str, str] | None = None) -> None:
    async with pipeline.stream_of(settings) as nc:
        await pipeline.publish(nc, settings, [pipeline.Copy(body, body, headers or {}, "") for body in bodies])


# ---------------------------------------------------------------------------------------------------------------- clean


@pytest.mark.parametrize("seed", range(8))
def test_counting_again_agrees_in_every_cell(settings: Settings, seed: int) -> None:
    """Any number of partitions and workers; every shape of message; what the oracle says too."""
    settings = vary(settings, random.Random(seed))

    async def scenario() -> None:
        stored = await count_traffic(settings, seed)
        report = await recount(settings)
        expected = oracle.expect(stored, datetime.now(UTC))

        assert report.differences == ()
        assert report.counted_events == expected["processed_events"]
        assert report.dead_letters == expected["dead_letters"]
        assert report.compared_from == report.start
        assert (report.total, report.contradictions) == (0, 0)
        assert report.cells > 1_000
        assert report.messages == len(stored)

    run(scenario())


def test_what_was_published_and_not_counted_yet_is_not_expected(settings: Settings) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 1)
        await publish(settings, pipeline.submitted(datetime.now(UTC)))

        assert (await recount(settings)).differences == ()

    run(scenario())


def test_a_position_that_was_put_back_does_not_hide_what_was_counted(settings: Settings) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 2)
        await execute(settings, "UPDATE anlyt.stream_positions SET last_seq = last_seq / 2")

        assert (await recount(settings)).differences == ()

    run(scenario())


@pytest.mark.parametrize("currency", ["EUR", "USD"])
def test_letters_that_a_retry_counted_by_other_rules_are_part_of_the_recount(settings: Settings, currency: str) -> None:
    """Whatever the rules are by now: a letter tells what was counted from it."""
    at = datetime.now(UTC) - timedelta(hours=1)

    async def scenario() -> None:
        bodies = [pipeline.submitted(at, currency=currency, cost="1.5") for currency in ("USD", "USD", "USD")]
        await publish(settings, b"[%b,%b]" % (bodies[0], bodies[1]), bodies[2])
        await pipeline.count(settings)
        assert settings.database_url is not None
        outcomes = await letters.retry_letters(
            settings.database_url.get_secret_value(),
            settings.stream,
            letters.Selection(),
            rules=rules_of(settings.model_copy(update={"currency": "USD"})),
            accept_stale=False,
            crash=NOT_ARMED,
        )
        assert outcomes["counted"] == 3
        report = await recount(settings.model_copy(update={"currency": currency}))

        assert report.differences == ()
        assert (report.counted_events, report.dead_letters) == (3, {})

    run(scenario())


@pytest.mark.parametrize("twice", [False, True], ids=["retried", "retried beside a corrected copy"])
def test_stale_letters_that_were_accepted_are_part_of_the_recount(settings: Settings, twice: bool) -> None:  # noqa: FBT001 - a table's column
    now = datetime.now(UTC)

    async def scenario() -> None:
        await publish(
            settings, *(pipeline.submitted(now - 60 * timedelta(hours=1), event_id=f"e{n}") for n in range(3))
        )
        if twice:
            await publish(settings, pipeline.submitted(now - 30 * timedelta(hours=1), event_id="e1"))
        await pipeline.count(settings)
        assert settings.database_url is not None
        outcomes = await letters.retry_letters(
            settings.database_url.get_secret_value(),
            settings.stream,
            letters.Selection(),
            rules=rules_of(settings),
            accept_stale=True,
            crash=NOT_ARMED,
        )
        assert outcomes["counted"] == (2 if twice else 3)
        report = await recount(settings, since=4 * DAY)

        assert report.differences == ()
        assert (report.counted_events, report.dead_letters) == (3, {"stale": 1} if twice else {})

    run(scenario())


def test_a_backfill_is_recounted_where_it_was_submitted(settings: Settings) -> None:
    at = datetime.now(UTC) - 20 * DAY

    async def scenario() -> None:
        load = {"Anlyt-Backfill": "march"}
        await publish(settings, *(pipeline.submitted(at, event_id=f"e{n}") for n in (1, 2, 2)), headers=load)
        await publish(settings, pipeline.submitted(datetime.now(UTC) - 100 * DAY), headers=load)
        await pipeline.count(settings)
        report = await recount(settings, since=30 * DAY)

        assert report.differences == ()
        assert report.compared_from == report.start, "the whole history of the database is in the stream"
        assert (report.counted_events, report.duplicate_events) == (2, 1)
        assert report.dead_letters == {"too_late": 1}

    run(scenario())


def test_only_hours_that_the_stream_holds_whole_are_compared(settings: Settings) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 3)
        async with pipeline.stream_of(settings) as nc:
            await jetstream.request(nc, f"STREAM.PURGE.{settings.stream}", {"keep": 5})
        report = await recount(settings)

        assert report.differences == ()
        assert report.compared_from == report.end, "what is left was published now: no whole hour behind it"
        assert report.messages == 5

    run(scenario())


def test_hours_before_the_stream_was_made_are_compared_only_when_nothing_was_counted_from_another(
    settings: Settings,
) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 4)
        await execute(settings, "UPDATE anlyt.ingest_totals SET counted_events = counted_events + 1")
        report = await recount(settings)

        assert report.differences == ()
        assert report.compared_from == report.end

    run(scenario())


# -------------------------------------------------------------------------------------------------------------- planted

BUCKET = {"metrics_daily": "day_bucket", "account_usage_daily": "day_bucket"}


def change(table: str, column: str, value: str, which: str = "TRUE") -> tuple[str, str, str]:
    """A statement that spoils one cell of yesterday, a day wholly in the range, and where the audit must find it."""
    bucket = BUCKET.get(table, "hour_bucket")
    over = f"date_trunc('day', {bucket} + interval '1 day', 'UTC') = date_trunc('day', now(), 'UTC')"
    first = f"SELECT min(tableoid || ' ' || ctid) FROM anlyt.{table} WHERE {over} AND {which}"  # noqa: S608 - a test's own
    at = f"tableoid || ' ' || ctid = ({first})"
    return f"UPDATE anlyt.{table} SET {column} = {value} WHERE {at}", table, column  # noqa: S608 - a test's own


CHANGES: Sequence[tuple[str, str, str]] = [
    *(
        change(table, column, f"{column} + 1", "scope = 'ACCOUNT'")
        for table in ("metrics_hourly", "metrics_daily")
        for column in (
            "total_messages",
            "delivered_messages",
            "failed_messages",
            "pending_messages",
            "latency_sum_ms",
            "latency_sample_count",
            "peak_tps",
        )
    ),
    change("metrics_hourly", "total_cost", "total_cost - 0.000001", "scope = 'PLATFORM'"),
    change("metrics_daily", "total_cost", "total_cost + 0.000001", "scope = 'OPERATOR'"),
    change("metrics_hourly", "peak_tps", "0", "peak_tps > 0"),
    *(
        change("operator_performance", column, f"{column} + 1")
        for column in ("total_messages", "delivered_messages", "failed_messages", "latency_sum_ms", "error_count")
    ),
    change("operator_performance", "latency_p95_ms", "latency_p95_ms * 2 + 2", "latency_p95_ms IS NOT NULL"),
    change("operator_performance", "latency_p95_ms", "NULL", "latency_p95_ms IS NOT NULL"),
    *(
        change("account_usage_daily", column, f"{column} + 1")
        for column in ("messages_sent", "messages_delivered", "messages_failed", "total_cost", "total_segments")
    ),
]


def test_every_cell_that_was_changed_is_found_and_no_other(settings: Settings) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 5)
        for statement, table, column in CHANGES:
            async with pipeline.database(settings) as conn:
                await conn.execute("CREATE TABLE anlyt.kept AS TABLE anlyt." + table)
                await execute(settings, statement)
                report = await recount(settings)
                await conn.execute(f"TRUNCATE anlyt.{table}; INSERT INTO anlyt.{table} TABLE anlyt.kept")
                await conn.execute("DROP TABLE anlyt.kept")

            assert [(table, column)] == [(d.table_name, d.column_name) for d in report.differences], statement
            assert report.total == 1
        assert (await recount(settings)).total == 0

    run(scenario(), limit_s=180)


def test_an_event_that_was_counted_twice_is_found_in_all_its_cells(settings: Settings) -> None:
    at = datetime.now(UTC)
    body = pipeline.submitted(at, event_id="twice", cost="0.25", segments=3)

    async def scenario() -> None:
        await publish(settings, body)
        await pipeline.count(settings)
        await execute(settings, "DELETE FROM anlyt.processed_events WHERE event_id LIKE 'twice %'")
        await publish(settings, body)
        await pipeline.count(settings)
        report = await recount(settings)

        wrong = {
            (cell.table_name, cell.scope, cell.column_name): (cell.found, cell.expected) for cell in report.differences
        }
        assert wrong["metrics_hourly", "PLATFORM", "total_messages"] == ("2", "1")
        assert wrong["metrics_hourly", "ACCOUNT", "total_cost"] == ("0.500000", "0.250000")
        assert wrong["metrics_hourly", "ACCOUNT", "peak_tps"] == ("2", "1")
        assert len(wrong) == 2 * 4 + (0 if report.end.hour else 2 * 4 + 3)

    run(scenario())


def test_an_event_that_was_never_counted_is_found(settings: Settings) -> None:
    at = datetime.now(UTC)

    async def scenario() -> None:
        body = pipeline.submitted(at, event_id="lost")
        await execute(settings, "INSERT INTO anlyt.processed_events VALUES ('lost /gateway/1', 'message.submitted')")
        await publish(settings, body)
        await pipeline.count(settings)
        report = await recount(settings)

        wrong = {
            (cell.table_name, cell.scope, cell.column_name): (cell.found, cell.expected) for cell in report.differences
        }
        assert wrong["metrics_hourly", "PLATFORM", "total_messages"] == ("0", "1")

    run(scenario())


def test_a_dead_letter_that_vanished_is_found(settings: Settings) -> None:
    async def scenario() -> None:
        await publish(settings, b"{", b"[")
        await pipeline.count(settings)
        await execute(settings, "DELETE FROM anlyt.dead_letters WHERE sequence = 1")
        [cell] = (await recount(settings)).differences

        assert (cell.table_name, cell.column_name, cell.found, cell.expected) == ("dead_letters", "malformed", "1", "2")

    run(scenario())


def test_copies_that_contradict_each_other_are_told(settings: Settings) -> None:
    at = datetime.now(UTC)

    async def scenario() -> None:
        await publish(settings, *(pipeline.submitted(at, event_id="e", cost=cost) for cost in ("1", "2", "1")))
        await pipeline.count(settings)
        report = await recount(settings)

        assert (report.total, report.contradictions, report.counted_events) == (0, 1, 1)

    run(scenario())


# ------------------------------------------------------------------------------------------------------------- the rest


def test_memory_is_bounded_by_files_and_the_result_is_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await count_traffic(settings, 6)
        whole = await recount(settings)
        monkeypatch.setattr(audit, "SPILL_BYTES_MAX", 3_000)  # a limit, not behaviour
        monkeypatch.setattr(audit, "TAKE_MAX", 7)

        assert whole == await recount(settings)
        assert whole.total == 0

    run(scenario())


def test_a_stream_that_was_not_counted_is_told_with_the_next_step(settings: Settings) -> None:
    async def scenario() -> None:
        await publish(settings, pipeline.submitted(datetime.now(UTC)))
        with pytest.raises(AnlytError, match=r"nothing of stream .* has been counted yet; run: anlyt worker"):
            await recount(settings)
        await pipeline.count(settings)
        await execute(settings, "UPDATE anlyt.stream_positions SET stream_created_at = '2026-01-01Z'")
        with pytest.raises(AnlytError, match="was made anew"):
            await recount(settings)

    run(scenario())


@pytest.mark.parametrize("since", [-2 * DAY, 91 * DAY], ids=["backwards", "too long"])
def test_a_range_that_is_none_is_refused(settings: Settings, since: timedelta) -> None:
    with pytest.raises(UsageError, match="at least one hour and at most 90 days"):
        run(recount(settings, since=since))


def test_the_command_says_what_it_compared_and_ends_with_5_and_the_cells(settings: Settings) -> None:
    at = datetime.now(UTC)
    env = environment_of(settings)

    async def prepare() -> None:
        await publish(settings, pipeline.submitted(at))
        await pipeline.count(settings)

    run(prepare())
    clean = anlyt("audit", "--from", "-24h", env=env)
    assert (clean.code, clean.out) == (0, "")
    assert re.search(r"compared: .* cells\nread: +1 messages, 0 .*\ncounted: +1 events", clean.err)
    run(execute(settings, "UPDATE anlyt.metrics_hourly SET failed_messages = 7 WHERE scope = 'PLATFORM'"))
    wrong = anlyt("audit", env=env)
    assert wrong.code == 5
    assert "failed_messages" in wrong.out
    document: Any = json.loads(anlyt("audit", "--json", env=env).out)
    assert (document["total"], document["differences"][0]["found"]) == (1, "7")
    assert anlyt("audit", "--from", "yesterday", env=env).code == 2
