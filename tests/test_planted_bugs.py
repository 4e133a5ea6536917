"""The checks are checked: each bug, planted into a copy of the package, is found by the scenarios that prove the rest.

A bug is a replacement of text that must stand in the source exactly once, so that a source that has changed fails here
loudly instead of testing nothing. The same scenarios find nothing in the code as it is (the last test, test_faults).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest

import anlyt
import fleet
from anlyt.postgres import session
from archives import DAY, archive_directory, archive_in, assert_same_rows
from support import run
from test_archive import TODAY, add_day
from test_archive_kills import copy_and_die

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from anlyt.clickhouse import ClickHouse
    from anlyt.settings import Settings

PACKAGE = Path(anlyt.__file__).parent
SEED = 5
LIMIT_S = 850  # far more than any takes
MATRIX = Path(__file__).with_name("test_tenancy.py")
MATRIX_ROUTE = "test_every_caller_gets_what_is_his and metrics and hourly"


Scenario = Literal["calm", "interrupted", "dying", "cancelled", "aged 2 h", "aged 49 h"]


class Bug(NamedTuple):
    """Texts that stand in the package once, what to write instead, and the scenario it shows in."""

    edits: tuple[tuple[str, str, str], ...]
    scenario: Scenario = "calm"


TRANSACTION = "    async with conn.transaction():\n        moved = await _advance(conn, position, batch)\n"
ADVANCE = "    moved = await _advance(conn, position, batch)\n"
FIRST = "        first = distinct(events) if expected is None else expected.first\n"
CLAIM = "        fresh = await claim(conn, first, expect_new=expected is not None)\n"

COMMITTED = '    crash.reach("after-commit")\n'
NOTHING = "_NOTHING: Final = Decoded([], [], 0)\n"
DATA_ERROR = "        except asyncpg.DataError as error:"
UNKNOWN = """

async def _unknown(conn, first):
    query = "SELECT event_id FROM anlyt.processed_events WHERE event_id = ANY($1::TEXT[])"
    known = {row[0] for row in await conn.fetch(query, list(first))}
    return [event for key, event in first.items() if key not in known]
"""
GIVE_UP = """\
        except asyncpg.QueryCanceledError:
            letters = [Letter(m, 0, "malformed", "PostgreSQL gave up", m.body) for m in batch.messages]
            given_up = replace(batch, decoded=Decoded([], letters, 0), expected=None)
            return await store.apply(self._conn, self._position, given_up, self._context.crash)
"""

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
                    "                batch = replace(batch, decoded=Decoded([], [], 0), expected=None)\n"
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
    "ids written after the sums, in a transaction of their own": Bug(
        (
            ("store.py", CLAIM, "        fresh = await _unknown(conn, first)\n"),
            ("store.py", COMMITTED, f"{COMMITTED}    await claim(conn, first)\n"),
            ("store.py", NOTHING, f"{NOTHING}{UNKNOWN}"),
        ),
        "dying",
    ),
    "dead letters for what PostgreSQL had no time for": Bug(
        (("worker.py", DATA_ERROR, f"{GIVE_UP}{DATA_ERROR}"),),
        "cancelled",
    ),
    "ids forgotten after an hour": Bug(
        (("sql/jobs/purge_events.sql", "INTERVAL '48 hours'", "INTERVAL '1 hour'"),),
        "aged 2 h",
    ),
    "the stream read from its beginning at every start": Bug(
        (("worker.py", "context, lane, after=resume.position.last_seq", "context, lane, after=0"),),
        "aged 49 h",
    ),
    "failures left out of the platform": Bug(
        (("rollup.py", "platform.add(cell)", "platform.add(__import__('msgspec').structs.replace(cell, failed=0))"),),
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


SCENARIOS: dict[Scenario, Callable[[Settings, Path | None], Coroutine[None, None, fleet.Outcome]]] = {
    "calm": lambda settings, source: fleet.calm(settings, SEED, source=source),
    "interrupted": lambda settings, source: fleet.interrupted(settings, SEED, source=source),
    "dying": lambda settings, source: fleet.dying(settings, SEED, rounds=1, events=400, source=source),
    "cancelled": lambda settings, source: fleet.cancelled(settings, SEED, source=source),
    "aged 2 h": lambda settings, source: fleet.aged(settings, SEED, hours=2, source=source),
    "aged 49 h": lambda settings, source: fleet.aged(settings, SEED, hours=49, source=source),
}


def plant(bug: Bug, target: Path) -> Path:
    """A copy of the package with the bug in it; the directory for PYTHONPATH."""
    shutil.copytree(PACKAGE, target / "anlyt", ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in bug.edits:
        path = target / "anlyt" / name
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name} has changed: this stands there {text.count(old)} times\n{old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
    return target


@pytest.mark.timeout(LIMIT_S + 50)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(settings: Settings, tmp_path: Path, name: str) -> None:
    bug = BUGS[name]

    assert run(SCENARIOS[bug.scenario](settings, plant(bug, tmp_path)), LIMIT_S).differences != []


@pytest.mark.timeout(LIMIT_S + 50)
@pytest.mark.parametrize("scenario", ["calm", "cancelled", "aged 2 h", "aged 49 h"])
def test_the_package_as_it_is_has_none_of_them(settings: Settings, scenario: Scenario) -> None:
    """test_faults shows it for the others."""
    assert run(SCENARIOS[scenario](settings, None), LIMIT_S).differences == []


def test_an_api_that_takes_ids_from_the_request_instead_of_the_key_is_found(tmp_path: Path) -> None:
    """By the matrix of callers, run against the copy; it finds nothing in the code as it is (test_tenancy)."""
    believing = '    if grant.scope == "PLATFORM" or ids is not None:\n        return Visible(scope, ids)\n'
    bug = Bug((("access.py", '    if grant.scope == "PLATFORM":\n        return Visible(scope, ids)\n', believing),))
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(MATRIX), "-k", MATRIX_ROUTE]
    env = os.environ | {"PYTHONPATH": str(plant(bug, tmp_path))}
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert (done.returncode, "AssertionError" in done.stdout) == (1, True), done.stdout
    assert re.search(r"^FAILED .*test_every_caller_gets_what_is_his", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.timeout(LIMIT_S + 50)
def test_an_archive_that_appends_instead_of_replacing_is_found(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nights; the day of the first has changed before the second, and its month is copied again."""
    bug = Bug((("sql/archive/replace_month.sql", "REPLACE PARTITION ID", "ATTACH PARTITION ID"),))
    monkeypatch.setenv("PYTHONPATH", str(plant(bug, tmp_path)))

    async def after(statement: str) -> None:
        async with session(database_url, application="test") as conn:
            await conn.execute(statement)

    async def compare(clickhouse: ClickHouse) -> None:
        async with session(database_url, application="test") as conn:
            await assert_same_rows(conn, clickhouse)
        await clickhouse.close()

    async def begin() -> None:
        async with session(database_url, application="test") as conn:
            await add_day(conn, TODAY - 40 * DAY)

    with archive_directory() as directory:
        clickhouse = archive_in(directory)
        run(begin())
        assert copy_and_die(database_url, clickhouse, "")[0] == 0
        run(after("UPDATE anlyt.metrics_daily SET failed_messages = failed_messages + 1"))
        copy_and_die(database_url, clickhouse, "")  # it may find out by itself and fail
        with pytest.raises(AssertionError, match="metrics_daily"):
            run(compare(clickhouse))
