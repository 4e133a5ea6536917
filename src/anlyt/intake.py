"""Events that come over HTTP: judged before they are published, so that their sender learns the fate of each. Pure.

In: a request's body, the Grant of its key, and the moment as the publication. Out: a Fate for each event, and one
message with those that are worth counting. The judge is events.Decoder, the worker's own code (I6). What is accepted
here is judged again by its JetStream time, which is a moment later; only an event at the very edge of the window can
fare differently there, and becomes a dead letter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from anlyt.errors import Rejected, RequestError
from anlyt.jetstream import MESSAGE_ID_HEADER, Outgoing, message_id
from anlyt.slots import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anlyt.access import Grant
    from anlyt.events import Decoder, Event

MEDIA_TYPES: Final = ("application/cloudevents+json", "application/cloudevents-batch+json", "application/json")
EVENTS_PER_S_MAX: Final = 5_000  # of one key, in each API process
EVENTS_BURST_MAX: Final = 20_000  # of one key at once, after a rest
SINGLE_TYPE: Final = "application/cloudevents+json"
BATCH_TYPE: Final = "application/cloudevents-batch+json"

Verdict = Literal["accepted", "duplicate", "ignored", "rejected"]


class Fate(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What became of one event of a request."""

    index: int  # its place in the batch, 0 for a single event
    fate: Verdict
    id: str | None = None
    source: str | None = None
    duplicate_of: int | None = None  # the event of this request that it repeats; none: JetStream has it already
    reason: str | None = None  # a dead letter's reason, or forbidden
    detail: str | None = None


class Tally(Struct, frozen=True):
    """How many events had which fate."""

    accepted: int
    duplicate: int
    ignored: int
    rejected: int


class Receipt(Struct, frozen=True):
    """The answer to a request: the fate of each event, in order."""

    data: list[Fate]
    meta: Tally


class Intake(Struct, frozen=True):
    """A judged request. `outgoing` is None when nothing of it is worth publishing."""

    fates: list[Fate]
    outgoing: Outgoing | None


def judge(decoder: Decoder, grant: Grant, body: bytes, *, subject: str, now_us: int) -> Intake:
    """Judge every event of a body as if it were published now. Raises RequestError 413 for more than a batch holds.

    The valid events, each once, make one message; one that stands alone can be known to JetStream by its identity.
    """
    try:
        judged = decoder.judge(body, published=now_us)
    except Rejected as no:
        if no.reason == "too_large":
            raise RequestError(
                f"{no.detail[:-1]}; send them in several requests", status=413, code="too-large"
            ) from None
        return Intake([Fate(0, "rejected", reason=no.reason, detail=no.detail)], None)
    fates: list[Fate] = []
    kept: dict[str, tuple[int, bytes]] = {}
    for index, (element, verdict) in enumerate(judged):
        fate = _fate(index, verdict, grant)
        if fate.fate == "accepted":
            key = f"{fate.id} {fate.source}"
            first, _ = kept.setdefault(key, (index, element))
            if first != index:
                fate = replace(fate, fate="duplicate", duplicate_of=first)
        fates.append(fate)
    return Intake(fates, _outgoing({key: element for key, (_, element) in kept.items()}, subject))


def known_already(fates: list[Fate]) -> list[Fate]:
    """The fates when JetStream answers that it has the message already: nothing of it was stored again."""
    return [replace(fate, fate="duplicate") if fate.fate == "accepted" else fate for fate in fates]


def count(fates: Sequence[Fate]) -> Tally:
    """How many events had which fate."""
    verdicts = [fate.fate for fate in fates]
    return Tally(*(verdicts.count(verdict) for verdict in ("accepted", "duplicate", "ignored", "rejected")))


def _fate(index: int, verdict: Event | Rejected | None, grant: Grant) -> Fate:
    if verdict is None:
        return Fate(index, "ignored")
    if isinstance(verdict, Rejected):
        return Fate(index, "rejected", reason=verdict.reason, detail=verdict.detail)
    event_id, _, source = verdict.key.rpartition(" ")
    foreign = _foreign(verdict, grant)
    if foreign is not None:
        return Fate(index, "rejected", event_id, source, reason="forbidden", detail=foreign)
    return Fate(index, "accepted", event_id, source)


def _foreign(event: Event, grant: Grant) -> str | None:
    """Why this key may not send this event; None when it may. A key changes nobody else's own numbers."""
    if grant.scope == "PLATFORM":
        return None
    if grant.scope == "ACCOUNT":
        if event.type in {"message.routed", "operator.error"}:
            return f"{event.type} changes the numbers of operators, and this key is an account's."
        named = {"accountId": event.account}
    else:
        named = {"operatorId": event.operator, "fromOperatorId": event.from_operator or event.operator}
    wrong = next((name for name, value in named.items() if value not in grant.scope_ids), None)
    return None if wrong is None else f"data.{wrong} is not one of those this key may send events of."


def _outgoing(kept: dict[str, bytes], subject: str) -> Outgoing | None:
    if not kept:
        return None
    if len(kept) > 1:
        body, headers = b"[" + b",".join(kept.values()) + b"]", {"Content-Type": BATCH_TYPE}
    else:
        ((key, body),) = kept.items()
        known_by = message_id(key)
        headers = {"Content-Type": SINGLE_TYPE} | ({} if known_by is None else {MESSAGE_ID_HEADER: known_by})
    return Outgoing(spread(subject, body), body, headers)
