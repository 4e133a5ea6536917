"""Write what follows from the schema, the settings, the limits and the telemetry; with --check, only compare.

In: sql/schema.sql and the modules of the package, read once into one Model. Out: the files named in OUTPUTS, each made
by one function of the Model; exit code 1 and a diff when --check finds one that differs. Another output is another line
there.
"""

from __future__ import annotations

import ast
import difflib
import functools
import re
import sys
import textwrap
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args, get_origin

import typer
from msgspec import Struct

import typescript
from anlyt import cli, settings
from anlyt.settings import PREFIX, Settings, format_duration
from anlyt.telemetry import LOG_EVENTS, METRICS
from archive_statements import write_statements

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pydantic.fields import FieldInfo

ROOT: Final = Path(__file__).resolve().parent.parent
SCHEMA: Final = "src/anlyt/sql/schema.sql"
PACKAGE: Final = Path(settings.__file__).parent
LINE_LENGTH: Final = 120

PYTHON_TYPES: Final[Mapping[str, str]] = {
    "TIMESTAMPTZ": "datetime",
    "TEXT": "str",
    "UUID": "str",
    "SMALLINT": "int",
    "INTEGER": "int",
    "BIGINT": "int",
    "NUMERIC": "Decimal",
    "BYTEA": "bytes",
    "XID8": "int",
    "JSON": "str",
}


class Column(Struct, frozen=True):
    """A column as schema.sql writes it; `meaning` is the comment on its line."""

    name: str
    type: str  # like TIMESTAMPTZ, NUMERIC(18,6), TEXT[]
    nullable: bool
    default: str
    meaning: str


class Table(Struct, frozen=True):
    """A table with the comment above it and what the statements say about it."""

    name: str  # without the schema
    meaning: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    partition_key: str  # "" when it is not partitioned
    indexes: tuple[str, ...]  # as CREATE INDEX writes them, from the name on


class Setting(Struct, frozen=True):
    """A setting as its users see it."""

    variable: str
    default: str  # "" for none
    values: str
    meaning: str


class Limit(Struct, frozen=True):
    """A constant that bounds something; `meaning` is its comment, may be empty."""

    module: str
    name: str
    value: str  # with its unit
    meaning: str


class Model(Struct, frozen=True):
    """All that outputs are made of."""

    tables: tuple[Table, ...]
    settings: tuple[Setting, ...]
    limits: tuple[Limit, ...]


# ----------------------------------------------------------------------------------------------------------------- in


_TABLE: Final = re.compile(
    r"(?P<meaning>(?:^-- [^\n]*\n)*)^CREATE TABLE anlyt\.(?P<name>\w+) \(\n(?P<body>.*?)^\)(?P<rest>[^;]*);$",
    re.MULTILINE | re.DOTALL,
)
_COLUMN: Final = re.compile(
    r"^(?P<name>[a-z]\w*) (?P<type>[A-Z]+[0-9]*(?:\(\d+,\d+\))?(?:\[\])?)(?P<rest>[^-]*?),?(?: -- (?P<meaning>.*))?$"
)
_INDEX: Final = re.compile(
    r"^CREATE INDEX (?P<index>\w+) ON anlyt\.(?P<table>\w+) (?P<rest>.*?);$", re.MULTILINE | re.DOTALL
)


def read_model(root: Path) -> Model:
    """The schema of the project in `root`, and the settings and limits of the package that is installed."""
    return Model(read_tables((root / SCHEMA).read_text(encoding="utf-8")), read_settings(), read_limits())


def read_tables(schema: str) -> tuple[Table, ...]:
    """Every CREATE TABLE of `schema`, in order. Raises ValueError for a line it does not understand."""
    tables = [_read_table(match, schema) for match in _TABLE.finditer(schema)]
    written = len(re.findall(r"^CREATE TABLE ", schema, re.MULTILINE))
    if len(tables) != written:
        raise ValueError(f"{SCHEMA} has {written} tables, but {len(tables)} could be read: keep to its form")
    return tuple(tables)


