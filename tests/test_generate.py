"""Generated files: they are what their sources say now, drift is shown, and the parser refuses what it cannot read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from anlyt import rows
from anlyt.postgres import session
from support import run

ROOT = Path(__file__).parent.parent
SCHEMA = "src/anlyt/sql/schema.sql"


def generate(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(root / "tools" / "generate.py"), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The part of the project that generating needs, to be changed at will."""
    for folder in ("tools", "src/anlyt/sql", "docs/reference"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "src/anlyt/rows.py", tmp_path / "src/anlyt/rows.py")
    return tmp_path


def change(root: Path, old: str, new: str) -> None:
    text = (root / SCHEMA).read_text(encoding="utf-8")
    assert old in text
    (root / SCHEMA).write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_generated_files_are_what_the_sources_say_now() -> None:
    done = generate(ROOT, "--check")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_drift_fails_the_check_with_a_diff_and_generating_heals_it(copy: Path) -> None:
    change(
        copy,
        "    scope TEXT NOT NULL, -- 'PLATFORM'",
        "    region TEXT, -- where\n    scope TEXT NOT NULL, -- 'PLATFORM'",
    )
    drifted = generate(copy, "--check")

    assert drifted.returncode == 1
    assert "+    region: str | None" in drifted.stdout
    assert "+| `region` | `TEXT` | yes |  | where |" in drifted.stdout
    assert "run make gen" in drifted.stderr

    assert generate(copy).returncode == 0
    assert generate(copy, "--check").returncode == 0


def test_a_missing_file_is_drift(copy: Path) -> None:
    (copy / "docs/reference/schema.md").unlink()

    assert generate(copy, "--check").returncode == 1


@pytest.mark.parametrize(
    "new",
    ["    ratio DOUBLE PRECISION,\n    scope TEXT NOT NULL,", "    CHECK (scope <> ''),\n    scope TEXT NOT NULL,"],
)
def test_a_line_the_parser_does_not_understand_stops_it(copy: Path, new: str) -> None:
    change(copy, "    scope TEXT NOT NULL,", new)
    stopped = generate(copy)

    assert stopped.returncode == 1
    assert any(words in stopped.stderr for words in ("this line is no column", "KeyError: 'DOUBLE'"))


def test_an_unknown_argument_is_refused(copy: Path) -> None:
    assert generate(copy, "--chek").returncode == 2


def test_every_record_has_exactly_the_columns_types_and_order_of_its_table(database_url: str) -> None:
    records = {
        name: record
        for name, record in vars(rows).items()
        if isinstance(record, type) and issubclass(record, msgspec.Struct) and record is not msgspec.Struct
    }
    base = {
        "timestamp with time zone": datetime,
        "text": str,
        "uuid": str,
        "json": str,
        "bytea": bytes,
        "xid8": int,
        "smallint": int,
        "integer": int,
        "bigint": int,
        "numeric(18,6)": Decimal,
        "numeric": Decimal,
        "numeric[]": tuple[Decimal, ...],
        "text[]": tuple[str, ...],
        "smallint[]": tuple[int, ...],
        "bigint[]": tuple[int, ...],
    }

    async def scenario() -> None:
        async with session(database_url, application="test") as conn:
            columns = await conn.fetch(
                """SELECT replace(initcap(c.relname), '_', '') AS record, a.attname,
                          format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull
                   FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                   WHERE c.relnamespace = 'anlyt'::REGNAMESPACE AND c.relkind IN ('r', 'p') AND a.attnum > 0
                     AND NOT c.relispartition ORDER BY 1, a.attnum"""
            )
        live: dict[str, list[tuple[str, object]]] = {}
        for column in columns:
            kind = base[column["type"]] if column["attnotnull"] else base[column["type"]] | None
            live.setdefault(column["record"], []).append((column["attname"], kind))

        assert live == {
            name: [(field.name, field.type) for field in msgspec.structs.fields(record)]
            for name, record in records.items()
        }

    run(scenario())
