"""What a reader asks for: parameters become a checked Query, and a place in it a cursor. Pure; `now` is an argument.

In: name and value pairs of a request or a command line. Out: a Query, or RequestError that names the parameter, the
value and what was expected; nothing is guessed, and an unknown or repeated parameter is never ignored.
A row belongs to the period its bucket starts in: `from` inclusive, `to` exclusive. A cursor holds the period of the
first page and the last row's key, so that pages of `-24h` fit together however long the reader takes; it is bound to
the question and to the caller's Grant.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Struct

from anlyt.access import PLATFORM_ID, SCOPES, Grant, Scope, read_uuid, spot_credential
from anlyt.errors import RequestError
from anlyt.events import REASONS
from anlyt.periods import GroupBy, Span, cut, read_zone
from anlyt.telemetry import blot

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ReportName = Literal["hourly", "daily", "operators", "accounts"]
Sort = Literal[
    "totalMessages",
    "deliveredMessages",
    "failedMessages",
    "pendingMessages",
    "totalCost",
    "peakTps",
    "deliveryRate",
    "errorRate",
    "avgLatencyMs",
]
Order = Literal["desc", "asc"]
Format = Literal["json", "csv", "ndjson", "parquet"]

GROUPINGS: Final[tuple[GroupBy, ...]] = get_args(GroupBy)
SORTS: Final[tuple[Sort, ...]] = get_args(Sort)
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
LETTER_STATES: Final = ("open", "counted", "duplicate", "ignored", "discarded", "all")
LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
IDS_MAX: Final = 100  # ids one request may name
VALUE_CHARS_MAX: Final = 512  # of one parameter; a cursor is shorter
SHOWN_CHARS_MAX: Final = 60  # of an offending value, in the error's sentence
YEAR_MIN: Final = 2000
YEAR_MAX: Final = 2199  # the last year that may be asked for; a driver or a client may not know later ones
RELATIVE_MAX: Final = timedelta(days=36_500)

Choice = TypeVar("Choice")
_RELATIVE: Final = re.compile(r"-([0-9]{1,6})([mhdw])")
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_TAG_BYTES: Final = 16
_UUID_FORM: Final = "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_TIME_FORM: Final = (
    "^(now|-[0-9]{1,6}[mhdw]|[0-9]{4}-[0-9]{2}-[0-9]{2}"
    r"([Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:?[0-9]{2}))?)$"
)


class Parameter(Struct, frozen=True):
    """One parameter: what it means, for the reader and for OpenAPI."""

    meaning: str
    schema: dict[str, object]
    repeatable: bool = False


class Report(Struct, frozen=True):
    """One of the four tables as readers know it."""

    path: str
    meaning: str
    id_parameter: str
    bucket: timedelta
    scope: Scope | None  # the only scope of its rows; None: all three
    period_default: timedelta
    period_max: timedelta  # of one question; ask again for more


PARAMETERS: Final[Mapping[str, Parameter]] = {
    "scope": Parameter("Only rows of this scope.", {"type": "string", "enum": list(SCOPES)}),
    "scopeId": Parameter(
        "Only rows of this operator or account (a UUID, any case), or of `platform`. Repeatable.",
        {"type": "string", "pattern": rf"^({PLATFORM_ID}|{_UUID_FORM})$", "examples": [PLATFORM_ID]},
        repeatable=True,
    ),
    "operatorId": Parameter(
        "Only rows of this operator. Repeatable.",
        {"type": "string", "format": "uuid", "pattern": f"^{_UUID_FORM}$"},
        repeatable=True,
    ),
    "accountId": Parameter(
        "Only rows of this account. Repeatable.",
        {"type": "string", "format": "uuid", "pattern": f"^{_UUID_FORM}$"},
        repeatable=True,
    ),
    "from": Parameter(
        "First instant of the period, inclusive: RFC 3339 with an offset, a date (UTC), `now`, or relative like `-24h` "
        "or `-30d` (units m, h, d, w).",
        {"type": "string", "pattern": _TIME_FORM, "examples": ["-24h", "2026-04-18T00:00:00Z"]},
    ),
    "to": Parameter(
        "End of the period, exclusive; written like `from`.",
        {"type": "string", "pattern": _TIME_FORM, "default": "now"},
    ),
    "limit": Parameter(
        "Rows of one page.", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
    ),
    "format": Parameter(
        "`json` is one page; the others stream the whole period, without `limit` and `cursor`.",
        {"type": "string", "enum": list(FORMATS), "default": FORMATS[0]},
    ),
    "reason": Parameter("Only dead letters with this reason.", {"type": "string", "enum": list(REASONS)}),
    "state": Parameter(
        "Only dead letters in this state: still open, or what became of them; `all` of both.",
        {"type": "string", "enum": list(LETTER_STATES), "default": LETTER_STATES[0]},
    ),
    "groupBy": Parameter(
        "One row for the whole period, for each operator or account (`scopeId`), or for each hour, day or month.",
        {"type": "string", "enum": list(GROUPINGS), "default": "none"},
    ),
    "timezone": Parameter(
        "IANA name of the zone whose days or months are summed; its clocks must differ from UTC by whole hours.",
        {"type": "string", "default": "UTC", "examples": ["Europe/Berlin"]},
    ),
    "sort": Parameter(
        "With `groupBy=scopeId`: the value that decides the order; rows without one come last.",
        {"type": "string", "enum": list(SORTS), "default": SORTS[0]},
    ),
    "order": Parameter(
        "With `groupBy=scopeId`: largest first or smallest first.",
        {"type": "string", "enum": list(ORDERS), "default": ORDERS[0]},
    ),
    "compare": Parameter(
        "With `groupBy` none or scopeId: `previous` adds the sums of the period of the same length before this one.",
        {"type": "string", "enum": ["previous"]},
    ),
    "cursor": Parameter(
        "`next` of the page before; the other parameters stay as they were.",
        {"type": "string", "minLength": 1, "maxLength": VALUE_CHARS_MAX},
    ),
}

SUMMARY_PARAMETERS: Final = (
    "scope",
    "scopeId",
    "from",
    "to",
    "groupBy",
    "timezone",
    "sort",
    "order",
    "limit",
    "compare",
)
LIVE_PARAMETERS: Final = ("scope", "scopeId")
LETTERS_PARAMETERS: Final = ("reason", "state", "limit", "cursor")
SUMMARY_DEFAULT: Final = timedelta(hours=24)
SUMMARY_MAX: Final = timedelta(days=366)
_HOURLY_MAX: Final = timedelta(days=100)  # hot retention of the hourly tables is 90 days
_DAILY_MAX: Final = timedelta(days=3_660)
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_HOURLY: Final = (timedelta(hours=24), _HOURLY_MAX)
_DAILY: Final = (timedelta(days=30), _DAILY_MAX)

REPORTS: Final[Mapping[ReportName, Report]] = {
    "hourly": Report("/v1/metrics/hourly", "Hourly roll-ups of every scope.", "scopeId", _HOUR, None, *_HOURLY),
    "daily": Report("/v1/metrics/daily", "Daily (UTC) roll-ups of every scope.", "scopeId", _DAY, None, *_DAILY),
    "operators": Report(
        "/v1/operators/performance", "Hourly performance of operators.", "operatorId", _HOUR, "OPERATOR", *_HOURLY
    ),
    "accounts": Report(
        "/v1/accounts/usage", "Daily (UTC) usage and cost of accounts.", "accountId", _DAY, "ACCOUNT", *_DAILY
    ),
}


class Key(Struct, frozen=True, array_like=True):
    """The place of a row: bucket, scope, id. Rows are returned in ascending order of it, which is the primary key's."""

    bucket: datetime
    scope: str
    scope_id: str


