"""Metrics and logs: what the tables name is what is there; a log line is one line without secrets."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import structlog
from msgspec import Struct
from prometheus_client.parser import text_string_to_metric_families

from anlyt import telemetry
from anlyt.errors import ConfigurationError
from anlyt.reports import JobRun
from anlyt.telemetry import LIVE_AGE_S, LOG_EVENTS, METRICS, Telemetry, configure_logs, guard_value


class Event(Struct):
    """An event's type."""

    type: str


class Decoded(Struct):
    """What was read."""

    events: list[Event]
    letters: list[object]
    ignored: int


class Position(Struct):
    """Where the batch left the position."""

    complete_through: int | None


class Applied(Struct):
    """What became of it."""

    position: Position
    counted_types: dict[str, int]
    dead_letters: int
    late_seconds: int
    conflicts: int


def sample(telemetry: Telemetry, name: str, **labels: str) -> float | None:
    return telemetry.registry.get_sample_value(name, labels)


def test_every_metric_of_the_table_is_exposed_with_its_meaning_and_nothing_else() -> None:
    telemetry = Telemetry()
    exposed = text_string_to_metric_families(telemetry.render().decode())
    families = {family.name: family for family in exposed if not family.name.endswith("_created")}

    for name, metric in METRICS.items():
        family = families.pop(name.removesuffix("_total") if metric.kind == "counter" else name)

        assert metric.meaning == family.documentation
        assert metric.kind == family.type

    assert not families


