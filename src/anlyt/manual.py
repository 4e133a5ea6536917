"""The page at /docs: the description of the API as HTML, for people. Made once, without a script, from nowhere else.

In: the OpenAPI document. Out: one page that asks nobody for anything, and the policy it is sent under, which allows its
own style by its hash and nothing besides. Whatever the document says stands here; nothing is written twice.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from typing import TYPE_CHECKING, Any, Final

from anlyt.document import example_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Schema = dict[str, Any]

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --quiet: #666; --code: #8881; --link: #00639c }
@media (prefers-color-scheme: dark) { :root { --quiet: #aaa; --link: #7cc4f5 } }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem 1.5rem 4rem }
h2 { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 1rem }
h3 { margin: 2.5rem 0 .25rem; font-size: 1.05rem }
a { color: var(--link) }
code, pre { font: .875rem/1.45 ui-monospace, monospace; background: var(--code); border-radius: 4px }
code { padding: .1em .3em } pre { padding: .75rem; overflow-x: auto } h3 code { font-size: .95rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 } caption { text-align: left; font-weight: 600 }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top }
th { font-weight: 600 } small, .quiet { color: var(--quiet) } summary { cursor: pointer } details { margin: .5rem 0 }
nav ul { columns: 2; list-style: none; padding: 0 } @media (max-width: 40rem) { nav ul { columns: 1 } }
"""
POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    f"{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)


def write_page(document: Schema) -> bytes:
    """The page."""
    info = document["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])}: HTTP API</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(info['title'])}: HTTP API <small>{escape(info['version'])}</small></h1>",
        f"<p>{_text(info['description'])}</p>",
        '<p>For programs: <a href="/openapi.json">OpenAPI</a>; for the events over NATS',
        ' <a href="/asyncapi.json">AsyncAPI</a>. <a href="/">To the numbers</a>.</p>',
        *_contents(document),
    ]
    for tag in document["tags"]:
        parts.append(f"<h2>{escape(tag['name'])}</h2><p>{_text(tag['description'])}</p>")
        parts += [_operation(*found, document) for found in _operations(document, tag["name"])]
    parts.append("<h2>Records</h2>")
    parts += [_record(name, schema) for name, schema in document["components"]["schemas"].items()]
    return "".join([*parts, "</main></body></html>"]).encode()


def _operations(document: Schema, tag: str) -> Iterator[tuple[str, str, Schema]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield path, method.upper(), operation


def _contents(document: Schema) -> Iterator[str]:
    yield '<nav aria-label="Routes"><ul>'
    for tag in document["tags"]:
        for path, method, operation in _operations(document, tag["name"]):
            yield f'<li><a href="#{escape(operation["operationId"])}"><code>{method} {escape(path)}</code></a></li>'
    yield "</ul></nav>"


def _operation(path: str, method: str, operation: Schema, document: Schema) -> str:
    security = operation.get("security", [])
    key = "" if not security else " A key may be sent." if {} in security else " Needs a key."
    parts = [
        f'<h3 id="{escape(operation["operationId"])}"><code>{method} {escape(path)}</code></h3>',
        f"<p>{_text(operation['summary'])}<span class=quiet>{key}</span></p>",
    ]
    parameters = [
        [f"<code>{escape(each['name'])}</code>", _form(each["schema"]), _text(each["description"])]
        for each in operation.get("parameters", [])
    ]
    if parameters:
        parts.append(_table("Parameters", ["name", "form", "meaning"], parameters))
    body = operation.get("requestBody", {}).get("content", {})
    parts += [_content("Body", kind, each, document) for kind, each in body.items()]
    good = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    for status, answer in good.items():
        parts.append(f"<p><strong>{status}</strong> {_text(answer['description'])}</p>")
        parts += [_content("Answer", kind, each, document) for kind, each in answer.get("content", {}).items()]
    bad = [[status, _text(each["description"]), _kinds(each)] for status, each in operation["responses"].items()]
    problems = _table("", ["status", "meaning", "types"], [row for row in bad if row[0] not in good])
    return "".join([*parts, f"<details><summary>Problems</summary>{problems}</details>"])


def _kinds(answer: Schema) -> str:
    contents: list[Schema] = list(answer.get("content", {}).values())
    codes: list[str] = [code for content in contents for code in content.get("examples", {})]
    return ", ".join(f"<code>{escape(code)}</code>" for code in codes)


def _content(word: str, kind: str, content: Schema, document: Schema) -> str:
    """A body: its type, the record it is, an example that can be opened."""
    example = content.get("example")
    if example is None and "json" not in kind:
        return f"<p>{word}: <code>{escape(kind)}</code></p>"
    shown = example_of(content["schema"], document["components"]["schemas"]) if example is None else example
    text = shown if isinstance(shown, str) else json.dumps(shown, indent=2, ensure_ascii=False)
    return (
        f"<details><summary>{word}: <code>{escape(kind)}</code> {_form(content['schema'])}</summary>"
        f'<pre tabindex="0">{escape(text)}</pre></details>'
    )


def _record(name: str, schema: Schema) -> str:
    required = set(schema.get("required", []))
    rows = [
        [
            f"<code>{escape(member)}</code>" + ("" if member in required else " <small>optional</small>"),
            _form(part),
            _text(part.get("description", "")),
        ]
        for member, part in schema["properties"].items()
    ]
    meaning = f"<p>{_text(schema['description'])}</p>" if "description" in schema else ""
    return (
        f'<h3 id="record-{escape(name)}">{escape(name)}</h3>{meaning}{_table("", ["member", "form", "meaning"], rows)}'
    )


def _table(caption: str, head: list[str], rows: list[list[str]]) -> str:
    title = f"<caption>{caption}</caption>" if caption else ""
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{title}<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table>"


def _form(schema: Mapping[str, Any]) -> str:
    """What a value looks like, in few words; a record leads to its own table."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#record-{name}">{name}</a>'
    for word in ("anyOf", "oneOf"):
        if word in schema:
            return " or ".join(dict.fromkeys(_form(part) for part in schema[word]))
    if "const" in schema or "enum" in schema:
        return ", ".join(
            f"<code>{escape(json.dumps(each))}</code>" for each in schema.get("enum", [schema.get("const")])
        )
    kinds: Any = schema.get("type", "any JSON")
    words = kinds if isinstance(kinds, str) else " or ".join(kinds)
    if "items" in schema:
        words = f"array of {_form(schema['items'])}"
    limits = {"minimum": "from", "maximum": "to", "maxItems": "at most", "maxLength": "characters at most"}
    extra = [str(schema["format"])] if "format" in schema else []
    extra += [f"{limits[name]} {schema[name]:,}" for name in limits if name in schema]
    extra += [f"default {escape(json.dumps(schema['default']))}"] if "default" in schema else []
    return words + (f" <small>{', '.join(extra)}</small>" if extra else "")


def _text(text: str) -> str:
    """Text in which `code` stands between backquotes."""
    parts = escape(text, quote=False).split("`")
    return "".join(f"<code>{part}</code>" if number % 2 else part for number, part in enumerate(parts))