class Query(Struct, frozen=True):
    """A checked question. `ids` None: all; `after` None: from the beginning of the period."""

    name: ReportName
    scope: Scope | None
    ids: tuple[str, ...] | None
    start: datetime
    end: datetime
    limit: int
    after: Key | None
    context: bytes  # what a cursor of this question is bound to
    format: Format = "json"

    @property
    def report(self) -> Report:
        """The table that is asked."""
        return REPORTS[self.name]


class SummaryQuery(Struct, frozen=True):
    """A checked question for sums. `ids` None: all; `compare`: beside those of the period before."""

    scope: Scope
    ids: tuple[str, ...] | None
    start: datetime
    end: datetime
    group_by: GroupBy
    spans: tuple[Span, ...]
    sort: Sort
    order: Order
    limit: int
    compare: bool


class LettersQuery(Struct, frozen=True):
    """A checked question for dead letters. `reason` None: any; `cursor` is read by whoever wrote it."""

    reason: str | None
    state: str
    limit: int
    cursor: str | None


def parameter_names(name: ReportName) -> tuple[str, ...]:
    """The parameters a report takes."""
    scope = ("scope",) if REPORTS[name].scope is None else ()
    return (*scope, REPORTS[name].id_parameter, "from", "to", "limit", "cursor", "format")


