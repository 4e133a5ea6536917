"""Publish single submitted messages at a rate until ended: the load that other figures are measured beside.

NATS_URL=... SUBJECT=... python bench/flood.py RATE
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
import uuid
from datetime import UTC, datetime
from typing import Final

from anlyt import jetstream

ACCOUNTS: Final = [f"{n:08x}-0000-4000-8000-00000000acc0" for n in range(1_000)]
OPERATORS: Final = [f"{n:08x}-0000-4000-8000-0000000000e0" for n in range(20)]
TURN_S: Final = 0.01


def event(account: str, operator: str, now: str) -> bytes:
    """A submitted message."""
    return (
        f'{{"specversion":"1.0","id":"{uuid.uuid4()}","source":"/bench","type":"message.submitted","time":"{now}",'
        f'"data":{{"messageId":"m","accountId":"{account}","operatorId":"{operator}","cost":"0.045000"}}}}'
    ).encode()


async def main(rate: int) -> None:
    """Keep to the rate on the average; a turn that came late is made up for."""
    nc = await jetstream.connect(os.environ["NATS_URL"], name="bench")
    rng = random.Random(1)
    begun, sent = time.perf_counter(), 0
    while True:
        now = datetime.now(UTC).isoformat()
        for _ in range(int((time.perf_counter() - begun) * rate) - sent):
            await nc.publish(os.environ["SUBJECT"], event(rng.choice(ACCOUNTS), rng.choice(OPERATORS), now))
            sent += 1
        await asyncio.sleep(TURN_S)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
