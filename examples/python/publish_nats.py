"""Publish the life of one message into JetStream: submitted, delivered. Waits until JetStream has each event.

An event that was not acknowledged is published again as it is: the same source and id count once.
"""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from datetime import UTC, datetime, timedelta

import nats
import nats.errors

SOURCE = "/examples/publish-nats"
ATTEMPTS = 5


async def main() -> None:
    """Publish two events and say where they are."""
    nc = await nats.connect(os.environ["ANLYT_NATS_URL"])
    try:
        for event in life_of_a_message():
            print(event["type"], "is message", await publish(nc, event))
    finally:
        await nc.close()


def life_of_a_message() -> list[dict[str, object]]:
    """What happens to one message. Counters of all its events go to the hour of `submittedAt`."""
    submitted = datetime.now(UTC)
    delivered = submitted + timedelta(seconds=2)
    about = {
        "messageId": str(uuid.uuid4()),
        "accountId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0001",
        "operatorId": "0b6f2bd0-4b7c-4a54-9a53-6a0f1c1a0002",
        "submittedAt": submitted.isoformat(),
    }
    return [
        event("message.submitted", submitted, {**about, "segments": 1, "cost": "0.041250"}),
        event("message.delivered", delivered, {**about, "latencyMs": 2_000}),
    ]


def event(kind: str, time: datetime, data: dict[str, object]) -> dict[str, object]:
    """A CloudEvent with an id of its own."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": SOURCE,
        "type": kind,
        "time": time.isoformat(),
        "data": data,
    }


async def publish(nc: nats.NATS, event: dict[str, object]) -> int:
    """Publish until JetStream says that it has the event; the sequence of its message."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ack = await nc.jetstream().publish("messaging.events.example", json.dumps(event).encode(), timeout=5)
        except nats.errors.Error:
            if attempt == ATTEMPTS:
                raise
            await asyncio.sleep(2**attempt / 10)
        else:
            return ack.seq
    raise AssertionError


asyncio.run(main())