def _read_table(match: re.Match[str], schema: str) -> Table:
    key: tuple[str, ...] = ()
    columns: list[Column] = []
    for line in match["body"].splitlines():
        words = line.strip()
        if words.startswith("PRIMARY KEY "):
            key = tuple(name.strip() for name in words.removeprefix("PRIMARY KEY ").strip("(),").split(","))
            continue
        column = _COLUMN.match(words)
        if column is None:
            raise ValueError(f"{SCHEMA}: table {match['name']}: this line is no column: {words}")
        if "PRIMARY KEY" in column["rest"]:
            key = (column["name"],)
        default = re.search(r"DEFAULT (.*)$", column["rest"].strip())
        identity = "GENERATED" in column["rest"]
        columns.append(
            Column(
                name=column["name"],
                type=column["type"],
                nullable="NOT NULL" not in column["rest"] and "PRIMARY KEY" not in column["rest"] and not identity,
                default="generated" if identity else default[1] if default else "",
                meaning=column["meaning"] or "",
            )
        )
    partition = re.search(r"PARTITION BY RANGE \((\w+)\)", match["rest"])
    indexes = [
        f"{i['index']} {' '.join(i['rest'].split())}" for i in _INDEX.finditer(schema) if i["table"] == match["name"]
    ]
    meaning = " ".join(line.removeprefix("-- ") for line in match["meaning"].splitlines())
    return Table(match["name"], meaning, tuple(columns), key, partition[1] if partition else "", tuple(indexes))


def read_settings() -> tuple[Setting, ...]:
    """Every field of Settings, in order."""
    return tuple(
        Setting(PREFIX + name.upper(), _show_default(field.default), _show_values(field), field.description or "")
        for name, field in Settings.model_fields.items()
    )


def _show_default(default: object) -> str:
    if isinstance(default, timedelta):
        return f"{default.days}d" if default == timedelta(days=default.days) else f"{default.total_seconds():.0f}s"
    return "" if default is None or default == () else str(default)


