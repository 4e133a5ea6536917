"""The commands of the periodic jobs: list, run, loop.

In: a job's name. Out: its counts. Each job is a command too, for people who bring their own scheduler.
"""

from __future__ import annotations

from typing import Annotated

import typer

from anlyt.cli_shared import (
    Json,
    MetricsPort,
    connected,
    database_url,
    print_json,
    run_until_stopped,
    run_work,
    say,
    show_rows,
)

app = typer.Typer(no_args_is_help=True, help="Periodic jobs: percentiles, partitions, purge, retention.")


@app.command("list")
def jobs_list(ctx: typer.Context, *, as_json: Json = False) -> None:
    """The jobs, their periods and their last runs."""
    from anlyt import jobs

    show_rows(run_work(jobs.list_jobs(database_url(connected(ctx)))), as_json=as_json)


@app.command("run")
def jobs_run(
    ctx: typer.Context, name: Annotated[str, typer.Argument(help="Name of the job.")], *, as_json: Json = False
) -> None:
    """Run one job now.

    Example: anlyt jobs run percentiles
    """
    from anlyt import jobs
    from anlyt.crash import CrashPoints

    job = jobs.find_job(name)
    settings = connected(ctx)
    counts = run_work(jobs.run_job(database_url(settings), job.name, CrashPoints.parse(settings.crash_points)))
    if as_json:
        print_json(counts)
    else:
        say(f"{name}: " + ", ".join(f"{key} {value}" for key, value in counts.items()))


@app.command("loop")
def jobs_loop(ctx: typer.Context, *, metrics_port: MetricsPort = None) -> None:
    """Run every job when it is due. Any number of loops may run; one runs a job at a time."""
    from anlyt import jobs
    from anlyt.crash import CrashPoints
    from anlyt.telemetry import Telemetry

    settings = connected(ctx)
    crash = CrashPoints.parse(settings.crash_points)
    telemetry = Telemetry()
    with telemetry.served(host=settings.http_host, port=metrics_port):
        run_until_stopped(
            lambda stop: jobs.run_loop(database_url(settings), telemetry=telemetry, crash=crash, stop=stop)
        )
