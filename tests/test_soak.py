"""Nothing grows that should not: a short soak here, `make soak` for longer ones; and the judgement itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

import soak
from support import run

LOOK = soak.Look(0, {"worker": 90, "api": 80}, {"worker": 20, "api": 30}, 12, {"processed_events": 1_000_000})


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_mixed_load_leaves_memory_files_sessions_and_tables_as_they_are() -> None:
    async def scenario() -> tuple[list[soak.Look], list[str]]:
        async with soak.own_servers() as settings:
            return await soak.soak(settings, 120)

    looks, found = run(scenario(), 500)

    assert found == [], "\n".join(look.shown() for look in looks)


def test_what_stays_as_it_is_is_no_growth() -> None:
    assert soak.growth([LOOK] * 9) == []


@pytest.mark.parametrize(
    "grown",
    [
        replace(LOOK, memory_mib={"worker": 90 + 25, "api": 80}),
        replace(LOOK, handles={"worker": 20, "api": 37}),
        replace(LOOK, sessions=19),
        replace(LOOK, table_bytes={"processed_events": 2_000_001}),
    ],
    ids=["memory", "files", "sessions", "table"],
)
def test_what_grows_is_named(grown: soak.Look) -> None:
    assert len(soak.growth([*[LOOK] * 8, grown])) == 1


def test_too_few_looks_say_nothing() -> None:
    assert soak.growth([LOOK] * 2) == ["too short a run to say anything"]
