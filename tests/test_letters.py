"""Dead letters: a retried event counts exactly once, whoever retries it and whatever dies; discarded ones are kept."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import fleet
import oracle
import pipeline
from anlyt import cli, cloudevents, jobs, letters, reconcile, store
from anlyt.crash import CRASH_POINTS, CrashPoints
from anlyt.errors import AnlytError, UsageError
from anlyt.events import Decoder, Message, Rules, to_instant
from anlyt.postgres import session
from support import run

if TYPE_CHECKING:
    from asyncpg import Connection

    from anlyt.settings import Settings

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
ACCOUNT = "00000000-0000-4000-8000-00000000000a"
STREAM = "S"
EURO, DOLLAR = Rules(), Rules(currency="USD")
NOT_ARMED = CrashPoints()
EVERYTHING = letters.Selection()


def address(settings: Settings) -> str:
    assert settings.database_url is not None
    return settings.database_url.get_secret_value()


def event(number: int, *, at: datetime = NOW, **data: Any) -> dict[str, Any]:
    body = {"messageId": "m", "accountId": ACCOUNT, "currency": "EUR", "cost": "0.000001", **data}
    head = {"specversion": "1.0", "id": f"e{number}", "source": "/test", "type": "message.submitted"}
    return {**head, "time": at.isoformat(), "data": body}


async def keep(url: str, *bodies: Any, published: datetime = NOW, rules: Rules = DOLLAR) -> None:
    """Dead letters as a worker keeps them; each body a message of its own, from sequence 1 on."""
    raw = [body if isinstance(body, bytes) else json.dumps(body).encode() for body in bodies]
    messages = [Message("s.x", None, body, n, to_instant(published)) for n, body in enumerate(raw, start=1)]
    decoded = Decoder(rules).decode(messages)
    assert decoded.events == []
    async with session(url, application="test") as conn:
        await store._keep_letters(conn, STREAM, decoded.letters)


async def retry(
    url: str, selection: letters.Selection = EVERYTHING, *, rules: Rules = EURO, accept_stale: bool = False
) -> dict[str, int]:
    """What became of the letters, without the outcomes no letter had."""
    outcomes = await letters.retry_letters(
        url, STREAM, selection, rules=rules, accept_stale=accept_stale, crash=NOT_ARMED
    )
    return {outcome: count for outcome, count in outcomes.items() if count}


async def read_letters(conn: Connection) -> list[Any]:
    return await conn.fetch("SELECT * FROM anlyt.dead_letters ORDER BY sequence, batch_index")


async def sum_messages(conn: Connection) -> int:
    return await conn.fetchval(
        "SELECT coalesce(sum(total_messages), 0)::BIGINT FROM anlyt.metrics_hourly WHERE scope = 'PLATFORM'"
    )


async def no_identity_is_broken(url: str) -> bool:
    return all(finding.total == 0 for finding in await reconcile.reconcile(url))


# ------------------------------------------------------------------------------------------------------ the whole of it


def in_euro(rng: random.Random, body: bytes) -> bytes:
    """The body, with the currency named in about half of its events: a deployment in dollars refuses those."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body
    for each in parsed if isinstance(parsed, list) else [parsed]:
        if rng.random() < 0.5 and isinstance(each.get("data"), dict):
            each["data"].setdefault("currency", "EUR")
    return json.dumps(parsed).encode()


async def count_in_the_wrong_currency(settings: Settings, seed: int, *, events: int) -> tuple[Any, int]:
    """What the tables must hold in the end, and how many letters stay open."""
    rng = random.Random(seed)
    bodies = [in_euro(rng, body) for body in oracle.generate(seed, events, NOW)]
    async with pipeline.stream_of(settings) as nc:
        stored = await pipeline.publish(nc, settings, pipeline.copies_of(rng, bodies))
    await pipeline.count(settings.model_copy(update={"currency": "USD"}))
    expected = oracle.expect(stored, NOW)
    return expected, sum(expected["dead_letters"].values())


async def wrong_cells(settings: Settings, expected: Any) -> list[str]:
    found: list[str] = []
    async with pipeline.database(settings) as conn:
        for table in pipeline.TABLES:
            rows = [dict(row) | {"latency_p95_ms": None} for row in await conn.fetch(f"SELECT * FROM anlyt.{table}")]  # noqa: S608 - our own tables
            wanted = {**expected, table: {k: {**v, "latency_p95_ms": None} for k, v in expected[table].items()}}
            found += oracle.differences(wanted if table == "operator_performance" else expected, table, rows)
        ids = await conn.fetchval("SELECT count(*) FROM anlyt.processed_events")
    return [*found, *([] if ids == expected["processed_events"] else [f"{ids} ids"])]


