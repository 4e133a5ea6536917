"""The checks are checked: each bug, planted into a copy of the package, is found by the scenarios that prove the rest.

A bug is a replacement of text that must stand in the source exactly once, so that a source that has changed fails here
loudly instead of testing nothing. The same scenarios find nothing in the code as it is (the last test, test_faults).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

import anlyt
import fleet
from support import run

if TYPE_CHECKING:
    from anlyt.settings import Settings

PACKAGE = Path(anlyt.__file__).parent
SEED = 5


class Bug(NamedTuple):
    """Texts that stand in the package once, what to write instead, and the scenario it shows in."""

    edits: tuple[tuple[str, str, str], ...]
    scenario: Literal["calm", "interrupted", "dying"] = "calm"


TRANSACTION = "    async with conn.transaction():\n        moved = await _advance(conn, position, batch)\n"
ADVANCE = "    moved = await _advance(conn, position, batch)\n"
FIRST = "        first = distinct(events) if expected is None else expected.first\n"
CLAIM = "        fresh = await claim(conn, first, expect_new=expected is not None)\n"

BUGS = {
    "the position in a transaction of its own": Bug(
        (("store.py", TRANSACTION, f"{ADVANCE}    async with conn.transaction():\n"),),
        "dying",
    ),
    "ids claimed in a transaction of their own": Bug(
        (
            ("store.py", FIRST, ""),
            ("store.py", CLAIM, ""),
            ("store.py", TRANSACTION, f"{FIRST[4:]}{CLAIM[4:]}{TRANSACTION}"),
        ),
        "dying",
    ),
    "a retry that does not read the position, and no fence": Bug(
        (
            ("store.py", "RESUME_MARGIN_US: Final", "_READ: dict[tuple[int, ...], int] = {}\nRESUME_MARGIN_US: Final"),
            ("store.py", TRANSACTION, f"    _READ[position.slots] = batch.last_seq\n{TRANSACTION}"),
            (
                "store.py",
                "        return Resume(position, None, lost)\n",
                (
                    "        position = replace(position, last_seq=_READ.get(slots, position.last_seq))\n"
                    "        return Resume(position, None, lost)\n"
                ),
            ),
            ("sql/ingest/advance_positions.sql", "  AND last_seq = $3\n", "  AND $3::BIGINT >= 0\n"),
        ),
        "interrupted",
    ),
    "the last batch dropped at SIGTERM": Bug(
        (
            (
                "worker.py",
                "            applied = await self._apply_or_isolate(batch)\n",
                (
                    "            if self._context.stop.is_set():\n"
                    "                batch = replace(batch, decoded=Decoded([], [], 0))\n"
                    "            applied = await self._apply_or_isolate(batch)\n"
                ),
            ),
        ),
        "interrupted",
    ),
    "no dedupe": Bug(
        (("store.py", CLAIM, "        fresh = list(events)\n"),),
    ),
    "a batch of nothing but duplicates taken for new": Bug(
        (("sql/ingest/claim_events.sql", "coalesce(array_agg(event_id), '{}')", "array_agg(event_id)"),),
    ),
    "costs read as floats": Bug(
        (
            (
                "events.py",
                '    return int(whole + (fraction or b"").ljust(COST_SCALE, b"0"))\n',
                '    return int(float(whole + b"." + (fraction or b"0")) * 10**COST_SCALE)\n',
            ),
        ),
    ),
    "costs added as floats": Bug(
        (("sql/ingest/add_account_usage_daily.sql", "cost * 0.000001", "(cost::FLOAT8 * 0.000001)::NUMERIC"),),
    ),
    "days of the local time zone": Bug(
        (
            (
                "rollup.py",
                "    return instant - instant % DAY_US\n",
                "    return instant - (instant - __import__('time').timezone * SECOND_US) % DAY_US\n",
            ),
        ),
    ),
    "hours of the local time zone": Bug(
        (("sql/ingest/add_second_counts.sql", "date_trunc('hour', second, 'UTC')", "date_trunc('hour', second)"),
         ("postgres.py", '    "TimeZone": "UTC",\n', "")),
    ),
}  # fmt: skip


def plant(bug: Bug, target: Path) -> Path:
    """A copy of the package with the bug in it; the directory for PYTHONPATH."""
    shutil.copytree(PACKAGE, target / "anlyt", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in bug.edits:
        path = target / "anlyt" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has changed: this stands there {text.count(old)} times\n{old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return target


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(settings: Settings, tmp_path: Path, name: str) -> None:
    bug = BUGS[name]
    source = plant(bug, tmp_path)

    if bug.scenario == "calm":
        outcome = run(fleet.calm(settings, SEED, source=source))
    elif bug.scenario == "interrupted":
        outcome = run(fleet.interrupted(settings, SEED, source=source))
    else:
        outcome = run(fleet.dying(settings, SEED, rounds=1, events=400, source=source))

    assert outcome.differences != []


def test_the_package_as_it_is_has_none_of_them(settings: Settings) -> None:
    assert run(fleet.calm(settings, SEED)).differences == []
