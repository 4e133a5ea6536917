"""Records to JSON schemas: what is answered is described from the very types that are written.

In: a record (msgspec.Struct). Out: its schema in JSON Schema 2020-12 with the records inside of it in their places,
each with its name as title; integers as int64, NUMERIC as a string with six decimals, instants as date-time. Meanings
and examples of the members come from glossary.py. A type that is not known here is an error, never `{}`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import inspect, structs

from anlyt.glossary import find_term

if TYPE_CHECKING:
    from collections.abc import Mapping

    Schema = dict[str, Any]

MONEY: Final = {"type": "string", "pattern": r"^-?[0-9]+\.[0-9]{6}$"}
_SMALL: Final = ("index", "duplicateOf", "batchIndex", "bodyBytes", "attempts", "slot", "groups", "peakTps")
_INT32: Final = frozenset(  # everything else is int64
    {f"latencyP{percent}Ms" for percent in (50, 90, 95, 99)}
    | {f"Tally.{verdict}" for verdict in ("accepted", "duplicate", "ignored", "rejected")}
    | {"Problem.status", *_SMALL}
)
_FORMS: Final[Mapping[str, Schema]] = {  # of columns whose type in Python is just str
    "scope": {"enum": ["PLATFORM", "OPERATOR", "ACCOUNT"]},
    "operatorId": {"format": "uuid"},
    "accountId": {"format": "uuid"},
}
_PLAIN: Final[Mapping[type[inspect.Type], Schema]] = {
    inspect.AnyType: {},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.DecimalType: MONEY,
    inspect.FloatType: {"type": "number"},
    inspect.NoneType: {"type": "null"},
}


def schema_of(record: type) -> dict[str, Any]:
    """The schema of a record. Raises TypeError for a member whose type has no schema here."""
    return _translate(inspect.type_info(record))


def _translate(kind: inspect.Type, name: str = "") -> Schema:
    """The schema of any type; `name` is `Record.member` of the member it belongs to."""
    match kind:
        case inspect.StructType():
            return _object(kind)
        case inspect.UnionType():
            return _union([_translate(each, name) for each in kind.types])
        case inspect.ListType() | inspect.VarTupleType() | inspect.CollectionType():
            return {"type": "array", "items": _translate(kind.item_type)}
        case inspect.DictType():
            return {"type": "object", "additionalProperties": _translate(kind.value_type)}
        case inspect.Metadata():
            return _translate(kind.type, name) | (kind.extra_json_schema or {})
        case _:
            return _scalar(kind, name)


def _scalar(kind: inspect.Type, name: str) -> Schema:
    match kind:
        case inspect.LiteralType():
            return {"type": "string", "enum": sorted(kind.values, key=str)}
        case inspect.IntType():
            known = {"minimum": kind.ge, "maximum": kind.le}
            bounds = {word: value for word, value in known.items() if value is not None}
            return {"type": "integer", "format": "int64" if _INT32.isdisjoint(_names(name)) else "int32", **bounds}
        case inspect.StrType():
            longest = {} if kind.max_length is None else {"maxLength": kind.max_length}
            return {"type": "string", **longest, **_FORMS.get(_names(name)[1], {})}
        case _ if type(kind) in _PLAIN:
            return dict(_PLAIN[type(kind)])
        case _:
            raise TypeError(f"there is no schema for {kind}")


def _names(name: str) -> tuple[str, str]:
    """`Record.member`, and the member alone."""
    return name, name.rpartition(".")[2]


def _object(kind: inspect.StructType) -> Schema:
    title = kind.cls.__name__
    leaves_out = kind.cls.__struct_config__.omit_defaults  # so null is never written
    members = {
        field.encode_name: _member(title, _without_null(field) if leaves_out and not field.required else field)
        for field in kind.fields
    }
    required = [field.encode_name for field in kind.fields if field.required]
    schema: Schema = {"title": title, "type": "object"}
    if kind.cls.__doc__ and not kind.cls.__doc__.startswith(f"{title}("):
        schema["description"] = " ".join(kind.cls.__doc__.split())
    schema["properties"] = members
    if required:
        schema["required"] = required
    if kind.forbid_unknown_fields:
        schema["additionalProperties"] = False
    return schema


def _without_null(field: inspect.Field) -> inspect.Field:
    if field.default is not None or not isinstance(field.type, inspect.UnionType):
        return field
    kinds = tuple(kind for kind in field.type.types if not isinstance(kind, inspect.NoneType))
    return structs.replace(field, type=inspect.UnionType(kinds))


def _member(title: str, field: inspect.Field) -> Schema:
    """A member with its meaning and example; those beside a record of its own would be said twice."""
    schema = _translate(field.type, f"{title}.{field.encode_name}")
    term = find_term(title, field.encode_name)
    if term is None or "properties" in schema:
        return schema
    shown: Schema = {} if term.example is None else {"examples": [term.example]}
    return {**schema, "description": term.meaning, **shown}


def _union(parts: list[Schema]) -> Schema:
    """Null joins the type of the other part; anything else is an anyOf."""
    null = {"type": "null"}
    others = [part for part in parts if part != null]
    if null not in parts:
        return others[0] if len(others) == 1 else {"anyOf": others}
    if len(others) == 1 and isinstance(others[0].get("type"), str) and "properties" not in others[0]:
        values = {"enum": [*cast("list[object]", others[0]["enum"]), None]} if "enum" in others[0] else {}
        return others[0] | {"type": [others[0]["type"], "null"]} | values
    return {"anyOf": [*others, null]}
