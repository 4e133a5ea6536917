"""The description of the routes made whole: shared schemas, examples, and what every route has in common.

In: an OpenAPI document with each schema in its place. Out: the same with records under `components`, an example of each
answer, each problem a route can answer with its own example, and the headers of every answer. Pure. What a single route
takes and answers is said in openapi.py; the words and values come from glossary.py, so that none is written twice.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import Struct

from anlyt import parquet, web
from anlyt.schemas import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Schema = dict[str, Any]

PROBLEM_TYPE: Final = "application/problem+json"
INFO: Final = {
    "description": (
        "Events of an A2P messaging platform, counted exactly once. Periods are half-open; integers are exact int64, "
        "money is a string with six decimals, instants are RFC 3339 in UTC. Errors are RFC 9457 problems. Members may "
        "be added to answers within v1; none is taken away or changes its meaning."
    ),
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
TAGS: Final[Mapping[str, tuple[str, str]]] = {  # by the beginning of the path: name and meaning; the first that fits
    "/v1/events": ("Events", "Sending events over HTTP."),
    "/v1/dead-letters": ("Dead letters", "What could not be counted; for platform staff."),
    "/v1/session": ("Session", "Who asks, and signing in to the page."),
    "/v1/": ("Numbers", "Reading what was counted."),
    "/": ("Service", "The state of the process, for whoever runs it."),
}
HEADERS: Final[Mapping[str, Schema]] = {
    "X-Request-Id": {
        "description": "The request's line in the access log.",
        "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$", "examples": ["5f0c7d1e9a3b2468"]},
    },
    "Retry-After": {
        "description": "Seconds to wait before asking again.",
        "schema": {"type": "integer", "minimum": 0, "examples": [2]},
    },
    "WWW-Authenticate": {
        "description": "How a key is sent.",
        "schema": {"type": "string", "examples": ['Bearer realm="anlyt"']},
    },
}
_HEADERS_OF: Final = {"401": "WWW-Authenticate", "429": "Retry-After", "503": "Retry-After"}
_EVERYWHERE: Final = {
    "400": "The request cannot be read.",
    "414": "The part of the address behind the question mark is too long.",
    "431": "The headers are too long.",
    "500": "A mistake of the service; its log has the cause.",
}
_UNDER_V1: Final = {"406": "The caller takes none of the types the route answers in."}


class Example(Struct, frozen=True):
    """A problem as it looks; `of` names the only operation that answers it."""

    status: int
    detail: str
    parameter: str | None = None
    of: str | None = None


PROBLEMS: Final[Mapping[str, Example]] = {
    "invalid-request": Example(400, "a GET request carries no body"),
    "invalid-cursor": Example(
        400,
        "this cursor does not belong to this question: send `next` of the page before with the same parameters and key",
        "cursor",
    ),
    "unauthorized": Example(401, "this key is not valid: it is unknown, mistyped, expired or revoked"),
    "forbidden": Example(403, "this key lacks the permission metrics:read; ask for a key that has it"),
    "cross-site": Example(
        403,
        "a signed-in browser sent this on behalf of another site; use the page of this service, or send the key in a "
        "header",
    ),
    "insecure-connection": Example(
        403,
        "this connection is not encrypted, so the key would be readable on its way: open the page over https",
        of="signIn",
    ),
    "not-found": Example(404, "there is no such scopeId, or this key may not see it"),
    "method-not-allowed": Example(405, "this address does not take this method; the header Allow lists those it takes"),
    "not-acceptable": Example(406, "this route answers in application/json only"),
    "too-slow-body": Example(408, "the body did not arrive within 10 s; send the same again, or less at once"),
    "too-large": Example(413, "the body has more than 1048576 bytes; send the events in several requests"),
    "query-too-long": Example(414, "the query has 9000 bytes, but at most 8192 are read"),
    "unsupported-media-type": Example(
        415, "the body must be JSON in UTF-8, not compressed, with a Content-Type of application/json"
    ),
    "invalid-parameter": Example(422, "limit is '0', but must be a whole number from 1 to 1000", "limit"),
    "unknown-parameter": Example(422, "'scopeID' is not a parameter of this route; it takes scope, scopeId"),
    "repeated-parameter": Example(422, "limit is given more than once, but takes one value", "limit"),
    "period-too-long": Example(
        422,
        "the period from 2025-01-01T00:00:00Z to 2026-01-01T00:00:00Z is longer than 100 days; ask for it in parts",
        "from",
    ),
    "no-valid-event": Example(
        422, "none of the 1 events can be counted; `events` says why, nothing was published", of="publishEvents"
    ),
    "too-many-tries": Example(429, "too many invalid keys came from this address; wait a moment and check the key"),
    "too-fast": Example(429, "this key may send 5000 events a second; send this again in 1 s", of="publishEvents"),
    "headers-too-long": Example(431, "the headers are longer than 16384 bytes"),
    "internal-error": Example(
        500,
        "this is a mistake of the service; its log has the cause, near the line with this answer's X-Request-Id",
    ),
    "not-installed": Example(501, parquet.MISSING, "format"),
    "unavailable": Example(503, "the database cannot be reached at the moment; try again in a few seconds"),
    "too-slow": Example(503, "the answer took too long; ask for a shorter period or fewer ids"),
}
REJECTED: Final = {
    "index": 0,
    "fate": "rejected",
    "reason": "invalid_field",
    "detail": "data.segments must be a whole number from 1 to 1000, but is 0.",
}
RECORDS: Final[Mapping[str, object]] = {  # examples of records whose members do not all stand together
    "Fate": {
        "index": 0,
        "fate": "accepted",
        "id": "0196f1c2-7a11-7c50-8f0e-5a1f3c2b0001",
        "source": "/gateway/eu-1",
    },
    "Choice": {"sequence": 4711, "index": 0},
    "RetryChoice": {"reason": "currency_mismatch"},
}


def complete(document: Schema, security: Schema) -> Schema:
    """The whole document, from what FastAPI knows of the routes. `security` has the ways to send a key."""
    schemas: dict[str, Schema] = {"Problem": schema_of(web.Problem)}
    paths = cast("dict[str, dict[str, Schema]]", _hoist(document["paths"], schemas))
    schemas = {name: cast("Schema", _hoist_inside(schema, schemas)) for name, schema in list(schemas.items())}
    whole = {path: {method: _operation(path, each, schemas) for method, each in paths[path].items()} for path in paths}
    return {
        "openapi": "3.1.0",
        "info": document["info"] | INFO,
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": meaning} for name, meaning in _used_tags(whole)],
        "paths": whole,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "examples": {code: {"value": problem_example(code)} for code in PROBLEMS},
            "headers": dict(HEADERS),
            "securitySchemes": security,
        },
    }


# -------------------------------------------------------------------------------------------------------------- schemas


def _hoist(node: object, schemas: dict[str, Schema]) -> object:
    """The node with each record in it moved to `schemas` under its title."""
    if isinstance(node, list):
        return [_hoist(item, schemas) for item in cast("list[object]", node)]
    if not isinstance(node, dict):
        return node
    inside = {key: _hoist(value, schemas) for key, value in cast("Schema", node).items()}
    title = inside.get("title")
    if not isinstance(title, str) or "properties" not in inside:
        return inside
    assert schemas.setdefault(title, inside) == inside, f"two records are called {title}"
    return {"$ref": f"#/components/schemas/{title}"}


def _hoist_inside(schema: Schema, schemas: dict[str, Schema]) -> object:
    return {key: _hoist(value, schemas) for key, value in schema.items()}


def example_of(schema: Schema, schemas: Mapping[str, Schema]) -> object:
    """A value that fits a schema, made of the examples of its parts."""
    if "examples" in schema:
        return schema["examples"][0]
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return example_of(schema[word][0], schemas)
    if "properties" in schema:
        members = {name: example_of(part, schemas) for name, part in schema["properties"].items()}
        return RECORDS.get(schema.get("title", ""), members)
    if schema.get("type") == "array":
        return [example_of(schema["items"], schemas)]
    return None


# ----------------------------------------------------------------------------------------------------------- operations


def _operation(path: str, operation: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """An operation with its tag, its examples, and the problems that every route has."""
    general = _EVERYWHERE | (_UNDER_V1 if path.startswith("/v1/") else {})
    answers = {status: {"description": meaning} for status, meaning in general.items()} | operation["responses"]
    name = next(name for beginning, (name, _) in TAGS.items() if path.startswith(beginning))
    whole: Schema = {"tags": [name], **operation, "responses": {}}
    for status in sorted(answers):
        bad = int(status) >= HTTPStatus.BAD_REQUEST
        whole["responses"][status] = (
            _problem(status, answers[status], operation) if bad else _answer(status, answers[status], schemas)
        )
    body = whole.get("requestBody")
    if body is not None:
        whole["requestBody"] = body | {"content": _with_examples(body["content"], schemas)}
    return whole


def _answer(status: str, answer: Schema, schemas: Mapping[str, Schema]) -> Schema:
    """A good answer. FastAPI writes JSON of no schema beside other types; that is left out."""
    content = {kind: each for kind, each in answer.get("content", {}).items() if each.get("schema")}
    shown = {"content": _with_examples(content, schemas)} if content else {}
    return {
        "description": answer["description"],
        "headers": answer.get("headers", {}) | _headers(status),
        **shown,
    }


def _with_examples(content: Schema, schemas: Mapping[str, Schema]) -> Schema:
    return {
        kind: each
        if "example" in each or "json" not in kind or "ndjson" in kind
        else {**each, "example": example_of(each["schema"], schemas)}
        for kind, each in content.items()
    }


def _problem(status: str, answer: Schema, operation: Schema) -> Schema:
    """A problem, with an example of each kind that this operation answers with this status."""
    parameters = {parameter["name"] for parameter in operation.get("parameters", [])}
    codes = _codes_of(int(status), operation["operationId"], parameters)
    examples = {code: {"$ref": f"#/components/examples/{code}"} for code in codes}
    media: Schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        "description": answer["description"],
        "headers": _headers(status),
        "content": {PROBLEM_TYPE: media | ({"examples": examples} if examples else {})},
    }


def _codes_of(status: int, operation_id: str, parameters: set[str]) -> Iterator[str]:
    for code, example in PROBLEMS.items():
        named: set[str] = set() if example.parameter is None else {example.parameter}
        if example.status == status and example.of in {None, operation_id} and named <= parameters:
            yield code


def problem_example(code: str) -> Schema:
    """A problem as it is answered."""
    example = PROBLEMS[code]
    begun = {"type": web.PROBLEM_BASE + code, "title": web.PROBLEMS[code], "status": example.status}
    named = {} if example.parameter is None else {"parameter": example.parameter}
    fates = {"events": [REJECTED]} if code == "no-valid-event" else {}
    return {**begun, "detail": example.detail, **named, **fates}


def _headers(status: str) -> Schema:
    names = ["X-Request-Id", *([_HEADERS_OF[status]] if status in _HEADERS_OF else [])]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _used_tags(paths: Mapping[str, Mapping[str, Schema]]) -> list[tuple[str, str]]:
    used = {tag for path in paths.values() for operation in path.values() for tag in operation["tags"]}
    return [(name, meaning) for name, meaning in TAGS.values() if name in used]
