"""anlyt top: the operators of now, worst first, in a terminal of any size, which is left as it was found."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from anlyt import top, up
from anlyt.postgres import session
from anlyt.top import Frame, Traffic, View
from commands import anlyt, environment_of
from support import run
from terminals import Terminal

if TYPE_CHECKING:
    from anlyt.settings import Settings

OPERATORS = [f"018f0000-0000-7000-8000-0000000000{number:02}" for number in range(1, 31)]
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
# Operator n of 30 has 100 messages this hour, n of them failed, the others delivered in n * 10 ms each; and one message
# in each of the last 90 seconds before what is counted, operator 30 two.
ROWS = """
    INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages,
                                      latency_sum_ms, latency_sample_count)
    SELECT date_trunc('hour', now(), 'UTC'), 'OPERATOR', operator.id, 100, 100 - n, n, (100 - n) * n * 10, 100 - n
    FROM unnest($1::TEXT[]) WITH ORDINALITY AS operator (id, n);
"""
PLATFORM = """
    INSERT INTO anlyt.metrics_hourly (hour_bucket, scope, scope_id, total_messages, delivered_messages, failed_messages)
    SELECT date_trunc('hour', now(), 'UTC'), 'PLATFORM', 'platform', 3000, 2535, 465
"""
HISTOGRAMS = """
    INSERT INTO anlyt.latency_histograms (hour_bucket, operator_id, segment, buckets, sample_counts)
    SELECT date_trunc('hour', now(), 'UTC'), operator.id::UUID, 0, ARRAY[n::SMALLINT], ARRAY[100 - n]
    FROM unnest($1::TEXT[]) WITH ORDINALITY AS operator (id, n)
"""
SECONDS = """
    INSERT INTO anlyt.second_counts (second, scope, scope_id, message_count)
    SELECT date_trunc('second', now()) - make_interval(secs => s), 'OPERATOR', operator.id,
           CASE WHEN n = 30 THEN 2 ELSE 1 END
    FROM unnest($1::TEXT[]) WITH ORDINALITY AS operator (id, n), generate_series(0, 90) AS s
"""
POSITIONS = """
    INSERT INTO anlyt.stream_positions (stream, slot, stream_created_at, last_seq, complete_through)
    SELECT $1, slot, now(), 0, now() FROM generate_series(0, 15) AS slot
