"""The catalogue of bad input: everything a producer or a caller can get wrong, each with what becomes of it.

The rows of EVENTS are published into one real stream, a good event behind each, and counted by one worker: a row leaves
exactly the dead letters and the counts that stand beside it, and never harms the event behind it. QUESTIONS are asked
of a running API. What needs a server, a process or an archive of its own is tested elsewhere; docs/catalogue.md lists
all of it and says where.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import pytest
from structlog.testing import capture_logs

import pipeline
from anlyt import jetstream
from anlyt.cloudevents import BATCH_BODY_EVENTS_MAX, BODY_BYTES_MAX
from anlyt.events import KEY_BYTES_MAX
from anlyt.settings import Settings
from serving import key_for, problem_of, service
from support import run

if TYPE_CHECKING:
    from anlyt.embedded import EmbeddedNats, EmbeddedPostgres

NOW = datetime.now(UTC).replace(microsecond=0)  # rows are published some minutes later, when other tests ran before
CANARY = "+491700000042"  # a phone number: it stands in every bad event and in no log line
OPERATOR = "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0002"
MISSING = object()
GROWTH = len(OPERATOR) - len("{account}")  # of a body when its account is filled in
ID_BYTES_MAX = KEY_BYTES_MAX - len(" /gateway/1")


class Json(str):
    """A value of an event that is written as it stands: 1e400, NaN, a repeated member."""

    __slots__ = ()


class Row(NamedTuple):
    """Bodies, the dead letters they leave, and what is counted for their account."""

    what: str
    sent: list[bytes]
    letters: list[str]
    counted: tuple[int, int, int]  # sent, delivered, failed
    headers: dict[str, str] | None = None


def instant(**ago: float) -> str:
    """An instant before now, in RFC 3339."""
    return (NOW - timedelta(**ago)).isoformat().replace("+00:00", "Z")


def event(kind: str = "message.submitted", data: dict[str, Any] | None = None, /, **attributes: Any) -> bytes:
    """An event of the row's account ({account}) with an id of its own, changed as said. MISSING leaves a member out."""
    members: dict[str, Any] = {"messageId": "m", "accountId": "{account}", "to": CANARY}
    if kind not in {"message.submitted", "operator.error"}:
        members["submittedAt"] = instant(minutes=5)
    whole = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/gateway/1", "type": kind, "time": instant()}
    whole |= {"data": kept(members | (data or {}))} | attributes
    texts: list[str] = []

    def mark(value: object) -> object:
        if isinstance(value, dict):
            return {name: mark(each) for name, each in value.items()}
        if isinstance(value, Json):
            texts.append(value)
            return f"@{len(texts) - 1}@"
        return value

    text = json.dumps(mark(kept(whole)))
    return re.sub(r'"@(\d+)@"', lambda found: texts[int(found[1])], text).encode()


def kept(members: dict[str, Any]) -> dict[str, Any]:
    """The members that are not MISSING."""
    return {name: value for name, value in members.items() if value is not MISSING}


def bad(what: str, sent: bytes, reason: str, headers: dict[str, str] | None = None) -> Row:
    """One dead letter, nothing counted."""
    return Row(what, [sent], [reason], (0, 0, 0), headers)


def good(what: str, *sent: bytes, counted: tuple[int, int, int] = (1, 0, 0)) -> Row:
    """No dead letter."""
    return Row(what, list(sent), [], counted)


def submitted(**data: Any) -> bytes:
    """A submission with these members of `data`."""
    return event("message.submitted", data)


def delivered(**data: Any) -> bytes:
    """A delivery with these members of `data`."""
    return event("message.delivered", data)


def same(change: dict[str, Any] | None = None, kind: str = "message.submitted") -> list[bytes]:
    """An event and another of the same identity, changed."""
    event_id = str(uuid.uuid4())
    return [event(id=event_id), event(kind, change or {}, id=event_id)]


def deep(depth: int) -> Json:
    """A value nested so deep."""
    return Json("[" * depth + "]" * depth)


