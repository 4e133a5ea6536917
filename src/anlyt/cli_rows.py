"""The commands that print rows: query a page, export a whole period.

In: the parameters of the API's routes, as options. Out: a table, JSON, CSV, NDJSON or Parquet, of the same rows.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Final, cast

import typer

from anlyt.cli_shared import (
    Json,
    completing,
    connected,
    find_archive,
    print_json,
    read_duration,
    run_until_stopped,
    run_work,
)
from anlyt.errors import UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anlyt.queries import ReportName

app = typer.Typer()
query_app = typer.Typer(no_args_is_help=True, help="Print the API's rows as a table, JSON or CSV.")
app.add_typer(query_app, name="query")


def _scopes() -> Sequence[str]:
    from anlyt import access

    return access.SCOPES


def _values(name: str) -> Callable[[str], list[str]]:
    """What a parameter of the API takes, for completion."""

    def words() -> Sequence[str]:
        from anlyt import queries

        return cast("list[str]", queries.PARAMETERS[name].schema["enum"])

    return completing(words)


Scope = Annotated[
    str | None,
    typer.Option(metavar="SCOPE", help="Only PLATFORM, OPERATOR or ACCOUNT rows.", autocompletion=completing(_scopes)),
]
Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--id",
        "--scope-id",
        "--operator-id",
        "--account-id",
        metavar="ID",
        help="Only this operator or account; repeatable.",
    ),
]
From = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Inclusive: -24h, -30d, a date or RFC 3339 time.")
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Exclusive; written like --from; default now.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


def _pairs(**given: str | None) -> list[tuple[str, str]]:
    return [(name.rstrip("_"), value) for name, value in given.items() if value is not None]


def _refuse_both(as_json: bool, as_csv: bool) -> None:  # noqa: FBT001 - two flags of one command
    if as_json and as_csv:
        raise UsageError("take one of --json and --csv")


def _query_command(name: ReportName, what: str, *examples: str) -> None:
    """Add `anlyt query NAME`: the parameters of the API route as options. `scope` only where rows have several."""

    def command(  # noqa: PLR0913 - one option a parameter
        ctx: typer.Context,
        *,
        scope: Scope = None,
        ids: Ids = None,
        start: From = None,
        end: To = None,
        limit: Annotated[int, typer.Option(metavar="NUMBER", help="Rows of a page, at most 1000.")] = 100,
        cursor: Annotated[str | None, typer.Option(metavar="CURSOR", help="Where the last page ended.")] = None,
        as_json: Json = False,
        as_csv: Csv = False,
    ) -> None:
        from anlyt import query as query_module

        _refuse_both(as_json, as_csv)
        pairs = _pairs(scope=scope, from_=start, to=end, limit=str(limit), cursor=cursor)
        settings = connected(ctx)
        work = query_module.ask(settings, name, pairs, ids or [], clickhouse=find_archive(settings))
        answer = run_work(work)
        query_module.show(answer, as_json=as_json, as_csv=as_csv)

    command.__doc__ = "\n\n".join([what, *(f"Example: anlyt query {name} {example}" for example in examples)])
    query_app.command(name)(command)


_query_command(
    "hourly",
    "Hourly roll-ups: volume, outcomes, cost, latency, peak.",
    "--scope PLATFORM --from -24h",
    "--scope OPERATOR --from -3h --json",
)
_query_command(
    "daily", "Daily roll-ups (UTC days).", "--scope PLATFORM --from -30d", "--scope ACCOUNT --from -7d --csv"
)
_query_command("operators", "Hourly performance of operators, with p95 latency.", "--from -3h")
_query_command("accounts", "Daily usage and cost of accounts.", "--from -7d --limit 20")


@query_app.command("summary")
def query_summary(  # noqa: PLR0913 - one option a parameter
    ctx: typer.Context,
    *,
    scope: Scope = None,
    ids: Ids = None,
    start: From = None,
    end: To = None,
    group_by: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="none, scopeId, hour, day or month.", autocompletion=_values("groupBy")),
    ] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Whose days or months, like Europe/Berlin; default UTC.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="VALUE", help="With scopeId: like deliveryRate.", autocompletion=_values("sort")),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(metavar="ORDER", help="With scopeId: desc or asc.", autocompletion=_values("order")),
    ] = None,
    limit: Annotated[int | None, typer.Option(metavar="NUMBER", help="With scopeId: rows, at most 1000.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Beside the period before; none or scopeId.")] = False,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Sums over a period, and percentiles of operators.

    In all, by id, by hour, day or month.

    Example: anlyt query summary --scope PLATFORM --from -7d --compare

    Example: anlyt query summary --scope OPERATOR --group-by scopeId --sort deliveryRate --order asc

    Example: anlyt query summary --scope PLATFORM --from -30d --group-by day --timezone Europe/Berlin
    """
    from anlyt import query as query_module

    _refuse_both(as_json, as_csv)
    pairs = _pairs(
        scope=scope,
        from_=start,
        to=end,
        groupBy=group_by,
        timezone=timezone,
        sort=sort,
        order=order,
        limit=None if limit is None else str(limit),
        compare="previous" if compare else None,
    )
    pairs += [("scopeId", value) for value in ids or []]
    settings = connected(ctx)
    answer = run_work(query_module.ask_summary(settings, pairs, clickhouse=find_archive(settings)))
    query_module.show_summary(answer, as_json=as_json, as_csv=as_csv)


