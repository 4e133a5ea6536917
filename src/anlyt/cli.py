"""The command line: reads settings, builds the objects a command needs, turns errors into sentences and exit codes.

Data goes to stdout, talk to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 a dependency cannot be
reached, 5 a check found a difference. Modules that cost time to import are imported by the command that needs them, so
that --help answers at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar, cast

import typer
from typer.exceptions import TyperException

from anlyt.errors import AnlytError, ConfigurationError, DifferenceFound, UsageError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from anlyt.queries import ReportName
    from anlyt.settings import Settings

Result = TypeVar("Result")
INTERRUPTED_EXIT_CODE: Final = 130
SEQUENCE_MAX: Final = 2**63 - 1
INDEX_MAX: Final = 2**31 - 1
EXPIRES_MAX: Final = timedelta(days=36_500)
API_SESSIONS_MAX: Final = 10
_NOT_MIGRATED: Final = frozenset({"3F000", "42P01", "42703", "42883"})  # no such schema, table, column, function
API_STATEMENT_TIMEOUT_S: Final = 5.0

app = typer.Typer(
    name="anlyt",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Exactly-once analytics for an A2P messaging platform.",
    epilog="Start with: anlyt up --demo",
)
events_app = typer.Typer(no_args_is_help=True, help="Publish events into the stream.")
letters_app = typer.Typer(no_args_is_help=True, help="Events that could not be counted.")
jobs_app = typer.Typer(no_args_is_help=True, help="Periodic jobs: percentiles, partitions, purge, retention.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys.")
query_app = typer.Typer(no_args_is_help=True, help="Rows of the API as a table, JSON or CSV.")
for _name, _group in (
    ("events", events_app),
    ("dead-letters", letters_app),
    ("jobs", jobs_app),
    ("keys", keys_app),
    ("query", query_app),
):
    app.add_typer(_group, name=_name)

MetricsPort = Annotated[
    int | None,
    typer.Option(min=0, max=65535, help="Serve Prometheus metrics on ANLYT_HTTP_HOST at this port; 0: any free one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


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
        _say("stopped")
        code = INTERRUPTED_EXIT_CODE
    except (BrokenPipeError, SystemExit):  # the reader of a pipe went away; typer makes an exit of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:  # noqa: BLE001 - the top: whatever is left is our own mistake
        code = _report(_first_expected(error))
    return code if isinstance(code, int) else 0


def _show_usage_error(error: TyperException) -> None:
    show: Callable[[], None] | None = getattr(error, "show", None)  # usage errors know how; others are a sentence
    if show is not None:
        show()
    else:
        _say(f"anlyt: {error.format_message()}")


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
        typer.echo(f"anlyt: {error}", err=True)
        return error.exit_code
    if getattr(error, "sqlstate", None) in _NOT_MIGRATED:
        _say(f"anlyt: the schema of the database is not this version's ({error}); run: anlyt migrate")
        return ConfigurationError.exit_code
    traceback.print_exception(error)
    typer.echo("anlyt: this is a mistake of anlyt itself; please report it with the lines above", err=True)
    return AnlytError.exit_code


@app.callback()
def configure(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="TOML file with settings (or ANLYT_CONFIG).")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting; wins over the environment.")
    ] = None,
) -> None:
    """Exactly-once analytics for an A2P messaging platform."""
    flags: dict[str, object] = {"config": config}
    for pair in setting or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, like --set http_port=9090, not {pair!r}")
        flags[name.lower().removeprefix("anlyt_")] = value
    ctx.obj = flags


def _settings(ctx: typer.Context, **flags: object) -> Settings:
    from anlyt import settings as settings_module
    from anlyt import telemetry

    settings = settings_module.load(ctx.obj | flags)
    telemetry.configure_logs(settings.log_format, settings.log_level)
    return settings


def _connected(ctx: typer.Context, **flags: object) -> Settings:
    """The settings with both addresses: as set, or those of the embedded servers that run in the data directory."""
    settings = _settings(ctx, **flags)
    if settings.database_url is not None and settings.nats_url is not None:
        return settings
    from anlyt import up

    found = up.running_servers(settings.data_dir)
    if found is None:
        missing = "ANLYT_DATABASE_URL" if settings.database_url is None else "ANLYT_NATS_URL"
        where = settings.data_dir.absolute()
        raise ConfigurationError(f"{missing} is not set, and no embedded servers run in {where} (start them: anlyt up)")
    return up.with_servers(settings, found)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    import uvloop

    return uvloop.run(work)


def _run_until_stopped(serve: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run until SIGTERM or SIGINT sets the event; a second signal ends the process at once."""
    import asyncio

    async def guarded() -> None:
        stop = asyncio.Event()

        def on_signal() -> None:
            if stop.is_set():
                os._exit(AnlytError.exit_code)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal)
        await serve(stop)

    _run(guarded())


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, default=_plain, ensure_ascii=False))