def test_names_follow_the_conventions_and_no_label_is_a_tenant() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("anlyt_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not {"account", "account_id", "operator", "operator_id", "scope_id", "key_id"} & set(metric.labels)
        assert metric.meaning.endswith(".")


def test_two_telemetries_do_not_share_numbers() -> None:
    one, other = Telemetry(), Telemetry()
    one.lost(3)

    assert sample(one, "anlyt_lost_messages_total") == 3.0
    assert sample(other, "anlyt_lost_messages_total") == 0.0


def test_a_batch_is_counted_by_type_and_outcome() -> None:
    telemetry = Telemetry()
    events = [Event("message.submitted")] * 5 + [Event("message.failed")]
    applied = Applied(Position(1_700_000_000_500_000), {"message.submitted": 3, "message.failed": 1}, 2, 4, 5)

    telemetry.applied("0", Decoded(events, [], 7), applied, seconds=0.02)

    name = "anlyt_events_total"
    assert sample(telemetry, name, type="message.submitted", outcome="counted") == 3
    assert sample(telemetry, name, type="message.submitted", outcome="duplicate") == 2
    assert sample(telemetry, name, type="message.failed", outcome="counted") == 1
    assert sample(telemetry, name, type="message.failed", outcome="duplicate") is None
    assert sample(telemetry, name, type="other", outcome="dead_letter") == 2
    assert sample(telemetry, name, type="other", outcome="ignored") == 7
    assert sample(telemetry, "anlyt_batches_total") == 1
    assert sample(telemetry, "anlyt_late_second_counts_total") == 4
    assert sample(telemetry, "anlyt_id_conflicts_total") == 5
    assert sample(telemetry, "anlyt_complete_through_timestamp_seconds", partition="0") == 1_700_000_000.5


def test_requests_jobs_retries_partitions_are_counted() -> None:
    telemetry = Telemetry()
    telemetry.answered("/v1/status", 200, seconds=0.003)
    telemetry.job_ran("percentiles", "ok")
    telemetry.retried("DatabaseUnavailable")
    telemetry.owned("01", owned=True)
    telemetry.owned("01", owned=False)

    assert sample(telemetry, "anlyt_http_requests_total", route="/v1/status", status="200") == 1
    assert sample(telemetry, "anlyt_http_request_seconds_count", route="/v1/status") == 1
    assert sample(telemetry, "anlyt_job_runs_total", job="percentiles", outcome="ok") == 1
    assert sample(telemetry, "anlyt_retries_total", cause="DatabaseUnavailable") == 1
    assert sample(telemetry, "anlyt_partition_owned", partition="01") == 0


def test_what_the_database_does_not_tell_any_more_is_not_exposed() -> None:
    telemetry = Telemetry()
    ran = datetime(2026, 3, 1, tzinfo=UTC)
    purge = JobRun("purge", ran, ran + timedelta(seconds=2), "failed", ran - timedelta(hours=1))
    telemetry.recorded(
        complete_through_s=1.5,
        runways_s={"metrics_hourly": 86_400.0},
        refused=7,
        accounts={"today": 9},
        events={"duplicate": 3},
        jobs={"purge": purge, "retention": JobRun("retention", ran, None, None, None)},
    )
    told = (
        sample(telemetry, "anlyt_complete_through_timestamp_seconds", partition="all"),
        sample(telemetry, "anlyt_partition_runway_seconds", table="metrics_hourly"),
        sample(telemetry, "anlyt_recorded_events", outcome="duplicate"),
        sample(telemetry, "anlyt_refused_events"),
        sample(telemetry, "anlyt_active_accounts", day="today"),
        sample(telemetry, "anlyt_job_last_success_timestamp_seconds", job="purge"),
        sample(telemetry, "anlyt_job_last_run_seconds", job="purge"),
        sample(telemetry, "anlyt_job_last_run_ok", job="purge"),
        sample(telemetry, "anlyt_job_last_run_ok", job="retention"),
    )
    telemetry.recorded(complete_through_s=None, runways_s={}, refused=0, accounts={}, events={}, jobs={})

    assert told == (1.5, 86_400.0, 3.0, 7.0, 9.0, ran.timestamp() - 3_600, 2.0, 0.0, None)
    assert sample(telemetry, "anlyt_job_last_run_ok", job="purge") is None
    assert sample(telemetry, "anlyt_complete_through_timestamp_seconds", partition="all") is None
    assert sample(telemetry, "anlyt_partition_runway_seconds", table="metrics_hourly") is None
    assert sample(telemetry, "anlyt_recorded_events", outcome="duplicate") is None


def test_metrics_are_served_while_the_block_runs_and_a_taken_port_is_named() -> None:
    telemetry = Telemetry()
    telemetry.job_ran("purge", "ok")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        probe.listen()
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}: .*--metrics-port"):
            telemetry.served(host="127.0.0.1", port=port).__enter__()
    with telemetry.served(host="127.0.0.1", port=port):
        text = httpx2.get(f"http://127.0.0.1:{port}/metrics").text

    assert 'anlyt_job_runs_total{job="purge",outcome="ok"} 1.0' in text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"http://127.0.0.1:{port}/metrics")


def test_the_metrics_port_tells_how_the_process_is() -> None:
    telemetry = Telemetry()
    answers: list[tuple[int, str]] = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with telemetry.served(host="127.0.0.1", port=port):
        for cause in (None, "it cannot count partition 01 at the moment", None):
            telemetry.ready(cause)
            answer = httpx2.get(f"http://127.0.0.1:{port}/readyz")
            answers.append((answer.status_code, answer.text.strip()))
        telemetry.beat()
        answer = httpx2.get(f"http://127.0.0.1:{port}/livez")

    assert answers == [(200, "ready"), (503, "it cannot count partition 01 at the moment"), (200, "ready")]
    assert (answer.status_code, answer.text.strip()) == (200, "alive")


def test_a_process_that_gets_no_turns_is_not_alive() -> None:
    telemetry = Telemetry()
    told: list[str] = []

    def asked(now_s: float) -> str:
        return b"".join(telemetry.answer("/livez", lambda status, _: told.append(status), now_s=now_s)).decode()

    assert asked(1_000_000) == "alive\n"
    telemetry.beat()
    assert asked(time.monotonic() + LIVE_AGE_S / 2) == "alive\n"
    assert asked(time.monotonic() + LIVE_AGE_S + 1) == "hangs\n"
    assert told == ["200 OK", "200 OK", "503 Service Unavailable"]


