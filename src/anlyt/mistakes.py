"""Mistakes that producers make: each turns an event that was in order into exactly one dead letter.

In: a good charge as a dict, and the instant it is published. Out: the reason its dead letter will have, and the body.
Every reason is there but too_large, which would fill a stream with nothing. Pure; chance comes from the caller's rng.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from anlyt.events import format_instant

if TYPE_CHECKING:
    from random import Random

_FAR_AHEAD: Final = timedelta(days=30)  # also when traffic is published long after its instants
_STALE: Final = timedelta(hours=-49)
_TOO_LATE: Final = timedelta(days=-100)  # behind any ANLYT_MAX_MESSAGE_AGE, and behind hot retention for a backfill

# The reason, and what is put into the charge: attributes, members of its data. A timedelta stands for the instant that
# long after the publication; None is written as null.
_Changes = dict[str, "str | int | timedelta | None"]
_CHANGES: Final[tuple[tuple[str, _Changes, _Changes], ...]] = (
    ("malformed", {"specversion": "0.3"}, {}),
    ("malformed", {"source": None}, {}),
    ("malformed", {"data": "text"}, {}),
    ("unknown_type", {"type": "message.teleported"}, {}),
    ("unknown_type", {"type": "operator.lunch"}, {}),
    ("invalid_field", {"time": "2026-01-31T23:59:59"}, {}),
    ("invalid_field", {"id": "nul\0byte"}, {}),
    ("invalid_field", {}, {"operatorId": "not-a-uuid"}),
    ("invalid_field", {}, {"cost": "0.0000001"}),
    ("invalid_field", {}, {"cost": "NaN"}),
    ("invalid_field", {"type": "message.submitted"}, {"segments": 0}),
    ("invalid_field", {"type": "message.delivered"}, {"latencyMs": -5}),
    ("invalid_field", {"type": "message.failed"}, {"previousStatus": "FAILED"}),
    ("currency_mismatch", {}, {"currency": "XTS"}),
    ("in_future", {"time": _FAR_AHEAD}, {}),
    ("too_late", {}, {"submittedAt": _TOO_LATE}),
    ("stale", {"time": _STALE}, {"submittedAt": _STALE}),
)
_STALE_LAST: Final = 1  # a backfill is never stale
_NO_JSON: Final = (b"\xff\xfe not JSON", b'{"specversion":"1.0","id":"')


def make_mistake(
    rng: Random, attributes: dict[str, str], data: dict[str, str], *, published: int, backfill: bool
) -> tuple[str, bytes]:
    """A reason and a body that is rejected for it; `published` is in microseconds since 1970 UTC."""
    choice = int(rng.random() * (len(_NO_JSON) + len(_CHANGES) - _STALE_LAST * backfill))
    if choice < len(_NO_JSON):
        return "malformed", _NO_JSON[choice]
    reason, changed_attributes, changed_data = _CHANGES[choice - len(_NO_JSON)]
    event: dict[str, object] = {"specversion": "1.0", **attributes, "data": data | _resolve(changed_data, published)}
    return reason, msgspec.json.encode(event | _resolve(changed_attributes, published))


def _resolve(changes: _Changes, published: int) -> dict[str, str | int | None]:
    return {
        name: format_instant(published + value // timedelta(microseconds=1)) if isinstance(value, timedelta) else value
        for name, value in changes.items()
    }
