"""Seeded A2P traffic: what a gateway, a router and a billing service would publish, with all their bad habits.

In: a Traffic record. Out: an iterator of Publication in the order of `publish_at`, and a Tally of what was made: a
message is in it once the next one is asked for, so that whoever stops may leave the last one out. Pure: no clock, no
I/O; the same Traffic gives the same bytes.
Time is cut into slices. Each slice first submits its messages, which put the events of their whole lives into the queue
(`_Run.queue`, one list a slice); nothing later can add to the slice, so its list is sorted and published.
With `history` the traffic lies before `start` and carries the backfill header; else it begins at `start`.
Messages carry no Nats-Msg-Id: JetStream itself would drop the duplicates that are there to be found.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from anlyt.errors import UsageError
from anlyt.events import DAY_US, HOUR_US, MINUTE_US, SECOND_US, to_datetime, to_instant
from anlyt.jetstream import Outgoing
from anlyt.mistakes import make_mistake
from anlyt.sample import (
    ACCOUNTS_DEFAULT,
    ACCOUNTS_MAX,
    OPERATORS_DEFAULT,
    OPERATORS_MAX,
    Account,
    Episode,
    Operator,
    Story,
    roster,
    story,
)
from anlyt.slots import spread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKFILL_HEADER: Final = "Anlyt-Backfill"
HISTORY_MAX: Final = timedelta(days=89)  # a backfill must lie inside hot retention, 90 days, until it is counted
DURATION_MAX: Final = timedelta(days=3_650)
RATE_MAX: Final = 1_000_000.0
SHARE_MAX: Final = 0.5
BATCH_EVENTS_MAX: Final = 100
QUEUE_EVENTS_MAX: Final = 500_000  # events waiting for their time; when full, receipts and copies are not late any more
SLICE_MESSAGES: Final = 500
SLICE_MIN_US: Final = SECOND_US // 10
SLICE_LIVE_MAX_US: Final = SECOND_US
SLICE_HISTORY_MAX_US: Final = 10 * MINUTE_US

# Of all messages, unless said otherwise.
ROUTED_SHARE: Final = 0.12  # submitted without an operator, routed a moment later
REROUTED_SHARE: Final = 0.03  # routed away from the operator they were submitted with
RECEIPT_SHARE: Final = 0.985  # get an outcome at all
LATE_SHARE: Final = 0.01  # of the receipts: minutes to hours late
DELIVERED_REVISED_SHARE: Final = 0.006  # of the delivered: failed after all
FAILED_REVISED_SHARE: Final = 0.05  # of the failed: delivered after all
CHARGED_SHARE: Final = 0.05  # charged or credited later
ERROR_SHARE: Final = 0.01  # meet an error of the operator
INCIDENT_ERROR_SHARE: Final = 0.2  # the same during an incident
CAMPAIGN_SHARE: Final = 0.1  # sent in bursts by one account
EVENTS_PER_MESSAGE: Final = (
    1 + ROUTED_SHARE + REROUTED_SHARE + RECEIPT_SHARE * 1.008 + CHARGED_SHARE + ERROR_SHARE
)  # 0.8 % of the outcomes are revised

ROUTING_MIN_US: Final = SECOND_US // 10
ROUTING_US: Final = 3 * SECOND_US
REROUTING_MIN_US: Final = SECOND_US
REROUTING_US: Final = 20 * SECOND_US
REVISION_US: Final = 10 * MINUTE_US
BILLING_US: Final = 10 * MINUTE_US
CREDIT_SHARE: Final = 1 / 3  # of the charges
SURCHARGE_MAX: Final = 20_000  # millionths
ERROR_COUNT_MAX: Final = 20
SAMPLE_SHARE: Final = 0.7  # of the receipts: they state their latency
CAMPAIGN_US: Final = 10 * SECOND_US
CAMPAIGN_MESSAGES_MIN: Final = 40
LATE_MEDIAN_US: Final = 20 * MINUTE_US
LATE_MAX_US: Final = 6 * HOUR_US
COPY_SOON_US: Final = 2 * SECOND_US
COPY_FAR_US: Final = 3 * HOUR_US
COPY_FAR_SHARE: Final = 0.2  # of the duplicates: minutes to hours after the first
INCIDENT_SLOWER: Final = 6
INCIDENT_FAILURES: Final = 0.6
OUTAGE_FAILURES: Final = 0.2
OUTAGE_FLUSH_US: Final = MINUTE_US  # the receipts held back arrive within this time

SUBMITTED: Final = "message.submitted"
ROUTED: Final = "message.routed"
DELIVERED: Final = "message.delivered"
FAILED: Final = "message.failed"
CHARGED: Final = "message.charged"
ERROR: Final = "operator.error"

_GATEWAYS: Final = ("/gateway/fra1", "/gateway/ams2", "/gateway/lon1", "/gateway/waw1")
_ROUTER: Final = "/router"
_BILLING: Final = "/billing"
_ERROR_CODES: Final = ("ESME_RTHROTTLED", "ESME_RSYSERR", "ESME_RMSGQFUL", "ESME_RSUBMITFAIL")
_FRACTIONS: Final = tuple(f".{ms:03d}Z" for ms in range(1000))
_LOG_LATE: Final = math.log(LATE_MEDIAN_US)
_NO_HEADERS: Final[dict[str, str]] = {}


class Traffic(Struct, frozen=True, kw_only=True):
    """What to simulate. Raises UsageError for a value outside its limits.

    `rate` is distinct events a second on the average of a week; with `rhythm`, nights and weekends are quieter.
    `batches` and `binary` are about the share of events that come in batches and in binary mode.
    `duration` counts from `start`, None goes on; with `history` the traffic is [start - history, start) instead.
    """

    start: datetime
    seed: int = 1
    rate: float = 20.0
    duration: timedelta | None = None
    history: timedelta | None = None
    duplicates: float = 0.02
    bad: float = 0.002
    batches: float = 0.2
    binary: float = 0.03
    rhythm: bool = True
    operators: int = OPERATORS_DEFAULT
    accounts: int = ACCOUNTS_DEFAULT
    currency: str = "EUR"
    subject_prefix: str = "messaging.events."

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        _check_range("rate", self.rate, low=0.001, high=RATE_MAX)
        _check_range("operators", self.operators, low=2, high=OPERATORS_MAX)
        _check_range("accounts", self.accounts, low=2, high=ACCOUNTS_MAX)
        for name in ("duplicates", "bad"):
            _check_range(name, getattr(self, name), low=0, high=SHARE_MAX)
        for name in ("batches", "binary"):
            _check_range(name, getattr(self, name), low=0, high=1)
        for name, longest in (("duration", DURATION_MAX), ("history", HISTORY_MAX)):
            length = getattr(self, name)
            if length is not None and not timedelta(0) < length <= longest:
                raise UsageError(f"{name} must be more than nothing and at most {longest.days} days, but is {length}")
        if self.start.tzinfo is None:
            raise UsageError(f"start must have a time zone, but is {self.start.isoformat()}")


class Publication(Outgoing, frozen=True, gc=False):
    """One JetStream message and when to publish it, in microseconds since 1970 UTC; a backfill need not wait."""

    publish_at: int


@dataclass(slots=True)
class Tally:
    """What was taken so far; the tables must agree with it."""

    events: int = 0  # distinct ones that count
    duplicates: int = 0
    submitted: int = 0  # messages of accounts
    messages: int = 0  # messages of JetStream
    bad: Counter[str] = field(default_factory=Counter[str])  # by the reason of their dead letter


def backfill_name(traffic: Traffic) -> str:
    """The name under which a history is recorded."""
    return f"simulated-{traffic.seed}-{traffic.start.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def plain(traffic: Traffic) -> Traffic:
    """The same without rhythm, batches and binary mode: a steady stream of structured events."""
    return msgspec.structs.replace(traffic, rhythm=False, batches=0.0, binary=0.0)


def bodies(traffic: Traffic) -> list[bytes]:
    """All bodies at once, none in binary mode, for whoever needs no headers."""
    return [message.body for message in simulate(msgspec.structs.replace(traffic, binary=0.0))]


def simulate(traffic: Traffic, tally: Tally | None = None) -> Iterator[Publication]:
    """Every message of the traffic, in the order of publication; each is in `tally` once the next is asked for."""
    run = _begin(traffic, Tally() if tally is None else tally)
    for start in range(run.begin, run.end, run.slice_us):
        _submit_slice(run, start)
        yield from _publish_slice(run, start)


def rhythm(instant: int) -> float:
    """How busy the platform is at an instant; 1 on the average of a week, most in the afternoons of its middle."""
    day = (instant / DAY_US + 3) % 7  # days since Monday; 1970 began on a Thursday
    by_hour = 1 + 0.75 * math.sin(2 * math.pi * (day - 9 / 24))
    by_day = 1 + 0.3 * math.cos(2 * math.pi * (day - 2.5) / 7)
    return by_hour * by_day


# ------------------------------------------------------------------------------------------------------ inside a run


class _Event(Struct, frozen=True, gc=False):
    """An event on its way: `data` is its JSON. A bad one is all in `raw`, with the `reason` of its dead letter."""

    due: int
    kind: str
    id: str
    source: str
    time: str
    data: str
    again: bool = False
    reason: str = ""
    raw: bytes = b""


class _Route(Struct, frozen=True, gc=False):
    """An operator with everything about it that can be written beforehand."""

    operator: Operator
    member: str  # "operatorId":"..."
    log_median: float
    tariffs: tuple[str, ...]  # members of a submission: segments, cost, currency
    legacy_tariffs: tuple[str, ...]


class _Message(Struct, frozen=True, gc=False):
    """What the events of one message have in common."""

    at: int
    gateway: str
    members: str  # "messageId":"...","accountId":"..."
    submitted: str  # ,"submittedAt":"..."


@dataclass(slots=True)
class _Run:
    """The state of one iteration: the queue, and the random numbers all else follows from."""

    traffic: Traffic
    tally: Tally
    rng: random.Random
    random: Callable[[], float]
    begin: int
    end: int
    slice_us: int
    messages_per_us: float
    accounts: tuple[Account, ...]
    account_weights: list[float]
    routes: tuple[_Route, ...]
    route_weights: list[float]
    story: Story
    headers: dict[str, str]
    json_headers: dict[str, str]
    queue: dict[int, list[_Event]] = field(default_factory=dict[int, "list[_Event]"])
    queued: int = 0


def _begin(traffic: Traffic, tally: Tally) -> _Run:
    members = roster(traffic.seed, operators=traffic.operators, accounts=traffic.accounts)
    start = to_instant(traffic.start)
    length = (traffic.history or traffic.duration or DURATION_MAX) // timedelta(microseconds=1)
    begin = _whole_ms(start - length if traffic.history else start)
    messages_per_us = traffic.rate / EVENTS_PER_MESSAGE / SECOND_US
    longest = SLICE_HISTORY_MAX_US if traffic.history else SLICE_LIVE_MAX_US
    rng = random.Random(f"{traffic.seed} traffic {begin}")  # noqa: S311 - a sample, no secret
    headers = {BACKFILL_HEADER: backfill_name(traffic)} if traffic.history else _NO_HEADERS
    return _Run(
        traffic=traffic,
        tally=tally,
        rng=rng,
        random=rng.random,
        begin=begin,
        end=begin + length,
        slice_us=_whole_ms(int(min(max(SLICE_MESSAGES / messages_per_us, SLICE_MIN_US), longest))),
        messages_per_us=messages_per_us,
        accounts=members.accounts,
        account_weights=list(accumulate(account.weight for account in members.accounts)),
        routes=tuple(_route(operator, traffic.currency) for operator in members.operators),
        route_weights=list(accumulate(operator.share for operator in members.operators)),
        story=story(members, start),
        headers=headers,
        json_headers={**headers, "Content-Type": "application/cloudevents+json"},
    )


def _route(operator: Operator, currency: str) -> _Route:
    """Sixteen equally likely ways to submit to an operator: some charge later, some leave out what has a default."""
    tariffs: list[str] = []
    legacy: list[str] = []
    for number, segments in enumerate((1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 7)):
        cost = _money(segments * operator.price + number * 137)
        count = f',"segments":{segments}' if segments > 1 or number % 2 else ""
        tariffs.append(count if number % 8 == 0 else f'{count},"cost":"{cost}","currency":"{currency}"')
        legacy.append(f'{count},"cost":{cost}')
    return _Route(
        operator, f'"operatorId":"{operator.id}"', math.log(operator.latency_median_ms), tuple(tariffs), tuple(legacy)
    )


def _submit_slice(run: _Run, start: int) -> None:
    """The messages submitted in one slice, and the campaigns that begin in it."""
    mean = run.messages_per_us * run.slice_us
    if run.traffic.rhythm:
        mean *= rhythm(start + run.slice_us // 2)
        size = max(CAMPAIGN_MESSAGES_MIN, int(2 * CAMPAIGN_US * run.messages_per_us))
        for _ in range(_about(run, mean * CAMPAIGN_SHARE / size)):
            _submit_campaign(run, _instant_in(run, start, run.slice_us), size=size)
        mean *= 1 - CAMPAIGN_SHARE
    for account in run.rng.choices(run.accounts, cum_weights=run.account_weights, k=_about(run, mean)):
        _submit(run, _instant_in(run, start, run.slice_us), account=account)


def _submit_campaign(run: _Run, start: int, *, size: int) -> None:
    """One account sends to many phones at once."""
    (account,) = run.rng.choices(run.accounts, cum_weights=run.account_weights)
    for _ in range(size):
        _submit(run, _instant_in(run, start, CAMPAIGN_US), account=account)


# -------------------------------------------------------------------------------------------------- a message's life


def _submit(run: _Run, instant: int, *, account: Account) -> None:
    """Submit one message and queue everything that will happen to it before the traffic ends."""
    (route,) = run.rng.choices(run.routes, cum_weights=run.route_weights)
    bits = run.rng.getrandbits
    at = _whole_ms(instant)
    message = _Message(
        at,
        _GATEWAYS[bits(2)],
        f'"messageId":"msg-{bits(64):016x}","accountId":"{account.id.upper() if account.legacy else account.id}"',
        f',"submittedAt":"{_stamp(at)}"',
    )
    members = f"{message.members}{message.submitted if bits(2) == 0 else ''}"
    tariff = (route.legacy_tariffs if account.legacy else route.tariffs)[bits(4)]
    path, sent_at = run.random(), at
    if path < ROUTED_SHARE:
        _queue(run, at, kind=SUBMITTED, source=message.gateway, data=f"{members}{tariff}")
        sent_at = _instant_in(run, at + ROUTING_MIN_US, ROUTING_US)
        data = f"{message.members}{message.submitted},{route.member}"
        _queue(run, sent_at, kind=ROUTED, source=_ROUTER, data=data)
    else:
        _queue(run, at, kind=SUBMITTED, source=message.gateway, data=f"{members},{route.member}{tariff}")
        if path >= 1 - REROUTED_SHARE:
            route, sent_at = _reroute(run, message, route=route)
    _conclude(run, message, route=route, sent_at=sent_at)
    _bill(run, message, route=route)


def _reroute(run: _Run, message: _Message, *, route: _Route) -> tuple[_Route, int]:
    """The operator did not take the message: another one gets it, some seconds later."""
    other = run.rng.choice([other for other in run.routes if other is not route])
    sent_at = _instant_in(run, message.at + REROUTING_MIN_US, REROUTING_US)
    left = f'"fromOperatorId":"{route.operator.id}"'
    data = f"{message.members}{message.submitted},{other.member},{left}"
    _queue(run, sent_at, kind=ROUTED, source=_ROUTER, data=data)
    return other, sent_at


def _conclude(run: _Run, message: _Message, *, route: _Route, sent_at: int) -> None:
    """The delivery receipt, if one comes, and its revision, if it was wrong."""
    if run.random() >= RECEIPT_SHARE:
        return
    due, failures, sample = _receipt(run, message, route=route, sent_at=sent_at)
    outcome = f"{message.members}{message.submitted},{route.member}"
    if run.random() >= failures:
        _queue(run, due, kind=DELIVERED, source=message.gateway, data=f"{outcome}{sample}")
        revised, kind, was = DELIVERED_REVISED_SHARE, FAILED, "DELIVERED"
    else:
        _queue(run, due, kind=FAILED, source=message.gateway, data=f'{outcome},"code":"UNDELIV"')
        revised, kind, was = FAILED_REVISED_SHARE, DELIVERED, "FAILED"
    if run.random() < revised:
        due = _instant_in(run, due + SECOND_US, REVISION_US)
        _queue(run, due, kind=kind, source=message.gateway, data=f'{outcome},"previousStatus":"{was}"')


def _receipt(run: _Run, message: _Message, *, route: _Route, sent_at: int) -> tuple[int, float, str]:
    """When the receipt arrives, how likely it tells of a failure, and the latency it states, if it states one."""
    operator = route.operator
    failures = operator.failures
    latency_ms = run.rng.lognormvariate(route.log_median, operator.latency_spread)
    if _in_episode(run.story.incident, operator, instant=sent_at):
        latency_ms *= INCIDENT_SLOWER
        failures = INCIDENT_FAILURES
    due = sent_at + int(latency_ms) * 1000
    if _in_episode(run.story.outage, operator, instant=due):  # afterwards nobody knows when the phone had it
        return _instant_in(run, run.story.outage.end, OUTAGE_FLUSH_US), OUTAGE_FAILURES, ""
    sample = f',"latencyMs":{(due - message.at) // 1000}' if run.random() < SAMPLE_SHARE else ""
    if run.random() < LATE_SHARE and run.queued < QUEUE_EVENTS_MAX:
        late = min(int(run.rng.lognormvariate(_LOG_LATE, 1)), LATE_MAX_US)
        return due + late, failures, f',"latencyMs":{(due - message.at) // 1000}'  # when the phone had it
    return due, failures, sample


def _bill(run: _Run, message: _Message, *, route: _Route) -> None:
    """Charges and credits that come later, and errors the operator answered with."""
    draw = run.random()
    if draw < CHARGED_SHARE:
        credit = run.random() < CREDIT_SHARE
        cost = _money(-route.operator.price if credit else 1 + int(run.random() * SURCHARGE_MAX))
        data = f'{message.members}{message.submitted},"cost":"{cost}","currency":"{run.traffic.currency}"'
        if not credit:  # a credit is the account's affair alone
            data = f"{data},{route.member}"
        due = _instant_in(run, message.at + MINUTE_US, BILLING_US)
        _queue(run, due, kind=CHARGED, source=_BILLING, data=data)
        return
    incident = _in_episode(run.story.incident, route.operator, instant=message.at)
    if draw >= 1 - (INCIDENT_ERROR_SHARE if incident else ERROR_SHARE):
        code, count = _ERROR_CODES[run.rng.getrandbits(2)], 1 + int(run.random() * ERROR_COUNT_MAX)
        data = f'{route.member},"count":{count},"code":"{code}"'
        _queue(run, message.at + SECOND_US, kind=ERROR, source=message.gateway, data=data)


def _queue(run: _Run, due: int, *, kind: str, source: str, data: str) -> None:
    """An event that will happen, unless the traffic ends before."""
    if due < run.end:
        _enqueue(run, _Event(due, kind, _ident(run, due), source, _stamp(due), data))


def _enqueue(run: _Run, event: _Event) -> None:
    number = (event.due - run.begin) // run.slice_us
    if number in run.queue:
        run.queue[number].append(event)
    else:
        run.queue[number] = [event]
    run.queued += 1


def _in_episode(episode: Episode, operator: Operator, *, instant: int) -> bool:
    return episode.start <= instant < episode.end and episode.operator.id == operator.id


# -------------------------------------------------------------------------------------------------------- publishing


def _publish_slice(run: _Run, start: int) -> Iterator[Publication]:
    """Everything due in one slice, with duplicates and bad events among it, packed into messages."""
    events = run.queue.pop((start - run.begin) // run.slice_us, [])
    run.queued -= len(events)
    length = min(run.slice_us, run.end - start)
    copied = run.rng.choices(events, k=_about(run, len(events) * run.traffic.duplicates)) if events else []
    bad = _about(run, len(events) * run.traffic.bad)
    for event in copied:
        copy = _copy(run, event)
        if copy.due < start + length:
            events.append(copy)
        else:
            _enqueue(run, copy)
    events += [_spoil(run, _instant_in(run, start, length)) for _ in range(bad)]
    events.sort(key=attrgetter("due"))  # stable: a copy never overtakes its first
    return _pack(run, events)


def _copy(run: _Run, event: _Event) -> _Event:
    """The same event published once more: mostly at once, sometimes hours later."""
    far = run.random() < COPY_FAR_SHARE and run.queued < QUEUE_EVENTS_MAX
    span = min(COPY_FAR_US if far else COPY_SOON_US, run.end - event.due)
    return msgspec.structs.replace(event, due=_instant_in(run, event.due, span), again=True)


def _spoil(run: _Run, due: int) -> _Event:
    """A charge that somebody got wrong."""
    ident, time = _ident(run, due), _stamp(due)
    reason, raw = make_mistake(
        run.rng,
        {"id": ident, "source": _BILLING, "type": CHARGED, "time": time},
        {"messageId": "msg-0", "accountId": run.accounts[0].id, "submittedAt": time, "cost": "0.010000"},
        published=max(due, to_instant(run.traffic.start)),  # a history is published when it is over
        backfill=run.traffic.history is not None,
    )
    return _Event(due, CHARGED, ident, _BILLING, time, "", reason=reason, raw=raw)


def _pack(run: _Run, events: list[_Event]) -> Iterator[Publication]:
    """Events in the order they are due, as single messages and batches."""
    share = run.traffic.batches
    starts_batch = share / (share + (1 - share) * BATCH_EVENTS_MAX / 2)  # of messages; then `share` of events result
    at = 0
    while at < len(events):
        size = 1
        if share and run.random() < starts_batch:
            size = _batch_size(events, at, size_max=2 + int(run.random() * (BATCH_EVENTS_MAX - 1)))
        taken = events[at : at + size]
        at += size
        yield _batch(run, taken) if size > 1 else _single(run, taken[0])
        for event in taken:
            _count(run.tally, event)
        run.tally.messages += 1


def _batch_size(events: list[_Event], at: int, *, size_max: int) -> int:
    """How many events a batch may take; one that is no CloudEvent would spoil it, so it stays alone."""
    taken = events[at : at + size_max]
    return next((max(1, n) for n, event in enumerate(taken) if event.reason == "malformed"), len(taken))


def _count(tally: Tally, event: _Event) -> None:
    if event.again:
        tally.duplicates += 1
    elif event.reason:
        tally.bad[event.reason] += 1
    else:
        tally.events += 1
        if event.kind == SUBMITTED:
            tally.submitted += 1


def _single(run: _Run, event: _Event) -> Publication:
    subject = run.traffic.subject_prefix + event.kind
    binary = run.traffic.binary
    if binary and not event.reason and run.random() < binary:
        headers = {**run.headers, "Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": event.id}
        headers |= {"ce-source": event.source, "ce-type": event.kind, "ce-time": event.time}
        body = f"{{{event.data}}}".encode()
    else:
        headers = run.json_headers if event.source == _ROUTER else run.headers  # not every producer says what it sends
        body = _structured(event)
    return Publication(spread(subject, body), body, headers, event.due)


def _batch(run: _Run, events: list[_Event]) -> Publication:
    body = b"[" + b",".join(map(_structured, events)) + b"]"
    headers = {**run.headers, "Content-Type": "application/cloudevents-batch+json"}
    return Publication(spread(f"{run.traffic.subject_prefix}batch", body), body, headers, events[-1].due)


def _structured(event: _Event) -> bytes:
    if event.raw:
        return event.raw
    return (
        f'{{"specversion":"1.0","id":"{event.id}","source":"{event.source}","type":"{event.kind}","time":"{event.time}",'
        f'"datacontenttype":"application/json","data":{{{event.data}}}}}'
    ).encode()


# ------------------------------------------------------------------------------------------------------- small parts


def _ident(run: _Run, instant: int) -> str:
    """A UUIDv7: 48 bits of time in ms, then chance."""
    time, tail = f"{instant // 1000:012x}", f"{run.rng.getrandbits(72):018x}"
    return f"{time[:8]}-{time[8:]}-7{tail[:3]}-8{tail[3:6]}-{tail[6:]}"


def _stamp(instant: int) -> str:
    """RFC 3339 with milliseconds."""
    return _second(instant // SECOND_US) + _FRACTIONS[instant % SECOND_US // 1000]


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    return to_datetime(second * SECOND_US).strftime("%Y-%m-%dT%H:%M:%S")


def _whole_ms(instant: int) -> int:
    return instant - instant % 1000


def _instant_in(run: _Run, start: int, length: int) -> int:
    """Some instant from `start` on, less than `length` later."""
    return start + int(run.random() * length)


def _about(run: _Run, mean: float) -> int:
    """A whole number that is `mean` on the average."""
    return int(mean + run.random())


def _money(millionths: int) -> str:
    sign = "-" if millionths < 0 else ""
    return f"{sign}{abs(millionths) // 1_000_000}.{abs(millionths) % 1_000_000:06d}"


def _check_range(name: str, value: float, *, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} must be from {low:g} to {high:g}, but is {value:g}")
