"""Sums of the roll-ups for a Grant: over a period, by id, by hour, day or month; operators with true percentiles.

In: a connection, a Grant, a checked SummaryQuery. Out: a Summary, ready to be written as JSON. As in reports.py, scope
and ids come through access.see (I8) and everything is read from one snapshot. A span is read as whole days, less hours
that are not in it, where those are fewer rows. Percentiles are those of the samples: the histograms are added up, whole
days from merged ones, and where a part of them is gone there is none, never a guess.
"""

from __future__ import annotations

from bisect import bisect_left
from datetime import UTC, datetime
from decimal import Decimal
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import astuple, replace

from anlyt.access import PLATFORM_ID, Scope, see
from anlyt.cold import DAYS, HOURS, NO_SUMS, ColdSums, Source, Wanted, joined, sum_buckets, sum_ids
from anlyt.periods import HOT_HOURS, Buckets, GroupBy, Span, by_weeks, by_whole_days, find_buckets, split_buckets
from anlyt.postgres import sql
from anlyt.reports import Freshness, Meta, quotient, read_freshness
from anlyt.rollup import latency_value
from anlyt.snapshot import snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Grant, Visible
    from anlyt.clickhouse import ClickHouse
    from anlyt.cold import Cold
    from anlyt.periods import SignedBuckets
    from anlyt.queries import SummaryQuery
    from anlyt.settings import Settings

    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]
    Place = tuple[int, str | None]  # number of the span; the id, when each id is summed for itself
    Histogram = tuple[Sequence[int], Sequence[int]]  # ascending buckets, samples in each
    Known = tuple[Freshness, timedelta]  # up to when the stream was counted, and what decides what is final
    Sides = tuple[AnyConnection, Cold | None]  # what is hot, what is archived
    Sum = Mapping[str, Any] | Record
    Parts = tuple[Sum | None, Histogram | None]  # the sums of a group, and its latencies

PERCENTS: Final = (50, 90, 95, 99)
_NO_COST: Final = Decimal("0.000000")
_COUNTS: Final = (
    "total_messages",
    "delivered_messages",
    "failed_messages",
    "pending_messages",
    "latency_sum_ms",
    "latency_sample_count",
    "peak_tps",
)


class Sums(Struct, frozen=True, rename="camel"):
    """What rows of `scope`, of one id or of all that were asked, add up to whose buckets begin in a span.

    Rates and percentiles are null when there is nothing to divide or rank.
    """

    scope: Scope
    scope_id: str | None
    start: datetime
    end: datetime
    total_messages: int
    delivered_messages: int
    failed_messages: int
    pending_messages: int
    total_cost: Decimal
    latency_sum_ms: int
    latency_sample_count: int
    peak_tps: int  # the largest of one id in one hour
    delivery_rate: float | None
    avg_latency_ms: float | None
    error_rate: float | None
    latency_p50_ms: int | None  # of operators, nearest rank; null for other scopes
    latency_p90_ms: int | None
    latency_p95_ms: int | None
    latency_p99_ms: int | None
    final: bool  # no accepted event can change it any more


class SummaryRow(Sums, frozen=True, rename="camel"):
    """The sums of one group, beside those of the period before if that is asked."""

    previous: Sums | UnsetType = UNSET


class SummaryMeta(Meta, frozen=True, rename="camel", kw_only=True):
    """What the sums are true of. `groups` is how many there are, with those beyond the limit.

    `counted_since` comes with a comparison: the first day anything is kept of; what begins before it is not whole.
    """

    group_by: GroupBy
    groups: int
    counted_since: datetime | UnsetType | None = UNSET


class Summary(Struct, frozen=True):
    """An answer of `/v1/summary`. `next` is there because all answers have it; nothing lies behind a summary."""

    data: list[SummaryRow]
    next: None
    meta: SummaryMeta


