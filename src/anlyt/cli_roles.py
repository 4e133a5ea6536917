"""The commands that run the roles: up, migrate, worker, api.

In: settings. Out: a process that serves until SIGTERM or SIGINT, finishes what it has begun and ends with 0; what it
made goes to stderr, or as one JSON document to stdout.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Annotated, Final

import typer

from anlyt.cli_shared import (
    Json,
    MetricsPort,
    connected,
    database_url,
    find_archive,
    nats_url,
    print_json,
    read_settings,
    run_until_stopped,
    run_work,
)
from anlyt.errors import UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    import asyncio

API_SESSIONS_MAX: Final = 10
WORKER_GARBAGE_MAX: Final = 100_000  # new containers between two looks for cycles; a batch makes many, and no cycles
API_STATEMENT_TIMEOUT_S: Final = 5.0

app = typer.Typer()


@app.command()
def up(
    ctx: typer.Context,
    *,
    demo: Annotated[bool, typer.Option("--demo", help="Sample history and live simulated traffic.")] = False,
    as_json: Json = False,
) -> None:
    """Run everything in one process tree.

    PostgreSQL and nats-server are embedded where no address is set; what is set is used.

    Example: anlyt up --demo

    Example: anlyt --set http_port=9090 up
    """
    from anlyt import up as up_module

    settings = read_settings(ctx)
    run_until_stopped(
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
    """Bring the schema up to date, make partitions and the stream. Safe at any time, any number of times.

    Example: anlyt migrate

    Example: anlyt migrate --sql
    """
    from anlyt import postgres
    from anlyt import up as up_module

    if sql and as_json:
        raise UsageError("--sql prints a script; it takes no --json")
    if sql:
        typer.echo(postgres.migration_script())
        return
    applied = run_work(up_module.prepare(connected(ctx)))
    if as_json:
        print_json({"applied": applied})
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
    """Count the stream into PostgreSQL. Any number may run, on any machine.

    Example: anlyt worker --metrics-port 9101

    Example: anlyt worker --until-idle
    """
    from anlyt import worker as worker_module
    from anlyt.crash import CrashPoints
    from anlyt.telemetry import Telemetry
    from anlyt.terminal import progress

    settings = connected(ctx)
    telemetry = Telemetry()
    telemetry.ready("the worker is starting")
    crash = CrashPoints.parse(settings.crash_points)
    gc.freeze()
    gc.set_threshold(WORKER_GARBAGE_MAX)
    with (
        telemetry.served(host=settings.http_host, port=metrics_port),
        progress("counting", unit="messages", quiet=as_json or not until_idle) as advance,
    ):
        begun: int | None = None

        def on_progress(counted: int, last: int) -> None:
            nonlocal begun
            begun = counted if begun is None else begun
            advance(counted - begun, last - begun)

        run_until_stopped(
            lambda stop: worker_module.run(
                settings,
                telemetry=telemetry,
                crash=crash,
                stop=stop,
                until_idle=until_idle,
                on_progress=on_progress,
            )
        )
    made = telemetry.totals()
    if as_json:
        print_json(made)
    elif until_idle:
        say(
            f"counted {made['counted']:,} events; ignored {made['duplicate']:,} duplicates and {made['ignored']:,} "
            f"of ignored types; kept {made['dead_letter']:,} dead letters"
        )


@app.command()
def api(ctx: typer.Context) -> None:
    """Serve the HTTP API and the dashboard.

    Example: anlyt api
    """
    import asyncio
    from datetime import UTC, datetime

    from anlyt import listener, postgres, tokens
    from anlyt.api import build_app
    from anlyt.credentials import identity_of
    from anlyt.live import Feed
    from anlyt.publishing import Publisher
    from anlyt.telemetry import Telemetry

    settings = connected(ctx)

    async def serve(stop: asyncio.Event) -> None:
        pool = await postgres.open_pool(
            database_url(settings),
            application="anlyt-api",
            size_max=API_SESSIONS_MAX,
            statement_timeout_s=API_STATEMENT_TIMEOUT_S,
        )
        publisher = Publisher(nats_url(settings), settings.stream, name="anlyt-api", identity=identity_of(settings))
        clickhouse = find_archive(settings, somebody_waits=True)
        try:
            telemetry = Telemetry()
            feed = Feed(settings, telemetry, lambda: datetime.now(UTC))
            async with tokens.trusted(settings) as issuer, asyncio.TaskGroup() as tasks:
                served = build_app(
                    pool=pool,
                    settings=settings,
                    telemetry=telemetry,
                    publisher=publisher,
                    clickhouse=clickhouse,
                    issuer=issuer,
                    feed=feed,
                )
                tasks.create_task(feed.run(stop), name="live feed")
                gc.freeze()  # nobody waits while what is there for good is searched for garbage: 20 ms and more
                await listener.serve(served, host=settings.http_host, port=settings.http_port, stop=stop)
                stop.set()
        finally:
            await publisher.close()
            if clickhouse is not None:
                await clickhouse.close()
            pool.terminate()

    run_until_stopped(serve)