def _plain(value: object) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


# ----------------------------------------------------------------------------------------------------------- the roles


@app.command()
def up(
    ctx: typer.Context,
    *,
    demo: Annotated[bool, typer.Option("--demo", help="Sample history and live simulated traffic.")] = False,
    as_json: Json = False,
) -> None:
    """All roles in one process tree; embedded servers for every address that is not set.

    Example: anlyt up --demo
    """
    from anlyt import up as up_module

    settings = _settings(ctx)
    _run_until_stopped(
        lambda stop: up_module.run(settings, demo=demo, as_json=as_json, flags=_passed_on(ctx), stop=stop)
    )


def _passed_on(ctx: typer.Context) -> list[str]:
    """The global options, for the processes `up` starts."""
    flags = dict(ctx.obj)
    config = flags.pop("config")
    given = [] if config is None else ["--config", str(config)]
    return given + [part for name, value in flags.items() for part in ("--set", f"{name}={value}")]


@app.command()
def migrate(
    ctx: typer.Context,
    *,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
    as_json: Json = False,
) -> None:
    """Bring the schema up to date, make partitions and the stream. Safe to run at any time, any number of times."""
    from anlyt import postgres
    from anlyt import up as up_module

    if sql and as_json:
        raise UsageError("--sql prints a script; it takes no --json")
    if sql:
        typer.echo(postgres.migration_script())
        return
    applied = _run(up_module.prepare(_connected(ctx)))
    if as_json:
        _print_json({"applied": applied})
        return
    typer.echo(f"applied {', '.join(applied)}" if applied else "the schema is up to date", err=True)


@app.command()
def worker(
    ctx: typer.Context,
    *,
    until_idle: Annotated[
        bool, typer.Option("--until-idle", help="Exit 0 when the stream's present end has been counted.")
    ] = False,
    metrics_port: MetricsPort = None,
    as_json: Json = False,
) -> None:
    """Consume: count the stream into PostgreSQL. Any number may run, on any machine.

    Example: anlyt worker --until-idle
    """
    from anlyt import worker as worker_module
    from anlyt.crash import CrashPoints
    from anlyt.telemetry import Telemetry

    settings = _connected(ctx)
    telemetry = Telemetry()
    crash = CrashPoints.parse(settings.crash_points)
    with telemetry.served(host=settings.http_host, port=metrics_port):
        _run_until_stopped(
            lambda stop: worker_module.run(settings, telemetry=telemetry, crash=crash, stop=stop, until_idle=until_idle)
        )
    made = telemetry.totals()
    if as_json:
        _print_json(made)
    elif until_idle:
        _say(
            f"counted {made['counted']:,} events; ignored {made['duplicate']:,} duplicates and {made['ignored']:,} "
            f"of ignored types; kept {made['dead_letter']:,} dead letters"
        )


