"""Limits: a caller that asks too much holds up itself, and nobody else notices."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from anlyt import cli_roles, intake, limits
from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX
from anlyt.errors import RequestError
from anlyt.limits import Lane, Limits, Pace, Together
from anlyt.postgres import ensure_partitions
from anlyt.settings import Settings
from serving import key_for, problem_of, service
from support import run, wait_until

if TYPE_CHECKING:
    import httpx2

OPERATOR = "0b1d6f2e-0000-4000-8000-0000000000e1"
ACCOUNT = "0b1d6f2e-0000-4000-8000-00000000acc1"
OTHER_ACCOUNT = "0b1d6f2e-0000-4000-8000-00000000acc2"
HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


# ---------------------------------------------------------------------------------------------------------------- pace


def test_a_caller_has_its_own_pace_and_gets_it_back_with_time() -> None:
    pace = Pace(intake.EVENTS_PER_S_MAX, intake.EVENTS_BURST_MAX)
    rounds = intake.EVENTS_BURST_MAX // BATCH_BODY_EVENTS_MAX

    assert [pace.spend("a", BATCH_BODY_EVENTS_MAX, 100.0) for _ in range(rounds)] == [None] * rounds
    wait_s = pace.spend("a", BATCH_BODY_EVENTS_MAX, 100.0)
    assert wait_s == BATCH_BODY_EVENTS_MAX / intake.EVENTS_PER_S_MAX
    assert pace.spend("b", BATCH_BODY_EVENTS_MAX, 100.0) is None
    assert pace.spend("a", BATCH_BODY_EVENTS_MAX, 100.0 + wait_s) is None
    assert pace.spend("a", 1, 100.0 + wait_s) is not None


def test_only_so_many_callers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CALLERS_MAX", 3)
    pace = Pace(1, 1)
    for number in range(10):
        assert pace.spend(str(number), 1, 100.0) is None

    assert list(pace._left) == ["7", "8", "9"]


def test_in_the_long_run_a_caller_gets_what_it_may_have_and_no_more() -> None:
    allowed = Limits(50)
    passed = 0
    for hundredth in range(10_000):  # 100 s at twice the pace
        with suppress(RequestError):
            allowed.check_pace("a", 1_000.0 + hundredth / 100)
            passed += 1

    assert 50 * 100 <= passed <= 50 * (100 + limits.REQUESTS_BURST_S)


# --------------------------------------------------------------------------------------------------------------- turns


def test_never_more_than_so_many_have_a_turn_and_in_the_end_nothing_is_left() -> None:
    """Many callers, some of which give up, at random; the seed is fixed, so a failure repeats."""
    chance = random.Random(7)

    async def story() -> None:
        lane = Lane(2, 4, wait_s=30.0)
        running: Counter[str] = Counter()
        most_each, most_all, done = 0, 0, 0

        async def ask(caller: str) -> None:
            nonlocal most_each, most_all, done
            async with lane.turn(caller):
                running[caller] += 1
                most_each, most_all = max(most_each, running[caller]), max(most_all, running.total())
                try:
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)  # the others' turn
                finally:
                    running[caller] -= 1
                done += 1

        tasks = [asyncio.create_task(ask(chance.choice("abcdef"))) for _ in range(400)]
        for task in chance.sample(tasks, 80):
            await asyncio.sleep(0)
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert (most_each, most_all) == (2, 4)
        assert done >= 320
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert (lane._own, lane._asking) == ({}, {})
        async with lane.turn("a"), lane.turn("a"), lane.turn("b"), lane.turn("b"):
            pass  # every turn came back

    run(story())


def test_who_waits_for_his_own_turns_does_not_stand_in_the_common_line() -> None:
    async def story() -> None:
        lane = Lane(2, 4, wait_s=30.0)
        leave = asyncio.Event()

        async def hold(caller: str) -> None:
            async with lane.turn(caller):
                await leave.wait()

        greedy = [asyncio.create_task(hold("greedy")) for _ in range(100)]
        await asyncio.sleep(0)
        async with asyncio.timeout(1), lane.turn("modest"), lane.turn("other"):
            assert lane._asking["greedy"] == 100
        leave.set()
        await asyncio.gather(*greedy)

    run(story())


def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    async def story() -> None:
        lane = Lane(1, 1, wait_s=0.0)
        async with lane.turn("a"):
            for caller in ("a", "b"):
                with pytest.raises(RequestError, match="at most 1 such requests") as caught:
                    await lane.turn(caller).__aenter__()
                assert caught.value.status == 429
                assert caught.value.retry_after_s is not None
        async with lane.turn("b"):
            pass

    run(story())


def test_there_is_always_a_session_for_light_questions() -> None:
    assert limits.HEAVY_MAX + limits.FILE_MAX < cli_roles.API_SESSIONS_MAX
    assert limits.HEAVY_EACH_MAX < limits.HEAVY_MAX
    assert limits.LIGHT_EACH_MAX < limits.LIGHT_MAX <= cli_roles.API_SESSIONS_MAX


# ------------------------------------------------------------------------------------------------------------ together


def test_equal_questions_that_meet_cost_two_runs_and_others_their_own() -> None:
    async def story() -> None:
        together = Together[str](wait_s=30.0)
        runs: list[str] = []
        go_on = asyncio.Event()

        async def ask(question: str) -> str:
            async def find() -> str:
                runs.append(question)
                number = runs.count(question)
                await go_on.wait()
                return f"{question}{number}"

            return await together.answer(question, find)

        first = asyncio.create_task(ask("a"))
        await asyncio.sleep(0)  # it runs
        rest = [asyncio.create_task(ask("a")) for _ in range(99)]
        other = asyncio.create_task(ask("b"))
        await asyncio.sleep(0)
        assert runs == ["a", "b"]
        go_on.set()

        assert (await first, await other) == ("a1", "b1")
        assert set(await asyncio.gather(*rest)) == {"a2"}
        assert sorted(runs) == ["a", "a", "b"]
        assert together._asked == {}

    run(story())


def test_nobody_gets_an_answer_that_was_begun_before_the_question_came() -> None:
    """Questions come, fail and are given up at random; the seed is fixed, so a failure repeats."""
    chance = random.Random(11)

    async def story() -> None:
        together = Together[int](wait_s=30.0)
        now = 0
        answered = shared = 0

        async def ask(question: str) -> None:
            nonlocal now, answered, shared
            now += 1
            arrived, own = now, False

            async def find() -> int:
                nonlocal now, own
                now += 1
                begun, own = now, True
                for _ in range(chance.randrange(5)):
                    await asyncio.sleep(0)  # the others' turn
                if chance.random() < 0.2:
                    raise LookupError("this run fails")
                return begun

            with suppress(LookupError):
                assert await together.answer(question, find) > arrived
                answered += 1
                shared += not own

        tasks: list[asyncio.Task[None]] = []
        for _ in range(600):
            tasks.append(asyncio.create_task(ask(chance.choice("abc"))))
            if chance.random() < 0.5:
                await asyncio.sleep(0)
            if chance.random() < 0.2:
                chance.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert answered > 300
        assert shared > 100
        assert together._asked == {}

    run(story())


def test_who_waits_too_long_for_an_answer_of_others_gets_a_429() -> None:
    async def story() -> None:
        together = Together[str](wait_s=0.0)
        go_on = asyncio.Event()

        async def find() -> str:
            await go_on.wait()
            return "found"

        first = asyncio.create_task(together.answer("a", find))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="the same question is being answered") as caught:
            await together.answer("a", find)
        go_on.set()

        assert caught.value.status == 429
        assert await first == "found"

    run(story())


# ----------------------------------------------------------------------------------------------------------------- API


def test_a_shared_answer_has_what_was_counted_before_its_question_and_nothing_of_another_grant(
    database_url: str,
) -> None:
    """A lock holds up the first sum of each caller; what is counted meanwhile must be in the answers to the others."""

    async def story() -> None:
        async with service(database_url) as (client, conn):
            callers = [await key_for(conn, "ACCOUNT", ACCOUNT), await key_for(conn, "ACCOUNT", OTHER_ACCOUNT)]

            async def ask(headers: dict[str, str]) -> int:
                answer = await client.get("/v1/summary?from=-3h", headers=headers)
                while answer.status_code == 429:  # waited for a slow machine; asked again, it is no older
                    answer = await client.get("/v1/summary?from=-3h", headers=headers)
                assert answer.status_code == 200, answer.text
                (row,) = answer.json()["data"]
                return row["totalMessages"]

            await ensure_partitions(conn, [HOUR])
            for count, account in ((10, ACCOUNT), (20, OTHER_ACCOUNT)):
                await conn.execute(
                    "INSERT INTO anlyt.metrics_hourly VALUES ($1, 'ACCOUNT', $2, $3)", HOUR, account, count
                )
            async with conn.transaction():
                await conn.execute("LOCK anlyt.metrics_hourly IN ACCESS EXCLUSIVE MODE")
                first = [asyncio.create_task(ask(headers)) for headers in callers]
                waiting = "SELECT count(*) = 2 FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
                await wait_until(lambda: conn.fetchval(waiting), what="two sums wait for the lock")
                await conn.execute("UPDATE anlyt.metrics_hourly SET total_messages = total_messages + 1")
                later = [asyncio.create_task(ask(headers)) for headers in callers * 8]
                await asyncio.sleep(0)
            answers = await asyncio.gather(*later)

            assert [answer - answer % 10 for answer in await asyncio.gather(*first)] == [10, 20]
            assert answers == [11, 21] * 8

    run(story())


def test_a_tenant_whose_sums_take_for_ever_does_not_starve_the_others(database_url: str) -> None:
    """A lock holds up every sum of an operator. There are four sessions, and it asks forty at once."""

    async def story() -> None:
        async with service(database_url) as (client, conn):
            heavy, light = await key_for(conn, "OPERATOR", OPERATOR), await key_for(conn, "ACCOUNT", ACCOUNT)

            async def ask(path: str, headers: dict[str, str]) -> httpx2.Response:
                return await client.get(path, headers=headers)

            async with conn.transaction():
                await conn.execute("LOCK anlyt.latency_histograms, anlyt.latency_days IN ACCESS EXCLUSIVE MODE")
                stuck = [asyncio.create_task(ask(f"/v1/summary?from=-{n}h", heavy)) for n in range(1, 41)]
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"
                await wait_until(lambda: conn.fetchval(f"SELECT ({waiting}) >= 2"), what="two sums wait for the lock")
                for path in ("/v1/metrics/hourly", "/v1/accounts/usage", "/v1/summary", "/v1/status") * 5:
                    assert (await ask(path, light)).status_code == 200
                assert await conn.fetchval(waiting) == limits.HEAVY_EACH_MAX
                assert (await ask("/v1/metrics/hourly", heavy)).status_code == 200  # its own light questions pass too
            answers = Counter(response.status_code for response in await asyncio.gather(*stuck))

            assert set(answers) <= {200, 429}
            assert answers[200] >= limits.HEAVY_EACH_MAX

    run(story())


def test_a_key_that_asks_too_often_gets_a_429_and_others_go_on(database_url: str) -> None:
    async def story() -> None:
        settings = Settings.model_validate({"stream": "T", "requests_per_s": 1})
        async with service(database_url, settings=settings) as (client, conn):
            fast, other = await key_for(conn, "ACCOUNT", ACCOUNT), await key_for(conn, "ACCOUNT", ACCOUNT)
            answers = [await client.get("/v1/status", headers=fast) for _ in range(limits.REQUESTS_BURST_S + 3)]

            assert [answer.status_code for answer in answers[: limits.REQUESTS_BURST_S]] == [200] * 5
            assert answers[-1].status_code == 429
            assert problem_of(answers[-1])["type"] == "urn:anlyt:problem:too-fast"
            assert int(answers[-1].headers["retry-after"]) == 1
            assert (await client.get("/v1/status", headers=other)).status_code == 200

    run(story())