"""


@pytest.fixture
def busy(settings: Settings) -> Settings:
    """Thirty operators at work."""

    async def fill() -> None:
        await up.prepare(settings)
        assert settings.database_url is not None
        async with session(settings.database_url.get_secret_value(), application="test") as conn:
            for statement in (ROWS, HISTOGRAMS, SECONDS):
                await conn.execute(statement, OPERATORS)
            await conn.execute(PLATFORM)
            await conn.execute(POSITIONS, settings.stream)

    run(fill())
    return settings


def frame(*operators: Traffic, lag_s: float | None = 0.2) -> Frame:
    now = datetime(2026, 4, 18, 10, 30, tzinfo=UTC)
    through = None if lag_s is None else now - timedelta(seconds=lag_s)
    return Frame(now, through, lag_s, now.replace(minute=0), traffic("platform"), list(operators))


def traffic(
    scope_id: str, *, rate: float = 1.0, delivery: float | None = 0.99, failed: int = 0, p95: int | None = 100
) -> Traffic:
    return Traffic(scope_id, rate, (rate,) * top.STEPS, 1_000, 990, failed, 10, delivery, p95)


def drawn(shown: Frame, *, width: int, height: int = 24, view: View | None = None) -> list[str]:
    console = Console(width=width, height=height, force_terminal=False)
    with console.capture() as capture:
        console.print(top.draw(shown, view or View(), width=width, height=height, footer="keys"))
    return capture.get().splitlines()


# -------------------------------------------------------------------------------------------------------------- frames


def test_a_frame_has_the_rates_of_now_and_the_sums_of_the_hours(busy: Settings) -> None:
    shown = run(top.read_once(busy, window=timedelta(hours=1)))
    operators = {operator.scope_id: operator for operator in shown.operators}
    worst, best = operators[OPERATORS[-1]], operators[OPERATORS[0]]

    assert len(operators) == 30
    assert (worst.messages_per_second, best.messages_per_second) == (2.0, 1.0)
    assert (worst.delivery_rate, worst.failed_messages, worst.latency_p95_ms) == (0.7, 30, 30)
    assert worst.trend[-6:] == (2.0,) * 6
    assert worst.trend[:6] == (0.0,) * 6
    assert (shown.platform.total_messages, shown.platform.failed_messages) == (3_000, 465)
    assert shown.lag_seconds is not None


def test_a_rate_ends_where_everything_is_counted_so_that_lag_is_no_dip(busy: Settings) -> None:
    async def fall_behind() -> None:
        assert busy.database_url is not None
        async with session(busy.database_url.get_secret_value(), application="test") as conn:
            await conn.execute("UPDATE anlyt.stream_positions SET complete_through = now() - make_interval(secs => 20)")

    run(fall_behind())
    shown = run(top.read_once(busy, window=timedelta(hours=1)))

    assert {operator.messages_per_second for operator in shown.operators} == {1.0, 2.0}
    assert shown.lag_seconds is not None
    assert 20 <= shown.lag_seconds < 60


@pytest.mark.parametrize(
    ("sort", "first"), [("delivery", "weak"), ("failed", "failing"), ("latency", "slow"), ("rate", "busy")]
)
def test_the_worst_comes_first_and_what_has_no_value_last(sort: top.SortBy, first: str) -> None:
    operators = [
        traffic("idle", rate=0.0, delivery=None, p95=None),
        traffic("weak", delivery=0.5),
        traffic("failing", failed=9),
        traffic("slow", p95=9_000),
        traffic("busy", rate=50.0),
    ]
    shown = [operator.scope_id for operator in top.sort_operators(operators, sort)]

    assert shown[0] == first
    assert sort == "failed" or shown[-1] == "idle"


# ------------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("width", [40, 60, 80, 100, 140])
@pytest.mark.parametrize("height", [6, 24, 50])
def test_a_picture_fits_its_terminal_whatever_the_numbers(width: int, height: int) -> None:
    huge = [
        Traffic(operator, 123_456.7, (1.0,) * top.STEPS, 10**15, 10**15, 10**15, -(10**15), 1.0, 2**31 - 1)
        for operator in OPERATORS
    ]
    lines = drawn(frame(*huge), width=width, height=height)

    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert lines[-1].startswith("keys")


def test_an_id_is_whole_where_there_is_room_and_the_graph_comes_with_more() -> None:
    narrow, usual, wide = ("\n".join(drawn(frame(traffic(OPERATORS[0])), width=width)) for width in (60, 80, 120))

    assert "018f..0000001" in narrow
    assert OPERATORS[0] in usual
    assert "█" * top.STEPS in wide
    assert "█" not in usual


def test_what_is_below_the_last_line_is_told_and_reached_by_scrolling() -> None:
    all_of_them = frame(*(traffic(operator) for operator in OPERATORS))
    view = View()
    for _ in range(100):
        view = top.press(view, "j", rows=30, shown=top.rows_shown(24))

    assert "11 more below" in drawn(all_of_them, width=80)[-2]
    assert OPERATORS[-1] in drawn(all_of_them, width=80, view=view)[-3]
    assert top.press(view, "k", rows=30, shown=top.rows_shown(24)).scrolled == 10


def test_nothing_counted_nobody_there_and_a_backlog_are_told() -> None:
    assert "nothing has been counted yet: run anlyt worker" in drawn(frame(lag_s=None), width=80)[0]
    assert "no operator has had a message since 10:00 UTC" in "\n".join(drawn(frame(), width=80))
    assert "1,800 s behind: is a worker running?" in drawn(frame(lag_s=1_800), width=120)[0]


# ------------------------------------------------------------------------------------------------------------ terminals


def test_keys_sort_pause_scroll_and_quit_and_the_terminal_is_as_it_was(busy: Settings) -> None:
    with Terminal("top", "--interval", "0.5", env=environment_of(busy)) as terminal:
        terminal.wait_for(lambda: terminal.picture)
        at_first = terminal.picture
        terminal.press("s")
        terminal.wait_for(lambda: "most failed first" in terminal.picture[-1])
        terminal.press(" ")
        terminal.wait_for(lambda: "PAUSED" in terminal.picture[0])
        terminal.press("\x1b[B")
        terminal.wait_for(lambda: "10 more below" in "\n".join(terminal.picture))
        terminal.press("q")
        code = terminal.wait()
        text, mode = terminal.text, terminal.mode

    assert at_first[0].startswith("anlyt top  complete through 2")
    assert at_first[1].startswith("0.0 messages/s, 3,000 since")
    assert at_first[3].split() == [OPERATORS[-1], "2.0", "70.0", "%", "30", "0", "30"]
    assert len(at_first) == 24
    assert code == 0
    assert mode == terminal.before
    assert text.count(ENTER) == text.count(LEAVE) == 1
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(busy: Settings, number: signal.Signals) -> None:
    with Terminal("top", env=environment_of(busy)) as terminal:
        terminal.wait_for(lambda: OPERATORS[-1] in terminal.text)
        taken = terminal.mode
        terminal.process.send_signal(number)
        code = terminal.wait()
        text, mode = terminal.text, terminal.mode

    assert code == 0
    assert taken != terminal.before
    assert mode == terminal.before
    assert text.rindex(LEAVE) > text.rindex(ENTER)


def is_stopped(pid: int) -> bool:
    """Whether a process waits for SIGCONT; one that comes before is lost."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_ctrl_z_gives_the_terminal_back_for_as_long_as_it_lasts(busy: Settings) -> None:
    with Terminal("top", env=environment_of(busy)) as terminal:
        terminal.wait_for(lambda: OPERATORS[-1] in terminal.text)
        os.kill(terminal.process.pid, signal.SIGTSTP)
        terminal.wait_for(lambda: terminal.text.count(LEAVE) == 1)
        terminal.wait_for(lambda: terminal.mode == terminal.before)
        terminal.wait_for(lambda: is_stopped(terminal.process.pid))
        os.kill(terminal.process.pid, signal.SIGCONT)
        terminal.wait_for(lambda: terminal.text.count(ENTER) == 2)
        terminal.press("q")

        assert terminal.wait() == 0
        assert terminal.mode == terminal.before


