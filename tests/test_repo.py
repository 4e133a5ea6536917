"""House rules that no linter knows: each a row of a table, with what to do instead, held against every tracked file."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
FILES = [
    Path(name)
    for name in subprocess.run(
        ["git", "ls-files"],  # noqa: S607 - whatever git this machine has
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    if (ROOT / name).is_file()
]
# This file has to spell what it forbids; the oracle is an independent model, kept as it was given.
EXEMPT = {Path("tests/test_repo.py"), Path("tests/oracle.py")}
# Files that do not keep a rule yet. A file that joins fails the rule's test, and so does one that keeps it by now.
BEHIND: dict[str, set[str]] = {
    "reason": {"src/anlyt/keeper.py"},
    "600 lines": set(),
    "print": set(),
}
LINES_MAX = 600
FUNCTION_LINES_MAX = 70
DOCSTRING_LINES_MIN, DOCSTRING_LINES_MAX = 3, 10


class Rule(NamedTuple):
    """What must not stand where, and what to write instead."""

    pattern: str
    where: str  # a pattern of the whole path
    instead: str
    unless: str = "$^"  # paths where it may stand


BANNED = [
    Rule(
        r"(?i)\binterval\s*'[^']*(\$\d|%\(|\{)",
        r".*\.(sql|py)",
        "make_interval(days => $1): a parameter inside quotes is not one",
    ),
    Rule(
        r"\b(TODO|FIXME)\b",
        r".*",
        "do it, or write down what holds now",
    ),
    Rule(
        r"\btime\.sleep\(|\bfrom time import .*\bsleep\b",
        r"tests/.*\.py",
        "support.wait_until",
    ),
    Rule(
        r"\basyncio\.sleep\((?!0\))",
        r"tests/.*\.py",
        "support.wait_until",
        unless=r"tests/support\.py",
    ),
    Rule(
        r"\bunittest\.mock\b|\bMagicMock\b|\bmocker\b",
        r"tests/.*\.py",
        "a real server: fixtures in conftest.py",
    ),
    Rule(
        r"(?i)\b(py[p]i\.org|python[h]osted\.org|registry\.npm[j]s\.org|crates\.io/api|proxy\.golang\.org)",
        r".*",
        "no registry's host: locks carry hashes, not addresses",
    ),
    Rule(
        r"(?<![\w.])/(work|root|home)/\w",
        r".*",
        "a path relative to the project, or a setting",
    ),
    Rule(
        r"\b(os\.getenv\b|environ\.get\b|environ\[)",
        r"src/.*\.py",
        "a field of Settings",
        unless=r"src/anlyt/settings\.py",
    ),
    Rule(
        r"^\s*#\s*ruff: noqa(?!: [A-Z]+\d+(, [A-Z]+\d+)* - \w)",
        r".*\.py",
        "the codes and the reason on the line",
    ),
]


def tracked(where: str, unless: str = "$^") -> list[Path]:
    """Tracked files whose path is of the form `where` and not of the form `unless`."""
    return [
        file
        for file in FILES
        if re.fullmatch(where, file.as_posix()) and not re.fullmatch(unless, file.as_posix()) and file not in EXEMPT
    ]


def read(file: Path) -> str:
    """Its text; nothing for a file that is not text."""
    try:
        return (ROOT / file).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("rule", BANNED, ids=[rule.instead for rule in BANNED])
def test_what_is_banned_stands_nowhere(rule: Rule) -> None:
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in tracked(rule.where, rule.unless)
        for number, line in enumerate(read(file).splitlines(), start=1)
        if re.search(rule.pattern, line)
    ]

    assert found == [], f"use instead: {rule.instead}"


def names(found: list[str]) -> set[str]:
    """The files of findings, which begin with their file."""
    return {finding.partition(":")[0] for finding in found}


# ----------------------------------------------------------------------------------------------------------------- SQL

SQL_IN_STRING = re.compile(
    r"\b(SELECT\s+[\w*$('\"]|INSERT\s+INTO\b|DELETE\s+FROM\b|UPDATE\s+[\w.]+\s+SET\b|TRUNCATE\s+\w"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|SCHEMA|DATABASE|FUNCTION|SEQUENCE|VIEW)\b|ON\s+CONFLICT\b|SET\s+LOCAL\b)"
)
MANY_STATEMENTS = r"src/anlyt/sql/(schema|migrations/.*|migrate/script)\.sql"


def test_no_sql_stands_in_a_python_string() -> None:
    """It stands in sql/<stage>/<verb_object>.sql and is read with postgres.sql."""
    found = [
        f"{file}:{node.lineno}: {node.value.strip()[:60]}"
        for file in tracked(r"src/.*\.py")
        for node in strings(ast.parse(read(file)))
        if SQL_IN_STRING.search(node.value)
    ]

    assert found == []


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """The string constants of a module that are no docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def test_every_statement_begins_with_what_it_is_for() -> None:
    found = [str(file) for file in tracked(r"src/.*\.sql") if not re.match(r"-- \S.{10,}\n", read(file))]

    assert found == []


def test_a_file_holds_one_statement() -> None:
    found = [str(file) for file in tracked(r"src/.*\.sql", MANY_STATEMENTS) if count_statements(read(file)) != 1]

    assert found == []


