"""A coverage-guided fuzzer on the decoder: make fuzz FUZZ_SECONDS=600. Needs atheris, which the target installs.

In: bytes of libFuzzer's making, grown from valid events of every type. Out: nothing, as long as everything that must be
so of any bytes is so (tests/decoding.py); the input that broke it is written to fuzz/findings/ and the run ends.
The first byte decides how the rest is sent: as a body, or in binary mode with headers cut out of it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["anlyt", "json"]):
    from decoding import NEIGHBOUR, check_body

HERE = Path(__file__).parent
FINDINGS = HERE / "findings"
BODY_BYTES_MAX = 4_096
BINARY, BACKFILL = 1, 2  # bits of the first byte
NAMES = ("ce-id", "ce-source", "ce-type", "ce-time", "ce-specversion", "ce-x")


def one_input(data: bytes) -> None:
    """Decode one input by every path."""
    if not data:
        return
    mode, rest = data[0], data[1:]
    headers: dict[str, str] = {}
    if mode & BACKFILL:
        name, _, rest = rest.partition(b"\n")
        headers["Anlyt-Backfill"] = name.decode("latin-1")
    if mode & BINARY:
        *values, rest = rest.split(b"\n", len(NAMES))
        headers |= {name: value.decode("latin-1") for name, value in zip(NAMES, values, strict=False)}
    check_body(rest, headers or None)


def seeds() -> list[bytes]:
    """A valid event of every type, a batch, binary mode, and edges that mutation alone hardly finds."""
    base = json.loads(NEIGHBOUR)
    operator = {"operatorId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0002"}
    late = {"submittedAt": "2026-03-29T11:00:00Z"}
    members: dict[str, dict[str, object]] = {
        "message.submitted": {"segments": 2, "cost": "0.010000"},
        "message.routed": operator | late | {"fromOperatorId": None},
        "message.delivered": operator | late | {"latencyMs": 5, "cost": 0.25, "previousStatus": "FAILED"},
        "message.failed": late | {"previousStatus": "PENDING", "currency": "EUR"},
        "message.charged": late | {"cost": "-1.5"},
        "operator.error": operator | {"count": 3, "code": "x"},
    }
    events = [json.dumps(base | {"type": kind, "data": base["data"] | more}).encode() for kind, more in members.items()]
    head = b"\n".join([b"1", b"/s", b"message.submitted", b"2026-03-29T11:00:00Z", b"1.0", b""])
    return [
        *(b"\0" + event for event in events),
        b"\0[" + b",".join(events) + b"]",
        b"\x01" + head + b"\n" + json.dumps(base["data"]).encode(),
        b"\x02march\n" + events[0],
        b"\0" + events[0].replace(b'"neighbour"', b'"\\u00e9\\ud83d\\ude00"'),
    ]


def main() -> None:
    """Write the seeds into a corpus of this run's own, unless one is given, and hand over to libFuzzer."""
    FINDINGS.mkdir(exist_ok=True)
    corpus = Path(tempfile.mkdtemp(prefix="anlyt-fuzz-"))
    try:
        for number, seed in enumerate(seeds()):
            one_input(seed)
            (corpus / f"seed-{number}").write_bytes(seed)
        options = [f"-max_len={BODY_BYTES_MAX}", f"-artifact_prefix={FINDINGS}/", f"-dict={HERE / 'words.dict'}"]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(corpus)], one_input)
        atheris.Fuzz()
    finally:
        shutil.rmtree(corpus, ignore_errors=True)


if __name__ == "__main__":
    main()
