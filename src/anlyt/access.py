"""Who may see what: a key or a token becomes a Grant, and a Grant narrows every read. Pure; `now` is an argument.

In: the text of a key and the record stored for it, or the claims of a token whose signature is right. Out: a Grant, or
None without a hint why; and from a Grant and what was asked, the Visible rows. This is the one place that decides (I8):
a scope and its ids come from the Grant alone, a request can only narrow them, and an id outside of the Grant answers
exactly like one that does not exist. A key is `anlyt_<key id>_<secret><checksum>`: 190 random bits, shown once, stored
as SHA-256 only. The checksum tells a mistyped key without a query.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, Literal, cast, get_args

from msgspec import Struct

from anlyt.errors import RequestError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

Scope = Literal["PLATFORM", "OPERATOR", "ACCOUNT"]
Permission = Literal["metrics:read", "events:write", "admin"]

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)
PLATFORM_ID: Final = "platform"
KEY_PREFIX: Final = "anlyt_"
KEY_IDS_MAX: Final = 100  # ids one key may carry
KEY_CHARS_MAX: Final = 128  # a longer text is no key and is not looked at
TRIES_MAX: Final = 20  # failures from one address within TRIES_WINDOW_S
TRIES_WINDOW_S: Final = 10.0
ADDRESSES_MAX: Final = 10_000  # addresses and keys remembered, the least recent forgotten first

_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS: Final = 12
_SECRET_CHARS: Final = 32  # 32 * log2(62) = 190 bits
_CHECKSUM_CHARS: Final = 6  # 62^6 > 2^32
_KEY: Final = re.compile(rf"anlyt_([0-9a-z]{{{_ID_CHARS}}})_[0-9A-Za-z]{{{_SECRET_CHARS + _CHECKSUM_CHARS}}}")
_TOKEN: Final = re.compile(r"eyJ[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Grant(Struct, frozen=True):
    """What its holder may do. `scope_ids` are lower case; for PLATFORM they are {platform}."""

    scope: Scope
    scope_ids: frozenset[str]
    permissions: frozenset[Permission]


class NewKey(Struct, frozen=True):
    """A key that was just made. `key` is shown once; `key_sha256` is stored."""

    key_id: str
    key: str
    key_sha256: bytes


class PresentedKey(Struct, frozen=True):
    """A well-formed key as a caller presented it; whether it is valid only the stored record can tell."""

    key_id: str
    key_sha256: bytes


class StoredKey(Struct, frozen=True):
    """The columns of anlyt.api_keys that decide."""

    key_sha256: bytes
    scope: str
    scope_ids: tuple[str, ...]
    permissions: tuple[str, ...]
    expires_at: datetime | None
    revoked_at: datetime | None


class Visible(Struct, frozen=True):
    """The rows a read may return: of `scope` (None: of any) and of `ids` (None: all)."""

    scope: Scope | None
    ids: tuple[str, ...] | None


# ---------------------------------------------------------------------------------------------------------------- keys


def new_key() -> NewKey:
    """Make a key from the system's random source."""
    key_id = "".join(secrets.choice(_DIGITS[:10] + _DIGITS[36:]) for _ in range(_ID_CHARS))
    secret = "".join(secrets.choice(_DIGITS) for _ in range(_SECRET_CHARS))
    body = f"{KEY_PREFIX}{key_id}_{secret}"
    key = body + _checksum(body)
    return NewKey(key_id, key, hashlib.sha256(key.encode()).digest())


def read_key(text: str) -> PresentedKey | None:
    """The id and hash of a key; None when it cannot be one, because its form or its checksum is wrong."""
    if len(text) > KEY_CHARS_MAX:
        return None
    match = _KEY.fullmatch(text)
    if match is None or text[-_CHECKSUM_CHARS:] != _checksum(text[:-_CHECKSUM_CHARS]):
        return None
    return PresentedKey(match[1], hashlib.sha256(text.encode()).digest())


def spot_credential(text: str) -> str | None:
    """The public part of a key that stands somewhere in a text, `token` for a token, None when there is neither."""
    key = _KEY.search(text)
    if key is not None:
        return key[1]
    return "token" if _TOKEN.search(text) else None


def admit(presented: PresentedKey, stored: StoredKey | None, now: datetime) -> Grant | None:
    """The Grant of a key, or None when it is unknown, wrong, expired or revoked: the caller learns no more."""
    same = hmac.compare_digest(presented.key_sha256, stored.key_sha256 if stored else bytes(len(presented.key_sha256)))
    if stored is None or not same or stored.revoked_at is not None:
        return None
    if stored.expires_at is not None and stored.expires_at <= now:
        return None
    return make_grant(stored.scope, stored.scope_ids, stored.permissions)


