"""The breaker: counting stops before a whole stream ends up as dead letters, because nobody understands it any more.

In: a partition's balance of events that were not understood, and a decoded batch. Out: the balance behind the batch, or
NothingUnderstood. Every event that was not understood adds one; one that was takes away as many as the allowed share
grants it, never below nothing. The balance is stored with the position, in the same transaction (I3), so it outlives
restarts and hand-overs: a worker that stopped is stopped again by the first batch that is no better. Pure.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from anlyt.errors import NothingUnderstood

if TYPE_CHECKING:
    from anlyt.events import Decoded

REFUSED_EVENTS_MAX: Final = 20_000  # on balance; this many are kept as dead letters before a worker stops
TOO_OLD: Final = frozenset({"stale", "too_late"})  # well understood; after an outage they come by the thousand


def weigh(before: int, decoded: Decoded, *, share_max: float, where: str) -> int:
    """The balance behind a batch. Raises NothingUnderstood when it had reached its limit and the batch is no better.

    `share_max` of the events may be refused in the long run; 1 allows all of them. `where` names the partition.
    """
    after = _balance(before, decoded, share_max=share_max)
    if min(before, after) >= REFUSED_EVENTS_MAX and _refused(decoded):
        raise NothingUnderstood(_explain(decoded, where=where))
    return after


def _balance(before: int, decoded: Decoded, *, share_max: float) -> int:
    if share_max >= 1:
        return 0
    refused = _refused(decoded)
    understood = len(decoded.events) + decoded.ignored + len(decoded.letters) - refused
    forgiven = understood * round(share_max / (1 - share_max))
    return max(0, before + refused - forgiven)


def _refused(decoded: Decoded) -> int:
    return sum(letter.reason not in TOO_OLD for letter in decoded.letters)


def _explain(decoded: Decoded, *, where: str) -> str:
    reasons = Counter(letter.reason for letter in decoded.letters)
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    sample = next(letter for letter in decoded.letters if letter.reason not in TOO_OLD)
    return (
        f"counting {where} has stopped, because next to nothing in it can be understood: {REFUSED_EVENTS_MAX:,} events "
        f"became dead letters, and the next ones are no better ({told}; message {sample.message.sequence}: "
        f"{sample.detail}). Nothing is lost: the stream keeps what comes. Look whether producers changed their format, "
        "and at ANLYT_CURRENCY, ANLYT_STREAM and ANLYT_SUBJECTS; then start the worker again. Where these events shall "
        "become dead letters, start it with ANLYT_DEAD_LETTER_SHARE_MAX=1"
    )
