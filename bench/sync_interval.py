"""What `sync_interval` costs: acknowledged publishes a second on this machine's disk, one by one and in a window.

    python bench/sync_interval.py [--seconds 3] [--data-dir DIR]

Each setting gets a fresh nats-server. Bodies are 500 bytes, a typical single event; then bodies of 100 events (50 kB);
then single events in atomic batches of 1,000 (stored and synchronised together, acknowledged once).
DIR must be on the disk in question, not on tmpfs. docs/adr/0004-jetstream-durability.md cites a run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import nats

from anlyt.embedded import EmbeddedNats

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

INTERVALS: Final = ("2m", "1s", "100ms", "always")
EVENT: Final = b"e" * 500
BATCH: Final = EVENT * 100
ATOMIC_EVENTS: Final = 1_000  # the server's limit


def main() -> None:
    """Measure every setting and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--data-dir", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    print(f"{'events/s':10}{'one by one':>12}{'window 500':>12}{'100 a body':>12}{'atomic batches':>16}")
    for interval in INTERVALS:
        with tempfile.TemporaryDirectory(dir=arguments.data_dir) as directory:
            home = Path(directory)
            home.chmod(0o711)  # the server's user passes through
            rates = asyncio.run(_measure(home / "nats", interval, arguments.seconds))
        print(f"{interval:10}{rates[0]:12,.0f}{rates[1]:12,.0f}{rates[2]:12,.0f}{rates[3]:16,.0f}", flush=True)


async def _measure(home: Path, interval: str, seconds: float) -> tuple[float, float, float, float]:
    async with EmbeddedNats(home, sync_interval=interval) as server:
        client = await nats.connect(server.url)
        stream = json.dumps({"name": "S", "subjects": ["s.>"], "storage": "file", "allow_atomic": True}).encode()
        created = json.loads((await client.request("$JS.API.STREAM.CREATE.S", stream, timeout=5)).data)
        assert "error" not in created, created
        js = client.jetstream(publish_async_max_pending=1_000)
        rates = (
            await _rate(js, EVENT, window=1, seconds=seconds),
            await _rate(js, EVENT, window=500, seconds=seconds),
            await _rate(js, BATCH, window=100, seconds=seconds) * 100,
            await _atomic_rate(client, seconds=seconds),
        )
        await client.close()
    return rates


async def _rate(js: JetStreamContext, body: bytes, *, window: int, seconds: float) -> float:
    """Publish with at most `window` unacknowledged messages; acknowledged messages a second."""
    room = asyncio.Semaphore(window)
    begun = time.perf_counter()
    sent = 0
    while time.perf_counter() < begun + seconds:
        await room.acquire()
        acknowledged = await js.publish_async("s.x", body)
        acknowledged.add_done_callback(lambda _: room.release())
        sent += 1
    await js.publish_async_completed()
    return sent / (time.perf_counter() - begun)


async def _atomic_rate(client: Client, *, seconds: float) -> float:
    """Publish batch after batch, each committed by its last message; committed messages a second."""
    begun = time.perf_counter()
    sent = 0
    while time.perf_counter() < begun + seconds:
        batch = uuid.uuid4().hex
        for number in range(1, ATOMIC_EVENTS):
            await client.publish("s.x", EVENT, headers={"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(number)})
        last = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(ATOMIC_EVENTS), "Nats-Batch-Commit": "1"}
        answer = json.loads((await client.request("s.x", EVENT, headers=last, timeout=10)).data)
        assert answer.get("count") == ATOMIC_EVENTS, answer
        sent += ATOMIC_EVENTS
    return sent / (time.perf_counter() - begun)


main()