def test_a_terminal_that_changes_its_size_is_drawn_anew(busy: Settings) -> None:
    with Terminal("top", "--interval", "60", env=environment_of(busy), columns=120) as terminal:
        terminal.wait_for(lambda: "3 min" in "\n".join(terminal.picture))
        terminal.resize(60, 12)
        terminal.process.send_signal(signal.SIGWINCH)
        terminal.wait_for(lambda: terminal.picture)  # a whole one of the new size

        assert "018f..0000030" in "\n".join(terminal.picture)


def test_a_database_that_goes_away_is_told_in_the_last_line(busy: Settings, postgres_server: object) -> None:
    async def end_sessions() -> None:
        assert busy.database_url is not None
        async with session(busy.database_url.get_secret_value(), application="test") as conn:
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'anlyt-top' "
                "AND datname = current_database()"
            )

    with Terminal("top", "--interval", "0.5", env=environment_of(busy)) as terminal:
        terminal.wait_for(lambda: "q quit" in terminal.text)
        # Again and again: the first picture is read over a session of its own, before the one that stays is there.
        terminal.wait_for(lambda: "not fresh: PostgreSQL" in terminal.text or run(end_sessions()))
        terminal.wait_for(lambda: "q quit" in terminal.picture[-1])
        terminal.press("q")

        assert terminal.wait() == 0


def test_without_a_terminal_it_prints_one_look(busy: Settings) -> None:
    env = environment_of(busy)
    text = anlyt("top", "--sort", "rate", env=env)
    document = anlyt("top", "--json", env=env).document

    assert text.code == 0
    assert "\x1b" not in text.out
    assert all(operator in text.out for operator in OPERATORS)
    assert [operator["scopeId"] for operator in document["operators"]][:2] == [OPERATORS[29], OPERATORS[28]]
    assert json.loads(json.dumps(document))["platform"]["totalMessages"] == 3_000


@pytest.mark.parametrize("words", [["--sort", "name"], ["--window", "2d"], ["--window", "0s"], ["--interval", "0"]])
def test_what_it_does_not_take_is_told(settings: Settings, words: list[str]) -> None:
    result = anlyt("top", *words, env=environment_of(settings))

    assert (result.code, result.out) == (2, "")
    assert words[0] in result.err
