"""Publish into the stream and know that JetStream has it: files of events and simulated traffic, paced or fast.

In: Outgoing messages. Out: Published, when every one of them is acknowledged; anything else raises. Publishing the same
again after an error is always safe, because ids are counted once (I2). At full speed messages go in atomic batches,
which nats-server puts on disk with one fsync (docs/adr/0004-jetstream-durability.md); a refused batch goes one by one.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections import deque
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Final, cast

import nats.errors
from msgspec import Struct

from anlyt.errors import RequestError, StreamUnavailable, UsageError
from anlyt.jetstream import MESSAGE_ID_HEADER, NOBODY, REQUEST_TIMEOUT_S, Outgoing, connect, message_id
from anlyt.slots import spread

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator

    from nats.aio.msg import Msg

    from anlyt.credentials import Identity
    from anlyt.frames import Client
    from anlyt.simulate import Publication

WINDOW: Final = 500  # messages without an answer yet, when they go one by one
ATOMIC_BATCH_MAX: Final = 1_000  # nats-server's own limit
ATOMIC_BYTES_MAX: Final = 4 * 1_048_576
ATOMIC_IN_FLIGHT: Final = 4  # nats-server's default limit for one stream is 50
FIRST_CONNECT_S: Final = 2.0  # of a Publisher
RECONNECT_PAUSE_S: Final = 1.0  # after a failed attempt, in which calls are refused at once
HEADERS_BYTES_MAX: Final = 1_024  # of a message; nats-server's limit is on headers and body together
PIECE_BYTES: Final = 256 * 1_024  # read at once from a file; a pipe holds 64 KiB
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

    async def batches() -> AsyncIterator[list[Outgoing]]:
        for batch in batched(outgoing):
            yield batch

    return await publish_batches(nc, batches(), on_progress=on_progress)


async def publish_batches(
    nc: Client, batches: AsyncIterable[list[Outgoing]], *, on_progress: Callable[[Published], None] | None = None
) -> Published:
    """Publish batches as they come, at most ATOMIC_IN_FLIGHT without an answer. Raises as publish_fast does."""
    total = Published()
    running: set[asyncio.Task[Published]] = set()
    try:
        try:
            async for batch in batches:
                running.add(asyncio.create_task(_publish_batch(nc, batch)))
                limit_s = None if len(running) >= ATOMIC_IN_FLIGHT else 0
                done, running = await asyncio.wait(running, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                total = sum((task.result() for task in done), total)
                if on_progress is not None:
                    on_progress(total)
        finally:  # whatever ended the source: what was taken from it is published
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


def batched(outgoing: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    """Messages in batches of what JetStream takes at once."""
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

    def __init__(self, url: str, stream: str, *, name: str, identity: Identity = NOBODY) -> None:
        self._identity = identity
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
                return await connect(self._url, name=self._name, identity=self._identity)
        except (StreamUnavailable, TimeoutError) as error:
            self._refused_until_s = time.monotonic() + RECONNECT_PAUSE_S
            raise StreamUnavailable(f"NATS cannot be reached: {error or 'no answer in time'}") from None


# ------------------------------------------------------------------------------------------------------------- sources


class Lines:
    """NDJSON cut into lines, as pieces of it arrive; never more than one line and one piece in memory.

    Whatever a line holds is published as it stands; a line without anything in it is left out. A single event gets
    `<id> <source>` as its Nats-Msg-Id.
    """

    def __init__(self, subject: str, *, backfill: str | None, bytes_max: int) -> None:
        self._subject = subject
        self._headers = {} if backfill is None else {"Anlyt-Backfill": backfill}
        self._bytes_max = bytes_max
        self._begun = b""  # of the line whose end has not arrived
        self.number = 1  # of that line

    def cut(self, piece: bytes) -> Iterator[Outgoing]:
        """The messages that `piece` completes. Raises UsageError for a line the server cannot take."""
        *ended, self._begun = (self._begun + piece).split(b"\n") if b"\n" in piece else [self._begun + piece]
        for line in ended:
            yield from self._message(line)
            self.number += 1
        if len(self._begun) > self._bytes_max + 1:  # the one may be the \r of its end
            raise self._too_long()

    def end(self) -> Iterator[Outgoing]:
        """The last message, when no line end stands behind it."""
        return self._message(self._begun)

    def _message(self, line: bytes) -> Iterator[Outgoing]:
        body = line.rstrip(b"\r\n")
        if len(body) > self._bytes_max:
            raise self._too_long()
        if body.strip():
            known_by = _message_id(body)
            headers = self._headers | ({} if known_by is None else {MESSAGE_ID_HEADER: known_by})
            yield Outgoing(spread(self._subject, body), body, headers)

    def _too_long(self) -> UsageError:
        return UsageError(
            f"line {self.number} has more than {self._bytes_max:,} bytes, the most this nats-server takes; the lines "
            "before it are published: shorten it and publish the file again, what is there already is counted once"
        )


async def read_batches(
    file: IO[bytes], lines: Lines, *, stop: asyncio.Event, on_read: Callable[[int], None] | None = None
) -> AsyncIterator[list[Outgoing]]:
    """What the file holds, in batches; of a pipe or terminal, what is there, without waiting for more.

    Ends at the end of the file, or at `stop`. `on_read` gets the bytes read so far. Raises UsageError for what cannot
    be read, when all before it has been handed out.
    """
    bytes_read = 0
    while not stop.is_set():
        if not await _readable(file, stop):
            return
        try:
            piece = os.read(file.fileno(), PIECE_BYTES)
        except OSError as error:
            raise UsageError(f"line {lines.number} cannot be read: {error.strerror}") from None
        bytes_read += len(piece)
        async for batch in _before_error(lines.cut(piece) if piece else lines.end()):
            yield batch
        if on_read is not None:
            on_read(bytes_read)
        if not piece:
            return


async def _before_error(messages: Iterator[Outgoing]) -> AsyncIterator[list[Outgoing]]:
    """Batches of messages; when one of them is an error, those before it first."""
    taken: list[Outgoing] = []
    refused: UsageError | None = None
    try:
        taken.extend(messages)
    except UsageError as error:
        refused = error
    for batch in batched(taken):
        yield batch
    if refused is not None:
        raise refused


async def _readable(file: IO[bytes], stop: asyncio.Event) -> bool:
    """Wait until something is there to be read; False when `stop` came first. What never waits is always readable."""
    loop = asyncio.get_running_loop()
    ready, stopped = asyncio.Event(), asyncio.create_task(stop.wait())
    try:
        loop.add_reader(file.fileno(), ready.set)
    except PermissionError:  # an ordinary file, which cannot be waited for
        stopped.cancel()
        return True
    waiting = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait((waiting, stopped), return_when=asyncio.FIRST_COMPLETED)
        return ready.is_set() and not stop.is_set()
    finally:
        loop.remove_reader(file.fileno())
        waiting.cancel()
        stopped.cancel()


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
