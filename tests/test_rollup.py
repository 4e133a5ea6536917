"""The fold: against the independent model, and as algebra: split, order and repetition do not matter."""

from __future__ import annotations

import random  # noqa: TC003 - hypothesis reads the annotation
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from anlyt.events import Decoder, Event, Message, Rules, to_datetime, to_instant
from anlyt.rollup import Cell, Deltas, Key, bucket_day, bucket_hour, fold, latency_bucket, latency_value

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)  # the traffic spans a day's, a month's and an hour's edge


def events_of(seed: int, size: int = 400) -> tuple[list[bytes], list[Event]]:
    bodies = oracle.generate(seed, size, NOW)
    messages = [Message("s", None, raw, n, to_instant(NOW)) for n, raw in enumerate(bodies)]
    unique = {event.key: event for event in Decoder(Rules()).decode(messages).events}
    return bodies, list(unique.values())


def total(parts: Iterable[Deltas]) -> dict[Any, Any]:
    """Several deltas added up into plain comparable values; cells nothing touched left out."""
    sums: defaultdict[Any, list[int]] = defaultdict(lambda: [0] * len(Cell.__struct_fields__))
    counts: defaultdict[Any, int] = defaultdict(int)
    for part in parts:
        for table, cells in (("hourly", part.hourly), ("daily", part.daily)):
            for key, cell in cells.items():
                values = [getattr(cell, name) for name in Cell.__struct_fields__]
                sums[table, key] = [a + b for a, b in zip(sums[table, key], values, strict=True)]
        for key, n in part.seconds.items():
            counts["second", key] += n
        for key, samples in part.latencies.items():
            for bucket, n in samples.items():
                counts["latency", key, bucket] += n
    return {
        key: value
        for key, value in [*sums.items(), *counts.items()]
        if value != 0 and any(value if isinstance(value, list) else [value])
    }


POOL = [event for seed in range(4) for event in events_of(seed)[1]]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(POOL), max_size=60, unique_by=lambda event: event.key), st.randoms(use_true_random=False)
)
def test_any_split_and_order_adds_up_to_the_same(events: list[Event], rnd: random.Random) -> None:
    whole = total([fold(events)])
    shuffled = rnd.sample(events, len(events))
    cuts = sorted(rnd.randrange(len(events) + 1) for _ in range(rnd.randrange(4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]

    assert total(map(fold, parts)) == whole


@pytest.mark.parametrize("seed", range(20))
def test_the_fold_gives_every_cell_of_the_independent_model(seed: int) -> None:
    bodies, events = events_of(seed, 1500)
    rows = tables_of(fold(events))

    expected = oracle.expect(bodies, NOW)

    for table, found in rows.items():
        assert oracle.differences(expected, table, found, p95=False) == []


def tables_of(deltas: Deltas) -> dict[str, list[dict[str, Any]]]:
    """The rows the store would write, peaks taken within this one fold."""
    peaks: defaultdict[Key, int] = defaultdict(int)
    for (second, scope, who), n in deltas.seconds.items():
        for bucket in (bucket_hour(second), bucket_day(second) - 1):  # days told apart from their midnight hour
            peaks[Key(bucket, scope, who)] = max(peaks[Key(bucket, scope, who)], n)
    hourly = [metric_row("hour_bucket", key, cell, peaks[key]) for key, cell in deltas.hourly.items()]
    daily = [
        metric_row("day_bucket", key, cell, peaks[Key(key.bucket - 1, key.scope, key.scope_id)])
        for key, cell in deltas.daily.items()
    ]
    operators = [
        row | {"operator_id": row["scope_id"], "error_count": deltas.hourly[key].errors}
        for key, row in zip(deltas.hourly, hourly, strict=True)
        if key.scope == "OPERATOR"
    ]
    accounts = [
        {
            "day_bucket": to_datetime(key.bucket),
            "account_id": key.scope_id,
            "messages_sent": cell.total,
            "messages_delivered": cell.delivered,
            "messages_failed": cell.failed,
            "total_cost": oracle.Decimal(cell.cost) / 10**6,
            "total_segments": cell.segments,
        }
        for key, cell in deltas.daily.items()
        if key.scope == "ACCOUNT"
    ]
    return {
        "metrics_hourly": hourly,
        "metrics_daily": daily,
        "operator_performance": operators,
        "account_usage_daily": accounts,
    }


def metric_row(bucket: str, key: Key, cell: Cell, peak: int) -> dict[str, Any]:
    return {
        bucket: to_datetime(key.bucket),
        "scope": key.scope,
        "scope_id": key.scope_id,
        "total_messages": cell.total,
        "delivered_messages": cell.delivered,
        "failed_messages": cell.failed,
        "pending_messages": cell.total - cell.delivered - cell.failed,
        "total_cost": oracle.Decimal(cell.cost) / 10**6,
        "latency_sum_ms": cell.latency,
        "latency_sample_count": cell.samples,
        "peak_tps": peak,
    }


def test_rerouting_moves_a_failure_to_the_operator_that_was_left() -> None:
    event = Event("k", "message.routed", 0, 0, "a", "new", "old")

    cells = fold([event]).hourly

    assert set(cells) == {Key(0, "OPERATOR", "new"), Key(0, "OPERATOR", "old")}
    assert (cells[Key(0, "OPERATOR", "new")].total, cells[Key(0, "OPERATOR", "old")].failed) == (1, 1)
    assert cells[Key(0, "OPERATOR", "old")].errors == 1


@given(st.integers(0, 2**31 - 1))
def test_a_latency_is_at_most_one_part_in_128_from_what_stands_for_its_bucket(latency_ms: int) -> None:
    bucket = latency_bucket(latency_ms)

    assert abs(latency_value(bucket) - latency_ms) * 128 <= latency_ms
    assert 0 <= bucket < 2**15


def test_latency_buckets_are_exact_below_128_and_rise_without_a_gap() -> None:
    edges = [0, 1, 127, 128, 129, 130, 255, 256, 2**31 - 1]

    assert [latency_bucket(v) for v in edges] == [0, 1, 127, 128, 128, 129, 191, 192, 1663]
    assert [latency_value(b) for b in (0, 127, 128, 129, 191, 192)] == [0, 127, 129, 131, 255, 258]
    assert len({latency_bucket(v) for v in range(2**16)}) == latency_bucket(2**16 - 1) + 1
