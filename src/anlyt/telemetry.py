"""Every metric and every log event of anlyt, named in two tables with its meaning; the docs come from them.

In: what happened, as small calls (`applied`, `retried`, `answered`). Out: Prometheus text from one registry, and log
lines on stderr: key=value on a terminal, JSON otherwise. A Telemetry is built by the command line and handed on.
No metric carries an account or operator id. A log line is one line: control characters are escaped; keys and
passwords that stray into a value are blotted out (I9).
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter as Tally
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Final, Literal, Protocol, TextIO, assert_never, cast, get_args
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from anlyt.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence, Sized
    from datetime import datetime
    from wsgiref.types import StartResponse, WSGIEnvironment

    from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]
Outcome = Literal["counted", "duplicate", "dead_letter", "ignored"]
OUTCOMES: Final[tuple[Outcome, ...]] = get_args(Outcome)

METRICS_CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
LOG_VALUE_CHARS_MAX: Final = 8_192  # of one value in a log line; a traceback fits
LIVE_AGE_S: Final = 60.0  # a process that got no turn for so long hangs
UNTYPED: Final = "other"  # type label of what never became an event: dead letters and ignored types
WHOLE_STREAM: Final = "all"  # partition label of what holds for all of them
_OK: Final = "200 OK"
_UNAVAILABLE: Final = "503 Service Unavailable"
_MICROSECONDS: Final = 1_000_000
_HTTP_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = structlog.get_logger("anlyt.telemetry")


class Metric(Struct, frozen=True):
    """One metric: its Prometheus type, labels, meaning, and for a histogram its bounds in seconds."""

    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


METRICS: Final[Mapping[str, Metric]] = {
    "anlyt_events_total": Metric(
        "counter",
        ("type", "outcome"),
        "Events by what became of them: counted, duplicate, dead_letter or ignored (the last two as type other).",
    ),
    "anlyt_batches_total": Metric("counter", (), "Batches committed, each in one database transaction."),
    "anlyt_batch_seconds": Metric(
        "histogram", (), "Time from the start of a batch's transaction to its end.", _BATCH_BUCKETS_S
    ),
    "anlyt_complete_through_timestamp_seconds": Metric(
        "gauge", ("partition",), "Everything published to the partition before this instant has been counted."
    ),
    "anlyt_partition_owned": Metric("gauge", ("partition",), "1 while this process counts the partition, else 0."),
    "anlyt_recorded_events": Metric(
        "gauge",
        ("outcome",),
        "Events since the beginning by what became of them, whichever worker it was: read from PostgreSQL by the API, "
        "for platform keys only.",
    ),
    "anlyt_retries_total": Metric("counter", ("cause",), "Times work was given up and started again, by its cause."),
    "anlyt_lost_messages_total": Metric(
        "counter", (), "Messages that the stream dropped before they were counted: its limits are too tight."
    ),
    "anlyt_refused_events": Metric(
        "gauge",
        (),
        "Events nobody understood, on balance, in the partition that has most of them: at 20,000 its worker stops. "
        "Read from PostgreSQL by the API.",
    ),
    "anlyt_late_second_counts_total": Metric(
        "counter", (), "Arrivals more than 6 h after their second; a peak_tps may be under-reported by them."
    ),
    "anlyt_id_conflicts_total": Metric(
        "counter",
        (),
        "Copies of another type than the event that was counted under their id, of the first 1,000 copies a batch: a "
        "producer uses ids twice, and what came second is not counted.",
    ),
    "anlyt_active_accounts": Metric(
        "gauge",
        ("day",),
        "Accounts with numbers of today and of yesterday (UTC), counted up to 100,000: read from PostgreSQL by the "
        "API, for platform keys only.",
    ),
    "anlyt_http_requests_total": Metric("counter", ("route", "status"), "HTTP requests answered."),
    "anlyt_http_request_seconds": Metric("histogram", ("route",), "Time to answer an HTTP request.", _HTTP_BUCKETS_S),
    "anlyt_live_listeners": Metric("gauge", (), "Readers of /v1/live in this process."),
    "anlyt_job_runs_total": Metric("counter", ("job", "outcome"), "Runs of the periodic jobs: ok or failed."),
    "anlyt_job_last_success_timestamp_seconds": Metric(
        "gauge", ("job",), "When a job last ended well, on whichever machine: read from PostgreSQL by the API."
    ),
    "anlyt_job_last_run_seconds": Metric("gauge", ("job",), "How long the last run of a job took, if it has ended."),
    "anlyt_job_last_run_ok": Metric("gauge", ("job",), "1 when the last run of a job ended well, 0 when it failed."),
    "anlyt_partition_runway_seconds": Metric(
        "gauge", ("table",), "Time until a partitioned table has no partition for new rows."
    ),
}

LOG_EVENTS: Final[Mapping[str, str]] = {
    "api-listening": "The API takes requests at `url`.",
    "api-stopped": "The API has answered what it had taken on and closed.",
    "metrics-listening": "A worker or a job loop serves its metrics at `url`.",
    "http-answered": "One request: method, route, status, seconds, and the public id of the key.",
    "letters-retried": "Platform staff retried dead letters over HTTP: which key, what became of them.",
    "letters-discarded": "Platform staff discarded dead letters over HTTP: which key, how many.",
    "live-waits": "Live readers hear nothing new: what changed cannot be read at the moment; tried again soon.",
    "live-reader-dropped": "A live reader did not take what was sent within 30 s; it may connect again.",
    "http-unavailable": "A request could not be answered because PostgreSQL could not be reached.",
    "http-denied": "The role of ANLYT_DATABASE_URL may not do what was asked over HTTP; which right is in the line.",
    "token-keys-read": "The token issuer's keys were fetched; their ids.",
    "token-keys-unavailable": "The token issuer's keys could not be fetched; the last good ones serve for a day.",
    "names-unreadable": "The file of display names has changed and cannot be read; the names stay as they were.",
    "key-in-address": "A key, or a token, stood in the address of a request: other logs have it now, so revoke it.",
    "nats-refused": "nats-server does not let this user publish or subscribe; the subject is in the line.",
    "stream-made": "The JetStream stream was missing and has been created.",
    "stream-awaited": "JetStream cannot tell of the stream, as while it chooses a leader; asked again for 30 s.",
    "stream-without-slots": "The stream cannot be divided; one partition counts it whole. The remedy is in the line.",
    "partition-owned": "This worker counts the partition from now on.",
    "partition-retry": "A server failed under a partition; it starts again from its position.",
    "balance-failed": "The partitions could not be shared out; tried again in a moment.",
    "messages-lost": "The stream dropped messages before they were read: raise its limits.",
    "stream-changed": "The stream was recreated or restored; it is read again by time, and ids decide what counts.",
    "session-too-slow": "A batch or a look at the partitions outlasted ANLYT_BATCH_DEADLINE_S; its session is ended.",
    "dead-letters-kept": "A batch had events that cannot be counted: how many of each reason, and the first sequence.",
    "id-conflicts": "Copies are of another type than the event counted under their id; the first id is in the line.",
    "sum-overflow": "A sum did not fit its column; the message that broke it is being isolated.",
    "nothing-understood": "Next to nothing in a partition could be understood; the worker ends, as its error says.",
    "job-done": "A periodic job did something; what, as counts.",
    "job-failed": "A periodic job failed; it is tried again when it is due.",
    "jobs-wait": "The jobs cannot be looked up at the moment; tried again soon.",
    "role-ended": "A process of `anlyt up` ended by itself; it is started again.",
    "server-ended": "An embedded server of `anlyt up` ended by itself; it is started again.",
    "server-failed": "An embedded server did not start again; tried again in a moment.",
    "embedded_leftover_stopped": "A server of ours outlived its parent and was stopped, so that it can start anew.",
    "embedded_user_made": "A system user was made for the embedded servers, because they do not run as root.",
    "embedded_program_copied": "Programs were copied to where the embedded servers' user can reach them.",
    "embedded_directory_moved": "Data of embedded servers live where their user can reach them, not where asked.",
}


class _Typed(Protocol):  # the three protocols stand for records of modules above this one, which it may not import
    @property
    def type(self) -> str: ...


class _Decoded(Protocol):
    @property
    def events(self) -> Sequence[_Typed]: ...
    @property
    def letters(self) -> Sized: ...
    @property
    def ignored(self) -> int: ...


class _Position(Protocol):
    @property
    def complete_through(self) -> int | None: ...


class _Applied(Protocol):
    @property
    def position(self) -> _Position: ...
    @property
    def counted_types(self) -> Mapping[str, int]: ...
    @property
    def dead_letters(self) -> int: ...
    @property
    def late_seconds(self) -> int: ...
    @property
    def conflicts(self) -> int: ...


class _JobRun(Protocol):
    @property
    def started_at(self) -> datetime: ...
    @property
    def finished_at(self) -> datetime | None: ...
    @property
    def outcome(self) -> str | None: ...
    @property
    def succeeded_at(self) -> datetime | None: ...


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class has it
        """Say nothing about each request."""


class Telemetry:
    """The metrics of one process, in one registry, and how it is."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._beaten_at: float | None = None
        self._unready: str | None = None
        self._events = self._counter("anlyt_events_total")
        self._batches = self._counter("anlyt_batches_total")
        self._batch_seconds = self._histogram("anlyt_batch_seconds")
        self._complete_through = self._gauge("anlyt_complete_through_timestamp_seconds")
        self._owned = self._gauge("anlyt_partition_owned")
        self._recorded = self._gauge("anlyt_recorded_events")
        self._retries = self._counter("anlyt_retries_total")
        self._lost = self._counter("anlyt_lost_messages_total")
        self._refused = self._gauge("anlyt_refused_events")
        self._late = self._counter("anlyt_late_second_counts_total")
        self._conflicts = self._counter("anlyt_id_conflicts_total")
        self._accounts = self._gauge("anlyt_active_accounts")
        self._requests = self._counter("anlyt_http_requests_total")
        self._request_seconds = self._histogram("anlyt_http_request_seconds")
        self._live_listeners = self._gauge("anlyt_live_listeners")
        self._job_runs = self._counter("anlyt_job_runs_total")
        self._job_success = self._gauge("anlyt_job_last_success_timestamp_seconds")
        self._job_seconds = self._gauge("anlyt_job_last_run_seconds")
        self._job_ok = self._gauge("anlyt_job_last_run_ok")
        self._runway = self._gauge("anlyt_partition_runway_seconds")

    def applied(self, partition: str, decoded: _Decoded, applied: _Applied, *, seconds: float) -> None:
        """A batch was committed. What was read of a type and not counted was a duplicate."""
        for kind, read in Tally(event.type for event in decoded.events).items():
            counted = applied.counted_types.get(kind, 0)
            self._add_events(kind, "counted", counted)
            self._add_events(kind, "duplicate", read - counted)
        self._add_events(UNTYPED, "dead_letter", applied.dead_letters)
        self._add_events(UNTYPED, "ignored", decoded.ignored)
        self._batches.inc()
        self._batch_seconds.observe(seconds)
        self._late.inc(applied.late_seconds)
        self._conflicts.inc(applied.conflicts)
        if applied.position.complete_through is not None:
            self._complete_through.labels(partition).set(applied.position.complete_through / _MICROSECONDS)

    def owned(self, partition: str, *, owned: bool) -> None:
        """This process began or ceased to count a partition."""
        self._owned.labels(partition).set(owned)

    def retried(self, cause: str) -> None:
        """Work was given up and starts again. `cause` is the name of an error class."""
        self._retries.labels(cause).inc()

    def lost(self, messages: int) -> None:
        """The stream dropped messages before they were counted."""
        self._lost.inc(messages)

    def answered(self, route: str, status: int, *, seconds: float) -> None:
        """An HTTP request was answered. `route` is the route's pattern, never the path that was asked for."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def listening(self, readers: int) -> None:
        """So many live readers are connected."""
        self._live_listeners.set(readers)

    def job_ran(self, job: str, outcome: Literal["ok", "failed"]) -> None:
        """A periodic job ended."""
        self._job_runs.labels(job, outcome).inc()

    def recorded(
        self,
        *,
        complete_through_s: float | None,
        runways_s: Mapping[str, float],
        refused: int,
        accounts: Mapping[str, int],
        events: Mapping[Outcome, int],
        jobs: Mapping[str, _JobRun],
    ) -> None:
        """What PostgreSQL knows of all processes together; what it does not tell any more is no longer exposed."""
        self._complete_through.clear()
        self._runway.clear()
        self._recorded.clear()
        if complete_through_s is not None:
            self._complete_through.labels(WHOLE_STREAM).set(complete_through_s)
        for table, seconds in runways_s.items():
            self._runway.labels(table).set(seconds)
        self._refused.set(refused)
        self._accounts.clear()
        for day, count in accounts.items():
            self._accounts.labels(day).set(count)
        for outcome, count in events.items():
            self._recorded.labels(outcome).set(count)
        self._record_jobs(jobs)

    def _record_jobs(self, jobs: Mapping[str, _JobRun]) -> None:
        for gauge in (self._job_success, self._job_seconds, self._job_ok):
            gauge.clear()
        for name, run in jobs.items():
            if run.succeeded_at is not None:
                self._job_success.labels(name).set(run.succeeded_at.timestamp())
            if run.finished_at is not None:
                self._job_seconds.labels(name).set((run.finished_at - run.started_at).total_seconds())
                self._job_ok.labels(name).set(run.outcome == "ok")

    def totals(self) -> dict[Outcome, int]:
        """Events of this process by what became of them."""
        totals = dict.fromkeys(OUTCOMES, 0)
        for sample in (sample for metric in self._events.collect() for sample in metric.samples):
            outcome = cast("Outcome", sample.labels["outcome"])
            if sample.name == "anlyt_events_total":
                totals[outcome] += int(sample.value)
        return totals

    @contextmanager
    def served(self, *, host: str, port: int | None) -> Generator[None]:
        """Serve /metrics, /livez and /readyz over HTTP while the block runs, unless `port` is None; 0 takes a free one.

        Raises ConfigurationError when the address cannot be listened on.
        """
        if port is None:
            yield
            return
        try:
            server = make_server(host, port, self._serve, _Server, _Handler)
        except OSError as error:
            raise ConfigurationError(
                f"the metrics cannot be served on {host}:{port}: {error.strerror}; stop what listens there, or take "
                "another --metrics-port (0 takes a free one)"
            ) from None
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        log.info("metrics-listening", url=f"http://{host}:{server.server_port}/metrics")
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def beat(self) -> None:
        """The process gets its turns: told again and again by one that does, and missed in one that hangs."""
        self._beaten_at = time.monotonic()

    def ready(self, cause: str | None) -> None:
        """From now on this process does its work, or does not, for this cause; it holds no secrets."""
        self._unready = cause

    def _serve(self, request: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self.answer(request["PATH_INFO"], start_response, now_s=time.monotonic())

    def answer(self, path: str, start_response: Callable[..., object], *, now_s: float) -> Iterable[bytes]:
        """One request to the metrics port, in the words of WSGI; `now_s` as of time.monotonic()."""
        match path:
            case "/livez":
                hangs = self._beaten_at is not None and now_s - self._beaten_at > LIVE_AGE_S
                status, text = (_UNAVAILABLE, "hangs") if hangs else (_OK, "alive")
            case "/readyz":
                status, text = (_OK, "ready") if self._unready is None else (_UNAVAILABLE, self._unready)
            case _:
                start_response(_OK, [("Content-Type", METRICS_CONTENT_TYPE)])
                return [self.render()]
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    def render(self) -> bytes:
        """All metrics in Prometheus' text format (METRICS_CONTENT_TYPE)."""
        return generate_latest(self.registry)

    def _add_events(self, kind: str, outcome: Outcome, count: int) -> None:
        if count:
            self._events.labels(kind, outcome).inc(count)

    def _counter(self, name: str) -> Counter:
        metric = METRICS[name]
        return Counter(name, metric.meaning, metric.labels, registry=self.registry)

    def _gauge(self, name: str) -> Gauge:
        metric = METRICS[name]
        return Gauge(name, metric.meaning, metric.labels, registry=self.registry)

    def _histogram(self, name: str) -> Histogram:
        metric = METRICS[name]
        return Histogram(name, metric.meaning, metric.labels, registry=self.registry, buckets=metric.buckets)


