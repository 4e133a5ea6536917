"""Publish into the stream and know that JetStream has it: files of events and simulated traffic, paced or fast.

In: Outgoing messages. Out: Published, when every one of them is acknowledged; anything else raises. Publishing the same
again after an error is always safe, because ids are counted once (I2). At full speed messages go in atomic batches,
which nats-server puts on disk with one fsync (docs/adr/0004-jetstream-durability.md); a refused batch goes one by one.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import deque
from itertools import count, islice
from typing import IO, TYPE_CHECKING, Any, Final, cast

import nats.errors
from msgspec import Struct

from anlyt.errors import RequestError, StreamUnavailable, UsageError
from anlyt.jetstream import MESSAGE_ID_HEADER, REQUEST_TIMEOUT_S, Outgoing, connect, message_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

    from nats.aio.client import Client
    from nats.aio.msg import Msg

    from anlyt.simulate import Publication

WINDOW: Final = 500  # messages without an answer yet, when they go one by one
ATOMIC_BATCH_MAX: Final = 1_000  # nats-server's own limit
ATOMIC_BYTES_MAX: Final = 4 * 1_048_576
ATOMIC_IN_FLIGHT: Final = 4  # nats-server's default limit for one stream is 50
FIRST_CONNECT_S: Final = 2.0  # of a Publisher
RECONNECT_PAUSE_S: Final = 1.0  # after a failed attempt, in which calls are refused at once
HEADERS_BYTES_MAX: Final = 1_024  # of a message; nats-server's limit is on headers and body together
PACE_SLACK_US: Final = 2_000  # do not sleep for less
_EXPECTED: Final = (OSError, nats.errors.Error, TimeoutError)


class Published(Struct, frozen=True):
    """What JetStream said: messages stored anew, and messages it knew already by their Nats-Msg-Id."""

    stored: int = 0
    known: int = 0

    def __add__(self, other: Published) -> Published:
        """Both together."""
        return Published(self.stored + other.stored, self.known + other.known)


async def publish_each(
    nc: Client, outgoing: AsyncIterable[Outgoing], *, on_progress: Callable[[Published], None] | None = None
) -> Published:
    """Publish one by one, at most WINDOW without an answer. Raises StreamUnavailable when one is not acknowledged."""
    js = nc.jetstream(timeout=REQUEST_TIMEOUT_S, publish_async_max_pending=WINDOW)
    waiting: deque[asyncio.Future[Any]] = deque()
    total = Published()
    try:
        async for message in outgoing:
            waiting.append(await js.publish_async(message.subject, message.body, headers=message.headers or None))
            while waiting and (waiting[0].done() or len(waiting) >= WINDOW):
                total += await _acknowledged(waiting.popleft())
                if on_progress is not None:
                    on_progress(total)
        while waiting:
            total += await _acknowledged(waiting.popleft())
    except _EXPECTED as error:
        raise _unpublished(error) from None
    if on_progress is not None:
        on_progress(total)
    return total


async def _acknowledged(future: asyncio.Future[Any]) -> Published:
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        ack = await future
    return Published(0, 1) if ack.duplicate else Published(1, 0)


async def publish_fast(
    nc: Client, outgoing: Iterable[Outgoing], *, on_progress: Callable[[Published], None] | None = None
) -> Published:
    """Publish at full speed in atomic batches. Raises StreamUnavailable when something is not acknowledged."""
    total = Published()
    running: set[asyncio.Task[Published]] = set()
    try:
        for batch in _batches(outgoing):
            running.add(asyncio.create_task(_publish_batch(nc, batch)))
            if len(running) >= ATOMIC_IN_FLIGHT:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                total = sum((task.result() for task in done), total)
                if on_progress is not None:
                    on_progress(total)
        for task in running:
            total += await task
    except _EXPECTED as error:
        raise _unpublished(error) from None
    finally:
        for task in running:
            task.cancel()
    if on_progress is not None:
        on_progress(total)
    return total


def _batches(outgoing: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    messages = iter(outgoing)
    while batch := list(islice(messages, ATOMIC_BATCH_MAX)):
        begin = size = 0
        for index, message in enumerate(batch):
            size += len(message.body)
            if size > ATOMIC_BYTES_MAX and index > begin:
                yield batch[begin:index]
                begin, size = index, len(message.body)
        yield batch[begin:]


async def _publish_batch(nc: Client, batch: list[Outgoing]) -> Published:
    """One atomic batch; one by one when the stream refuses it (an id it knows, or no atomic batches at all)."""
    batch_id = secrets.token_hex(12)
    for number, message in enumerate(batch[:-1], start=1):
        headers = message.headers | {"Nats-Batch-Id": batch_id, "Nats-Batch-Sequence": str(number)}
        await nc.publish(message.subject, message.body, headers=headers)
    last = batch[-1]
    headers = last.headers | {
        "Nats-Batch-Id": batch_id,
        "Nats-Batch-Sequence": str(len(batch)),
        "Nats-Batch-Commit": "1",
    }
    answer = _read_ack(await nc.request(last.subject, last.body, timeout=REQUEST_TIMEOUT_S, headers=headers))
    if answer is not None and answer.get("count") == len(batch):
        return Published(len(batch), 0)

    async def each() -> AsyncIterator[Outgoing]:
        for message in batch:
            yield message

    return await publish_each(nc, each())


def _read_ack(reply: Msg) -> dict[str, Any] | None:
    """A PubAck; None for a refusal. A stream that knows no batches answers without a count, having stored the last."""
    answer = json.loads(reply.data)
    return None if "error" in answer else answer


def _unpublished(error: BaseException) -> StreamUnavailable:
    cause = str(error) or type(error).__name__
    return StreamUnavailable(f"publishing was not acknowledged ({cause}); publish the same again, it is counted once")


# ------------------------------------------------------------------------------------------------------- one at a time


class Publisher:
    """Publishes single messages over one connection, which is made when it is first needed. Closed with `close`.

    While nats-server is away every call fails soon, so that callers are told instead of being kept waiting.
    """

    def __init__(self, url: str, stream: str, *, name: str) -> None:
        self._url = url
        self._stream = stream
        self._name = name
        self._nc: Client | None = None
        self._connecting = asyncio.Lock()
        self._refused_until_s = 0.0

    async def publish(self, message: Outgoing) -> Published:
        """Publish one message and wait until JetStream has it.

        Raises StreamUnavailable, and RequestError 413 for a message this nats-server does not take.
        """
        nc = await self._connected()
        if len(message.body) + HEADERS_BYTES_MAX > nc.max_payload:
            raise RequestError(
                f"the events have {len(message.body)} bytes, but nats-server takes messages of {nc.max_payload} bytes "
                f"with at most {HEADERS_BYTES_MAX} for headers; send them in several requests",
                status=413,
                code="too-large",
            )
        try:
            ack = await nc.jetstream(timeout=REQUEST_TIMEOUT_S).publish(
                message.subject, message.body, stream=self._stream, headers=dict(message.headers)
            )
        except _EXPECTED as error:
            raise _unpublished(error) from None
        return Published(0, 1) if ack.duplicate else Published(1, 0)

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._nc is not None:
            await self._nc.close()

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._nc is None:
                self._nc = await self._connect()
        if not self._nc.is_connected:  # it reconnects by itself
            raise StreamUnavailable("the connection to NATS is lost; publish the same again in a moment")
        return self._nc

    async def _connect(self) -> Client:
        now_s = time.monotonic()
        if now_s < self._refused_until_s:
            raise StreamUnavailable("NATS could not be reached a moment ago; publish the same again in a moment")
        try:
            async with asyncio.timeout(FIRST_CONNECT_S):
                return await connect(self._url, name=self._name)
        except (StreamUnavailable, TimeoutError) as error:
            self._refused_until_s = time.monotonic() + RECONNECT_PAUSE_S
            raise StreamUnavailable(f"NATS cannot be reached: {error or 'no answer in time'}") from None


# ------------------------------------------------------------------------------------------------------------- sources


def read_ndjson(file: IO[bytes], *, subject: str, backfill: str | None, bytes_max: int) -> Iterator[Outgoing]:
    """One message a line: a CloudEvent or an array of them. Whatever the line holds is published as it stands.

    A single event gets `<id> <source>` as its Nats-Msg-Id. Raises UsageError for a line the server cannot take.
    """
    for body in _read_lines(file, bytes_max):
        headers = {} if backfill is None else {"Anlyt-Backfill": backfill}
        known_by = _message_id(body)
        if known_by is not None:
            headers[MESSAGE_ID_HEADER] = known_by
        yield Outgoing(subject, body, headers)


def _read_lines(file: IO[bytes], bytes_max: int) -> Iterator[bytes]:
    """Lines that hold something, without their ends; never more than one of them in memory."""
    for number in count(1):
        try:
            line = file.readline(bytes_max + 2)
        except OSError as error:
            raise UsageError(f"line {number} cannot be read: {error.strerror}") from None
        if not line:
            return
        body = line.rstrip(b"\r\n")
        if len(body) > bytes_max:
            raise UsageError(
                f"line {number} has more than {bytes_max:,} bytes, the most this nats-server takes; the lines before "
                "it are published: shorten it and publish the file again, what is there already is counted once"
            )
        if body.strip():
            yield body


def _message_id(body: bytes) -> str | None:
    """The identity of a single event, if a header can carry it."""
    try:
        event = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict):
        return None
    found = cast("dict[str, Any]", event)
    event_id, source = found.get("id"), found.get("source")
    if not (isinstance(event_id, str) and isinstance(source, str) and event_id and source):
        return None
    return message_id(f"{event_id} {source}")


def until_stopped(publications: Iterable[Publication], *, stop: asyncio.Event) -> Iterator[Publication]:
    """Each publication at once; ends when `stop` is set, without the one it holds, which no tally has yet."""
    for publication in publications:
        if stop.is_set():
            return
        yield publication


async def at_their_time(publications: Iterable[Publication], *, stop: asyncio.Event) -> AsyncIterator[Publication]:
    """Each publication at its `publish_at`; ends when `stop` is set, without the one that waited."""
    for publication in publications:
        ahead_us = publication.publish_at - time.time_ns() // 1000
        while ahead_us > PACE_SLACK_US and not stop.is_set():
            try:
                async with asyncio.timeout(ahead_us / 1e6):
                    await stop.wait()
            except TimeoutError:
                pass
            ahead_us = publication.publish_at - time.time_ns() // 1000
        if stop.is_set():
            return
        yield publication
