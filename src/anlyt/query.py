"""`anlyt query`: the rows the API answers, read straight from PostgreSQL by whoever may connect to it.

In: parameters with the API's names. Out: the API's own answer, as JSON, CSV or a table. Whoever holds the database's
password sees the platform, so the Grant is PLATFORM's.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from anlyt import reports
from anlyt.access import make_grant
from anlyt.errors import RequestError, UsageError
from anlyt.postgres import session
from anlyt.queries import REPORTS, ReportName, read_query
from anlyt.terminal import print_csv, print_table

if TYPE_CHECKING:
    from anlyt.settings import Settings

_NARROW = (
    "latencySumMs",
    "latencySampleCount",
    "updatedAt",
    "pendingMessages",
)  # left out of tables, in --json and --csv


async def ask(settings: Settings, name: ReportName, pairs: list[tuple[str, str]], ids: list[str]) -> dict[str, Any]:
    """The API's answer to these parameters. Raises UsageError for one that is wrong."""
    assert settings.database_url is not None
    grant = make_grant("PLATFORM", [], ["metrics:read"])
    asked = [*pairs, *((REPORTS[name].id_parameter, value) for value in ids)]
    try:
        query = read_query(name, asked, grant=grant, now=datetime.now(UTC))
        async with session(settings.database_url.get_secret_value(), application="anlyt-query") as conn:
            page = await reports.read_page(conn, grant, query, settings=settings)
    except RequestError as error:
        raise UsageError(str(error)) from None
    answer: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(page))
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
        print_table([{name: value for name, value in row.items() if name not in _NARROW} for row in rows])
    meta = answer["meta"]
    through = meta["completeThrough"] or "unknown: nothing has been counted yet"
    sys.stderr.write(f"complete through {through}; {len(rows)} rows from {meta['from']} to {meta['to']}\n")
    if answer["next"]:
        sys.stderr.write(f"there are more: --cursor {answer['next']}\n")