def read_query(name: ReportName, pairs: Sequence[tuple[str, str]], *, grant: Grant, now: datetime) -> Query:
    """Check every parameter of a request. Raises RequestError: 422, or 400 for a cursor that does not fit."""
    report = REPORTS[name]
    given = _collect(pairs, parameter_names(name))
    wanted: Format = _read_choice("format", given, FORMATS)
    for parameter in ("limit", "cursor"):
        if wanted != "json" and parameter in given:
            raise _invalid(parameter, given[parameter][0], f"is not taken with format={wanted}, which has all rows")
    scope = _read_scope(given.get("scope"), report)
    context = _context(name, given, grant)
    if "cursor" in given:
        start, end, after = _read_cursor(given["cursor"][0], context, report)
    else:
        start, end = _read_period(given, now, default=report.period_default, longest=report.period_max)
        after = None
    return Query(
        name=name,
        scope=scope,
        ids=_read_ids(report.id_parameter, given.get(report.id_parameter), scope),
        start=start,
        end=end,
        limit=_read_limit(given.get("limit", [str(LIMIT_DEFAULT)])[0]),
        after=after,
        context=context,
        format=wanted,
    )


def write_cursor(query: Query, last: Key) -> str:
    """The cursor of the page behind the row `last`."""
    place = (_to_us(query.start), _to_us(query.end), _to_us(last.bucket), last.scope, last.scope_id)
    body = msgspec.json.encode(place)
    return base64.urlsafe_b64encode(_tag(query.context, body) + body).decode("ascii").rstrip("=")


# ------------------------------------------------------------------------------------------------------------ summary


def read_summary(pairs: Sequence[tuple[str, str]], *, grant: Grant, now: datetime) -> SummaryQuery:
    """Check every parameter of a question for sums. Raises RequestError 422."""
    given = _collect(pairs, SUMMARY_PARAMETERS)
    group_by: GroupBy = _read_choice("groupBy", given, GROUPINGS)
    _refuse_beside(given, ("sort", "order", "limit"), group_by, ("scopeId",))
    _refuse_beside(given, ("timezone",), group_by, ("day", "month"))
    _refuse_beside(given, ("compare",), group_by, ("none", "scopeId"))
    scope: Scope = _read_choice("scope", given, SCOPES) if "scope" in given else grant.scope
    ids = _read_ids("scopeId", given.get("scopeId"), scope)
    if scope == "PLATFORM" and ids is not None and ids != (PLATFORM_ID,):
        raise _invalid("scope", given.get("scope", ["not given"])[0], "must be OPERATOR or ACCOUNT when ids are asked")
    start, end = _read_period(given, now, default=SUMMARY_DEFAULT, longest=SUMMARY_MAX)
    zone_name = given.get("timezone", ["UTC"])[0]
    zone = read_zone(zone_name)
    if zone is None:
        raise _invalid("timezone", zone_name, "must be the IANA name of a time zone, like Europe/Berlin or UTC")
    return SummaryQuery(
        scope=scope,
        ids=ids,
        start=start,
        end=end,
        group_by=group_by,
        spans=tuple(cut(start, end, group_by, zone)),
        sort=_read_choice("sort", given, SORTS),
        order=_read_choice("order", given, ORDERS),
        limit=_read_limit(given.get("limit", [str(LIMIT_DEFAULT)])[0]),
        compare="compare" in given and _read_choice("compare", given, ("previous",)) == "previous",
    )


def read_letters_query(pairs: Sequence[tuple[str, str]]) -> LettersQuery:
    """Check the parameters of a question for dead letters. Raises RequestError 422."""
    given = _collect(pairs, LETTERS_PARAMETERS)
    return LettersQuery(
        reason=_read_choice("reason", given, REASONS) if "reason" in given else None,
        state=_read_choice("state", given, LETTER_STATES),
        limit=_read_limit(given.get("limit", [str(LIMIT_DEFAULT)])[0]),
        cursor=given["cursor"][0] if "cursor" in given else None,
    )