def test_a_log_event_is_one_line_of_key_and_value() -> None:
    out = io.StringIO()
    configure_logs("console", "info", stream=out)
    structlog.get_logger("anlyt.test").info("partition-owned", partition="0 1", text='a\n\x1b[31m"b"')

    (line,) = out.getvalue().splitlines()
    assert line.startswith("timestamp=20")
    assert "level=info event=partition-owned" in line
    assert 'partition="0 1"' in line
    assert "\x1b" not in line
    assert "a\\n\\\\x1b[31m" in line


def test_json_lines_can_be_read_back() -> None:
    out = io.StringIO()
    configure_logs("json", "info", stream=out)
    structlog.get_logger("anlyt.test").warning("messages-lost", lost=3, text="ä\r\nfake=1")

    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    shown = tuple(entry[name] for name in ("event", "level", "lost", "logger"))
    assert shown == ("messages-lost", "warning", 3, "anlyt.test")
    assert entry["text"] == "ä\\r\nfake=1"


def test_auto_is_json_when_nobody_watches_the_terminal() -> None:
    out = io.StringIO()
    configure_logs("auto", "info", stream=out)
    structlog.get_logger("anlyt.test").info("api-stopped")

    assert json.loads(out.getvalue())["event"] == "api-stopped"


def test_the_standard_library_logs_in_the_same_shape_and_level() -> None:
    out = io.StringIO()
    configure_logs("json", "warning", stream=out)
    logging.getLogger("uvicorn.error").info("not shown")
    structlog.get_logger("anlyt.test").info("api-listening")
    logging.getLogger("uvicorn.error").warning("shown %s", "postgresql://anlyt:canary@127.0.0.1/anlyt")

    (line,) = out.getvalue().splitlines()
    entry = json.loads(line)
    assert entry["event"] == "shown postgresql://***@127.0.0.1/anlyt"
    assert entry["level"] == "warning"


def test_a_traceback_stays_in_its_line_without_secrets() -> None:
    out = io.StringIO()
    configure_logs("console", "info", stream=out)
    try:
        raise ValueError("nats://token-canary@127.0.0.1:4222 refused")  # noqa: TRY301 - the text is the test
    except ValueError:
        structlog.get_logger("anlyt.test").exception("job-failed")

    (line,) = out.getvalue().splitlines()
    assert "Traceback" in line
    assert "ValueError" in line
    assert "canary" not in line


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("key anlyt_abcdef123456_Canary0Canary0 given", "key anlyt_abcdef123456_*** given"),
        ("tls://user:canary@nats:4222,nats://canary@other", "tls://***@nats:4222,nats://***@other"),
        (b"\x00\n", "b'\\x00\\n'"),
        ("\u2028\x85\x7f", "\\u2028\\x85\\x7f"),
        ("\ud800", "\\ud800"),
        (3, 3),
        (2.5, 2.5),
        (None, None),
        (True, True),
    ],
)
def test_values_are_made_safe(value: object, shown: object) -> None:
    assert shown == guard_value(value)


def test_a_huge_value_is_cut() -> None:
    assert str(guard_value("x" * 100_000)).endswith("x... (100000 characters)")


def test_every_event_that_is_logged_stands_in_the_table() -> None:
    call = re.compile(r"\blog\.(?:debug|info|warning|error|exception)\(\s*\"([^\"]+)\"")
    sources = [path.read_text() for path in Path(telemetry.__file__).parent.glob("*.py")]
    logged = {name for source in sources for name in call.findall(source)}

    assert {"http-answered", "stream-changed"} <= logged
    assert logged - LOG_EVENTS.keys() == set()


def test_every_log_event_has_a_sentence() -> None:
    assert all(meaning.endswith(".") and name == name.lower() for name, meaning in LOG_EVENTS.items())
