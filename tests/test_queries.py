"""Parameters: every one is checked by name; a cursor belongs to one question and one Grant."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anlyt import queries
from anlyt.access import make_grant
from anlyt.errors import RequestError
from anlyt.queries import REPORTS, Key, Query, ReportName, read_query, read_time, write_cursor

NOW = datetime(2026, 4, 18, 10, 37, 5, 123456, tzinfo=UTC)
A = "0b1d6f2e-5a3c-4f7e-9d80-0123456789ab"
B = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
STAFF = make_grant("PLATFORM", [], ["metrics:read"])
TENANT = make_grant("ACCOUNT", [A], ["metrics:read"])


def ask(text: str, name: ReportName = "hourly", *, grant: queries.Grant = STAFF, now: datetime = NOW) -> Query:
    return read_query(name, parse_qsl(text, keep_blank_values=True), grant=grant, now=now)


def refused(text: str, name: ReportName = "hourly", **who: queries.Grant) -> RequestError:
    with pytest.raises(RequestError) as caught:
        ask(text, name, **who)
    return caught.value


# ---------------------------------------------------------------------------------------------------------- parameters


def test_nothing_asked_is_the_last_day_by_hours_and_the_last_month_by_days() -> None:
    hourly, daily = ask(""), ask("", "daily")

    assert (hourly.start, hourly.end) == (NOW - timedelta(hours=24), NOW)
    assert (daily.start, daily.end) == (NOW - timedelta(days=30), NOW)
    assert (hourly.limit, hourly.scope, hourly.ids, hourly.after) == (100, None, None, None)


def test_the_tables_of_one_scope_ask_for_it() -> None:
    assert ask("", "operators").scope == "OPERATOR"
    assert ask("", "accounts").scope == "ACCOUNT"


def test_ids_repeat_in_any_case_and_any_order() -> None:
    query = ask(f"scope=ACCOUNT&scopeId={B.upper()}&scopeId={A}&scopeId={A}")

    assert query.ids == (A, B)
    assert ask("scopeId=platform").ids == ("platform",)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("now", NOW),
        ("-24h", NOW - timedelta(hours=24)),
        ("-30d", NOW - timedelta(days=30)),
        ("-90m", NOW - timedelta(minutes=90)),
        ("-2w", NOW - timedelta(days=14)),
        ("2026-04-18", datetime(2026, 4, 18, tzinfo=UTC)),
        ("2026-04-18T02:00:00Z", datetime(2026, 4, 18, 2, tzinfo=UTC)),
        ("2026-04-18T02:00:00+05:30", datetime(2026, 4, 17, 20, 30, tzinfo=UTC)),
        ("2026-04-18T02:00:00.5Z", datetime(2026, 4, 18, 2, 0, 0, 500_000, tzinfo=UTC)),
        ("", None),
        ("yesterday", None),
        ("-\u0663d", None),
        ("24h", None),
        ("-1y", None),
        ("-9999999d", None),
        ("-999999w", None),
        ("1776470400", None),
        ("2026-02-30", None),
        ("2026-04-18T02:00:00", None),
        ("2026-04-18T25:00:00Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        ("infinity", None),
        ("\uff12\uff10\uff12\uff16-04-18", None),
    ],
)
def test_times(text: str, moment: datetime | None) -> None:
    assert read_time(text, NOW) == moment


BAD = [
    ("limit=0", "limit", "from 1 to 1000"),
    ("limit=-1", "limit", "from 1 to 1000"),
    ("limit=1001", "limit", "'1001'"),
    ("limit=1000000000", "limit", "from 1 to 1000"),
    ("limit=abc", "limit", "'abc'"),
    ("limit=1e2", "limit", "'1e2'"),
    ("limit=", "limit", "''"),
    ("limit=٣", "limit", "from 1 to 1000"),
    ("limit=5&limit=5", "limit", "more than once"),
    ("from=-1h&from=-2h", "from", "more than once"),
    ("from=9999-12-31T23:59:59Z", "from", "2000 to 2199"),
    ("from=0001-01-01T00:00:00Z", "from", "2000 to 2199"),
    ("to=infinity", "to", "'infinity'"),
    ("from=2026-04-18T00:00:00+02:00", "from", "%2B"),
    ("from=now", "from", "before `to`"),
    ("from=-1h&to=-1h", "from", "before `to`"),
    ("from=-1h&to=-2h", "from", "before `to`"),
    ("from=-366d", "from", "100 days"),
    ("scope=account", "scope", "PLATFORM, OPERATOR, ACCOUNT"),
    ("scope=", "scope", "''"),
    ("scopeId=%27%20OR%201%3D1--", "scopeId", "UUID or platform"),
    ("scopeId=%00", "scopeId", "'\\x00'"),
    ("scopeId=../", "scopeId", "'../'"),
    ("scope=ACCOUNT&scopeId=platform", "scopeId", "'platform'"),
    ("scopeId=" + "a" * 600, "scopeId", "512 characters"),
    ("&".join(f"scopeId={A}" for _ in range(101)), "scopeId", "101 times"),
    ("operatorId=" + A, "operatorId", "scope, scopeId, from, to, limit, cursor"),
    ("api_key=secret", "api_key", "not a parameter"),
    ("sort=total_cost", "sort", "not a parameter"),
    ("From=-1h", "From", "not a parameter"),
]


@pytest.mark.parametrize(("text", "parameter", "said"), BAD)
def test_a_bad_parameter_is_named_with_what_was_expected(text: str, parameter: str, said: str) -> None:
    error = refused(text)

    assert (error.status, error.parameter) == (422, parameter)
    assert said in str(error)


@pytest.mark.parametrize("name", ["operators", "accounts"])
def test_tables_of_one_scope_take_no_scope(name: ReportName) -> None:
    assert refused("scope=ACCOUNT", name).code == "unknown-parameter"
    assert refused("scopeId=" + A, name).code == "unknown-parameter"
    assert refused(f"{REPORTS[name].id_parameter}=platform", name).code == "invalid-parameter"


def test_long_periods_are_fine_by_days() -> None:
    assert ask("from=-366d", "daily").start == NOW - timedelta(days=366)
    assert refused("from=2001-01-01", "daily").code == "period-too-long"


# ------------------------------------------------------------------------------------------------------------- cursors


def cursor_of(text: str, name: ReportName = "hourly", *, grant: queries.Grant = STAFF, scope_id: str = A) -> str:
    query = ask(text, name, grant=grant)
    return write_cursor(query, Key(query.start + timedelta(minutes=5), "ACCOUNT", scope_id))


def test_a_cursor_keeps_the_period_of_the_first_page() -> None:
    text = f"from=-24h&scopeId={B}&scopeId={A}"
    cursor = cursor_of(text)
    later = ask(f"limit=7&scopeId={A}&from=-24h&scopeId={B}&cursor={cursor}", now=NOW + timedelta(hours=3))
    first = ask(text)

    assert (later.start, later.end, later.limit) == (first.start, first.end, 7)
    assert later.after == Key(first.start + timedelta(minutes=5), "ACCOUNT", A)


@pytest.mark.parametrize(
    ("text", "name", "grant"),
    [
        ("from=-24h", "hourly", TENANT),
        ("from=-25h", "hourly", STAFF),
        ("", "hourly", STAFF),
        ("from=-24h&scope=ACCOUNT", "hourly", STAFF),
        ("from=-24h&scopeId=" + A, "hourly", STAFF),
        ("from=-24h", "daily", STAFF),
        ("from=-24h", "accounts", STAFF),
    ],
)
def test_a_cursor_of_another_question_or_tenant_is_refused(text: str, name: ReportName, grant: queries.Grant) -> None:
    error = refused(f"{text}&cursor={cursor_of('from=-24h')}", name, grant=grant)

    assert (error.status, error.code, error.parameter) == (400, "invalid-cursor", "cursor")


def test_a_damaged_cursor_is_refused_wherever_the_damage_is() -> None:
    cursor = cursor_of("from=-24h")
    for place in range(len(cursor)):
        for damaged in (cursor[:place], cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]):
            raw = base64.urlsafe_b64decode(damaged + "=" * (-len(damaged) % 4)) if len(damaged) % 4 != 1 else b""
            if raw == base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)):
                continue  # the last character has spare bits

            assert refused(f"from=-24h&cursor={damaged}").status == 400


@given(st.text(max_size=80))
def test_any_text_is_refused_as_a_cursor(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_query("hourly", [("cursor", text)], grant=STAFF, now=NOW)

    assert caught.value.status == 400


@pytest.mark.parametrize(
    "place",
    [
        (0, 2, 1, "ACCOUNT", A),
        (1_776_000_000_000_000, 1_776_000_000_000_002, 1_776_000_000_000_002, "ACCOUNT", A),
        (1_776_000_000_000_000, 1_876_000_000_000_000, 1_776_000_000_000_002, "ACCOUNT", A),
        (1_776_000_000_000_000, 2**62, 1_776_000_000_000_002, "ACCOUNT", A),
        (1_776_000_000_000_000, 1_776_000_000_000_004, 1_776_000_000_000_002, "EVERYBODY", A),
        (1_776_000_000_000_000, 1_776_000_000_000_004, 1_776_000_000_000_002, "PLATFORM", "platform"),
        (1_776_000_000_000_000, 1_776_000_000_000_004, 1_776_000_000_000_002, "OPERATOR", "x'; --"),
        ("0", 2, 1, "ACCOUNT", A),
        (1, 2),
    ],
)
def test_a_cursor_with_a_right_tag_is_still_checked(place: tuple[object, ...]) -> None:
    body = json.dumps(place).encode()
    tag = queries._tag(ask("", "operators").context, body)
    forged = base64.urlsafe_b64encode(tag + body).decode().rstrip("=")

    assert refused(f"cursor={forged}", "operators").status == 400
