"""anlyt query: the API's answer, as JSON, CSV or a table, for whoever may connect to the database."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from anlyt import query, up
from anlyt.errors import UsageError
from anlyt.postgres import session
from support import run

if TYPE_CHECKING:
    from anlyt.settings import Settings

ACCOUNT = "018f0000-0000-7000-8000-000000000001"
ROWS = f"""
    INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages, total_cost)
    SELECT date_trunc('hour', now(), 'UTC') - make_interval(hours => hours), scope, scope_id, 4, 3, 1.5
    FROM generate_series(0, 2) AS hours,
        (VALUES ('PLATFORM', 'platform'), ('ACCOUNT', '{ACCOUNT}')) AS s(scope, scope_id)
"""  # noqa: S608 - a test's own


@pytest.fixture
def filled(settings: Settings) -> Settings:
    """Three hours of the platform and of one account."""

    async def fill() -> None:
        assert settings.database_url is not None
        await up.prepare(settings)
        async with session(settings.database_url.get_secret_value(), application="test") as conn:
            await conn.execute(ROWS)

    run(fill())
    return settings


def ask(settings: Settings, *pairs: tuple[str, str], ids: tuple[str, ...] = ()) -> dict[str, Any]:
    return run(query.ask(settings, "hourly", list(pairs), list(ids)))


def test_the_answer_is_the_apis(filled: Settings) -> None:
    answer = ask(filled, ("scope", "ACCOUNT"), ("from", "-24h"), ids=(ACCOUNT,))

    assert set(answer) == {"data", "next", "meta"}
    assert [row["scopeId"] for row in answer["data"]] == [ACCOUNT] * 3
    assert {(row["totalCost"], row["deliveryRate"]) for row in answer["data"]} == {("1.500000", 0.75)}


def test_pages_follow_their_cursor(filled: Settings) -> None:
    asked = [("scope", "PLATFORM"), ("from", "-24h"), ("limit", "2")]
    first = ask(filled, *asked)
    second = ask(filled, *asked, ("cursor", first["next"]))

    assert [len(page["data"]) for page in (first, second)] == [2, 1]
    assert second["next"] is None


def test_a_wrong_parameter_is_a_usage_error(filled: Settings) -> None:
    with pytest.raises(UsageError, match="scope is 'X'"):
        ask(filled, ("scope", "X"))


def test_json_csv_and_table_tell_the_same(filled: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    answer = ask(filled, ("scope", "PLATFORM"), ("from", "-24h"), ("limit", "2"))
    query.show(answer, as_json=True, as_csv=False)
    document = json.loads(capsys.readouterr().out)
    query.show(answer, as_json=False, as_csv=True)
    text = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(text.out)))
    query.show(answer, as_json=False, as_csv=False)
    table = capsys.readouterr().out.splitlines()

    assert document == answer
    assert [row["totalMessages"] for row in rows] == ["4", "4"]
    assert set(rows[0]) == set(answer["data"][0])
    assert len(table) == 4
    assert "nothing has been counted yet; 2 rows from" in text.err
    assert f"there are more: --cursor {answer['next']}" in text.err


def test_no_rows_are_said_on_stderr(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    run(up.prepare(settings))
    query.show(ask(settings), as_json=False, as_csv=False)
    shown = capsys.readouterr()

    assert shown.out == ""
    assert shown.err.startswith("nothing to show\n")


def test_sums_are_the_apis_beside_those_of_the_period_before(
    filled: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [("scope", "ACCOUNT"), ("groupBy", "scopeId"), ("from", "-2h"), ("compare", "previous")]
    answer = run(query.ask_summary(filled, asked))
    query.show_summary(answer, as_json=True, as_csv=False)
    document = json.loads(capsys.readouterr().out)
    query.show_summary(answer, as_json=False, as_csv=True)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    query.show_summary(answer, as_json=False, as_csv=False)
    table = capsys.readouterr()

    assert document == answer
    assert (row["totalMessages"], row["previousTotalMessages"]) == ("8", "4")
    assert "+100.0 %" in table.out.splitlines()[-1]
    assert "1 row from" in table.err


def test_days_have_their_start_and_a_wrong_group_is_a_usage_error(
    filled: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run(query.ask_summary(filled, [("scope", "PLATFORM"), ("groupBy", "hour"), ("from", "-3h")]))
    query.show_summary(answer, as_json=False, as_csv=False)

    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["start", "totalMessages"]
    with pytest.raises(UsageError, match="groupBy is 'week'"):
        run(query.ask_summary(filled, [("groupBy", "week")]))
