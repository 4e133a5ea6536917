"""Programs others would write for the job, over the stream that anlyt counts: how many events they count a second.

- *one transaction an event*: bench/peers/per_event.py, plain nats-py and asyncpg, one handler and sixteen at a time.
- *Pathway*: bench/peers/pathway_counter.py, a stream processor in Rust; it needs an environment of its own:

      python3 -m venv bench/peers/.venv
      bench/peers/.venv/bin/pip install --require-hashes -r bench/peers/requirements.txt

  Without that environment it is left out of the table, and said so. Its client cannot sign in to nats-server with
  user and password, so the server lets anybody in while peers are measured.

Each counts ids once and keeps hourly and daily sums of the three scopes in PostgreSQL, in a database of its own schema.
None of them is a dependency of anlyt.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asyncpg import UndefinedTableError

from anlyt.embedded import EmbeddedNats
from anlyt.postgres import session

if TYPE_CHECKING:
    from pydantic import SecretStr

    from anlyt.settings import Settings

PEERS: Final = Path(__file__).parent / "peers"
PATHWAY: Final = PEERS / ".venv" / "bin" / "python"
PER_EVENT_MAX: Final = 5_000  # events are enough for the slow ones
HANDLERS: Final = (1, 16)
LIMIT_S: Final = 600


class OpenNats(EmbeddedNats):
    """The embedded server for clients that cannot sign in; it listens on loopback only, for as long as a bench."""

    def _configuration(self) -> str:
        return f'{super()._configuration()}\nno_auth_user: "anlyt"\n'


async def measure(settings: Settings, events: int, nats_directory: Path) -> dict[str, dict[str, float]]:
    """A table for each peer. The embedded server of that directory must be stopped."""
    tables: dict[str, dict[str, float]] = {}
    some = min(events, PER_EVENT_MAX)
    async with OpenNats(nats_directory) as nats:
        env = os.environ | {
            "DATABASE_URL": _secret(settings.database_url),
            "NATS_URL": nats.url,
            "STREAM": settings.stream,
            "SUBJECT": settings.subjects,
        }
        for handlers in HANDLERS:
            words = [sys.executable, str(PEERS / "per_event.py"), str(some), str(handlers)]
            begun = time.perf_counter()
            process = await asyncio.create_subprocess_exec(*words, env=env)
            async with asyncio.timeout(LIMIT_S):
                assert await process.wait() == 0
            tables[f"{handlers} handlers"] = {"events": some, "events/s": some / (time.perf_counter() - begun)}
        if PATHWAY.exists():
            tables["Pathway"] = {"events": events, "events/s": events / await _pathway(env, events)}
        else:
            print(f"Pathway is left out: {PATHWAY} is not there; bench/compare.py says how to make it")
    return tables


async def _pathway(env: dict[str, str], events: int) -> float:
    """Seconds from its start until the sums of the platform's days have every event."""
    begun = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        str(PATHWAY), str(PEERS / "pathway_counter.py"), env=env, stderr=subprocess.DEVNULL
    )
    try:
        async with session(env["DATABASE_URL"], application="bench") as conn, asyncio.timeout(LIMIT_S):
            while process.returncode is None:
                with suppress(UndefinedTableError):
                    if await conn.fetchval("SELECT sum(events) FROM public.platform_daily") == events:
                        return time.perf_counter() - begun
                await asyncio.sleep(0.1)
        raise AssertionError(f"Pathway ended early: {process.returncode}")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _secret(value: SecretStr | None) -> str:
    assert value is not None
    return value.get_secret_value()