@pytest.mark.parametrize("seed", range(3))
def test_after_a_retry_every_cell_is_as_if_there_had_been_no_letters(settings: Settings, seed: int) -> None:
    """Single events, binary ones, elements of batches and copies; retried by two side by side, and once more."""

    async def scenario() -> None:
        expected, bad = await count_in_the_wrong_currency(settings, seed, events=400)
        assert await wrong_cells(settings, expected) != []

        async def retry_all() -> dict[str, int]:
            return await letters.retry_letters(
                address(settings), settings.stream, EVERYTHING, rules=EURO, accept_stale=False, crash=NOT_ARMED
            )

        first, second = await asyncio.gather(retry_all(), retry_all())
        assert first["counted"] + second["counted"] > 100
        assert first["duplicate"] + second["duplicate"] > 10
        assert await wrong_cells(settings, expected) == []
        assert await retry_all() == {"counted": 0, "duplicate": 0, "ignored": 0, "failed": bad}
        assert await wrong_cells(settings, expected) == []
        assert await no_identity_is_broken(address(settings))

    run(scenario())


POINTS = CRASH_POINTS[CRASH_POINTS.index("after-claim") : CRASH_POINTS.index("after-commit") + 1]


def test_a_retry_killed_at_any_step_counts_nothing_twice_and_the_next_one_goes_on(settings: Settings) -> None:
    def retry_all(points: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "anlyt", "dead-letters", "retry", "--all", "--json"]
        given = fleet.environment(settings, ANLYT_CRASH_POINTS=points)
        return subprocess.run(words, env=given, check=False, capture_output=True, text=True, timeout=60)

    expected, bad = run(count_in_the_wrong_currency(settings, 5, events=300))
    for point in POINTS:
        assert f"crash point {point}" in retry_all(f"{point}=1").stderr
    last = retry_all("")

    assert json.loads(last.stdout)["failed"] == bad
    assert run(wrong_cells(settings, expected)) == []
    assert run(no_identity_is_broken(address(settings)))


# -------------------------------------------------------------------------------------------------------- one at a time


def test_a_letter_that_fails_again_stays_open_with_both_reasons(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1, at=NOW - 3 * DAY))
        assert await retry(database_url) == {"failed": 1}
        assert await retry(database_url) == {"failed": 1}
        async with session(database_url, application="test") as conn:
            [row] = await read_letters(conn)

        assert (row["reason"], row["retry_reason"], row["attempts"]) == ("currency_mismatch", "stale", 2)
        assert "47 h 45 min" in row["retry_detail"]
        assert (row["resolution"], row["resolved_at"]) == (None, None)
        [shown] = await letters.list_letters(database_url, STREAM, reason="stale", limit=10)
        assert (shown["state"], shown["reason"], shown["attempts"]) == ("open", "stale", 2)
        assert await letters.list_letters(database_url, STREAM, reason="currency_mismatch", limit=10) == []

    run(scenario())


def test_accept_stale_counts_what_is_inside_hot_retention_as_a_backfill(database_url: str) -> None:
    stale, late, gone = NOW - 3 * DAY, NOW - 30 * DAY, NOW - 91 * DAY

    async def scenario() -> None:
        await keep(database_url, *(event(n, at=at) for n, at in enumerate((stale, late, gone))), rules=EURO)
        assert await retry(database_url) == {"failed": 3}
        assert await retry(database_url, accept_stale=True) == {"counted": 2, "failed": 1}
        async with session(database_url, application="test") as conn:
            rows = await conn.fetch("SELECT hour_bucket FROM anlyt.metrics_hourly WHERE scope = 'ACCOUNT' ORDER BY 1")
            [load] = await conn.fetch("SELECT * FROM anlyt.backfills")
            last = (await read_letters(conn))[-1]

        assert [late.replace(minute=0, second=0), stale.replace(minute=0, second=0)] == [row[0] for row in rows]
        assert (load["name"], load["counted_events"]) == (letters.STALE_LOAD, 2)
        assert (last["resolution"], last["retry_reason"]) == (None, "too_late")
        assert await no_identity_is_broken(database_url)

    run(scenario())


def test_an_event_in_the_future_stays_so_and_is_never_accepted_as_stale(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1, at=NOW + timedelta(minutes=6)), rules=EURO)
        assert await retry(database_url, accept_stale=True) == {"failed": 1}

    run(scenario())


def test_a_letter_is_not_counted_into_hours_that_are_no_longer_kept(database_url: str) -> None:
    """It would pass as of its publication, which was long ago."""
    published = NOW - 92 * DAY

    async def scenario() -> None:
        await keep(database_url, event(1, at=published), published=published)
        assert await retry(database_url) == {"failed": 1}
        async with session(database_url, application="test") as conn:
            [row] = await read_letters(conn)
            assert await conn.fetchval("SELECT count(*) FROM pg_class WHERE relname ~ '_y[0-9]{4}m'") == 0

        assert row["retry_reason"] == "too_late"
        assert "its hours are no longer kept" in row["retry_detail"]

    run(scenario())