def _show_values(field: FieldInfo) -> str:
    """What a setting may be, as far as its type and limits say it."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(map(str, get_args(field.annotation)))
    bounds = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("ge", "gt", "le", "pattern")
        if hasattr(rule, name)
    }
    shown = [f"{word} {_show_default(bounds[name])}" for name, word in _BOUNDS.items() if bounds.get(name) is not None]
    return " and ".join(shown)


_BOUNDS: Final = {"ge": "at least", "gt": "more than", "le": "at most", "pattern": "of the form"}


_LIMIT: Final = re.compile(r"[A-Z]\w*_(MAX|MIN|S|US|LIMIT|AHEAD|PERIOD|RETENTION|IN_FLIGHT)|WINDOW|SLOTS")
_NO_LIMITS: Final = {"SECOND_US", "MINUTE_US", "HOUR_US", "DAY_US", "POSTGRES_VERSION_MIN"}  # units, a version
_SAMPLE_MODULES: Final = {"demo", "mistakes", "sample", "simulate"}  # theirs shape the sample traffic
_NOQA: Final = re.compile(r"\s*#?\s*noqa: [A-Z]+\d+(, [A-Z]+\d+)* - .*")


def read_limits() -> tuple[Limit, ...]:
    """Every public constant of the package whose name says that it bounds something, by module.

    Read from the text of the modules, which are not imported: rows.py must be writable when they need the new one.
    """
    limits: list[Limit] = []
    for path in sorted(PACKAGE.glob("[a-z]*.py")):
        if path.stem in _SAMPLE_MODULES:
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, node in _constants(path.stem).items():
            if name in _NO_LIMITS or not _LIMIT.fullmatch(name):
                continue
            value = _value_of(path.stem, name)
            if isinstance(value, int | float | Decimal | timedelta):
                meaning = _comment_of(lines, node.lineno - 1, node.end_lineno or node.lineno)
                limits.append(Limit(path.stem, name, show_limit(name, value), meaning))
    return tuple(limits)


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def _constants(module: str) -> dict[str, ast.AnnAssign]:
    return {
        node.target.id: node
        for node in _tree(module).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _value_of(module: str, name: str) -> object:
    """The value of a constant, which may be made of others, here or imported. Raises ValueError when it cannot be."""
    if name in _BUILDERS:
        return _BUILDERS[name]
    node = _constants(module).get(name)
    if node is not None and node.value is not None:
        used = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
        names = {each: _value_of(module, each) for each in used}
        code = compile(ast.Expression(node.value), module, "eval")
        return eval(code, {"__builtins__": {}}, names)  # noqa: S307 - an expression of our own source
    for part in _tree(module).body:
        if isinstance(part, ast.ImportFrom) and (part.module or "").startswith("anlyt."):
            for alias in part.names:
                if name == (alias.asname or alias.name):
                    return _value_of((part.module or "").removeprefix("anlyt."), alias.name)
    raise ValueError(f"{module}.py: the value of {name} cannot be told from its text: make it of numbers and constants")


_BUILDERS: Final[Mapping[str, object]] = {"timedelta": timedelta, "Decimal": Decimal}


def _comment_of(lines: Sequence[str], first: int, behind: int) -> str:
    """What stands beside a constant; if nothing does, the comment above it."""
    beside = [_NOQA.sub("", line.partition("#")[2]).strip() for line in lines[first:behind] if "#" in line]
    above = first
    while above and lines[above - 1].startswith("# ") and not lines[above - 1].startswith("# -"):
        above -= 1
    words = [word for word in beside if word] or [line.removeprefix("# ") for line in lines[above:first]]
    return " ".join(words)


def show_limit(name: str, value: float | Decimal | timedelta) -> str:
    """A value with the unit its name ends in: BYTES_MAX, _S, _US; a timedelta has its own."""
    if isinstance(value, timedelta):
        return format_duration(value)
    if name.endswith(("_US", "_S")):
        unit = timedelta(microseconds=1) if name.endswith("_US") else timedelta(seconds=1)
        return format_duration(float(value) * unit)
    if "BYTES" in name.split("_"):
        size, unit = next((size, unit) for size, unit in _SIZES if value % size == 0)
        return f"{value / size:,.0f} {unit}"
    return f"{value:,}"


_SIZES: Final = ((2**20, "MiB"), (2**10, "KiB"), (1, "bytes"))


# ---------------------------------------------------------------------------------------------------------------- out


def write_rows(model: Model) -> str:
    """rows.py: a record for each table."""
    head = '''\
"""One frozen record for each table of the schema, column for column. GENERATED by `make gen`: change sql/schema.sql.

In: nothing. Out: types; a row read from PostgreSQL in the table's own column order makes one. NUMERIC is Decimal, UUID
is str in lower case, JSON is its text, TIMESTAMPTZ an aware datetime, an array a tuple.
"""

# ruff: noqa: TC003 - the annotations are read at run time

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from msgspec import Struct
'''
    return "\n\n".join([head, *("\n".join(_write_record(table)) + "\n" for table in model.tables)])


def _write_record(table: Table) -> list[str]:
    first, _, rest = table.meaning.partition(". ")
    paragraphs = [rest] if rest else []
    attributes = [f"{column.name}: {column.meaning}" for column in table.columns if column.meaning]
    lines = [f"class {record_name(table)}(Struct, frozen=True):"]
    doc = [f"{first.removesuffix('.')}."]
    for paragraph in paragraphs:
        doc += ["", *textwrap.wrap(paragraph, LINE_LENGTH - 4)]
    if attributes:
        doc += ["", "Attributes:"]
        for attribute in attributes:
            doc += textwrap.wrap(attribute, LINE_LENGTH - 4, initial_indent="    ", subsequent_indent="        ")
    closing = ['    """'] if len(doc) > 1 else []
    lines += [
        f'    """{doc[0]}' + ("" if closing else '"""'),
        *(f"    {line}".rstrip() for line in doc[1:]),
        *closing,
        "",
    ]
    return lines + [f"    {column.name}: {python_type(column)}" for column in table.columns]