def read_live_query(pairs: Sequence[tuple[str, str]]) -> tuple[Scope | None, tuple[str, ...] | None]:
    """The scope and the ids a live reader asks for, None for any. Raises RequestError 422."""
    given = _collect(pairs, LIVE_PARAMETERS)
    scope: Scope | None = _read_choice("scope", given, SCOPES) if "scope" in given else None
    return scope, _read_ids("scopeId", given.get("scopeId"), scope)


def _read_choice(parameter: str, given: Mapping[str, list[str]], choices: tuple[Choice, ...]) -> Choice:
    """One of a closed set; the first of it when nothing is given."""
    text = given[parameter][0] if parameter in given else str(choices[0])
    for choice in choices:
        if choice == text:
            return choice
    raise _invalid(parameter, text, f"must be one of {', '.join(map(str, choices))}")


def _refuse_beside(
    given: Mapping[str, list[str]], parameters: tuple[str, ...], group_by: GroupBy, wanted: tuple[GroupBy, ...]
) -> None:
    for parameter in parameters:
        if parameter in given and group_by not in wanted:
            raise _invalid(
                parameter, given[parameter][0], f"is taken with groupBy={' or '.join(wanted)} only, not {group_by}"
            )


# ---------------------------------------------------------------------------------------------------------- parameters


def _collect(pairs: Iterable[tuple[str, str]], known: tuple[str, ...]) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in known:
            raise RequestError(
                f"{_shown(name)} is not a parameter of this route; {_hint(name, value)}it takes {', '.join(known)}",
                status=422,
                code="unknown-parameter",
                parameter=blot(name)[:SHOWN_CHARS_MAX],
            )
        if name in given and not PARAMETERS[name].repeatable:
            raise RequestError(
                f"{name} is given more than once, but takes one value",
                status=422,
                code="repeated-parameter",
                parameter=name,
            )
        if len(value) > VALUE_CHARS_MAX:
            raise _invalid(name, value, f"must be at most {VALUE_CHARS_MAX} characters long")
        given.setdefault(name, []).append(value)
    return given


def refuse_parameters(pairs: Sequence[tuple[str, str]]) -> None:
    """Raise the 422 of a route that takes no parameters."""
    if pairs:
        raise RequestError(
            f"{_shown(pairs[0][0])} is not a parameter of this route; {_hint(*pairs[0])}it takes none",
            status=422,
            code="unknown-parameter",
            parameter=blot(pairs[0][0])[:SHOWN_CHARS_MAX],
        )


def _hint(name: str, value: str) -> str:
    """What to do for somebody who sends a key as a parameter."""
    if spot_credential(value) is None and name.lower() not in _KEY_NAMES:
        return ""
    return "a key belongs into the header Authorization, and one that stood in an address should be revoked; "


_KEY_NAMES: Final = frozenset({"key", "api_key", "apikey", "token", "access_token", "authorization"})


def _read_scope(values: list[str] | None, report: Report) -> Scope | None:
    if values is None:
        return report.scope
    if values[0] not in SCOPES:
        raise _invalid("scope", values[0], f"must be one of {', '.join(SCOPES)}")
    return values[0]


def _read_ids(parameter: str, values: list[str] | None, scope: Scope | None) -> tuple[str, ...] | None:
    if values is None:
        return None
    if len(values) > IDS_MAX:
        raise RequestError(
            f"{parameter} is given {len(values)} times, but at most {IDS_MAX} ids can be asked at once",
            status=422,
            code="invalid-parameter",
            parameter=parameter,
        )
    ids: set[str] = set()
    for value in values:
        known = read_uuid(value)
        if known is None and parameter == "scopeId" and scope in {None, "PLATFORM"} and value == PLATFORM_ID:
            known = value
        if known is None:
            raise _invalid(parameter, value, "must be a UUID" + (" or platform" if parameter == "scopeId" else ""))
        ids.add(known)
    return tuple(sorted(ids))


