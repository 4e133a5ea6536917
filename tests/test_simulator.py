"""The fault simulator, in short: some seeds, exact, with every kind of fault; and a seed always means the same plan."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import fault_plan
import simulator
from anlyt.crash import CRASH_POINTS
from fault_plan import Plan, Strike
from support import run
from test_planted_bugs import BUGS, plant

SEEDS = (1, 3, 7, 10, 12, 22, 24, 26, 48)
SEEDS_LONG = range(2_001, 2_101)
KIND_SEEDS = range(3_001, 3_005)
LIMIT_S = 850  # far more than they take
LONG_LIMIT_S = 3_000
FIVE = Plan(
    seed=5,
    events=200,
    batches=0.2,
    publishers=2,
    partitions=16,
    batch_events_max=1_000,
    clocks_s=(600,),
    crash_chance=0.0,
    crashes_max=10,
    strikes=(Strike("publishers-cut", 0.11320596465314436, 2.0),),
    replay=False,
)


def stories(outcomes: list[simulator.Outcome]) -> list[str]:
    """What is wrong with the runs."""
    return [outcome.story() for outcome in outcomes if outcome.differences]


@pytest.mark.timeout(LIMIT_S + 50)
def test_every_run_is_exact_whatever_strikes() -> None:
    plans = [fault_plan.draw(seed) for seed in SEEDS]
    outcomes = run(simulator.campaign(plans, lanes=4), LIMIT_S)

    assert stories(outcomes) == []
    planned = Counter(strike.kind for plan in plans for strike in plan.strikes)
    assert sum((outcome.struck for outcome in outcomes), Counter()) == planned


@pytest.mark.long
@pytest.mark.timeout(LONG_LIMIT_S)
def test_a_hundred_runs_are_exact() -> None:
    outcomes = run(simulator.campaign([fault_plan.draw(seed) for seed in SEEDS_LONG]), LONG_LIMIT_S)

    assert stories(outcomes) == []
    hits = sum((outcome.hits for outcome in outcomes), Counter())
    assert all(hits[point] for point in fault_plan.INGEST_POINTS), hits


@pytest.mark.long
@pytest.mark.timeout(LONG_LIMIT_S)
@pytest.mark.parametrize("kind", fault_plan.ALL)
def test_runs_with_one_kind_of_fault_again_and_again_are_exact(kind: str) -> None:
    plans = [fault_plan.draw(seed, [kind]) for seed in KIND_SEEDS]

    assert stories(run(simulator.campaign(plans), LONG_LIMIT_S)) == []


@pytest.mark.timeout(LIMIT_S + 50)
def test_a_run_that_finds_a_bug_tells_its_seed_its_plan_and_how_to_repeat_it(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = plant(BUGS["no dedupe"], tmp_path / "source")
    (outcome,) = run(simulator.campaign([fault_plan.draw(5)], source=source), LIMIT_S)

    assert any("processed_events" in difference or "metrics" in difference for difference in outcome.differences)
    assert "seed 5: Plan(seed=5," in outcome.story()
    assert "repeat: python tests/simulator.py --seed 5\n" in outcome.story()
    assert list(Path(outcome.said.removeprefix("logs: ")).glob("*.log"))


# ----------------------------------------------------------------------------------------------------------- the plan


def test_a_seed_always_means_the_same_plan() -> None:
    assert [fault_plan.draw(seed) for seed in range(50)] == [fault_plan.draw(seed) for seed in range(50)]
    assert fault_plan.draw(5) == FIVE


def test_a_thousand_seeds_draw_every_fault_every_number_of_workers_and_every_crash_point() -> None:
    plans = [fault_plan.draw(seed) for seed in range(1, 1_001)]
    kinds = Counter(strike.kind for plan in plans for strike in plan.strikes)
    armed = {
        fault_plan.armed(plan, "worker 0", life, fault_plan.INGEST_POINTS).partition("=")[0]
        for plan in plans
        for life in range(3)
    }

    assert kinds.keys() == fault_plan.ALL.keys()
    assert min(kinds.values()) >= 20, kinds
    assert {len(plan.clocks_s) for plan in plans} == {1, 2, 3, 4, 6, 8}
    assert set(fault_plan.INGEST_POINTS) <= armed <= {*CRASH_POINTS, ""}
    assert 100 <= sum(plan.heavy for plan in plans) <= 200


def test_only_faults_that_were_asked_for_are_drawn() -> None:
    plan = fault_plan.draw(8, ["nats-cut"])

    assert {strike.kind for strike in plan.strikes} == {"nats-cut"}
