"""The description of the HTTP API: whole, valid, its words and examples fit, and it is the document that is served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import jsonschema_rs
import pytest

from anlyt import api, document, web
from anlyt.settings import Settings
from anlyt.telemetry import Telemetry
from serving import service
from support import run

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMITTED = Path(__file__).parent.parent / "docs/reference/openapi.json"
PUBLIC = {"getLiveness", "getReadiness", "getMetrics", "signIn", "signOut"}  # these need no key


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The document of an application that no server stands behind."""
    app = api.build_app(pool=cast("Any", None), settings=Settings.model_validate({}), telemetry=Telemetry())
    return app.openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def contents(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every body that is taken or answered, with where it stands."""
    for name, operation in operations(described):
        bodies = {"request": operation.get("requestBody", {}), **operation["responses"]}
        for status, body in bodies.items():
            for kind, content in body.get("content", {}).items():
                yield f"{name} {status} {kind}", content


def resolve(described: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for name in node["$ref"].removeprefix("#/").split("/") if "$ref" in node else []:
        described = described[name]
    return described if "$ref" in node else node


def errors_of(described: dict[str, Any], schema: dict[str, Any], value: object) -> list[str]:
    """What is wrong with a value; the schema may refer to the components of the document."""
    whole = {"components": described["components"], **schema}
    validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
    return [error.message for error in validator.iter_errors(value)]


def test_what_is_served_is_what_is_committed(database_url: str) -> None:
    async def story() -> None:
        async with service(database_url) as (client, _):
            response = await client.get("/openapi.json")

            assert response.status_code == 200
            assert response.json() == json.loads(COMMITTED.read_text(encoding="utf-8"))

    run(story())


def test_operations_are_named_once_in_camel_case_and_summed_up(described: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(described)]

    assert len(ids) == len(set(ids))
    assert [name for name in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", name)] == []
    assert [name for name, each in operations(described) if not each["summary"].endswith((".", "?"))] == []


def test_every_operation_has_a_known_tag(described: dict[str, Any]) -> None:
    known = {tag["name"] for tag in described["tags"]}

    assert {tag for _, operation in operations(described) for tag in operation["tags"]} == known


def test_every_operation_says_which_key_it_needs(described: dict[str, Any]) -> None:
    open_to_all = {each["operationId"] for _, each in operations(described) if not each.get("security")}

    assert open_to_all <= PUBLIC


def test_every_schema_is_a_valid_schema(described: dict[str, Any]) -> None:
    for schema in described["components"]["schemas"].values():
        jsonschema_rs.meta.validate(schema | {"$schema": "https://json-schema.org/draft/2020-12/schema"})


def test_every_member_of_every_record_has_a_meaning(described: dict[str, Any]) -> None:
    """A new member needs an entry in glossary.py."""
    silent = [
        f"{title}.{name}"
        for title, schema in described["components"]["schemas"].items()
        for name, member in schema["properties"].items()
        if "$ref" not in member and "description" not in member
    ]

    assert silent == []


def test_every_example_fits_its_schema(described: dict[str, Any]) -> None:
    seen = 0
    wrong: dict[str, list[str]] = {}
    for place, content in contents(described):
        examples = [content["example"]] if "example" in content else []
        examples += [resolve(described, each)["value"] for each in content.get("examples", {}).values()]
        for example in examples:
            seen += 1
            if found := errors_of(described, content["schema"], example):
                wrong[place] = found

    assert wrong == {}
    assert seen > 100


def test_every_body_has_an_example_and_every_example_of_a_parameter_fits(described: dict[str, Any]) -> None:
    files = ("text/csv", "ndjson", "parquet", "event-stream")
    bare = [
        place
        for place, content in contents(described)
        if not content.get("example", content.get("examples")) and not any(kind in place for kind in files)
    ]
    wrong = [
        (name, parameter["name"], example)
        for name, operation in operations(described)
        for parameter in operation.get("parameters", [])
        for example in parameter["schema"].get("examples", [])
        if errors_of(described, parameter["schema"], example)
    ]

    assert bare == []
    assert wrong == []


def test_a_value_that_is_not_exact_does_not_fit(described: dict[str, Any]) -> None:
    """The schemas are strict enough to notice a rounded number, money without its decimals, a local time."""
    row = document.example_of({"$ref": "#/components/schemas/MetricsHourlyRow"}, described["components"]["schemas"])
    assert isinstance(row, dict)
    schema = {"$ref": "#/components/schemas/MetricsHourlyRow"}

    assert errors_of(described, schema, row) == []
    for name, value in {
        "totalMessages": 1.5,
        "totalCost": "54",
        "hourBucket": "2026-04-18 10:00",
        "scope": "EVERYBODY",
        "final": None,
    }.items():
        assert errors_of(described, schema, row | {name: value}) != [], name


def test_every_problem_has_an_example_that_some_route_shows(described: dict[str, Any]) -> None:
    shown = {
        each["$ref"].rpartition("/")[2]
        for _, content in contents(described)
        for each in content.get("examples", {}).values()
        if "$ref" in each
    }

    assert set(document.PROBLEMS) == set(web.PROBLEMS)
    assert set(web.PROBLEMS) - shown == {"method-not-allowed"}  # which no described route answers


def test_every_answer_names_its_headers(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        for status, answer in operation["responses"].items():
            assert "X-Request-Id" in answer["headers"], (name, status)
            assert ("Retry-After" in answer["headers"]) == (status in {"429", "503"}), (name, status)
