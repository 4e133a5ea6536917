"""What /openapi.json says about each route: parameters, bodies, answers and problems.

In: the tables of parameters and reports, and the records that are answered. Out: arguments for FastAPI's add_api_route.
Schemas are made from the very types that are written as JSON, so that the description cannot disagree with the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anlyt import asyncapi, desk, document, exports, intake, live, reports, summaries
from anlyt.names import NameList
from anlyt.queries import (
    IDS_MAX,
    LETTERS_PARAMETERS,
    LIVE_PARAMETERS,
    PARAMETERS,
    REPORTS,
    SUMMARY_PARAMETERS,
    ReportName,
    parameter_names,
)
from anlyt.schemas import schema_of
from anlyt.session import Session, SignIn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI

_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"apiKey": []}]
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key, or a token (JWT) of the issuer that is set."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key."},
}
_ANSWERS: Final = {
    400: "The cursor does not belong to this question.",
    401: "No valid key.",
    403: "The key lacks a permission.",
    404: "There is no such id, or the key may not see it.",
    422: "A parameter is wrong; `parameter` names it.",
    429: "Too many invalid keys from this address, or too many requests with this one; `Retry-After` says when.",
    503: "The database cannot be reached.",
}
_SIGN_IN_ANSWERS: Final = {
    401: "No valid key.",
    403: "The request comes from another site, or over a connection that is not encrypted.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: 'The body is not like `{"key": "anlyt_..."}`.',
    429: "Too many invalid keys from this address, or too many requests with this one; `Retry-After` says when.",
    503: "The database cannot be reached.",
}
_EVENT_ANSWERS: Final = {
    401: "No valid key.",
    403: "The key lacks the permission events:write.",
    408: "The body did not arrive in time.",
    413: "The body is over 1 MiB, or a batch over 1,000 events.",
    415: "The body is not JSON, or is compressed.",
    422: "None of the events can be counted: `events` has the fate of each. Nothing was published.",
    429: "Too many events of this key, or too many invalid keys from this address; Retry-After says when.",
    503: "JetStream or the database did not answer; send the same again, it is counted once.",
}


def complete(app: FastAPI) -> None:
    """Make the description whole: what FastAPI knows of the routes, and what it does not."""
    app.openapi_schema = document.complete(app.openapi(), _SCHEMES)


def describe_rows(name: ReportName) -> dict[str, Any]:
    """One of the four row routes."""
    described = _describe(f"list{name.title()}", REPORTS[name].meaning, list(parameter_names(name)))
    text = {"schema": {"type": "string"}}
    binary = {"schema": {"type": "string", "contentMediaType": exports.MEDIA_TYPES["parquet"]}}
    whole = {"text/csv": text, "application/x-ndjson": text, exports.MEDIA_TYPES["parquet"]: binary}
    answer = {"description": "A page as JSON, or with `format` all rows.", "content": _json(_page_of(name)) | whole}
    missing = _problems({501: "`format=parquet` where the API has no pyarrow."})
    return described | {
        "responses": {200: _versioned(described, answer), 304: _SAME, **described["responses"], **missing}
    }


def describe_status() -> dict[str, Any]:
    """`GET /v1/status`."""
    meaning = "Up to when everything has been counted; for platform staff, the whole state."
    answer = {"description": "The state of the service.", "content": _json(schema_of(reports.Status))}
    described = _describe("getStatus", meaning, [])
    return described | {"responses": {200: answer, **described["responses"]}}


def describe_summary() -> dict[str, Any]:
    """`GET /v1/summary`."""
    meaning = "Sums over a period: of everything, by operator or account, by hour, day or month."
    described = _describe("getSummary", meaning, list(SUMMARY_PARAMETERS))
    answer = {"description": "One row for each group.", "content": _json(schema_of(summaries.Summary))}
    return described | {"responses": {200: _versioned(described, answer), 304: _SAME, **described["responses"]}}


_ETAG: Final = {"ETag": {"description": "Where the whole period is final.", "schema": {"type": "string"}}}
_SAME: Final = {"description": "The answer whose ETag was sent still holds.", "headers": _ETAG}


def _versioned(described: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    """An answer that has an ETag, of a route that is told which one the caller has."""
    described["openapi_extra"]["parameters"].append(
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The ETag of an answer that is kept; 304 when it still holds.",
            "schema": {"type": "string"},
        }
    )
    return answer | {"headers": _ETAG}


def describe_live() -> dict[str, Any]:
    """`GET /v1/live`."""
    described = _describe("listen", "Rows of the hourly tables as they change, as server-sent events.", LIVE_PARAMETERS)
    described["openapi_extra"]["parameters"].append(
        {
            "name": "Last-Event-ID",
            "in": "header",
            "required": False,
            "description": "The last id that was received: what changed since then is sent first.",
            "schema": {"type": "string"},
        }
    )
    kinds = {
        "hourly": schema_of(reports.ROWS["hourly"]),
        "operators": schema_of(reports.ROWS["operators"]),
        "progress": schema_of(live.Progress),
        "reset": schema_of(live.Notice),
        "end": schema_of(live.Notice),
    }
    meaning = "Events `hourly` and `operators` (a row), `progress` (with the id), `reset` and `end`; comments between."
    content = {"text/event-stream": {"schema": {"type": "string"}, "x-event-data": kinds}}
    return described | {"responses": {200: {"description": meaning, "content": content}, **described["responses"]}}


def describe_letters() -> dict[str, Any]:
    """`GET /v1/dead-letters`."""
    meaning = "Events that could not be counted, the newest first."
    return _describe_desk("listDeadLetters", meaning, desk.ListedPage, parameters=LETTERS_PARAMETERS)


def describe_letter() -> dict[str, Any]:
    """`GET /v1/dead-letters/{sequence}/{index}`."""
    described = _describe_desk("getDeadLetter", "One dead letter, whole.", desk.ShownLetters)
    parts = {"sequence": "Sequence of the message in the stream.", "index": "Place in its batch; 0 for a single event."}
    number = {"type": "integer", "format": "int64", "minimum": 0}
    described["openapi_extra"]["parameters"] = [
        {"name": name, "in": "path", "required": True, "description": meaning, "schema": number}
        for name, meaning in parts.items()
    ]
    return described


def describe_retry() -> dict[str, Any]:
    """`POST /v1/dead-letters/retry`."""
    meaning = "Judge open letters again, by today's rules, and count what passes, exactly once."
    return _describe_desk("retryDeadLetters", meaning, desk.RetriedPart, body=desk.RetryChoice)


def describe_discard() -> dict[str, Any]:
    """`POST /v1/dead-letters/discard`."""
    meaning = "Mark open letters as discarded: they are kept, and never counted."
    return _describe_desk("discardDeadLetters", meaning, desk.DiscardedPart, body=desk.Choice)


def _describe_desk(
    operation_id: str, meaning: str, answer: type, *, parameters: Sequence[str] = (), body: type | None = None
) -> dict[str, Any]:
    """A route for platform staff with the permission admin."""
    described = _describe(operation_id, f"{meaning} For platform staff with the permission admin.", list(parameters))
    problems = described["responses"]
    if body is not None:
        content = _json(schema_of(body))
        content["application/json"]["example"] = {"sequence": 4711, "index": 0}
        described["openapi_extra"]["requestBody"] = {"required": True, "content": content}
        problems = problems | _problems({status: _EVENT_ANSWERS[status] for status in (408, 413, 415)})
    good = {"description": "The answer.", "content": _json(schema_of(answer))}
    return described | {"responses": {200: good, **problems}}


def describe_sign_in() -> dict[str, Any]:
    """`POST /v1/session`."""
    answer = {"description": "Signed in; the cookie is set.", "content": _json(schema_of(Session))}
    return {
        "operation_id": "signIn",
        "summary": "For browsers: a key becomes a session's cookie.",
        "responses": {200: answer, **_problems(_SIGN_IN_ANSWERS)},
        "openapi_extra": {"requestBody": {"required": True, "content": _json(schema_of(SignIn))}},
    }


def describe_session() -> dict[str, Any]:
    """`GET /v1/session`."""
    described = _describe(
        "getSession", "Whose key this is: scope, ids, permissions; when a browser's session ends.", []
    )
    answer = {"description": "Who asks.", "content": _json(schema_of(Session))}
    return described | {"responses": {200: answer, **described["responses"]}}


def describe_names() -> dict[str, Any]:
    """`GET /v1/names`."""
    described = _describe("listNames", "Display names of the operators and accounts that the key may see.", [])
    answer = {
        "description": "The names; none where the deployment has no file of them.",
        "content": _json(schema_of(NameList)),
    }
    return described | {"responses": {200: answer, **described["responses"]}}


def describe_sign_out() -> dict[str, Any]:
    """`DELETE /v1/session`."""
    return {
        "operation_id": "signOut",
        "summary": "For browsers: forget the session's cookie.",
        "status_code": 204,
        "responses": {204: {"description": "Signed out."}, **_problems({403: _SIGN_IN_ANSWERS[403]})},
    }


def describe_events() -> dict[str, Any]:
    """`POST /v1/events`."""
    event, batch, example = asyncapi.any_event(), asyncapi.any_batch(), asyncapi.example_of("message.submitted")
    meaning = "Publish CloudEvents: 202 when JetStream has them, with the fate of each. Sending again is safe."
    content = {
        intake.SINGLE_TYPE: {"schema": event, "example": example},
        intake.BATCH_TYPE: {"schema": batch, "example": [example]},
        "application/json": {"schema": {"anyOf": [event, batch]}, "example": example},
    }
    accepted = {"description": "The fate of each event.", "content": _json(schema_of(intake.Receipt))}
    return {
        "operation_id": "publishEvents",
        "summary": meaning,
        "status_code": 202,
        "responses": {202: accepted, **_problems(_EVENT_ANSWERS)},
        "openapi_extra": {"security": _SECURITY, "requestBody": {"required": True, "content": content}},
    }


def describe_liveness() -> dict[str, Any]:
    """`GET /livez`."""
    answer = {"description": "The process is alive.", "content": _json(_state("alive"))}
    return {"operation_id": "getLiveness", "summary": "Is the process alive?", "responses": {200: answer}}


def describe_readiness() -> dict[str, Any]:
    """`GET /readyz`."""
    answer = {"description": "It can serve.", "content": _json(_state("ready"))}
    not_yet = _problems({503: "The database cannot be reached, or its schema is behind."})
    return {"operation_id": "getReadiness", "summary": "Can it serve?", "responses": {200: answer, **not_yet}}


def describe_metrics() -> dict[str, Any]:
    """`GET /metrics`."""
    text = {"schema": {"type": "string"}, "example": "anlyt_complete_through_timestamp_seconds 1776511204.75\n"}
    answer = {
        "description": "Metrics of this process; with a platform key also how many events there were in all.",
        "content": {"text/plain": text},
    }
    problems = _problems({status: _ANSWERS[status] for status in (401, 403, 429, 503)})
    return {
        "operation_id": "getMetrics",
        "summary": "Metrics in Prometheus' text format; with a key of platform staff those of the events too.",
        "responses": {200: answer, **problems},
        "openapi_extra": {"security": [{}, *_SECURITY]},
    }


def _state(word: str) -> dict[str, Any]:
    status = {"type": "string", "const": word, "examples": [word]}
    return {"type": "object", "required": ["status"], "properties": {"status": status}}


def _page_of(name: ReportName) -> dict[str, Any]:
    """A page with rows of their own kind."""
    parts = {
        "data": {"type": "array", "description": "The rows.", "items": schema_of(reports.ROWS[name])},
        "next": {"type": ["string", "null"], "description": "The cursor of the page behind; null at the end."},
        "meta": schema_of(reports.Meta),
    }
    return {"title": f"{name.title()}Page", "type": "object", "required": list(parts), "properties": parts}


def _describe(operation_id: str, summary: str, parameters: Sequence[str]) -> dict[str, Any]:
    extra: dict[str, Any] = {"security": _SECURITY}
    if parameters:
        extra["parameters"] = [_parameter(name) for name in parameters]
    return {
        "operation_id": operation_id,
        "summary": summary,
        "responses": _problems(_ANSWERS),
        "openapi_extra": extra,
    }


def _parameter(name: str) -> dict[str, Any]:
    parameter = PARAMETERS[name]
    several = {"type": "array", "items": parameter.schema, "maxItems": IDS_MAX}
    schema = several if parameter.repeatable else parameter.schema
    return {"name": name, "in": "query", "required": False, "description": parameter.meaning, "schema": schema}


def _problems(answers: dict[int, str]) -> dict[int, Any]:
    """What document.py gives the form of a problem."""
    return {status: {"description": meaning} for status, meaning in answers.items()}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