def test_a_copy_retried_when_its_id_was_purged_long_ago_is_still_a_duplicate(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1), event(1))
        assert await retry(database_url, letters.Selection(sequence=1)) == {"counted": 1}
        async with session(database_url, application="test") as conn:
            await conn.execute("DELETE FROM anlyt.processed_events")
            assert await retry(database_url, letters.Selection(sequence=2)) == {"duplicate": 1}
            assert await sum_messages(conn) == 1
            assert [row["resolution"] for row in await read_letters(conn)] == ["counted", "duplicate"]

    run(scenario())


def test_a_letter_whose_corrected_copy_was_counted_and_purged_does_not_count_again(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, [event(1), event(2)])
        async with session(database_url, application="test") as conn:
            assert [row["event_id"] for row in await read_letters(conn)] == ["e1 /test", "e2 /test"]
            await conn.execute("INSERT INTO anlyt.processed_events VALUES ('e1 /test', 'x', now() - INTERVAL '49 h')")
            await conn.execute(
                "INSERT INTO anlyt.stream_positions (stream, slot, last_seq, stream_created_at, complete_through)"
                " VALUES ('S', 0, 1, now(), now())"
            )
            assert (await jobs.run_job(database_url, "purge", NOT_ARMED))["events_purged"] == 1

            assert await retry(database_url) == {"counted": 1}
            assert await sum_messages(conn) == 1
            assert [row["resolution"] for row in await read_letters(conn)] == ["duplicate", "counted"]

    run(scenario())


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        {"id": "", "source": "/test"},
        {"id": "nul\0", "source": "/test", "type": "x"},
        {"id": "1", "source": "white space", "type": "x"},
        {"id": 1, "source": "/test", "type": "x"},
    ],
    ids=["no JSON", "no id", "an id that cannot be kept", "a source that cannot be kept", "a number as id"],
)
def test_a_letter_without_an_identity_has_none(database_url: str, body: Any) -> None:
    async def scenario() -> None:
        await keep(database_url, body if isinstance(body, bytes) else event(1) | body)
        async with session(database_url, application="test") as conn:
            assert [row["event_id"] for row in await read_letters(conn)] == [None]

    run(scenario())


def test_an_event_that_was_counted_meanwhile_makes_its_letter_a_duplicate(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1))
        async with session(database_url, application="test") as conn:
            await conn.execute("INSERT INTO anlyt.processed_events VALUES ('e1 /test', 'message.submitted')")
            assert await retry(database_url) == {"duplicate": 1}
            assert await sum_messages(conn) == 0

    run(scenario())


def test_a_type_that_is_ignored_now_closes_the_letter(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1))
        assert await retry(database_url, rules=Rules(ignored_types=("message.sub*",))) == {"ignored": 1}
        assert await retry(database_url) == {}

    run(scenario())


def test_an_array_in_a_batch_is_no_batch_of_its_own(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, [[event(1)]], rules=EURO)
        assert await retry(database_url) == {"failed": 1}

    run(scenario())


def test_a_body_that_was_too_large_counts_whole_when_the_limit_was_raised(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with monkeypatch.context() as lower:
            lower.setattr(cloudevents, "BATCH_BODY_EVENTS_MAX", 2)
            await keep(database_url, [event(n) for n in range(3)], [event(9), event(8), {}], rules=EURO)
            assert await retry(database_url) == {"failed": 2}
        assert await retry(database_url) == {"counted": 1, "failed": 1}
        async with session(database_url, application="test") as conn:
            assert await sum_messages(conn) == 3
            assert (await read_letters(conn))[0]["event_ids"] == ["e0 /test", "e1 /test", "e2 /test"]

    run(scenario())


def test_a_cost_that_no_longer_fits_its_sum_fails_alone(database_url: str) -> None:
    async def scenario() -> None:
        dear = event(2, cost="1.000000")
        await keep(database_url, event(1), dear, event(3, cost="0"), event(4))
        async with session(database_url, application="test") as conn:
            await conn.execute(
                "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, total_cost)"
                " VALUES (date_trunc('day', $2::TIMESTAMPTZ, 'UTC'), $1::UUID, 999999999999.5)",
                ACCOUNT,
                NOW,
            )
            assert await retry(database_url) == {"counted": 3, "failed": 1}
            row = (await read_letters(conn))[1]

        assert (row["retry_reason"], row["resolution"]) == ("invalid_field", None)
        assert "past 999999999999.999999" in row["retry_detail"]

    run(scenario())


def test_a_letter_that_no_longer_fits_a_full_sum_fails_alone(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1), event(2, segments=1_000, cost="0"), event(3))
        async with session(database_url, application="test") as conn:
            await conn.execute(
                "INSERT INTO anlyt.account_usage_daily (day_bucket, account_id, total_segments)"
                " VALUES (date_trunc('day', $2::TIMESTAMPTZ, 'UTC'), $1::UUID, $3)",
                ACCOUNT,
                NOW,
                2**63 - 1 - 2,
            )
            assert await retry(database_url) == {"counted": 2, "failed": 1}
            row = (await read_letters(conn))[1]

        assert (row["retry_reason"], row["resolution"]) == ("invalid_field", None)
        assert "past 9223372036854775807" in row["retry_detail"]

    run(scenario())