NFC, NFD = "caf\u00e9-", "cafe\u0301-"
ARABIC = "\u0661\u0662"
EVENTS: list[Row] = [
    # ------------------------------------------------------------------------------------------- bytes and JSON
    bad("an empty body", b"", "malformed"),
    bad("no JSON", b"{accountId: " + CANARY.encode(), "malformed"),
    bad("JSON that is cut off", submitted()[:-5], "malformed"),
    bad("bytes behind the JSON", submitted() + b"x", "malformed"),
    Row("an empty batch", [b"[]"], [], (0, 0, 0)),
    bad("a batch of a number", b"[12]", "malformed"),
    Row("a batch in a batch", [b"[[" + submitted() + b"]]"], ["malformed"], (0, 0, 0)),
    bad("a text at the top", b'"text"', "malformed"),
    bad("a number at the top", b"17", "malformed"),
    bad("a byte order mark", b"\xef\xbb\xbf" + submitted(), "malformed"),
    bad("invalid UTF-8", submitted(note="?").replace(b'"?"', b'"\xff"'), "malformed"),
    bad("UTF-16", submitted().decode().encode("utf-16"), "malformed"),
    bad("UTF-32", submitted().decode().encode("utf-32"), "malformed"),
    bad("nested 100,000 deep", submitted(note=deep(100_000)), "malformed"),
    good("nested as deep as JSON may be read", submitted(note=deep(100))),
    bad("nested where text belongs", event(id=deep(500)), "malformed"),
    good("a repeated member: the last one stands", submitted(segments=Json('0, "segments": 1'))),
    bad("a repeated member whose last value is bad", submitted(segments=Json('1, "segments": 0')), "invalid_field"),
    bad("NaN", submitted(note=Json("NaN")), "malformed"),
    bad("Infinity", submitted(note=Json("-Infinity")), "malformed"),
    bad("a cost of 1e400", submitted(cost=Json("1e400")), "invalid_field"),
    bad("segments of 1e400", submitted(segments=Json("1e400")), "invalid_field"),
    good("1e400 in a member nobody reads", submitted(note=Json("1e400"))),
    bad("segments of 5,000 digits", submitted(segments=Json("9" * 5_000)), "invalid_field"),
    bad("a cost of 5,000 digits", submitted(cost=Json("9" * 5_000)), "invalid_field"),
    bad("NUL in the id", event(id="a\0b"), "invalid_field"),
    bad("NUL in the source", event(source="/a\0"), "invalid_field"),
    bad("NUL in the type", event("message.\0submitted"), "unknown_type"),
    *(bad(f"NUL in data.{name}", delivered(**{name: "a\0b"}), "invalid_field") for name in ("accountId", "operatorId", "submittedAt", "cost", "latencyMs", "previousStatus")),
    bad("NUL in the time", event(time="a\0b"), "invalid_field"),
    bad("NUL in the version", event(specversion="1.0\0"), "malformed"),
    bad("NUL in the currency", submitted(currency="EUR\0"), "currency_mismatch"),
    bad("NUL bytes", b"\0\0", "malformed"),
    good("NUL in the name of a member nobody reads", event("message.submitted", {"a\0b": 1})),
    good("NUL in a member nobody stores", submitted(note="a\0b", messageId="a\0b")),
    bad("a lone surrogate", submitted(note=Json('"\\ud800"')), "malformed"),
    bad("a lone surrogate in the id", event(id=Json('"\\udfff-{account}"')), "malformed"),
    good("a pair of surrogates", submitted(note=Json('"\\ud83d\\ude00"'))),
    good("a body of the largest size", submitted(note="")[:-3] + b"x" * (BODY_BYTES_MAX - 10_000) + b'"}}'),
    bad("a body one byte too large", submitted().ljust(BODY_BYTES_MAX + 1 - GROWTH), "too_large"),
    good("a body of exactly the largest size", submitted().ljust(BODY_BYTES_MAX - GROWTH)),
    bad("a batch one event too long", json.dumps([0] * (BATCH_BODY_EVENTS_MAX + 1)).encode(), "too_large"),
    bad("gzip", gzip.compress(submitted(), mtime=0), "malformed"),
    bad("zstd", b"\x28\xb5\x2f\xfd\x04\x00" + submitted(), "malformed"),
    bad("protobuf", b"\x0a\x03abc\x12\x08/gateway", "malformed"),
    # ------------------------------------------------------------------------------------------- members
    good("members and attributes nobody knows", event("message.submitted", {"new": Json("{}")}, traceparent="00-1", extension=Json("[1]"))),
    *(bad(f"without {name}", event(**{name: MISSING}), "malformed") for name in ("specversion", "id", "source", "type", "time", "data")),
    *(bad(f"{name} is null", event(**{name: None}), "malformed") for name in ("specversion", "id", "source", "type", "time", "data")),
    *(bad(f"{name} is empty", event(**{name: ""}), "malformed") for name in ("specversion", "id", "source", "type", "time", "data")),
    *(bad(f"{name} is a number", event(**{name: 1}), "malformed") for name in ("specversion", "id", "source", "type", "time", "data")),
    *(bad(f"{name} is true", event(**{name: True}), "malformed") for name in ("specversion", "id", "source", "type", "time", "data")),
    *(bad(f"without data.{name}", submitted(**{name: MISSING}), "invalid_field") for name in ("messageId", "accountId")),
    *(bad(f"data.{name} is null", submitted(**{name: None}), "invalid_field") for name in ("messageId", "accountId", "segments")),
    *(bad(f"data.{name} is a list", submitted(**{name: Json("[]")}), "invalid_field") for name in ("messageId", "accountId", "operatorId", "submittedAt", "segments", "cost")),
    bad("a delivery without submittedAt", delivered(submittedAt=MISSING), "invalid_field"),
    bad("a charge without a cost", event("message.charged"), "invalid_field"),
    bad("a routing without an operator", event("message.routed"), "invalid_field"),
    bad("segments as text", submitted(segments="1"), "invalid_field"),
    bad("segments as true", submitted(segments=True), "invalid_field"),
    bad("segments as 1.0", submitted(segments=Json("1.0")), "invalid_field"),
    bad("an unknown type", event("message.read"), "unknown_type"),
    bad("a type in capitals", event("MESSAGE.SUBMITTED"), "unknown_type"),
    bad("a type with a space", event("message.submitted "), "unknown_type"),
    bad("a version of the future", event(specversion="2.0"), "malformed"),
    bad("a version of the past", event(specversion="0.3"), "malformed"),
    # ------------------------------------------------------------------------------------------- identity
    bad("an id of 3,000 bytes", event(id="".join(f"{n:04x}" for n in range(750))), "invalid_field"),
    bad("an id of 100,000 equal characters", event(id="x" * 100_000), "invalid_field"),
    good("an identity of exactly the most bytes", event(id="{account}".ljust(ID_BYTES_MAX - GROWTH, "x"))),
    bad("an identity of a byte more", event(id="{account}".ljust(ID_BYTES_MAX + 1 - GROWTH, "x")), "invalid_field"),
    *(bad(f"an id with {name}", event(id=text), "invalid_field") for name, text in {"a space in front": " a", "a space behind": "a ", "a line break": "a\nb", "an escape": "a\x1b[31m", "a zero-width space": "a\u200bb", "a byte order mark": "\ufeffa", "a right-to-left mark": "a\u202eb"}.items()),
    bad("a source with a space", event(source="/a b"), "invalid_field"),
    bad("an id that is a number", event(id=Json("1")), "malformed"),
    good("one event twice", *(same()[:1] * 2)),
    good("one identity with another cost: the first stands", *same({"cost": "9.5"})),
    good("one identity with another type: the first stands", *same(kind="message.delivered")),
    good("ids that look alike in NFC and NFD are two", event(id=NFC + "{account}"), event(id=NFD + "{account}"), counted=(2, 0, 0)),
    bad("an account that is no UUID", submitted(accountId="acme"), "invalid_field"),
    good("an account in capitals", submitted(accountId="{ACCOUNT}")),
    *(bad(f"an account {name}", submitted(accountId=text), "invalid_field") for name, text in {"in braces": "{{account}}", "without dashes": "0" * 32, "as a URN": "urn:uuid:{account}", "with its dashes elsewhere": "00-000000-0000-0000-0000-000000000000", "called platform": "platform"}.items()),
    good("the nil UUID is an id like any other", submitted(operatorId=str(uuid.UUID(int=0)))),
    good("an account nobody knows", submitted()),
    good("a scope sent along is not read", event("message.submitted", {"scope": "PL\u0410TFORM", "scopeId": "platform"}, scope="PLATFORM")),
    # ------------------------------------------------------------------------------------------- money and counts
    *(bad(f"a cost of {text!r}", submitted(cost=text), "invalid_field") for text in ("NaN", "Infinity", "-Infinity", "sNaN", "1_000", " 1 ", "+1", "", "1e3", ".5", "5.", "1,5", "0x1", "\u0661\u0662", "0.0000001", "1000000000", "1000000000000", "999999999999.9999999")),
    bad("a cost of 1e12 as a number", submitted(cost=Json("1e12")), "invalid_field"),
    bad("a cost of seven decimals as a number", submitted(cost=Json("0.0000005")), "invalid_field"),
    bad("a cost that is true", submitted(cost=True), "invalid_field"),
    good("a cost of 0.1 as a number, read from its text", submitted(cost=Json("0.1"))),
    good("a cost below zero is a credit", submitted(cost="-3.25")),
    bad("a cost in another currency", submitted(cost="1", currency="USD"), "currency_mismatch"),
    *(bad(f"segments {text[:12]}", submitted(segments=Json(text)), "invalid_field") for text in ("0", "-1", "1001", str(2**31), str(2**63), str(2**70))),
    *(bad(f"a latency of {text}", delivered(latencyMs=Json(text)), "invalid_field") for text in ("-1", "12.7", str(2**31), str(10**15), "true", '"5"')),
    good("the longest latency", delivered(latencyMs=2**31 - 1), counted=(0, 1, 0)),
    good("an outcome before its submission has a latency of nothing", delivered(submittedAt=instant(minutes=-2)), counted=(0, 1, 0)),
    bad("submitted more than five minutes after its outcome", delivered(submittedAt=instant(minutes=-6)), "invalid_field"),
    *(bad(f"{text} errors", event("operator.error", {"operatorId": OPERATOR, "count": Json(text)}), "invalid_field") for text in ("0", "-1", "1000001", "1.5")),
    # ------------------------------------------------------------------------------------------- time
    *(bad(f"the time {text}", event(time=text), "invalid_field") for text in ("2026-11-22T10:00:00", "now", "today", "epoch", "infinity", "11/12/2026", "2026-W47-7", "20261122T100000Z", "2026-11-22", "2026-11-22T23:59:60Z", "2026-11-22T24:00:00Z", "2026-11-22T10:00:00+25:00", "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "294277-01-01T00:00:00Z", "1763805600", "1763805600000", "2026-11-22 10:00:00Z", "2026-02-30T10:00:00Z", "2026-11-22T10:00:00.Z", f"{ARABIC}26-11-22T10:00:00Z")),
    bad("a time in seconds as a number", event(time=1763805600), "malformed"),
    bad("a submission time in milliseconds", submitted(submittedAt=1763805600000), "invalid_field"),
    good("an offset of 14 hours", event(time=(NOW + timedelta(hours=14)).strftime("%Y-%m-%dT%H:%M:%S+14:00"))),
    good("digits of nanoseconds", event(time=instant(minutes=1).replace("Z", ".123456789Z"))),
    good("a time in small letters", event(time=instant().lower())),
    bad("a time a day ahead", event(time=instant(days=-1)), "in_future"),
    bad("a time of the year 9999", event(time="9999-12-31T23:59:59Z"), "in_future"),
    bad("a time three days ago", event(time=instant(days=3)), "stale"),
    bad("a time of the year 1", event(time="0001-01-01T00:00:00Z"), "stale"),
    bad("an outcome eight days after its submission", delivered(submittedAt=instant(days=8)), "too_late"),
    good("both edges of an hour", submitted(submittedAt=instant(hours=5)[:14] + "00:00.000Z"), submitted(submittedAt=instant(hours=5)[:14] + "59:59.999999Z"), counted=(2, 0, 0)),
    good("an outcome an hour, a day and six days after its submission", *(delivered(submittedAt=instant(**ago)) for ago in ({"hours": 1}, {"days": 1}, {"days": 6})), counted=(0, 3, 0)),
    # ------------------------------------------------------------------------------------------- order and meaning
    good("delivered before it was submitted", delivered(), submitted(), counted=(1, 1, 0)),
    good("delivered twice with two ids counts twice: events are what is counted", delivered(), delivered(), counted=(0, 2, 0)),
    good("failed, then corrected to delivered", event("message.failed"), delivered(previousStatus="FAILED"), counted=(0, 1, 0)),
    bad("corrected to what it was", delivered(previousStatus="DELIVERED"), "invalid_field"),
    bad("corrected from a status nobody knows", delivered(previousStatus="LOST"), "invalid_field"),
    good("delivered though never submitted", delivered(), counted=(0, 1, 0)),
    good("a batch that adds to one row many times", b"[" + b",".join(submitted() for _ in range(50)) + b"]", counted=(50, 0, 0)),
    Row("a batch whose middle is bad", [b"[" + submitted() + b",{}," + submitted(segments=0) + b"," + submitted() + b"]"], ["malformed", "invalid_field"], (2, 0, 0)),
    good("an account and a subject that say different things: the account counts", submitted()),
    # ------------------------------------------------------------------------------------------- headers
    Row("a header with line breaks", [submitted()], [], (1, 0, 0), {"Note": "a\r\nanlyt-backfill: x\r\nb"}),
    bad("binary mode without a type", b"{}", "malformed", {"ce-id": "1", "ce-source": "/a", "ce-time": instant(), "ce-specversion": "1.0"}),
    bad("binary mode with a bad escape in the id", b"{}", "malformed", {"ce-id": "%00", "ce-source": "/a"}),
    bad("binary mode whose body is a list", b"[]", "malformed", {"ce-id": "1", "ce-source": "/a", "ce-time": instant(), "ce-specversion": "1.0", "ce-type": "message.submitted"}),
    bad("a backfill without a name", submitted(), "invalid_field", {"Anlyt-Backfill": ""}),
    bad("a batch type on what is no batch", b"null", "malformed", {"Content-Type": "application/cloudevents-batch+json"}),
]  # fmt: skip
DUPLICATES = 3  # the rows in which one identity comes twice


# ----------------------------------------------------------------------------------------------------------- events


class Outcome(NamedTuple):
    """What all rows left behind, by their accounts and subjects."""

    letters: dict[str, list[str]]
    counts: dict[str, tuple[int, int, int]]
    duplicates: int
    log: str
    broken: list[str]


def account_of(index: int, *, behind: bool = False) -> str:
    """The account of a row, or of the good event behind it."""
    return str(uuid.UUID(int=(2 if behind else 1) * 0x1000_0000 + index, version=4))


def fill(body: bytes, account: str) -> bytes:
    """A body about this account."""
    return body.replace(b"{account}", account.encode()).replace(b"{ACCOUNT}", account.upper().encode())


async def publish_rows(nc: jetstream.Client, settings: Settings) -> None:
    """Every row under a subject of its own, each with a good event behind it."""
    js = nc.jetstream(timeout=30)
    prefix = settings.subjects.removesuffix(">")
    for index, row in enumerate(EVENTS):
        for body in row.sent:
            await js.publish(f"{prefix}row.{index}", fill(body, account_of(index)), headers=row.headers)
        await js.publish(f"{prefix}behind.{index}", fill(event(), account_of(index, behind=True)))


async def collect(settings: Settings) -> Outcome:
    """Publish all rows, count them with one worker, and read back what they left."""
    async with pipeline.stream_of(settings) as nc:
        await publish_rows(nc, settings)
        with capture_logs() as log:
            await pipeline.count(settings)
    async with pipeline.database(settings) as conn:
        found: dict[str, list[str]] = {}
        for subject, reason in await conn.fetch(
            "SELECT subject, reason FROM anlyt.dead_letters ORDER BY sequence, batch_index"
        ):
            found.setdefault(subject.removeprefix(settings.subjects.removesuffix(">")), []).append(reason)
        usage = await conn.fetch(
            "SELECT account_id::TEXT, sum(messages_sent)::INT, sum(messages_delivered)::INT, sum(messages_failed)::INT"
            " FROM anlyt.account_usage_daily GROUP BY 1"
        )
        duplicates = await conn.fetchval("SELECT sum(duplicate_events)::INT FROM anlyt.ingest_totals")
        broken = await pipeline.broken_identities(conn)
    return Outcome(found, {row[0]: tuple(row)[1:] for row in usage}, duplicates, str(log), broken)


@pytest.fixture(scope="module")
def outcome(postgres_server: EmbeddedPostgres, template_database: str, nats_server: EmbeddedNats) -> Outcome:
    """All rows through one stream, one worker and one database."""
    word = uuid.uuid4().hex[:12]
    url = postgres_server.url.removesuffix("/anlyt") + f"/b_{word}"
    given = {"database_url": url, "nats_url": nats_server.url, "stream": f"B{word}", "subjects": f"b{word}.events.>"}
    settings = Settings.model_validate(given)

    async def whole() -> Outcome:
        admin = await asyncpg.connect(postgres_server.admin_url)
        try:
            await admin.execute(f"CREATE DATABASE b_{word} OWNER anlyt TEMPLATE {template_database}")
            try:
                return await collect(settings)
            finally:
                await admin.execute(f"DROP DATABASE b_{word} WITH (FORCE)")
                async with pipeline.stream_of(settings) as nc:
                    await jetstream.request(nc, f"STREAM.DELETE.{settings.stream}")
        finally:
            await admin.close()

    return run(whole(), 100)


@pytest.mark.parametrize("index", range(len(EVENTS)), ids=lambda index: EVENTS[index].what)
def test_a_bad_event_is_one_dead_letter_and_the_event_behind_it_counts(outcome: Outcome, index: int) -> None:
    row = EVENTS[index]

    assert row.letters == outcome.letters.get(f"row.{index}", [])
    assert row.counted == outcome.counts.get(account_of(index), (0, 0, 0))
    assert f"behind.{index}" not in outcome.letters
    assert outcome.counts[account_of(index, behind=True)] == (1, 0, 0)


def test_nothing_is_counted_twice_or_told_to_the_log(outcome: Outcome) -> None:
    assert outcome.duplicates == DUPLICATES
    assert outcome.broken == []
    assert CANARY not in outcome.log
    assert CANARY.encode() in event()


def test_the_log_says_how_many_dead_letters_there_were_and_why(outcome: Outcome) -> None:
    told = Counter(reason for row in EVENTS for reason in row.letters)

    assert "dead-letters-kept" in outcome.log
    for reason in told:
        assert reason in outcome.log


def test_every_row_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(row.what for row in EVENTS).items() if count > 1] == []


# --------------------------------------------------------------------------------------------------------- questions

HOURLY, DAILY, USAGE = "/v1/metrics/hourly", "/v1/metrics/daily", "/v1/accounts/usage"
# what is asked, the status, and the parameter that is named
QUESTIONS: list[tuple[str, int, str | None]] = [
    (f"{HOURLY}?from=-1h&to=-2h", 422, "from"),
    (f"{HOURLY}?from=-1h&to=-1h", 422, "from"),
    (f"{HOURLY}?from=-366d", 422, "from"),
    (f"{HOURLY}?from=", 422, "from"),
    (f"{HOURLY}?from=yesterday", 422, "from"),
    (f"{HOURLY}?from=2026-01-01", 422, "from"),
    (f"{HOURLY}?from=2026-01-01T00:00:00", 422, "from"),
    (f"{HOURLY}?from=9999-12-31T23:59:59Z", 422, "from"),
    (f"{HOURLY}?from=0001-01-01T00:00:00Z", 422, "from"),
    (f"{HOURLY}?from=infinity", 422, "from"),
    (f"{HOURLY}?to=-infinity", 422, "to"),
    (f"{HOURLY}?from=-99999999999999999999d", 422, "from"),
    (f"{DAILY}?from=-99999d", 422, "from"),
    (f"{HOURLY}?limit=0", 422, "limit"),
    (f"{HOURLY}?limit=-1", 422, "limit"),
    (f"{HOURLY}?limit=1001", 422, "limit"),
    (f"{HOURLY}?limit=1000000000", 422, "limit"),
    (f"{HOURLY}?limit=abc", 422, "limit"),
    (f"{HOURLY}?limit=1e2", 422, "limit"),
    (f"{HOURLY}?limit=%D9%A1", 422, "limit"),
    (f"{HOURLY}?cursor=abc", 400, "cursor"),
    (f"{HOURLY}?cursor=%00", 400, "cursor"),
    (f"{HOURLY}?cursor=eyJhIjoxfQ==", 400, "cursor"),
    (f"{HOURLY}?cursor={'A' * 2000}", 422, "cursor"),
    (f"{HOURLY}?unknown=1", 422, "unknown"),
    (f"{HOURLY}?limit=1&limit=1", 422, "limit"),
    (f"{HOURLY}?LIMIT=1", 422, "LIMIT"),
    (f"{HOURLY}?scopeId=%27%20OR%201=1--", 422, "scopeId"),
    (f"{HOURLY}?scopeId=%00", 422, "scopeId"),
    (f"{HOURLY}?scopeId=../../etc/passwd", 422, "scopeId"),
    (f"{HOURLY}?scopeId=%27;DROP%20TABLE%20anlyt.api_keys;--", 422, "scopeId"),
    (f"{USAGE}?accountId=1%20UNION%20ALL%20VALUES%20(1)", 422, "accountId"),
    (f"{HOURLY}?scope=PLATFORM%27", 422, "scope"),
    (f"{HOURLY}?sort=total_cost%20DESC", 422, "sort"),
    (f"{HOURLY}?order_by=1", 422, "order_by"),
    (f"{HOURLY}?format=exe", 422, "format"),
    ("/v1/summary?groupBy=scope_id;--", 422, "groupBy"),
    ("/v1/summary?groupBy=day&timezone=Mars/Olympus", 422, "timezone"),
    ("/v1/summary?groupBy=day&timezone=../../etc/passwd", 422, "timezone"),
    ("/v1/dead-letters/1/0/-1", 404, None),
    ("/v1/metrics/hourly/../../v1/keys", 404, None),
    ("/v1/metrics/hourly%00", 404, None),
]


def test_a_bad_question_is_refused_by_name_and_reads_nothing(database_url: str) -> None:
    async def story() -> list[tuple[str, int, str | None]]:
        async with service(database_url) as (client, conn):
            headers = await key_for(conn, "PLATFORM")
            found: list[tuple[str, int, str | None]] = []
            for target, _, _ in QUESTIONS:
                answer = await client.get(target, headers=headers)
                found.append((target, answer.status_code, problem_of(answer).get("parameter")))
                await asyncio.sleep(0)
            assert (await client.get(HOURLY, headers=headers)).status_code == 200
            return found

    assert [pair for pair in zip(run(story()), QUESTIONS, strict=True) if pair[0] != pair[1]] == []
