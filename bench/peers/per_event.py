"""A peer: each event is counted by a handler in a transaction of its own, and acknowledged after its commit.

What most services that count do: nats-py, a durable pull consumer, asyncpg. An id is inserted; if it is new, the hour
and the day of the account, the operator and the platform are counted up. Exactly once, too, if slowly.

    DATABASE_URL=... NATS_URL=... STREAM=... SUBJECT=... python per_event.py EVENTS HANDLERS
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import asyncpg
import nats

if TYPE_CHECKING:
    from nats.aio.msg import Msg

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS peer;
DROP TABLE IF EXISTS peer.ids, peer.hourly, peer.daily;
CREATE TABLE peer.ids (id TEXT PRIMARY KEY);
CREATE TABLE peer.hourly (
    bucket TIMESTAMPTZ, scope TEXT, scope_id TEXT, total BIGINT, delivered BIGINT, failed BIGINT, cost NUMERIC(18, 6),
    PRIMARY KEY (bucket, scope, scope_id)
);
CREATE TABLE peer.daily (LIKE peer.hourly INCLUDING ALL);
"""
CLAIM = "INSERT INTO peer.ids (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id"
COUNT = """
INSERT INTO peer.{table} AS t (bucket, scope, scope_id, total, delivered, failed, cost)
SELECT date_trunc('{part}', $1::TIMESTAMPTZ, 'UTC'), scope, scope_id, $4, $5, $6, $7
FROM unnest($2::TEXT[], $3::TEXT[]) AS d (scope, scope_id)
ORDER BY scope, scope_id
ON CONFLICT (bucket, scope, scope_id) DO UPDATE
SET total = t.total + excluded.total, delivered = t.delivered + excluded.delivered,
    failed = t.failed + excluded.failed, cost = t.cost + excluded.cost
"""
HOURLY = COUNT.format(table="hourly", part="hour")
DAILY = COUNT.format(table="daily", part="day")


async def handle(pool: asyncpg.Pool[Any], message: Msg) -> None:
    """Count one event."""
    event = json.loads(message.data)
    data, kind = event["data"], event["type"]
    at = datetime.fromisoformat(data.get("submittedAt") or event["time"])
    scopes = [("PLATFORM", "platform")]
    scopes += [
        (scope, data[name]) for scope, name in (("ACCOUNT", "accountId"), ("OPERATOR", "operatorId")) if name in data
    ]
    adds = [int(kind == f"message.{name}") for name in ("submitted", "delivered", "failed")]
    values = (at, *map(list, zip(*scopes, strict=True)), *adds, Decimal(str(data.get("cost") or 0)))
    async with pool.acquire() as conn, conn.transaction():
        if await conn.fetchval(CLAIM, f"{event['id']} {event['source']}") is not None:
            await conn.execute(HOURLY, *values)
            await conn.execute(DAILY, *values)
    await message.ack()


async def main(events: int, handlers: int) -> None:
    """Count the first events of the stream, so many at a time."""
    nc = await nats.connect(os.environ["NATS_URL"])
    js = nc.jetstream()
    durable = f"per-event-{handlers}"
    consumer = await js.pull_subscribe(os.environ["SUBJECT"], durable=durable, stream=os.environ["STREAM"])
    async with asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=handlers, max_size=handlers) as pool:
        await pool.execute(SCHEMA)
        turns = asyncio.Semaphore(handlers)

        async def one(message: Msg) -> None:
            async with turns:
                await handle(pool, message)

        done = 0
        while done < events:
            messages = await consumer.fetch(min(500, events - done), timeout=5)
            await asyncio.gather(*map(one, messages))
            done += len(messages)
    await nc.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
