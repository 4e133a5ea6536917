"""How a stream is divided: the tokens that its subject transform puts behind the prefix cut it into 16 slots.

In: a stream's configuration. Out: its Division, or what keeps it from being divided. The slots are the leaves of a
binary tree, and a partition owns the slots of one branch, so one wildcard filter reads it, whatever the number of
partitions. Pure (docs/adr/0005-partitions.md).

Where one server keeps the stream the four tokens are random bits: parts are even whatever subjects producers use. In a
cluster every server applies the transform for itself and would draw other bits than its neighbours, so that a part
read from several of them misses messages; there the tokens are a hash of the subject: its remainders by 2, 4, 8 and 16.
"""

from __future__ import annotations

import json
import zlib
from typing import Any, Final

from msgspec import Struct

SLOT_BITS: Final = 4
SLOTS: Final = 1 << SLOT_BITS
HASH_MARK: Final = "hash"  # the token in front of remainders, which tells them from random bits
SUBJECTS: Final = 256  # that one producer's messages are spread over
_POWERS: Final = tuple(1 << bit for bit in range(1, SLOT_BITS + 1))
# A hash's tokens to the bits of its slot: a hash's lowest bit is the one that halves the stream.
_REMAINDERS: Final = {
    ".".join([HASH_MARK, *(str(number % power) for power in _POWERS)]): f"{number:0{SLOT_BITS}b}"[::-1]
    for number in range(SLOTS)
}


class Division(Struct, frozen=True):
    """The slots of a stream whose subjects begin with `prefix`; `hashed`: by their subjects, else at random."""

    prefix: str
    hashed: bool

    @property
    def transform(self) -> dict[str, str]:
        """The stream's subject transform, as JetStream's configuration has it."""
        if self.hashed:
            tokens = f"{HASH_MARK}." + "".join(f"{{{{partition({power})}}}}." for power in _POWERS)
        else:
            tokens = "{{random(2)}}." * SLOT_BITS
        return {"src": f"{self.prefix}>", "dest": f"{self.prefix}{tokens}>"}

    def filter(self, branch: str) -> str | None:
        """The consumer's subject filter for a branch; None for all of the stream, tokens or not."""
        if not branch:
            return None
        if self.hashed:
            return f"{self.prefix}{HASH_MARK}." + "*." * (len(branch) - 1) + f"{int(branch[::-1], 2)}.>"
        return self.prefix + "".join(f"{bit}." for bit in branch) + ">"

    def slot(self, stored: str) -> int | None:
        """The slot of a stored subject, 0..15; None when it was stored before the stream was divided so."""
        return self._read(stored)[0]

    def published(self, stored: str) -> str:
        """The subject a producer published to: the stored one without the slot's tokens."""
        return self._read(stored)[1]

    def _read(self, stored: str) -> tuple[int | None, str]:
        *tokens, rest = stored[len(self.prefix) :].split(".", SLOT_BITS + self.hashed)
        text = "".join(tokens) if not self.hashed else _REMAINDERS.get(".".join(tokens), "")
        if not stored.startswith(self.prefix) or len(text) != SLOT_BITS or not {*text} <= {"0", "1"}:
            return None, stored
        return int(text, 2), self.prefix + rest


def division(subjects: str, *, replicas: int) -> Division:
    """How a stream on so many servers is divided."""
    return Division(subjects.removesuffix(">"), hashed=replicas > 1)


def division_of(config: dict[str, Any], subjects: str) -> Division | None:
    """How the stream is divided; None when it can only be read as one partition."""
    transform: dict[str, Any] = config.get("subject_transform") or {}
    given = {name: transform.get(name) for name in ("src", "dest")}
    for hashed in (True, False):
        found = Division(subjects.removesuffix(">"), hashed=hashed)
        if found.transform == given and (hashed or config.get("num_replicas", 1) == 1):
            return found
    return None


def remedy(config: dict[str, Any], subjects: str) -> str:
    """What makes a stream divisible that isn't."""
    transform = json.dumps(division(subjects, replicas=config.get("num_replicas", 1)).transform)
    return f"count all of it with ANLYT_PARTITIONS=1, then set its subject_transform to {transform}"


def spread(subject: str, body: bytes) -> str:
    """One of SUBJECTS subjects behind `subject`, by the body, so that slots by a hash of the subject are even."""
    return f"{subject}.{zlib.crc32(body) % SUBJECTS}"


def branches_of(partitions: int) -> list[str]:
    """The branches of the slot tree that `partitions` partitions own: '' is all of it, '01' a quarter."""
    assert 1 <= partitions <= SLOTS  # settings refuse anything else
    branches = [""]
    while len(branches) < partitions:
        widest = min(branches, key=lambda branch: (len(branch), branch))
        branches.remove(widest)
        branches += [widest + "0", widest + "1"]
    return sorted(branches)


def slots_of(branch: str) -> list[int]:
    """The slots, 0..15, of a branch."""
    return [slot for slot in range(SLOTS) if f"{slot:0{SLOT_BITS}b}".startswith(branch)]
