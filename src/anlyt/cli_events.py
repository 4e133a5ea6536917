"""The commands that publish: a file of events, simulated traffic.

In: NDJSON of CloudEvents, or the properties of made-up traffic. Out: messages in the stream, and how many.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from anlyt.cli_shared import (
    INTERRUPTED_EXIT_CODE,
    Json,
    connected,
    print_json,
    read_duration,
    run_until_stopped,
)
from anlyt.errors import UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    import asyncio

    from anlyt import publishing

app = typer.Typer(no_args_is_help=True, help="Publish events, of a file or made up.")


@app.command("publish")
def events_publish(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="NDJSON: one CloudEvent, or an array of them, a line; - for stdin.")],
    *,
    backfill: Annotated[str | None, typer.Option(metavar="NAME", help="Name of a load of old events.")] = None,
    as_json: Json = False,
) -> None:
    """Publish a file of events. Publishing it again is safe: ids are counted once.

    Example: anlyt events publish today.ndjson

    Example: tail -f events.ndjson | anlyt events publish -

    Example: anlyt events publish march.ndjson --backfill march
    """
    from anlyt import traffic

    settings = connected(ctx)
    if file == "-" and sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - so it is when closed
        raise UsageError("there is nothing to read: the standard input is closed")
    try:
        opened = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed two lines on
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None

    async def publish(stop: asyncio.Event) -> tuple[publishing.Published, bool]:
        done = await traffic.publish_file(settings, opened, backfill=backfill, stop=stop)
        return done, not stop.is_set()

    with opened:
        published, whole = run_until_stopped(publish)
    if as_json:
        print_json({"stored": published.stored, "known": published.known})
    else:
        say(f"JetStream stored {published.stored:,} messages; {published.known:,} it knew already")
    if not whole:
        say("stopped before the end of the events; publish the same again, what is there already is counted once")
        raise typer.Exit(INTERRUPTED_EXIT_CODE)


@app.command("simulate")
def events_simulate(  # noqa: PLR0913 - one option a property of the traffic
    ctx: typer.Context,
    *,
    rate: Annotated[float, typer.Option(metavar="NUMBER", help="Distinct events a second.")] = 20.0,
    duration: Annotated[
        str | None, typer.Option(metavar="TIME", help="Stop after, like 60s or 2h; without it, on Ctrl-C.")
    ] = None,
    history: Annotated[
        str | None, typer.Option(metavar="TIME", help="Past traffic instead, like 30d, as a backfill.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="The same seed gives the same traffic.")] = 1,
    duplicates: Annotated[float, typer.Option(metavar="SHARE", help="Share of events published again.")] = 0.02,
    bad: Annotated[float, typer.Option(metavar="SHARE", help="Share of events that cannot be counted.")] = 0.002,
    fast: Annotated[bool, typer.Option("--fast", help="With --duration: at once, as traffic that just ended.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, no summary.")] = False,
    as_json: Json = False,
) -> None:
    """Publish made-up traffic; the same seed makes the same.

    Example: anlyt events simulate --rate 500 --duration 60s

    Example: anlyt events simulate --history 30d --seed 7
    """
    from anlyt import simulate, traffic

    settings = connected(ctx)
    lasts, past = read_duration("duration", duration), read_duration("history", history)
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
    run_until_stopped(lambda stop: traffic.publish(settings, wanted, tally, paced=paced, quiet=quiet, stop=stop))
    made = {
        "messages": tally.messages,
        "events": tally.events,
        "duplicates": tally.duplicates,
        "bad": dict(tally.bad),
    }
    if as_json:
        print_json(made)
    elif not quiet:
        bad_made = sum(tally.bad.values())
        say(f"published {tally.events:,} events, {tally.duplicates:,} of them again, and {bad_made:,} bad ones")