def record_name(table: Table) -> str:
    """metrics_hourly as MetricsHourly."""
    return "".join(word.title() for word in table.name.split("_"))


def python_type(column: Column) -> str:
    """The type of a column's values in rows.py."""
    base = PYTHON_TYPES[re.match(r"[A-Z0-9]+", column.type)[0]]  # pyright: ignore[reportOptionalSubscript] - _COLUMN saw to it
    shown = f"tuple[{base}, ...]" if column.type.endswith("[]") else base
    return f"{shown} | None" if column.nullable else shown


def write_schema_reference(model: Model) -> str:
    """docs/reference/schema.md: every table and column."""
    parts = [
        "# Schema",
        "Generated by `make gen` from `src/anlyt/sql/schema.sql`, the definition. All tables are in schema `anlyt`.",
    ]
    for table in model.tables:
        rows = [
            [f"`{c.name}`", f"`{c.type}`", "yes" if c.nullable else "no", _code(c.default), c.meaning]
            for c in table.columns
        ]
        parts += [f"## {table.name}", table.meaning]
        parts.append(_markdown_table(["column", "type", "null", "default", "meaning"], rows))
        facts = [f"Primary key: {', '.join(map(_code, table.primary_key))}."]
        facts += [f"Partitions: one a month of {_code(table.partition_key)}."] if table.partition_key else []
        facts += [f"Index: {_code(index)}." for index in table.indexes]
        parts.append("  \n".join(facts))
    return "\n\n".join(parts) + "\n"


def write_settings_reference(model: Model) -> str:
    """docs/reference/settings.md: every setting."""
    rows = [[f"`{s.variable}`", _code(s.default), _code_pattern(s.values), s.meaning] for s in model.settings]
    text = """\
        # Settings

        Generated by `make gen` from `src/anlyt/settings.py`.

        A flag wins over the environment, the environment over the TOML file that `--config` or `ANLYT_CONFIG` names,
        the file over the default. In the file a setting is written without `ANLYT_` and in lower case; as a flag it is
        `--set name=value`. A time is a number and a unit: `90s`, `15m`, `48h`, `7d`. A list is separated by commas. An
        unknown name, or a value that is not allowed, ends the command with exit code 3 before anything starts. An empty
        variable counts as not set.
        """
    return textwrap.dedent(text) + "\n" + _markdown_table(["variable", "default", "values", "meaning"], rows) + "\n"


def write_limits_reference(model: Model) -> str:
    """docs/reference/limits.md: every limit, by module."""
    about = (
        "Generated by `make gen` from the constants in `src/anlyt/*.py`. Everything that could grow has one of these; "
        "what happens at the ones people meet stands in [architecture](../architecture.md#limits)."
    )
    parts = ["# Limits", about]
    for module in dict.fromkeys(limit.module for limit in model.limits):
        rows = [[f"`{each.name}`", each.value, each.meaning] for each in model.limits if each.module == module]
        parts += [f"## {module}.py", _markdown_table(["constant", "value", "remark"], rows)]
    return "\n\n".join(parts) + "\n"