def _read_limit(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text) or int(text) > LIMIT_MAX:
        raise _invalid("limit", text, f"must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def _read_time(parameter: str, text: str, now: datetime) -> datetime:
    moment = read_time(text, now)
    if moment is None or not YEAR_MIN <= moment.year <= YEAR_MAX:
        hint = " (a + in an address is written %2B)" if re.search(r"\d \d\d:\d\d$", text) else ""
        expected = "must be a time like 2026-04-18T10:00:00Z with an offset, a date, now, or relative like -24h or -30d"
        raise _invalid(parameter, text, f"{expected}, in the years {YEAR_MIN} to {YEAR_MAX}{hint}")
    return moment


def read_time(text: str, now: datetime) -> datetime | None:
    """An absolute or relative time as an aware UTC instant; None when the text is not one."""
    if text == "now":
        return now
    relative = _RELATIVE.fullmatch(text)
    if relative is not None:
        distance = timedelta(**{_UNITS[relative[2]]: int(relative[1])})
        return now - distance if distance <= RELATIVE_MAX else None
    if _DATE.fullmatch(text):
        text += "T00:00:00Z"
    try:
        moment = msgspec.convert(text, datetime)
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (msgspec.ValidationError, OverflowError):
        return None


def _read_period(
    given: Mapping[str, list[str]], now: datetime, *, default: timedelta, longest: timedelta
) -> tuple[datetime, datetime]:
    end = _read_time("to", given["to"][0], now) if "to" in given else now
    start = _read_time("from", given["from"][0], now) if "from" in given else end - default
    if start >= end:
        raise _invalid("from", _format(start), f"must be before `to`, which is {_format(end)}")
    if end - start > longest:
        raise RequestError(
            f"the period from {_format(start)} to {_format(end)} is longer than {longest.days} days; "
            "ask for it in parts",
            status=422,
            code="period-too-long",
            parameter="from",
        )
    return start, end


def _invalid(parameter: str, value: str, expected: str) -> RequestError:
    return RequestError(
        f"{parameter} is {_shown(value)}, but {expected}", status=422, code="invalid-parameter", parameter=parameter
    )


def _shown(value: str) -> str:
    value = blot(value)
    return repr(value if len(value) <= SHOWN_CHARS_MAX else value[:SHOWN_CHARS_MAX] + "...")


def _format(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


# ------------------------------------------------------------------------------------------------------------- cursors


def _context(name: ReportName, given: Mapping[str, list[str]], grant: Grant) -> bytes:
    """What a page and the pages behind it have in common: the question as it was asked, and who asks."""
    asked = sorted((parameter, sorted(values)) for parameter, values in given.items() if parameter not in _OF_ONE_PAGE)
    return msgspec.json.encode((name, asked, grant.scope, sorted(grant.scope_ids)))


_OF_ONE_PAGE: Final = frozenset({"limit", "cursor", "format"})


def _tag(context: bytes, body: bytes) -> bytes:
    return hashlib.sha256(b"%d:%b%b" % (len(context), context, body)).digest()[:_TAG_BYTES]


def _read_cursor(text: str, context: bytes, report: Report) -> tuple[datetime, datetime, Key]:
    """The period and the place a cursor stands for.

    The tag finds damage and mix-ups. What may be seen is decided by the Grant alone, so a cursor that somebody computes
    himself shows nothing more; its values are checked like any parameter.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        start_us, end_us, bucket_us, scope, scope_id = msgspec.json.decode(
            raw[_TAG_BYTES:], type=tuple[int, int, int, str, str]
        )
        start, end, bucket = (_EPOCH + timedelta(microseconds=us) for us in (start_us, end_us, bucket_us))
    except (binascii.Error, ValueError, OverflowError):
        raise _unfit() from None
    fits = raw[:_TAG_BYTES] == _tag(context, raw[_TAG_BYTES:])
    inside = start <= bucket < end <= start + report.period_max and start.year >= YEAR_MIN and end.year <= YEAR_MAX
    known = read_uuid(scope_id) is not None or (report.scope is None and scope_id == PLATFORM_ID)
    if not (fits and inside and known and scope in SCOPES):
        raise _unfit()
    return start, end, Key(bucket, scope, scope_id)


def _unfit() -> RequestError:
    return RequestError(
        "this cursor does not belong to this question: send `next` of the page before with the same parameters and key",
        status=400,
        code="invalid-cursor",
        parameter="cursor",
    )


def _to_us(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


assert set(get_args(ReportName)) == set(REPORTS)
