"""The command line: reads settings, builds the objects a command needs, turns errors into sentences and exit codes.

Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 a dependency cannot be
reached, 5 a check found a difference. Modules that cost time to import are imported by the command that needs them, so
that --help answers at once.
"""

from __future__ import annotations

import os
import sys
import traceback
from importlib import metadata
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated, Final, cast

import typer
from typer.exceptions import TyperException

from anlyt import cli_checks, cli_events, cli_jobs, cli_keys, cli_letters, cli_roles, cli_rows
from anlyt.cli_shared import INTERRUPTED_EXIT_CODE
from anlyt.errors import AnlytError, ConfigurationError, UsageError
from anlyt.talk import say

_NO_ROLE: Final = 'role "anlyt_'  # ... does not exist: a migration makes it
_NOT_MIGRATED: Final = frozenset({"3F000", "42P01", "42703", "42883"})  # no such schema, table, column, function

app = typer.Typer(
    name="anlyt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Exactly-once analytics for an A2P messaging platform.",
    epilog="Start with: anlyt up --demo",
)
app.add_typer(cli_roles.app)
app.add_typer(cli_checks.app)
app.add_typer(cli_jobs.app, name="jobs")
app.add_typer(cli_events.app, name="events")
app.add_typer(cli_letters.app, name="dead-letters")
app.add_typer(cli_rows.app)
app.add_typer(cli_keys.app, name="keys")


def main() -> None:
    """Entry point of `anlyt`."""
    sys.exit(run(app, sys.argv[1:]))


def etl() -> None:
    """Entry point of `anlyt-etl`: the same as `anlyt jobs run archive`."""
    sys.exit(run(app, ["jobs", "run", "archive", *sys.argv[1:]]))


def run(application: typer.Typer, arguments: list[str]) -> int:
    """Run one command and return its exit code; every expected error becomes one sentence on stderr."""
    try:
        code = typer.main.get_command(application).main(arguments, prog_name="anlyt", standalone_mode=False)
    except typer.Exit as done:
        code = done.exit_code
    except TyperException as error:
        _show_usage_error(error)
        code = UsageError.exit_code
    except (typer.Abort, KeyboardInterrupt):
        say("stopped")
        code = INTERRUPTED_EXIT_CODE
    except (BrokenPipeError, SystemExit):  # the reader of a pipe went away; typer makes an exit of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # noqa: BLE001 - the top: whatever is left is our own mistake
        code = _report(_first_expected(error))
    return code if isinstance(code, int) else 0


def _show_usage_error(error: TyperException) -> None:
    context = getattr(error, "ctx", None)
    if error.message.startswith("Usage:"):  # the help of a group that was given no command
        typer.echo(error.message, err=True)
        return
    path = "anlyt" if context is None else context.command_path
    text = " ".join(error.format_message().split()).rstrip(".")
    say(f"anlyt: {text[:1].lower()}{text[1:]}; see: {path} --help")


def _first_expected(error: Exception) -> Exception:
    """The expected error in a group that holds no other; else the error as it is."""
    if not isinstance(error, ExceptionGroup):
        return error
    expected, rest = cast("ExceptionGroup[Exception]", error).split(AnlytError)
    if expected is None or rest is not None:
        return cast("Exception", error)
    return _first_expected(expected.exceptions[0])


def _report(error: BaseException) -> int:
    if isinstance(error, AnlytError):
        say(f"anlyt: {error}")
        return error.exit_code
    if getattr(error, "sqlstate", None) in _NOT_MIGRATED or str(error).startswith(_NO_ROLE):
        say(f"anlyt: the schema of the database is not this version's ({error}); run: anlyt migrate")
        return ConfigurationError.exit_code
    traceback.print_exception(error)
    say("anlyt: this is a mistake of anlyt itself; please report it with the lines above")
    return AnlytError.exit_code


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if wanted:
        typer.echo(f"anlyt {metadata.version('anlyt')}")
        raise typer.Exit


@app.callback()
def configure(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings (or ANLYT_CONFIG).")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting; wins over the environment.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Exactly-once analytics for an A2P messaging platform."""
    flags: dict[str, object] = {"config": config}
    for pair in setting or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, like --set http_port=9090, not {pair!r}")
        flags[name.lower().removeprefix("anlyt_")] = value
    ctx.obj = flags