@app.command()
def api(ctx: typer.Context) -> None:
    """HTTP API and dashboard."""
    from anlyt import postgres, web
    from anlyt.api import build_app
    from anlyt.publishing import Publisher
    from anlyt.telemetry import Telemetry

    settings = _connected(ctx)

    async def serve(stop: asyncio.Event) -> None:
        pool = await postgres.open_pool(
            _url(settings),
            application="anlyt-api",
            size_max=API_SESSIONS_MAX,
            statement_timeout_s=API_STATEMENT_TIMEOUT_S,
        )
        publisher = Publisher(_nats_url(settings), settings.stream, name="anlyt-api")
        try:
            app = build_app(pool=pool, settings=settings, telemetry=Telemetry(), publisher=publisher)
            await web.serve(app, host=settings.http_host, port=settings.http_port, stop=stop)
        finally:
            await publisher.close()
            pool.terminate()

    _run_until_stopped(serve)


@app.command()
def doctor(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Check servers, versions, settings, clock, partitions and the stream, and say what to do. Exit 1 on a problem."""
    from anlyt import doctor as doctor_module

    findings = _run(doctor_module.examine(_connected(ctx)))
    if as_json:
        _print_json([{"check": f.check, "level": f.level, "finding": f.finding, "remedy": f.remedy} for f in findings])
    else:
        marks = {"ok": "ok     ", "warning": "warning", "problem": "problem"}
        for f in findings:
            typer.echo(f"{marks[f.level]}  {f.check}: {f.finding}" + (f"\n         -> {f.remedy}" if f.remedy else ""))
    if any(f.level == "problem" for f in findings):
        raise typer.Exit(AnlytError.exit_code)


@app.command()
def reconcile(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Prove the identities between the tables over all rows, in one snapshot. Exit 5 and the cells on a difference."""
    import msgspec

    from anlyt import reconcile as reconcile_module

    findings = _run(reconcile_module.reconcile(_url(_connected(ctx))))
    rows = [[msgspec.structs.asdict(cell) for cell in finding.differences] for finding in findings]
    if as_json:
        _print_json(
            [
                {"identity": f.identity.number, "name": f.identity.name, "differences": f.total, "rows": cells}
                for f, cells in zip(findings, rows, strict=True)
            ]
        )
    else:
        for finding, cells in zip(findings, rows, strict=True):
            verdict = "ok  " if not finding.total else "DIFF"
            counted = f": {finding.total:,} cells, the first {len(cells)}:" if finding.total else ""
            typer.echo(f"{verdict}  {finding.identity.number}  {finding.identity.name}{counted}")
            if cells:
                _show(cells, as_json=False)
    wrong = [finding for finding in findings if finding.total]
    if wrong:
        numbers = ", ".join(str(finding.identity.number) for finding in wrong)
        raise DifferenceFound(f"identities {numbers} do not hold, in {sum(f.total for f in wrong):,} cells")


# ---------------------------------------------------------------------------------------------------------------- jobs


@jobs_app.command("list")
def jobs_list(ctx: typer.Context, *, as_json: Json = False) -> None:
    """The jobs, their periods and their last runs."""
    from anlyt import jobs

    _show(_run(jobs.list_jobs(_url(_connected(ctx)))), as_json=as_json)


@jobs_app.command("run")
def jobs_run(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="Name of the job.")], *, as_json: Json = False
) -> None:
    """Run one job now.

    Example: anlyt jobs run percentiles
    """
    from anlyt import jobs
    from anlyt.crash import CrashPoints

    job = jobs.find_job(name)
    settings = _connected(ctx)
    counts = _run(jobs.run_job(_url(settings), job.name, CrashPoints.parse(settings.crash_points)))
    if as_json:
        _print_json(counts)
    else:
        _say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()))


@jobs_app.command("loop")
def jobs_loop(ctx: typer.Context, *, metrics_port: MetricsPort = None) -> None:
    """Run every job when it is due. Any number of loops may run; one runs a job at a time."""
    from anlyt import jobs
    from anlyt.crash import CrashPoints
    from anlyt.telemetry import Telemetry

    settings = _connected(ctx)
    crash = CrashPoints.parse(settings.crash_points)
    telemetry = Telemetry()
    with telemetry.served(host=settings.http_host, port=metrics_port):
        _run_until_stopped(lambda stop: jobs.run_loop(_url(settings), telemetry=telemetry, crash=crash, stop=stop))


