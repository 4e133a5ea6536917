"""API keys in PostgreSQL: made, listed, revoked, found. What they allow is decided in access.py, not here.

In: a connection. Out: keys and their Grants. A key is shown once, by create_key; the table holds its SHA-256. A revoked
or expired key stops at the next request, because every request reads the table anew. `last_used_at` is at most
TOUCH_PERIOD behind, so that requests with one key do not wait for each other's row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from anlyt.access import NewKey, StoredKey, admit, new_key
from anlyt.errors import UsageError
from anlyt.postgres import sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    from anlyt.access import Grant, PresentedKey

    AnyConnection = Connection[Record] | PoolConnectionProxy[Record]

KEYS_MAX: Final = 10_000  # listed at once
NAME_CHARS_MAX: Final = 100
TOUCH_PERIOD: Final = timedelta(minutes=1)


class KeyInfo(Struct, frozen=True, rename="camel"):
    """What may be told about a key."""

    key_id: str
    name: str
    scope: str
    scope_ids: tuple[str, ...]
    permissions: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


async def create_key(conn: AnyConnection, grant: Grant, *, name: str, expires_at: datetime | None = None) -> NewKey:
    """Make and store a key. `.key` of the answer is the only time it can be read. Raises UsageError for a bad name."""
    if not 1 <= len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise UsageError(f"the name of a key is 1 to {NAME_CHARS_MAX} printable characters, not {name!r}")
    made = new_key()
    await conn.execute(
        sql("access/add_key"),
        made.key_id,
        made.key_sha256,
        name,
        grant.scope,
        sorted(grant.scope_ids),
        sorted(grant.permissions),
        expires_at,
    )
    return made


async def list_keys(conn: AnyConnection) -> list[KeyInfo]:
    """All keys, revoked and expired ones too, the newest first; at most KEYS_MAX."""
    return [KeyInfo(*record.values()) for record in await conn.fetch(sql("access/list_keys"), KEYS_MAX)]


async def revoke_key(conn: AnyConnection, key_id: str) -> datetime:
    """Revoke a key; when it was revoked. Raises UsageError when there is no such key."""
    revoked_at: datetime | None = await conn.fetchval(sql("access/revoke_key"), key_id)
    if revoked_at is None:
        raise UsageError(f"there is no key {key_id!r}; anlyt keys list shows them all")
    return revoked_at


async def find_grants(
    conn: AnyConnection, presented: Iterable[PresentedKey], *, now: datetime
) -> dict[PresentedKey, Grant]:
    """The Grants of those of several presented keys that are valid."""
    asked = {key.key_id: key for key in presented}
    grants: dict[PresentedKey, Grant] = {}
    for record in await conn.fetch(sql("access/find_keys"), list(asked)):
        key_id, *columns = record.values()
        grant = admit(asked[key_id], StoredKey(*columns), now)
        if grant is not None:
            grants[asked[key_id]] = grant
    return grants


async def find_grant(conn: AnyConnection, presented: PresentedKey, *, now: datetime) -> Grant | None:
    """The Grant of a presented key, and remember that it was used; None when it is not valid."""
    record = await conn.fetchrow(sql("access/find_key"), presented.key_id)
    if record is None:
        return admit(presented, None, now)
    *columns, last_used_at = record.values()
    grant = admit(presented, StoredKey(*columns), now)
    if grant is not None and (last_used_at is None or last_used_at < now - TOUCH_PERIOD):
        await conn.execute(sql("access/touch_key"), presented.key_id, TOUCH_PERIOD)
    return grant
