"""The commands that check: doctor looks at the servers and settings, reconcile at the numbers.

In: settings. Out: findings; exit code 1 for a problem of the set-up, 5 for numbers that differ.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from anlyt.cli_shared import (
    Json,
    connected,
    database_url,
    find_archive,
    print_json,
    read_settings,
    run_work,
    show_rows,
)
from anlyt.errors import AnlytError, DifferenceFound, UsageError
from anlyt.talk import say

if TYPE_CHECKING:
    from anlyt.audit import Report

app = typer.Typer()


@app.command()
def doctor(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Look for what is wrong, and say what to do. Exit 1 on a problem.

    Servers, versions, rights, durability, clocks, schema, partitions, lag, dead letters, limits of the stream, archive.

    Example: anlyt doctor
    """
    from anlyt import doctor as doctor_module

    embedded = read_settings(ctx).nats_url is None  # then connected() finds those that run in the data directory
    settings = connected(ctx)
    archive = find_archive(settings, somebody_waits=True)
    findings = run_work(doctor_module.examine(settings, archive, embedded=embedded))
    if as_json:
        print_json([{"check": f.check, "level": f.level, "finding": f.finding, "remedy": f.remedy} for f in findings])
    else:
        marks = {"ok": "ok     ", "warning": "warning", "problem": "problem"}
        for f in findings:
            typer.echo(f"{marks[f.level]}  {f.check}: {f.finding}" + (f"\n         -> {f.remedy}" if f.remedy else ""))
    if any(f.level == "problem" for f in findings):
        raise typer.Exit(AnlytError.exit_code)


@app.command()
def reconcile(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Prove that the tables agree, over all rows. Exit 5 and the cells on a difference.

    Example: anlyt reconcile
    """
    import msgspec

    from anlyt import reconcile as reconcile_module
    from anlyt.terminal import progress

    settings = connected(ctx)
    with progress("reconciling", unit="identities", quiet=as_json) as advance:
        findings = run_work(reconcile_module.reconcile(database_url(settings), find_archive(settings), advance=advance))
    rows = [[msgspec.structs.asdict(cell) for cell in finding.differences] for finding in findings]
    if as_json:
        print_json(
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
                show_rows(cells, as_json=False)
    wrong = [finding for finding in findings if finding.total]
    if wrong:
        numbers = ", ".join(str(finding.identity.number) for finding in wrong)
        raise DifferenceFound(f"identities {numbers} do not hold, in {sum(f.total for f in wrong):,} cells")


@app.command()
def audit(
    ctx: typer.Context,
    *,
    start: Annotated[str, typer.Option("--from", help="Inclusive: -24h, -7d or RFC 3339.")] = "-24h",
    end: Annotated[str, typer.Option("--to", help="Exclusive.")] = "now",
    as_json: Json = False,
) -> None:
    """Count a range again from the stream's messages.

    Independent of how the workers count. Every cell is compared; exit 5 on a difference. What the stream no longer
    holds whole is not compared, and said.

    Example: anlyt audit --from -7d
    """
    import msgspec

    from anlyt import audit as audit_module
    from anlyt.terminal import progress

    settings = connected(ctx)
    first, last = _read_time("from", start), _read_time("to", end)
    with progress("recounting", unit="messages", quiet=as_json) as advance:
        report = run_work(audit_module.audit(settings, first, last, advance=advance))
    if as_json:
        print_json(msgspec.to_builtins(report, builtin_types=(datetime,)))
    else:
        _show_report(report)
    if report.total:
        raise DifferenceFound(f"{report.total:,} of {report.cells:,} cells are not what the messages add up to")
    if report.missing_messages:
        raise DifferenceFound(
            f"{report.missing_messages:,} messages of the stream cannot be read; look at nats-server's log and disk, "
            "and have their producers publish what was not counted before"
        )


def _read_time(option: str, text: str) -> datetime:
    from anlyt.queries import read_time

    moment = read_time(text, datetime.now(UTC))
    if moment is None:
        raise UsageError(f"--{option} must be a time like 2026-04-18T10:00:00Z, a date, now or -24h, not {text!r}")
    return moment


def _show_report(report: Report) -> None:
    import msgspec

    say(f"asked:      {report.start:%F %H:%M} to {report.end:%F %H:%M} UTC")
    if report.compared_from >= report.end:
        say("compared:   nothing: the stream does not hold any hour of it whole")
    else:
        say(f"compared:   {report.compared_from:%F %H:%M} to {report.end:%F %H:%M} UTC, {report.cells:,} cells")
    letters = sum(report.dead_letters.values())
    say(f"read:       {report.messages:,} messages, {letters:,} events in them are dead letters")
    say(f"counted:    {report.counted_events:,} events of the range, {report.duplicate_events:,} duplicates ignored")
    if report.missing_messages:
        say(f"MISSING     {report.missing_messages:,} messages the stream counts cannot be read: its files are damaged")
    if report.contradictions:
        say(f"note:       {report.contradictions:,} copies say something else than the one taken as counted, the first")
    if report.late_seconds:
        say(
            f"note:       {report.late_seconds:,} seconds were backfilled hours after they had passed, as history is: "
            "in them peak_tps may be lower than recounted, which is no difference here"
        )
    if report.differences:
        say(f"DIFF        {report.total:,} cells, the first {len(report.differences)}:")
        show_rows([msgspec.structs.asdict(cell) for cell in report.differences], as_json=False)