# -------------------------------------------------------------------------------------------------------------- events


@events_app.command("publish")
def events_publish(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="NDJSON: one CloudEvent, or an array of them, a line; - for stdin.")],
    *,
    backfill: Annotated[str | None, typer.Option(help="Name of a load of old events.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a file of events. Publishing it again is safe: ids are counted once.

    Example: anlyt events publish today.ndjson
    """
    from anlyt import traffic

    settings = _connected(ctx)
    if file == "-" and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so it is when closed
        raise UsageError("there is nothing to read: the standard input is closed")
    try:
        opened = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed two lines on
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    with opened:
        published = _run(traffic.publish_file(settings, opened, backfill=backfill))
    if as_json:
        _print_json({"stored": published.stored, "known": published.known})
    else:
        _say(f"JetStream stored {published.stored:,} messages; {published.known:,} it knew already")


@events_app.command("simulate")
def events_simulate(  # noqa: PLR0913 - one option a property of the traffic
    ctx: typer.Context,
    *,
    rate: Annotated[float, typer.Option(help="Distinct events a second.")] = 20.0,
    duration: Annotated[str | None, typer.Option(help="Stop after, like 60s or 2h; without it, on Ctrl-C.")] = None,
    history: Annotated[str | None, typer.Option(help="Past traffic instead, like 30d, as a backfill.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same traffic.")] = 1,
    duplicates: Annotated[float, typer.Option(help="Share of events published again.")] = 0.02,
    bad: Annotated[float, typer.Option(help="Share of events that cannot be counted.")] = 0.002,
    fast: Annotated[bool, typer.Option("--fast", help="With --duration: at once, as traffic that just ended.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Json = False,
) -> None:
    """Seeded, realistic traffic into the stream.

    Example: anlyt events simulate --rate 500 --duration 60s
    """
    from anlyt import simulate, traffic

    settings = _connected(ctx)
    lasts, past = _duration("duration", duration), _duration("history", history)
    traffic.check_times(lasts, past, fast=fast)
    now = datetime.now(UTC)
    wanted = simulate.Traffic(
        start=now - lasts if fast and lasts is not None else now,
        seed=seed,
        rate=rate,
        duration=None if past else lasts,
        history=past,
        duplicates=duplicates,
        bad=bad,
        currency=settings.currency,
        subject_prefix=settings.subjects.removesuffix(">"),
    )
    tally = simulate.Tally()
    paced = past is None and not fast
    _run_until_stopped(lambda stop: traffic.publish(settings, wanted, tally, paced=paced, quiet=quiet, stop=stop))
    made = {
        "messages": tally.messages,
        "events": tally.events,
        "duplicates": tally.duplicates,
        "bad": dict(tally.bad),
    }
    if as_json:
        _print_json(made)
    elif not quiet:
        bad_made = sum(tally.bad.values())
        _say(f"published {tally.events:,} events, {tally.duplicates:,} of them again, and {bad_made:,} bad ones")


def _duration(name: str, text: str | None) -> timedelta | None:
    from anlyt.settings import parse_duration

    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise UsageError(f"--{name} {error}, not {text!r}") from None


# -------------------------------------------------------------------------------------------------------- dead letters


@letters_app.command("list")
def letters_list(
    ctx: typer.Context,
    *,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    state: Annotated[str, typer.Option(help="open, counted, duplicate, ignored, discarded or all.")] = "open",
    limit: Annotated[int, typer.Option(help="At most so many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """Events that could not be counted, the newest first.

    Example: anlyt dead-letters list --reason stale
    """
    from anlyt import letters

    settings = _connected(ctx)
    rows = _run(letters.list_letters(_url(settings), settings.stream, reason=reason, limit=limit, state=state))
    _show(rows, as_json=as_json, hide=() if as_json else ("stream", "subject", "body_bytes", "recorded_at"))


@letters_app.command("show")
def letters_show(
    ctx: typer.Context,
    sequence: Annotated[int, typer.Argument(min=1, max=SEQUENCE_MAX, help="Sequence of the message in the stream.")],
    index: Annotated[int, typer.Argument(min=0, max=INDEX_MAX, help="Place in its batch.")] = 0,
    *,
    as_json: Json = False,
) -> None:
    """One dead letter, whole.

    Example: anlyt dead-letters show 4711
    """
    from anlyt import letters

    settings = _connected(ctx)
    found = _run(letters.read_letter(_url(settings), settings.stream, sequence, index=index))
    if as_json:
        _print_json(found[0] if len(found) == 1 else found)
        return
    for letter in found:
        for name, value in letter.items():
            typer.echo(f"{name:<14}{value}")


SequenceArgument = Annotated[int | None, typer.Argument(help="Sequence of the message in the stream.")]
IndexArgument = Annotated[int | None, typer.Argument(help="Place in its batch; without it, all of the message.")]
ReasonOption = Annotated[str | None, typer.Option(help="All open letters with this reason.")]
AllOption = Annotated[bool, typer.Option("--all", help="All open letters of the stream.")]


@letters_app.command("retry")
def letters_retry(  # noqa: PLR0913 - one option a property of the retry
    ctx: typer.Context,
    sequence: SequenceArgument = None,
    index: IndexArgument = None,
    *,
    reason: ReasonOption = None,
    everything: AllOption = False,
    accept_stale: Annotated[
        bool, typer.Option("--accept-stale", help="Count stale and too_late ones inside 90 days, too, as a backfill.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge open letters again, by today's rules and settings, and count what passes, exactly once.

    Example: anlyt dead-letters retry --reason unknown_type
    """
    from anlyt import letters
    from anlyt.crash import CrashPoints
    from anlyt.events import rules_of

    settings = _connected(ctx)
    selection = letters.select_letters(sequence, index, reason=reason, everything=everything)

    async def retry() -> dict[str, int]:
        url, stream, crash = _url(settings), settings.stream, CrashPoints.parse(settings.crash_points)
        await letters.count_open(url, stream, selection)  # a letter that was named must be there
        return await letters.retry_letters(
            url, stream, selection, rules=rules_of(settings), accept_stale=accept_stale, crash=crash
        )

    outcomes = _run(retry())
    if as_json:
        _print_json(outcomes)
    else:
        _say("dead letters: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))


@letters_app.command("discard")
def letters_discard(  # noqa: PLR0913 - one option a property of the choice
    ctx: typer.Context,
    sequence: SequenceArgument = None,
    index: IndexArgument = None,
    *,
    reason: ReasonOption = None,
    everything: AllOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Mark open letters as discarded: they are kept, and never counted.

    Example: anlyt dead-letters discard 4711
    """
    from anlyt import letters

    settings = _connected(ctx)
    selection = letters.select_letters(sequence, index, reason=reason, everything=everything)
    count = _run(letters.count_open(_url(settings), settings.stream, selection))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this discards {count} dead letters for good; add --yes to do so without being asked")
        typer.confirm(f"discard {count} dead letters for good?", abort=True, err=True)
    discarded = _run(letters.discard_letters(_url(settings), settings.stream, selection))
    if as_json:
        _print_json({"discarded": discarded})
    else:
        _say(f"dead letters: {discarded} discarded")


# ---------------------------------------------------------------------------------------------------------------- keys


@keys_app.command("create")
def keys_create(  # noqa: PLR0913 - one option a property of the key
    ctx: typer.Context,
    *,
    scope: Annotated[str, typer.Option(help="PLATFORM, OPERATOR or ACCOUNT.")],
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="UUID it may see; repeatable; not for PLATFORM.")
    ] = None,
    permission: Annotated[
        list[str] | None, typer.Option(help="metrics:read, events:write or admin; repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "unnamed",
    expires: Annotated[str | None, typer.Option(help="Valid for, like 90d; without it, until revoked.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown this once.

    Example: anlyt keys create --scope ACCOUNT --id 018f... --permission metrics:read
    """
    from anlyt import keys
    from anlyt.access import make_grant
    from anlyt.postgres import session

    settings = _connected(ctx)
    grant = make_grant(scope.upper(), ids or [], permission or ["metrics:read"])
    lasts = _duration("expires", expires)
    if lasts is not None and not timedelta(0) < lasts <= EXPIRES_MAX:
        raise UsageError(f"--expires must be more than 0s and at most {EXPIRES_MAX.days}d, not {expires!r}")
    expires_at = None if lasts is None else datetime.now(UTC) + lasts

    async def create() -> keys.NewKey:
        async with session(_url(settings), application="anlyt-keys") as conn:
            return await keys.create_key(conn, grant, name=name, expires_at=expires_at)

    made = _run(create())
    if as_json:
        _print_json({"key": made.key, "key_id": made.key_id, "scope": grant.scope, "ids": sorted(grant.scope_ids)})
    else:
        _say("this key is shown only now:")
        typer.echo(made.key)


@keys_app.command("list")
def keys_list(ctx: typer.Context, *, as_json: Json = False) -> None:
    """All keys, without their secrets."""
    import msgspec

    from anlyt import keys
    from anlyt.postgres import session

    settings = _connected(ctx)

    async def read() -> list[keys.KeyInfo]:
        async with session(_url(settings), application="anlyt-keys") as conn:
            return await keys.list_keys(conn)

    rows = [msgspec.structs.asdict(info) for info in _run(read())]
    for row in rows:
        row |= {name: list(row[name]) for name in ("scope_ids", "permissions")}
    _show(rows, as_json=as_json)


@keys_app.command("revoke")
def keys_revoke(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(help="Its id, as keys list shows it.")],
    *,
    as_json: Json = False,
) -> None:
    """Revoke a key, at once and for ever."""
    from anlyt import keys
    from anlyt.postgres import session

    settings = _connected(ctx)

    async def revoke() -> datetime:
        async with session(_url(settings), application="anlyt-keys") as conn:
            return await keys.revoke_key(conn, key_id)

    revoked_at = _run(revoke())
    if as_json:
        _print_json({"key_id": key_id, "revoked_at": revoked_at})
    else:
        _say(f"key {key_id} was revoked at {revoked_at:%Y-%m-%d %H:%M:%S} UTC")


# --------------------------------------------------------------------------------------------------------------- query


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
        settings = _connected(ctx)
        given = {"scope": scope, "from": start, "to": end, "limit": str(limit), "cursor": cursor}
        pairs = [(parameter, value) for parameter, value in given.items() if value is not None]
        answer = _run(query_module.ask(settings, name, pairs, ids or []))
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
    done = _run(exports.export(_connected(ctx), name, pairs, output))
    if as_json:
        _print_json({"rows": done.rows, "sha256": done.sha256, "output": str(output)})
    else:
        _say(f"{done.rows:,} rows, sha256 {done.sha256}")


# ------------------------------------------------------------------------------------------------------------- helpers


def _url(settings: Settings) -> str:
    assert settings.database_url is not None  # _connected saw to it
    return settings.database_url.get_secret_value()


def _nats_url(settings: Settings) -> str:
    assert settings.nats_url is not None  # _connected saw to it
    return settings.nats_url.get_secret_value()


def _show(rows: Sequence[Mapping[str, Any]], *, as_json: bool, hide: tuple[str, ...] = ()) -> None:
    if as_json:
        _print_json(rows)
        return
    from anlyt.terminal import print_table

    print_table([{name: value for name, value in row.items() if name not in hide} for row in rows])


def _say(text: str) -> None:
    typer.echo(text, err=True)
