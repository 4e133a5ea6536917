"""The commands that check: doctor looks at the servers and settings, reconcile at the numbers.

In: settings. Out: findings; exit code 1 for a problem of the set-up, 5 for numbers that differ.
"""

from __future__ import annotations

import typer

from anlyt.cli_shared import Json, connected, database_url, print_json, run_work, show_rows
from anlyt.errors import AnlytError, DifferenceFound

app = typer.Typer()


@app.command()
def doctor(ctx: typer.Context, *, as_json: Json = False) -> None:
    """Look for what is wrong, and say what to do. Exit 1 on a problem.

    Servers, versions, rights, durability, clocks, schema, partitions, lag, dead letters, limits of the stream.

    Example: anlyt doctor
    """
    from anlyt import doctor as doctor_module

    findings = run_work(doctor_module.examine(connected(ctx)))
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

    findings = run_work(reconcile_module.reconcile(database_url(connected(ctx))))
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