def write_telemetry_reference(_model: Model) -> str:
    """docs/reference/telemetry.md: every metric and every log event."""
    metrics = [
        [f"`{name}`", metric.kind, ", ".join(map(_code, metric.labels)), metric.meaning]
        for name, metric in METRICS.items()
    ]
    events = [[f"`{name}`", meaning] for name, meaning in LOG_EVENTS.items()]
    parts = [
        "# Metrics and log events",
        "Generated by `make gen` from `src/anlyt/telemetry.py`. No metric carries the id of an account or operator.",
        "## Metrics",
        _markdown_table(["metric", "type", "labels", "meaning"], metrics),
        "## Log events",
        "One event a line on stderr: key=value on a terminal, JSON otherwise (`ANLYT_LOG_FORMAT`).",
        _markdown_table(["event", "meaning"], events),
    ]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _code_pattern(values: str) -> str:
    words, form, pattern = values.partition("of the form ")
    return f"{words}{form}`{pattern}`" if form else values


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_commands_reference(_model: Model) -> str:
    """docs/reference/commands.md: every command with its options and examples, as --help has them."""
    about = (
        "Generated by `make gen` from the help of the commands. Every command takes `--help`. Data goes to stdout, "
        "talk to stderr. Exit codes: 0 ok, 1 failure, 2 usage, 3 configuration, 4 a dependency cannot be reached, "
        "5 a check found a difference, 130 stopped by Ctrl-C before the end."
    )
    command = typer.main.get_command(cli.app)
    parts = [
        "# Commands",
        about,
        "## anlyt",
        "Options of every command; they stand before its name.",
        _options(command),
    ]
    for path, each in _walk(command, ()):
        text, examples = _split_help(each.help or "")
        parts += [f"## anlyt {' '.join(path)}", text, "```sh\n" + "\n".join(examples) + "\n```", _options(each)]
    return "\n\n".join(parts) + "\n"


def _walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401 - typer's own
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from _walk(child, (*path, name))
        else:
            yield (*path, name), child


def _split_help(text: str) -> tuple[str, list[str]]:
    """What a command does, and its examples."""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    examples = [part.removeprefix("Example: ") for part in paragraphs if part.startswith("Example: ")]
    return "\n\n".join(part for part in paragraphs if not part.startswith("Example: ")), examples


def _options(command: Any) -> str:  # noqa: ANN401 - typer's own
    rows: list[list[str]] = []
    for parameter in command.params:
        if parameter.name in {"help", "install_completion", "show_completion"}:
            continue
        value = "" if getattr(parameter, "is_flag", False) else parameter.metavar or ""
        names = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
        default = "" if parameter.default in {None, False} or callable(parameter.default) else f"{parameter.default}"
        shown = ", ".join(f"`{name}`" for name in names) + (" (required)" if parameter.required else "")
        rows.append([shown, value if parameter.param_type_name == "option" else "", default, parameter.help or ""])
    return _markdown_table(["option", "value", "default", "meaning"], rows)


OUTPUTS: Final[Mapping[str, Callable[[Model], str]]] = {
    "src/anlyt/rows.py": write_rows,
    "clients/typescript/src/rows.ts": lambda model: typescript.write_rows(model.tables),
    "docs/reference/schema.md": write_schema_reference,
    "docs/reference/settings.md": write_settings_reference,
    "docs/reference/limits.md": write_limits_reference,
    "docs/reference/telemetry.md": write_telemetry_reference,
    "docs/reference/commands.md": write_commands_reference,
}


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Write the outputs; with --check print how they differ from what is there. The exit code."""
    model = read_model(root)
    outputs = {name: write(model) for name, write in OUTPUTS.items()} | write_statements(model.tables)
    return write_outputs(outputs, arguments, root)


def write_outputs(outputs: Mapping[str, str], arguments: Sequence[str], root: Path) -> int:
    """Write files, or with --check print how they differ from what is there. The exit code."""
    if list(arguments) not in ([], ["--check"]):
        print(f"usage: python {sys.argv[0]} [--check]", file=sys.stderr)
        return 2
    differences = 0
    for name, wanted in outputs.items():
        path = root / name
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            continue
        differences += 1
        if arguments:
            diff = difflib.unified_diff(
                found.splitlines(), wanted.splitlines(), f"{name} (there)", f"{name} (made)", lineterm=""
            )
            print("\n".join(diff))
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote {name}")
    if arguments and differences:
        print(f"{differences} generated files differ from what they are made of; run make gen", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