_EXPORT_FORMATS: Final = ("csv", "ndjson", "parquet")


def _tables() -> Sequence[str]:
    from anlyt import queries

    return list(queries.REPORTS)


def _formats() -> Sequence[str]:
    return _EXPORT_FORMATS


@app.command("export")
def export_rows(  # noqa: PLR0913 - one option a parameter
    ctx: typer.Context,
    table: Annotated[
        str, typer.Argument(help="hourly, daily, operators or accounts.", autocompletion=completing(_tables))
    ],
    *,
    scope: Scope = None,
    ids: Ids = None,
    start: From = None,
    end: To = None,
    form: Annotated[
        str,
        typer.Option("--format", metavar="FORMAT", help="csv, ndjson or parquet.", autocompletion=completing(_formats)),
    ] = "csv",
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Without it, stdout.")] = None,
    as_json: Json = False,
) -> None:
    """Write a table and period to a file, with its SHA-256.

    Row count and SHA-256 go to stderr, or with --json to stdout. The file is there whole, or not at all.

    Example: anlyt export daily --from 2026-04-01 --to 2026-05-01 --output april.csv

    Example: anlyt export accounts --from -30d --format ndjson
    """
    from anlyt import exports
    from anlyt.queries import REPORTS
    from anlyt.terminal import progress

    name: ReportName | None = next((known for known in REPORTS if known == table), None)
    if name is None or form not in _EXPORT_FORMATS:
        raise UsageError(
            f"there is no export of {table!r} as {form!r}: tables are {', '.join(REPORTS)}, "
            f"formats {', '.join(_EXPORT_FORMATS)}"
        )
    if as_json and output is None:
        raise UsageError("--json needs --output: without it the rows themselves go to stdout")
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise UsageError("a Parquet file is not for a terminal; add --output FILE")
    given = {"scope": scope, "from": start, "to": end, "format": form}
    pairs = [(parameter, value) for parameter, value in given.items() if value is not None]
    pairs += [(REPORTS[name].id_parameter, value) for value in ids or []]
    settings = connected(ctx)
    between_rows = output is None and sys.stdout.isatty()
    with progress("exporting", unit="rows", quiet=as_json or between_rows) as advance:
        work = exports.export(settings, name, pairs, output, clickhouse=find_archive(settings), advance=advance)
        done = run_work(work)
    if as_json:
        print_json({"rows": done.rows, "sha256": done.sha256, "output": str(output)})
    else:
        say(f"{done.rows:,} rows, sha256 {done.sha256}")


TOP_INTERVAL_MIN_S: Final = 0.5
TOP_INTERVAL_MAX_S: Final = 60.0


def _top_sorts() -> Sequence[str]:
    from anlyt import top

    return top.SORTS


@app.command()
def top(
    ctx: typer.Context,
    *,
    sort: Annotated[
        str,
        typer.Option(
            metavar="VALUE",
            help="Worst first by: delivery, failed, latency or rate.",
            autocompletion=completing(_top_sorts),
        ),
    ] = "delivery",
    window: Annotated[
        str, typer.Option(metavar="TIME", help="Messages since the hour this long ago, at most 24h.")
    ] = "1h",
    interval: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=TOP_INTERVAL_MIN_S, max=TOP_INTERVAL_MAX_S, help="Between two looks."),
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one look and end; so it is without a terminal.")] = False,
    as_json: Json = False,
) -> None:
    """Watch the operators live, the worst first.

    Rate, delivery, failures, latency of each; how far behind the counting is.

    q quits, s sorts by the next value, space pauses, j and k scroll.

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