def count_statements(text: str) -> int:
    """Statements in SQL text; what stands in comments, quotes and dollar quotes does not count."""
    bare = re.sub(r"(\$\w*\$).*?\1|'(?:[^']|'')*'|--[^\n]*", "x", text, flags=re.DOTALL)
    return sum(1 for part in bare.split(";") if part.replace("x", "").strip())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("-- a; b\nSELECT 1", 1),
        ("SELECT ';'; ", 1),
        ("DO $a$ BEGIN x; y; END $a$;", 1),
        ("SELECT 1; SELECT 2", 2),
        ("-- nothing;", 0),
    ],
)
def test_statements_are_counted_right(text: str, count: int) -> None:
    assert count_statements(text) == count


def test_every_parameter_of_a_statement_is_explained() -> None:
    found = [
        f"{file}: {parameter}"
        for file in tracked(r"src/.*\.sql", MANY_STATEMENTS)
        for parameter in sorted(set(re.findall(r"\$\d+", re.sub(r"--[^\n]*", "", read(file)))))
        if not re.search(rf"^--.*{re.escape(parameter)} [^,]*[A-Z]", read(file), re.MULTILINE)
    ]

    assert found == []


def test_every_statement_is_used() -> None:
    source = "\n".join(read(file) for file in tracked(r"(src|tools|bench)/.*\.py"))
    there = [file.relative_to("src/anlyt/sql").with_suffix("") for file in tracked(r"src/anlyt/sql/\w+/.*\.sql")]
    found = [str(name) for name in there if name.parts[0] != "migrations" and f'"{name.as_posix()}"' not in source]

    assert found == []


# -------------------------------------------------------------------------------------------------------------- Python


def test_every_module_says_what_comes_in_what_goes_out_and_what_holds() -> None:
    """errors.py draws its tree there, as long as that is."""
    found = []
    for file in tracked(r"src/.*\.py", r"src/anlyt/(__init__|__main__|errors)\.py"):
        lines = (ast.get_docstring(ast.parse(read(file))) or "").splitlines()
        if not DOCSTRING_LINES_MIN <= len(lines) <= DOCSTRING_LINES_MAX:
            found.append(f"{file}: {len(lines)} lines")

    assert found == []


def test_every_module_and_every_test_module_has_a_docstring() -> None:
    assert [str(file) for file in tracked(r".*\.py") if not ast.get_docstring(ast.parse(read(file)))] == []


def test_a_module_has_at_most_600_lines() -> None:
    lengths = {str(file): len(read(file).splitlines()) for file in tracked(r"(src|tools|bench)/.*\.py")}
    found = [f"{name}: {lines}" for name, lines in lengths.items() if lines > LINES_MAX]

    assert names(found) == BEHIND["600 lines"], found


def test_a_function_has_at_most_70_lines() -> None:
    found = {
        f"{file}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for file in tracked(r"(src|tools|bench)/.*\.py")
        for node in ast.walk(ast.parse(read(file)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None
    }

    assert {name: lines for name, lines in found.items() if lines > FUNCTION_LINES_MAX} == {}


def test_every_module_of_the_package_has_its_future_import() -> None:
    found = [
        str(file)
        for file in tracked(r"(src|tests|tools|bench)/.*\.py", r"src/anlyt/(__init__|__main__)\.py")
        if "from __future__ import annotations" not in read(file)
    ]

    assert found == []


def test_only_the_commands_talk_with_print() -> None:
    """Everything else returns, raises or logs; cli.py has typer.echo."""
    found = [
        f"{file}:{node.lineno}"
        for file in tracked(r"src/.*\.py", r"src/anlyt/cli\w*\.py")
        for node in ast.walk(ast.parse(read(file)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert names(found) == BEHIND["print"], found


def test_a_broad_except_stands_in_the_job_loop_the_top_of_the_command_line_or_raises_again() -> None:
    found = [
        f"{file}:{node.lineno}"
        for file in tracked(r"src/.*\.py", r"src/anlyt/(cli|jobs)\.py")
        for node in ast.walk(ast.parse(read(file)))
        if isinstance(node, ast.ExceptHandler) and is_broad(node) and not raises_again(node)
    ]

    assert found == []


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in {"Exception", "BaseException"}) for kind in caught
    )


def raises_again(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None


EXCEPTION = re.compile(r"#\s*(?:ruff: )?noqa|#\s*(?:type|pyright): ignore")
WITH_REASON = re.compile(
    r"#\s*(?:ruff: )?noqa: [A-Z]+\d+(?:, [A-Z]+\d+)* - \w|#\s*(?:type|pyright): ignore\[\w[\w, -]*\] - \w"
)


def test_every_lint_and_type_exception_has_its_code_and_its_reason() -> None:
    """Like `# noqa: X123 - why`, on the line itself."""
    found = [
        f"{file}:{number}: {line.strip()}"
        for file in tracked(r".*\.py")
        for number, line in enumerate(read(file).splitlines(), start=1)
        if EXCEPTION.search(line) and not WITH_REASON.search(line)
    ]

    assert names(found) == BEHIND["reason"], found


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("x = 1  # noqa: S603 - our own command", True),
        ("x = 1  # noqa: S603, S607 - our own command", True),
        ("x = 1  # type: ignore[arg-type] - a test", True),
        ("# ruff: noqa: TC003 - read at run time", True),
        ("x = 1  # noqa", False),
        ("x = 1  # noqa: S603", False),
        ("x = 1  # type: ignore[arg-type]", False),
        ("x = 1  # pyright: ignore - why", False),
    ],
)
def test_a_reason_is_told_from_none(line: str, allowed: bool) -> None:  # noqa: FBT001 - a table's column
    assert bool(WITH_REASON.search(line)) == allowed
