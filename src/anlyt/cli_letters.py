"""The commands for dead letters: list, show, retry, discard.

In: a letter's sequence and index, or a choice of letters. Out: tables, counts; discarding asks first, or takes --yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from anlyt.cli_shared import (
    Json,
    Yes,
    completing,
    confirmed,
    connected,
    database_url,
    print_json,
    run_work,
    show_rows,
)
from anlyt.talk import say

if TYPE_CHECKING:
    from collections.abc import Sequence

SEQUENCE_MAX: Final = 2**63 - 1
INDEX_MAX: Final = 2**31 - 1

app = typer.Typer(no_args_is_help=True, help="Look after events that could not be counted.")


def _reasons() -> Sequence[str]:
    from anlyt import letters

    return letters.REASONS


def _states() -> Sequence[str]:
    from anlyt import queries

    return queries.LETTER_STATES


@app.command("list")
def letters_list(
    ctx: typer.Context,
    *,
    reason: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Only those with this reason.", autocompletion=completing(_reasons)),
    ] = None,
    state: Annotated[
        str,
        typer.Option(
            metavar="STATE",
            help="open, counted, duplicate, ignored, discarded or all.",
            autocompletion=completing(_states),
        ),
    ] = "open",
    limit: Annotated[int, typer.Option(metavar="NUMBER", help="At most so many, the newest.")] = 50,
    as_json: Json = False,
) -> None:
    """Events that could not be counted, the newest first.

    Example: anlyt dead-letters list

    Example: anlyt dead-letters list --reason stale --state all --json
    """
    from anlyt import letters

    settings = connected(ctx)
    rows = run_work(
        letters.list_letters(database_url(settings), settings.stream, reason=reason, limit=limit, state=state)
    )
    names = ("sequence", "batch_index", "published_at", "reason", "detail", "state", "attempts")
    show_rows(rows, as_json=as_json, names=names)


@app.command("show")
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

    settings = connected(ctx)
    found = run_work(letters.read_letter(database_url(settings), settings.stream, sequence, index=index))
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
        return
    for letter in found:
        for name, value in letter.items():
            typer.echo(f"{name:<14}{value}")


SequenceArgument = Annotated[int | None, typer.Argument(help="Sequence of the message in the stream.")]
IndexArgument = Annotated[int | None, typer.Argument(help="Place in its batch; without it, all of the message.")]
ReasonOption = Annotated[
    str | None,
    typer.Option(metavar="REASON", help="All open letters with this reason.", autocompletion=completing(_reasons)),
]
AllOption = Annotated[bool, typer.Option("--all", help="All open letters of the stream.")]


@app.command("retry")
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
    """Judge open letters again, and count what passes, exactly once.

    By the rules and settings of today, at the time each was published.

    Example: anlyt dead-letters retry 4711

    Example: anlyt dead-letters retry --reason unknown_type

    Example: anlyt dead-letters retry --reason stale --accept-stale
    """
    from anlyt import letters
    from anlyt.crash import CrashPoints
    from anlyt.events import rules_of
    from anlyt.terminal import progress

    settings = connected(ctx)
    selection = letters.select_letters(sequence, index, reason=reason, everything=everything)

    async def retry() -> dict[str, int]:
        url, stream, crash = database_url(settings), settings.stream, CrashPoints.parse(settings.crash_points)
        with progress("judging again", unit="letters", quiet=as_json) as advance:
            advance(0, await letters.count_open(url, stream, selection))  # a letter that was named must be there
            return await letters.retry_letters(
                url,
                stream,
                selection,
                rules=rules_of(settings),
                accept_stale=accept_stale,
                crash=crash,
                advance=advance,
            )

    outcomes = run_work(retry())
    if as_json:
        print_json(outcomes)
    else:
        say("dead letters: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))


@app.command("discard")
def letters_discard(  # noqa: PLR0913 - one option a property of the choice
    ctx: typer.Context,
    sequence: SequenceArgument = None,
    index: IndexArgument = None,
    *,
    reason: ReasonOption = None,
    everything: AllOption = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Mark open letters as discarded: they are kept, and never counted.

    Example: anlyt dead-letters discard 4711

    Example: anlyt dead-letters discard --reason malformed --yes
    """
    from anlyt import letters
    from anlyt.terminal import progress

    settings = connected(ctx)
    selection = letters.select_letters(sequence, index, reason=reason, everything=everything)
    count = run_work(letters.count_open(database_url(settings), settings.stream, selection))
    confirmed(f"discards {count:,} dead letters", yes=yes)
    with progress("discarding", unit="letters", total=count, quiet=as_json) as advance:
        discarded = run_work(
            letters.discard_letters(database_url(settings), settings.stream, selection, advance=advance)
        )
    if as_json:
        print_json({"discarded": discarded})
    else:
        say(f"dead letters: {discarded} discarded")
