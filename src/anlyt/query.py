"""`anlyt query`: the rows the API answers, read straight from PostgreSQL by whoever may connect to it.

In: parameters with the API's names. Out: the API's own answer, as JSON, CSV or a table. Whoever holds the database's
password sees the platform, so the Grant is PLATFORM's.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from anlyt import reports, summaries
from anlyt.access import make_grant
from anlyt.errors import RequestError, UsageError
from anlyt.postgres import session
from anlyt.queries import REPORTS, ReportName, read_query, read_summary
from anlyt.talk import say
from anlyt.terminal import print_csv, print_table

if TYPE_CHECKING:
    from anlyt.clickhouse import ClickHouse
    from anlyt.settings import Settings

_NARROW: Final = frozenset({"latencySumMs", "latencySampleCount", "updatedAt", "pendingMessages"})  # not in tables
_NARROW_SUMS: Final = _NARROW | {"scope", "end", "latencyP50Ms", "latencyP90Ms", "latencyP99Ms", "previous"}
_FIRST: Final = (  # of a table's columns, when there is not room for all
    *(
        "hourBucket",
        "dayBucket",
        "start",
        "scope",
        "scopeId",
        "operatorId",
        "accountId",
        "totalMessages",
        "messagesSent",
    ),
    *(
        "change",
        "deliveryRate",
        "latencyP95Ms",
        "failedMessages",
        "messagesFailed",
        "errorCount",
        "totalCost",
        "peakTps",
    ),
)
_VOLUMES: Final = ("totalMessages", "messagesSent")


async def ask(
    settings: Settings,
    name: ReportName,
    pairs: list[tuple[str, str]],
    ids: list[str],
    *,
    clickhouse: ClickHouse | None = None,
) -> dict[str, Any]:
    """The API's answer to these parameters. Raises UsageError for one that is wrong."""
    assert settings.database_url is not None
    grant = make_grant("PLATFORM", [], ["metrics:read"])
    asked = [*pairs, *((REPORTS[name].id_parameter, value) for value in ids)]
    try:
        query = read_query(name, asked, grant=grant, now=datetime.now(UTC))
        async with session(settings.database_url.get_secret_value(), application="anlyt-query") as conn:
            page = await reports.read_page(conn, grant, query, settings=settings, clickhouse=clickhouse)
    except RequestError as error:
        raise UsageError(str(error)) from None
    answer: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(page))
    return answer


async def ask_summary(
    settings: Settings, pairs: list[tuple[str, str]], *, clickhouse: ClickHouse | None = None
) -> dict[str, Any]:
    """The API's sums for these parameters. Raises UsageError for one that is wrong."""
    assert settings.database_url is not None
    grant = make_grant("PLATFORM", [], ["metrics:read"])
    try:
        query = read_summary(pairs, grant=grant, now=datetime.now(UTC))
        async with session(settings.database_url.get_secret_value(), application="anlyt-query") as conn:
            summary = await summaries.read_summary(conn, grant, query, settings=settings, clickhouse=clickhouse)
    except RequestError as error:
        raise UsageError(str(error)) from None
    answer: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(summary))
    return answer


def show(answer: dict[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """The answer on stdout, and on stderr how fresh it is and whether there is more."""
    rows = answer["data"]
    if as_json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    if as_csv:
        print_csv(rows, list(rows[0]) if rows else [])
    else:
        names = _columns(rows)
        print_table(rows, names=names, bars_of=next((name for name in _VOLUMES if name in names), None))
    _say_fresh(answer["meta"], "1 row" if len(rows) == 1 else f"{len(rows)} rows")
    if answer["next"]:
        say(f"there are more: --cursor {answer['next']}")


def show_summary(answer: dict[str, Any], *, as_json: bool, as_csv: bool) -> None:
    """Sums on stdout, and on stderr how fresh they are and whether there are more groups."""
    rows, meta = answer["data"], answer["meta"]
    if as_json:
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        return
    if as_csv:
        flat = [_flatten(row) for row in rows]
        print_csv(flat, list(flat[0]) if flat else [])
    else:
        shown = [_sums_shown(row, meta["groupBy"]) for row in rows]
        print_table(shown, names=_important_first(list(shown[0])) if shown else None, bars_of="totalMessages")
    more = f" of {meta['groups']}" if meta["groups"] > len(rows) else ""
    _say_fresh(meta, "1 row" if len(rows) == 1 and not more else f"{len(rows)}{more} rows")


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """The columns of a table, the important ones first; without those that say nothing here."""
    if not rows:
        return []
    silent = {name for name in ("avgLatencyMs",) if all(row[name] is None for row in rows)}
    silent |= {"scope"} if len({row.get("scope") for row in rows}) == 1 else set()
    names = [name for name in rows[0] if name not in _NARROW | silent]
    return _important_first(names)


def _important_first(names: list[str]) -> list[str]:
    return [name for name in _FIRST if name in names] + [name for name in names if name not in _FIRST]


def _sums_shown(row: dict[str, Any], group_by: str) -> dict[str, Any]:
    """The columns of a table: without what is the same in each row, and with the change against the period before."""
    left_out = {*_NARROW_SUMS, "start" if group_by in {"none", "scopeId"} else "scopeId"}
    if row["scope"] != "OPERATOR":
        left_out.add("latencyP95Ms")
    shown = {name: value for name, value in row.items() if name not in left_out}
    if "previous" in row:
        before = row["previous"]["totalMessages"]
        shown["change"] = f"{(row['totalMessages'] - before) / before * 100:+.1f} %" if before else None
    return shown


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    """The sums of the period before as columns of their own: previousTotalMessages."""
    before = row.get("previous", {})
    flat = {name: value for name, value in row.items() if name != "previous"}
    return flat | {f"previous{name[0].upper()}{name[1:]}": value for name, value in before.items()}


def _say_fresh(meta: dict[str, Any], what: str) -> None:
    through = meta["completeThrough"] or "unknown: nothing has been counted yet"
    say(f"complete through {_shown(through)}; {what} from {_shown(meta['from'])} to {_shown(meta['to'])}")


def _shown(instant: str) -> str:
    """An instant of the API, to the second."""
    return re.sub(r"^(\S+)T(\d\d:\d\d:\d\d)(\.\d+)?Z$", r"\1 \2 UTC", instant)