def test_many_letters_go_in_bounded_transactions_each_tried_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(letters, "RETRY_LETTERS_MAX", 7)
    monkeypatch.setattr(letters, "DISCARD_LETTERS_MAX", 7)

    async def scenario() -> None:
        await keep(database_url, *(event(n) for n in range(30)), [event(n, at=NOW - 3 * DAY) for n in range(30, 50)])
        assert await retry(database_url) == {"counted": 30, "failed": 20}
        async with session(database_url, application="test") as conn:
            assert {row["attempts"] for row in await read_letters(conn)} == {1}
        assert await letters.discard_letters(database_url, STREAM, EVERYTHING) == 20

    run(scenario())


# ------------------------------------------------------------------------------------------------- choosing, discarding


def test_only_the_chosen_letters_are_touched(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1), [event(n) for n in range(2, 5)], b"no JSON")
        assert await retry(database_url, letters.Selection(sequence=2, index=1)) == {"counted": 1}
        assert await retry(database_url, letters.Selection(sequence=2)) == {"counted": 2}
        assert await letters.discard_letters(database_url, STREAM, letters.Selection(reason="malformed")) == 1
        assert await letters.count_open(database_url, STREAM, EVERYTHING) == 1
        for state, sequences in {"open": [1], "counted": [2] * 3, "discarded": [3], "all": [3, 2, 2, 2, 1]}.items():
            rows = await letters.list_letters(database_url, STREAM, reason=None, limit=10, state=state)
            assert sequences == [row["sequence"] for row in rows]

    run(scenario())


def test_a_discarded_letter_is_kept_and_never_retried(database_url: str) -> None:
    async def scenario() -> None:
        await keep(database_url, event(1))
        assert await letters.discard_letters(database_url, STREAM, EVERYTHING) == 1
        assert await retry(database_url) == {}
        [row] = await letters.read_letter(database_url, STREAM, 1, index=0)

        assert (row["state"], row["reason"]) == ("discarded", "currency_mismatch")
        assert json.loads(row["body"])["id"] == "e1"
        with pytest.raises(AnlytError, match="there is no open dead letter S 1; list all with"):
            await letters.count_open(database_url, STREAM, letters.Selection(sequence=1))

    run(scenario())


@pytest.mark.parametrize(
    ("sequence", "reason", "everything"), [(None, None, False), (1, "stale", False), (1, None, True)]
)
def test_letters_are_chosen_in_exactly_one_way(sequence: int | None, reason: str | None, everything: bool) -> None:  # noqa: FBT001 - a table's column
    with pytest.raises(UsageError, match=r"SEQUENCE \[INDEX\], or --reason REASON, or --all"):
        letters.select_letters(sequence, None, reason=reason, everything=everything)


def test_the_commands_ask_before_they_discard_and_say_what_they_did(
    settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in fleet.environment(settings.model_copy(update={"stream": STREAM})).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANLYT_STREAM", STREAM)
    run(keep(address(settings), event(1), b"no JSON"))

    assert cli.run(cli.app, ["dead-letters", "retry"]) == UsageError.exit_code
    assert cli.run(cli.app, ["dead-letters", "retry", "--reason", "odd"]) == UsageError.exit_code
    assert cli.run(cli.app, ["dead-letters", "retry", "7"]) == AnlytError.exit_code
    assert cli.run(cli.app, ["dead-letters", "retry", "--all"]) == 0
    assert "1 counted, 0 duplicate, 0 ignored, 1 failed" in capsys.readouterr().err
    assert cli.run(cli.app, ["dead-letters", "discard", "2"]) == UsageError.exit_code
    assert "discards 1 dead letters for good; add --yes" in capsys.readouterr().err
    assert cli.run(cli.app, ["dead-letters", "discard", "2", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"discarded": 1}
    assert cli.run(cli.app, ["dead-letters", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert cli.run(cli.app, ["dead-letters", "list", "--state", "lost"]) == UsageError.exit_code
