"""The commands of the periodic jobs: list, run, loop.

In: a job's name. Out: its counts. Each job is a command too, for people who bring their own scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from anlyt.cli_shared import (
    Json,
    MetricsPort,
    Yes,
    completing,
    confirmed,
    connected,
    database_url,
    find_archive,
    print_json,
    run_until_stopped,
    run_work,
    show_rows,
)
from anlyt.talk import say

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(no_args_is_help=True, help="List and run the periodic jobs.")


def _names() -> Sequence[str]:
    from anlyt import jobs

    return [job.name for job in jobs.JOBS]


@app.command("list")
def jobs_list(ctx: typer.Context, *, as_json: Json = False) -> None:
    """The jobs, their periods and their last runs.

    Example: anlyt jobs list
    """
    from anlyt import jobs

    rows = run_work(jobs.list_jobs(database_url(connected(ctx))))
    show_rows(rows, as_json=as_json, names=[name for name in rows[0] if name not in {"what", "outcome"}])


@app.command("run")
def jobs_run(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the job.", autocompletion=completing(_names))],
    *,
    as_json: Json = False,
) -> None:
    """Run one job now.

    Example: anlyt jobs run percentiles
    """
    from anlyt import jobs
    from anlyt.crash import CrashPoints

    job = jobs.find_job(name)
    settings = connected(ctx)
    clickhouse = find_archive(settings)
    crash = CrashPoints.parse(settings.crash_points)
    work = jobs.run_job(database_url(settings), job.name, crash, clickhouse=clickhouse, quiet=as_json)
    counts = run_work(work)
    if as_json:
        print_json(counts)
    else:
        say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()))


@app.command("forget-stream")
def jobs_forget_stream(
    ctx: typer.Context,
    stream: Annotated[str, typer.Argument(help="Name of a stream that is not counted any more.")],
    *,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Stop waiting for a stream that is not counted any more.

    Purge and retention go on without it. Its numbers stay. Were it counted again, then from its
    beginning, and what is older than 48 h twice.

    Example: anlyt jobs forget-stream OLD
    """
    from anlyt import jobs

    settings = connected(ctx)
    confirmed(f"forgets how far {stream} was counted", yes=yes)
    run_work(jobs.forget_stream(database_url(settings), stream))
    if as_json:
        print_json({"forgotten": stream})
    else:
        say(f"{stream} is forgotten; purge and retention do not wait for it any more")


@app.command("loop")
def jobs_loop(ctx: typer.Context, *, metrics_port: MetricsPort = None) -> None:
    """Run every job when it is due. Any number of loops may run; one runs a job at a time.

    Example: anlyt jobs loop --metrics-port 9102
    """
    from anlyt import jobs
    from anlyt.crash import CrashPoints
    from anlyt.telemetry import Telemetry

    settings = connected(ctx)
    crash = CrashPoints.parse(settings.crash_points)
    clickhouse = find_archive(settings)
    telemetry = Telemetry()
    with telemetry.served(host=settings.http_host, port=metrics_port):
        run_until_stopped(
            lambda stop: jobs.run_loop(
                database_url(settings), telemetry=telemetry, crash=crash, stop=stop, clickhouse=clickhouse
            )
        )