async def read_summary(
    conn: AnyConnection, grant: Grant, query: SummaryQuery, *, settings: Settings, clickhouse: ClickHouse | None = None
) -> Summary:
    """The sums that `grant` may see. Raises RequestError 404 for an id it may not, 422 for rows no longer kept."""
    visible = see(grant, query.scope, query.ids, parameter="scopeId")
    rows: list[SummaryRow] = []
    groups = 0
    since = await conn.fetchval(sql("read/find_first_day"), clickhouse is not None) if query.compare else UNSET
    async with snapshot(conn, grant, clickhouse) as cold:
        fresh = await read_freshness(conn, settings)
        buckets = find_buckets(query.spans, fresh.as_of, archived=cold is not None)
        asked = [buckets]
        known = (fresh, settings.max_message_age)
        whole_from = _whole_from(cold, fresh.as_of)
        if visible is not None:
            found, groups = await _find((conn, cold), query, _ids(visible), buckets, whole_from=whole_from)
            rows = [_sums(query, place, parts, known) for place, parts in found.items()]
        if query.compare and visible is not None:
            earlier = _earlier(query)
            named = _ids(visible) if query.group_by == "none" else [str(row.scope_id) for row in rows]
            asked.append(find_buckets(earlier.spans, fresh.as_of, archived=cold is not None))
            found, _ = await _find((conn, cold), earlier, named, asked[-1], whole_from=whole_from)
            rows = [_beside(row, earlier, found, known) for row in rows]
    meta = _meta(query, fresh, groups, currency=settings.currency, source=_source(cold, asked))
    return Summary(rows, None, replace(meta, counted_since=since))


def _ids(visible: Visible) -> list[str] | None:
    if visible.scope == "PLATFORM":
        return [PLATFORM_ID]
    return None if visible.ids is None else list(visible.ids)


def _earlier(query: SummaryQuery) -> SummaryQuery:
    """The same question about the period of the same length before."""
    (span,) = query.spans
    return replace(query, spans=(Span(span.start - (span.end - span.start), span.start),))


# ---------------------------------------------------------------------------------------------------------------- sums


async def _find(
    sides: Sides, query: SummaryQuery, ids: list[str] | None, buckets: Buckets, *, whole_from: datetime
) -> tuple[dict[Place, Parts], int]:
    """What each group is made of, in the order of the answer, and how many groups there are."""
    conn, cold = sides
    each = query.group_by == "scopeId"
    before, buckets = _split(cold, buckets)
    signed = by_whole_days(buckets, whole_from)
    archived = NO_SUMS if cold is None else await _sum_archived(cold, query, ids, before)
    if each:
        order = (query.sort, query.order == "desc", query.limit)
        rows = (buckets.hours, buckets.days, query.scope, ids)
        records = await conn.fetch(sql("read/sum_ids"), *rows, *order, *archived.values)
        ids = [record["scope_id"] for record in records]
        found: dict[Place, Sum] = {(0, record["scope_id"]): record for record in records}
        places = list(found)
        groups = records[0]["groups"] if records else 0
    else:
        places = [(number, None) for number in range(len(query.spans))]
        found = await _sum_spans(conn, (query.scope, ids), buckets, signed=signed, archived=archived)
        groups = len(places)
    histograms: Mapping[Place, Histogram] = {}
    if query.scope == "OPERATOR":  # other scopes have none
        histograms = await _read_histograms(conn, signed, ids, each=each)
    return {place: (found.get(place), histograms.get(place)) for place in places}, groups


async def _sum_spans(
    conn: AnyConnection,
    whose: tuple[Scope, list[str] | None],
    buckets: Buckets,
    *,
    signed: SignedBuckets,
    archived: ColdSums,
) -> dict[Place, Sum]:
    """The sums of each span that has rows. A peak that may be one of hours taken away is looked for in the hours."""
    records = await conn.fetch(sql("read/sum_spans"), *astuple(signed), *whose, *archived.values)
    found: dict[Place, Sum] = {(record["span"], None): record for record in records}
    unsure = {record["span"]: record for record in records if record["peak_unsure"]}
    if unsure:
        hours = [place for place in zip(buckets.hours, buckets.hour_spans, strict=True) if place[1] in unsure]
        places = ([hour for hour, _ in hours], [span for _, span in hours])
        peaks = {row["span"]: row["peak_tps"] for row in await conn.fetch(sql("read/find_peaks"), *places, *whose)}
        for span, record in unsure.items():
            peak = max(record["sure_peak_tps"] or 0, peaks.get(span, 0))
            found[span, None] = {**record, "peak_tps": peak}
    return found


def _whole_from(cold: Cold | None, now: datetime) -> datetime:
    """From when on PostgreSQL has the row of every day, and those of all its hours."""
    kept = now - HOT_HOURS
    return kept if cold is None else max(kept, cold.border(HOURS), cold.border(DAYS))