def make_grant(scope: str, scope_ids: Iterable[str], permissions: Iterable[str]) -> Grant:
    """A checked Grant. Raises UsageError that names the value and what was expected."""
    if scope not in SCOPES:
        raise UsageError(f"the scope is {scope!r}, but must be one of {', '.join(SCOPES)}")
    asked = frozenset(permissions)
    unknown = sorted(asked.difference(PERMISSIONS))
    if unknown or not asked:
        raise UsageError(f"the permissions are {unknown}, but must be some of {', '.join(PERMISSIONS)}")
    ids = frozenset(_checked_ids(scope, scope_ids))
    return Grant(scope, ids, frozenset(cast("Iterable[Permission]", asked)))


def make_token_grant(scope: str, scope_ids: Iterable[str], words: str) -> Grant | None:
    """The Grant of a token's claims, None when they make no sense. Of the words in `scope`, others' are left alone."""
    if scope not in SCOPES:
        return None
    try:
        ids = frozenset(_checked_ids(scope, scope_ids))
    except UsageError:
        return None
    asked = frozenset(words.split(" "))
    return Grant(scope, ids, frozenset(permission for permission in PERMISSIONS if permission in asked))


def _checked_ids(scope: Scope, scope_ids: Iterable[str]) -> list[str]:
    if scope == "PLATFORM":
        others = set(scope_ids) - {PLATFORM_ID}
        if others:
            raise UsageError(f"a key of scope PLATFORM takes no ids, but got {sorted(others)}")
        return [PLATFORM_ID]
    ids = [read_uuid(text) or text for text in scope_ids]
    wrong = [text for text in ids if read_uuid(text) is None]
    if wrong:
        raise UsageError(f"the id {wrong[0]!r} of scope {scope} must be a UUID")
    if not 1 <= len(ids) <= KEY_IDS_MAX:
        raise UsageError(f"a key of scope {scope} needs 1 to {KEY_IDS_MAX} ids, but got {len(ids)}")
    return ids


def read_uuid(text: str) -> str | None:
    """A UUID in lower case, or None when the text is not one."""
    return text.lower() if _UUID.fullmatch(text) else None


def _checksum(body: str) -> str:
    value = zlib.crc32(body.encode())
    digits: list[str] = []
    for _ in range(_CHECKSUM_CHARS):
        value, digit = divmod(value, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


# ------------------------------------------------------------------------------------------------------------ decisions


def require(grant: Grant, permission: Permission) -> None:
    """Raise the 403 when a Grant lacks a permission."""
    if permission not in grant.permissions:
        raise RequestError(
            f"this key lacks the permission {permission}; ask for a key that has it", status=403, code="forbidden"
        )


def require_staff(grant: Grant) -> None:
    """Raise the 403 for a key that is not the platform's."""
    if grant.scope != "PLATFORM":
        raise RequestError(
            "this is for platform staff: the key must be of scope PLATFORM", status=403, code="forbidden"
        )


def see(grant: Grant, scope: Scope | None, ids: tuple[str, ...] | None, *, parameter: str) -> Visible | None:
    """What of the rows that were asked for a Grant may see; None when that is nothing.

    `scope` and `ids` are what was asked (None: everything). An asked id that the Grant does not hold is a 404, the same
    whether it exists or not; no database is asked. Staff see everything, so an id of theirs without rows is only empty.
    """
    if grant.scope == "PLATFORM":
        return Visible(scope, ids)
    if ids is not None and (scope not in {None, grant.scope} or not grant.scope_ids.issuperset(ids)):
        raise RequestError(
            f"there is no such {parameter}, or this key may not see it",
            status=404,
            code="not-found",
            parameter=parameter,
        )
    if scope not in {None, grant.scope}:
        return None
    return Visible(grant.scope, tuple(sorted(grant.scope_ids)) if ids is None else ids)


# ------------------------------------------------------------------------------------------------------- failed tries


class Tries:
    """Failed tries by address, bounded in number and time, and the keys that were good, with their requests.

    An address that fails too often is refused before any query for the rest of the window. Keys that were good lately
    are not held up by others who share their address.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self.requests: OrderedDict[str, int] = OrderedDict()  # by key id, since the process began

    def refuse_after(self, address: str, key_id: str | None, now_s: float) -> float | None:
        """Seconds to wait when this address has failed too often, else None. `now_s` is any steady clock."""
        failures = self._failures.get(address)
        if failures is None or key_id in self.requests:
            return None
        while failures and failures[0] <= now_s - TRIES_WINDOW_S:
            failures.popleft()
        return failures[0] + TRIES_WINDOW_S - now_s if len(failures) >= TRIES_MAX else None

    def failed(self, address: str, now_s: float) -> None:
        """A key from this address was not valid."""
        failures = self._failures.setdefault(address, deque(maxlen=TRIES_MAX))
        failures.append(now_s)
        self._failures.move_to_end(address)
        if len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)

    def succeeded(self, key_id: str) -> None:
        """A key was valid: count the request."""
        self.requests[key_id] = self.requests.get(key_id, 0) + 1
        self.requests.move_to_end(key_id)
        if len(self.requests) > ADDRESSES_MAX:
            self.requests.popitem(last=False)
