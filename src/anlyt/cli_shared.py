"""What the commands share: settings, running a coroutine until it ends or a signal comes, printing.

Data goes to stdout, talk to stderr. What costs time to import is imported inside the function that needs it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from anlyt.errors import AnlytError, ConfigurationError, UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from anlyt.clickhouse import ClickHouse
    from anlyt.settings import Settings

INTERRUPTED_EXIT_CODE: Final = 130

Result = TypeVar("Result")
MetricsPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=0,
        max=65535,
        help="Serve Prometheus metrics on ANLYT_HTTP_HOST at this port; 0: any free one.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def completing(words: Callable[[], Sequence[str]]) -> Callable[[str], list[str]]:
    """What a shell offers behind an option or for an argument: the words that begin with what is typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words() if word.startswith(incomplete)]

    return complete


def read_settings(ctx: typer.Context, **flags: object) -> Settings:
    """The settings of flags, environment and file, with the logs set up as they say."""
    from anlyt import settings as settings_module
    from anlyt import telemetry

    settings = settings_module.load(ctx.obj | flags)
    telemetry.configure_logs(settings.log_format, settings.log_level)
    for path in settings_module.exposed_files(settings, ctx.obj):
        say(f"{path} holds a secret, and others may read it; run: chmod 600 {path}")
    return settings


def connected(ctx: typer.Context, **flags: object) -> Settings:
    """The settings with both addresses: as set, or those of the embedded servers that run in the data directory."""
    settings = read_settings(ctx, **flags)
    if settings.database_url is not None and settings.nats_url is not None:
        return settings
    from anlyt import up

    found = up.running_servers(settings.data_dir)
    if found is None:
        missing = "ANLYT_DATABASE_URL" if settings.database_url is None else "ANLYT_NATS_URL"
        where = settings.data_dir.absolute()
        raise ConfigurationError(f"{missing} is not set, and no embedded servers run in {where} (start them: anlyt up)")
    return up.with_servers(settings, found)


def run_work(work: Coroutine[Any, Any, Result]) -> Result:
    """Run one coroutine to its end."""
    import uvloop

    return uvloop.run(work)


def run_until_stopped(serve: Callable[[asyncio.Event], Coroutine[Any, Any, Result]]) -> Result:
    """Run until SIGTERM or SIGINT sets the event; a second signal ends the process at once."""
    import asyncio

    async def guarded() -> Result:
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(AnlytError.exit_code)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        return await serve(stop)

    return run_work(guarded())


def read_duration(name: str, text: str | None) -> timedelta | None:
    """An option like 60s, 2h or 30d. Raises UsageError, which names the option."""
    from anlyt.settings import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--{name} {error}, not {text!r}") from None


def database_url(settings: Settings) -> str:
    """The address of PostgreSQL, password included."""
    assert settings.database_url is not None  # connected saw to it
    return settings.database_url.get_secret_value()


def find_archive(settings: Settings, *, somebody_waits: bool = False) -> ClickHouse | None:
    """The archive, not yet connected; None when there is none. Reading for somebody who waits, it has less time."""
    if settings.archive_url is None:
        return None
    from anlyt.clickhouse import READ_TIMEOUT_S, WORK_TIMEOUT_S, ClickHouse

    patience_s = READ_TIMEOUT_S if somebody_waits else WORK_TIMEOUT_S
    url = settings.archive_url.get_secret_value()
    return ClickHouse(url, cluster=settings.archive_cluster, patience_s=patience_s)


def nats_url(settings: Settings) -> str:
    """The address of NATS, credentials included."""
    assert settings.nats_url is not None  # connected saw to it
    return settings.nats_url.get_secret_value()


def show_rows(rows: Sequence[Mapping[str, Any]], *, as_json: bool, names: Sequence[str] | None = None) -> None:
    """Rows as JSON, or as a table of the columns in `names`, the important ones first."""
    if as_json:
        print_json(rows)
        return
    from anlyt.terminal import print_table

    print_table(rows, names=names)


def confirmed(what: str, *, yes: bool) -> None:
    """Ask whether to do what cannot be undone. Raises UsageError when nobody can answer, typer.Abort at a no."""
    if yes:
        return
    if not is_asked():
        raise UsageError(f"this {what} for good; add --yes to do so without being asked")
    typer.confirm(f"This {what} for good. Go on?", abort=True, err=True)


def is_asked() -> bool:
    """Whether somebody is there to answer a question."""
    return sys.stdin is not None and sys.stdin.isatty()  # pyright: ignore[reportUnnecessaryComparison] - so it is when closed


def print_json(value: object) -> None:
    """Data: one JSON document on stdout."""
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: object) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)