def _split(cold: Cold | None, buckets: Buckets) -> tuple[Buckets, Buckets]:
    """The buckets the archive answers, and those that PostgreSQL does."""
    if cold is None:
        return Buckets([], [], [], []), buckets
    return split_buckets(buckets, cold.border(HOURS), cold.border(DAYS))


def _source(cold: Cold | None, asked: Sequence[Buckets]) -> Source:
    """Who answers these buckets."""
    sides = [_split(cold, buckets) for buckets in asked]
    if not any(before.hours or before.days for before, _ in sides):
        return "postgres"
    return "both" if any(behind.hours or behind.days for _, behind in sides) else "clickhouse"


async def _sum_archived(cold: Cold, query: SummaryQuery, ids: list[str] | None, before: Buckets) -> ColdSums:
    """What the archive adds: by id, or by span."""
    hours, days = Wanted(HOURS, before.hours), Wanted(DAYS, before.days)
    if query.group_by == "scopeId":
        return joined(*[await sum_ids(cold, wanted, scope=query.scope, ids=ids) for wanted in (hours, days)])
    return joined(
        await sum_buckets(cold, hours, before.hour_spans, scope=query.scope, ids=ids),
        await sum_buckets(cold, days, before.day_spans, scope=query.scope, ids=ids),
    )


async def _read_histograms(
    conn: AnyConnection, signed: SignedBuckets, ids: list[str] | None, *, each: bool
) -> Mapping[Place, Histogram]:
    """The latency samples of operators by place."""
    hours = (signed.hours, signed.hour_spans, signed.signs)
    days = by_weeks(signed.days, signed.day_spans)
    records = await conn.fetch(sql("read/merge_latencies"), *hours, *astuple(days), ids, each)
    return {(record["span"], record["scope_id"]): (record["buckets"], record["sample_counts"]) for record in records}


# ---------------------------------------------------------------------------------------------------------------- rows


def _sums(query: SummaryQuery, place: Place, parts: Parts, known: Known) -> SummaryRow:
    number, scope_id = place
    record, histogram = parts
    fresh, max_message_age = known
    span = query.spans[number]
    if query.scope == "PLATFORM":
        scope_id = PLATFORM_ID
    elif scope_id is None and query.ids is not None and len(query.ids) == 1:
        scope_id = query.ids[0]
    counts = {column: int(record[column]) if record is not None else 0 for column in _COUNTS}
    samples = counts["latency_sample_count"]
    p50, p90, p95, p99 = percentiles(histogram, PERCENTS, samples=samples)
    return SummaryRow(
        scope=query.scope,
        scope_id=scope_id,
        start=span.start,
        end=span.end,
        **counts,
        total_cost=_NO_COST if record is None else record["total_cost"],
        delivery_rate=quotient(counts["delivered_messages"], counts["total_messages"]),
        avg_latency_ms=quotient(counts["latency_sum_ms"], samples),
        error_rate=quotient(counts["failed_messages"], counts["total_messages"]),
        latency_p50_ms=p50,
        latency_p90_ms=p90,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        final=fresh.is_final(span.end, max_message_age),
        previous=UNSET,
    )


def _beside(row: SummaryRow, earlier: SummaryQuery, found: Mapping[Place, Parts], known: Known) -> SummaryRow:
    place: Place = (0, row.scope_id if earlier.group_by == "scopeId" else None)
    return replace(row, previous=_sums(earlier, place, found.get(place, (None, None)), known))


def percentiles(histogram: Histogram | None, percents: Sequence[int], *, samples: int) -> list[int | None]:
    """The nearest-rank percentiles of a histogram in ms; None where it does not hold `samples`, or there are none."""
    buckets, counts = ((), ()) if histogram is None else histogram
    reached = [*accumulate(counts)]
    if not reached or reached[-1] != samples or not samples:
        return [None] * len(percents)
    return [latency_value(buckets[bisect_left(reached, -(-samples * percent // 100))]) for percent in percents]


def _meta(query: SummaryQuery, fresh: Freshness, groups: int, *, currency: str, source: Source) -> SummaryMeta:
    return SummaryMeta(
        as_of=fresh.as_of,
        complete_through=fresh.complete_through,
        lag_seconds=fresh.lag_seconds,
        currency=currency,
        source=source,
        from_=query.start.astimezone(UTC),
        to=query.end.astimezone(UTC),
        group_by=query.group_by,
        groups=groups,
    )
