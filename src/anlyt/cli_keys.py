"""The commands for API keys: create, list, revoke.

In: what a key may see and do. Out: the key, shown once; PostgreSQL keeps its hash alone.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from anlyt.cli_shared import (
    Json,
    Yes,
    completing,
    confirmed,
    connected,
    database_url,
    is_asked,
    print_json,
    read_duration,
    run_work,
    show_rows,
)
from anlyt.errors import UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    from collections.abc import Sequence

EXPIRES_MAX: Final = timedelta(days=36_500)

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


def _scopes() -> Sequence[str]:
    from anlyt import access

    return access.SCOPES


def _permissions() -> Sequence[str]:
    from anlyt import access

    return access.PERMISSIONS


@app.command("create")
def keys_create(  # noqa: PLR0913 - one option a property of the key
    ctx: typer.Context,
    *,
    scope: Annotated[
        str,
        typer.Option(metavar="SCOPE", help="PLATFORM, OPERATOR or ACCOUNT.", autocompletion=completing(_scopes)),
    ],
    ids: Annotated[
        list[str] | None,
        typer.Option("--id", metavar="UUID", help="Operator or account it may see; repeatable; not for PLATFORM."),
    ] = None,
    permission: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="metrics:read (default), events:write or admin; repeatable.",
            autocompletion=completing(_permissions),
        ),
    ] = None,
    name: Annotated[str, typer.Option(metavar="TEXT", help="What the key is for.")] = "unnamed",
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="Valid for, like 90d; without it, until revoked.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown this once.

    Example: anlyt keys create --scope PLATFORM --permission admin --name ops --expires 90d

    Example: anlyt keys create --scope ACCOUNT --id 0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001
    """
    from anlyt import keys
    from anlyt.access import make_grant
    from anlyt.postgres import session

    settings = connected(ctx)
    grant = make_grant(scope.upper(), ids or [], permission or ["metrics:read"])
    lasts = read_duration("expires", expires)
    if lasts is not None and not timedelta(0) < lasts <= EXPIRES_MAX:
        raise UsageError(f"--expires must be more than 0s and at most {EXPIRES_MAX.days}d, not {expires!r}")
    expires_at = None if lasts is None else datetime.now(UTC) + lasts

    async def create() -> keys.NewKey:
        async with session(database_url(settings), application="anlyt-keys") as conn:
            return await keys.create_key(conn, grant, name=name, expires_at=expires_at)

    made = run_work(create())
    if as_json:
        print_json({"key": made.key, "key_id": made.key_id, "scope": grant.scope, "ids": sorted(grant.scope_ids)})
    else:
        say("this key is shown only now:")
        typer.echo(made.key)


@app.command("list")
def keys_list(ctx: typer.Context, *, as_json: Json = False) -> None:
    """All keys, without their secrets.

    Example: anlyt keys list
    """
    import msgspec

    from anlyt import keys
    from anlyt.postgres import session

    settings = connected(ctx)

    async def read() -> list[keys.KeyInfo]:
        async with session(database_url(settings), application="anlyt-keys") as conn:
            return await keys.list_keys(conn)

    rows = [msgspec.structs.asdict(info) for info in run_work(read())]
    for row in rows:
        row |= {name: list(row[name]) for name in ("scope_ids", "permissions")}
    names = ("key_id", "name", "scope", "permissions", "revoked_at", "expires_at", "last_used_at", "scope_ids")
    show_rows(rows, as_json=as_json, names=(*names, "created_at"))


@app.command("revoke")
def keys_revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(help="Its id, as keys list shows it.")],
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Revoke a key, at once and for ever. In a terminal it asks first.

    Example: anlyt keys revoke 2z6n3d8cc55w
    """
    from anlyt import keys
    from anlyt.postgres import session

    settings = connected(ctx)
    confirmed(f"revokes the key {key_id}", yes=yes or not is_asked())

    async def revoke() -> datetime:
        async with session(database_url(settings), application="anlyt-keys") as conn:
            return await keys.revoke_key(conn, key_id)

    revoked_at = run_work(revoke())
    if as_json:
        print_json({"key_id": key_id, "revoked_at": revoked_at})
    else:
        say(f"key {key_id} was revoked at {revoked_at:%Y-%m-%d %H:%M:%S} UTC")
