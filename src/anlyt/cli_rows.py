"""The commands that print rows: query a page, export a whole period.

In: the parameters of the API's routes, as options. Out: a table, JSON, CSV or NDJSON, of the same rows.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final

import typer

from anlyt.cli_shared import Json, connected, print_json, read_duration, run_until_stopped, run_work, say
from anlyt.errors import UsageError

if TYPE_CHECKING:
    from anlyt.queries import ReportName

app = typer.Typer()
query_app = typer.Typer(no_args_is_help=True, help="Rows of the API as a table, JSON or CSV.")
app.add_typer(query_app, name="query")

_ID_OPTIONS: Final = ("--id", "--scope-id", "--operator-id", "--account-id")


def _query_command(name: ReportName, what: str) -> None:
    """Add `anlyt query NAME`: the parameters of the API route as options."""

    def command(  # noqa: PLR0913 - one option a parameter
        ctx: typer.Context,
        *,
        scope: Annotated[str | None, typer.Option(help="PLATFORM, OPERATOR or ACCOUNT; hourly and daily only.")] = None,
        ids: Annotated[list[str] | None, typer.Option(*_ID_OPTIONS, help="Only this id; repeatable.")] = None,
        start: Annotated[str | None, typer.Option("--from", help="Inclusive: -24h, -30d or RFC 3339.")] = None,
        end: Annotated[str | None, typer.Option("--to", help="Exclusive; default now.")] = None,
        limit: Annotated[int, typer.Option(help="Rows, at most 1000.")] = 100,
        cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None,
        as_json: Json = False,
        as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    ) -> None:
        from anlyt import query as query_module

        if as_json and as_csv:
            raise UsageError("take one of --json and --csv")
        settings = connected(ctx)
        given = {"scope": scope, "from": start, "to": end, "limit": str(limit), "cursor": cursor}
        pairs = [(parameter, value) for parameter, value in given.items() if value is not None]
        answer = run_work(query_module.ask(settings, name, pairs, ids or []))
        query_module.show(answer, as_json=as_json, as_csv=as_csv)

    command.__doc__ = f"{what}\n\nExample: anlyt query {name} --from -24h"
    query_app.command(name)(command)


_query_command("hourly", "Hourly roll-ups: volume, outcomes, cost, latency, peak.")
_query_command("daily", "Daily roll-ups (UTC days).")
_query_command("operators", "Hourly performance of operators, with p95 latency.")
_query_command("accounts", "Daily usage and cost of accounts.")


_EXPORT_FORMATS: Final = ("csv", "ndjson")


@app.command("export")
def export_rows(  # noqa: PLR0913 - one option a parameter
    ctx: typer.Context,
    table: Annotated[str, typer.Argument(help="hourly, daily, operators or accounts.")],
    *,
    scope: Annotated[str | None, typer.Option(help="PLATFORM, OPERATOR or ACCOUNT; hourly and daily only.")] = None,
    ids: Annotated[list[str] | None, typer.Option(*_ID_OPTIONS, help="Only this id; repeatable.")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Inclusive: -24h, -30d or RFC 3339.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="Exclusive; default now.")] = None,
    form: Annotated[str, typer.Option("--format", help="csv or ndjson.")] = "csv",
    output: Annotated[Path | None, typer.Option(help="File; without it, stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Stream a table and period to a file; its row count and SHA-256 go to stderr, or with --json to stdout.

    Example: anlyt export daily --from 2026-04-01 --to 2026-05-01 --output april.csv
    """
    from anlyt import exports
    from anlyt.queries import REPORTS

    name: ReportName | None = next((known for known in REPORTS if known == table), None)
    if name is None or form not in _EXPORT_FORMATS:
        raise UsageError(
            f"there is no export of {table!r} as {form!r}: tables are {', '.join(REPORTS)}, formats csv and ndjson"
        )
    if as_json and output is None:
        raise UsageError("--json needs --output: without it the rows themselves go to stdout")
    given = {"scope": scope, "from": start, "to": end, "format": form}
    pairs = [(parameter, value) for parameter, value in given.items() if value is not None]
    pairs += [(REPORTS[name].id_parameter, value) for value in ids or []]
    done = run_work(exports.export(connected(ctx), name, pairs, output))
    if as_json:
        print_json({"rows": done.rows, "sha256": done.sha256, "output": str(output)})
    else:
        say(f"{done.rows:,} rows, sha256 {done.sha256}")


TOP_INTERVAL_MIN_S: Final = 0.5
TOP_INTERVAL_MAX_S: Final = 60.0


@app.command()
def top(
    ctx: typer.Context,
    *,
    sort: Annotated[str, typer.Option(help="Worst first by: delivery, failed, latency or rate.")] = "delivery",
    window: Annotated[str, typer.Option(help="Messages since the hour this long ago, at most 24h.")] = "1h",
    interval: Annotated[
        float, typer.Option(min=TOP_INTERVAL_MIN_S, max=TOP_INTERVAL_MAX_S, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look and end; so it is without a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Watch the operators: rate, delivery, failures, latency, lag; the worst first. q quits, s sorts, space pauses.

    Example: anlyt top

    Example: anlyt top --sort latency --window 6h

    Example: anlyt top --once --json
    """
    from anlyt import top as top_module
    from anlyt.screen import is_interactive

    by = top_module.read_sort(sort)
    past = read_duration("window", window)
    if past is None or not timedelta(0) < past <= top_module.WINDOW_MAX:
        raise UsageError(f"--window must be more than 0s and at most 24h, not {window!r}")
    settings = connected(ctx)
    if once or as_json or not is_interactive():
        frame = run_work(top_module.read_once(settings, window=past))
        top_module.show(frame, by, as_json=as_json)
        return
    run_until_stopped(lambda stop: top_module.watch(settings, sort=by, window=past, interval_s=interval, stop=stop))