# ---------------------------------------------------------------------------------------------------------------- logs


def configure_logs(log_format: LogFormat, level: str, *, stream: TextIO | None = None) -> None:
    """Send structlog and the standard library's logs through one renderer to `stream` (stderr), one event a line.

    `level` is debug, info, warning or error. Called once by the command line, before anything else.
    """
    handler = logging.StreamHandler(stream)  # None is stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            guard_values,
            _renderer(log_format, terminal=handler.stream.isatty()),
        ],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def guard_values(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every value safe to print: secrets blotted out, control characters escaped, length bounded."""
    return {name: guard_value(value) for name, value in event.items()}


def guard_value(value: object) -> object:
    """One value as it may stand in a log line. Numbers and None stay what they are."""
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    if len(text) > LOG_VALUE_CHARS_MAX:
        text = f"{text[:LOG_VALUE_CHARS_MAX]}... ({len(text)} characters)"
    return _CONTROL.sub(_escape, blot(text))


def blot(text: str) -> str:
    """A text without the secret parts of keys, tokens and addresses in it."""
    return _URL_PASSWORD.sub(r"\1***@", _TOKEN.sub(r"\1***", _API_KEY.sub(r"\1***", text)))


_API_KEY: Final = re.compile(r"(anlyt_[0-9a-z]+_)[0-9A-Za-z]+")
_TOKEN: Final = re.compile(r"\b(eyJ)[0-9A-Za-z_-]*\.[0-9A-Za-z_.-]+")
_URL_PASSWORD: Final = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@]*@")
# The renderers escape line feeds themselves, so that tools can show a traceback as it was.
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _renderer(log_format: LogFormat, *, terminal: bool) -> Processor:
    match log_format:
        case "auto":
            return _renderer("console" if terminal else "json", terminal=terminal)
        case "console":
            return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)
        case "json":
            return structlog.processors.JSONRenderer()
        case _:
            assert_never(log_format)
