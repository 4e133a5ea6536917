"""The stream: made or checked at start, and read in order without acks.

Reading keeps no state in NATS that matters: an ephemeral pull consumer without acks delivers from the position that
PostgreSQL holds, and is thrown away at the first doubt (I4). Every message says its place in the consumer's own
sequence, so a hole in delivery is seen and never counted over. What may be in flight is bounded by BUFFER_* limits.
A stream of a cluster is read from any of its servers; what one of them has not got yet is never passed over.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import nats.errors
import structlog
from msgspec import Struct
from msgspec.structs import replace

from anlyt.credentials import Identity, connect_options, identity_of, needs_tls, public_key
from anlyt.errors import ConfigurationError, StreamUnavailable
from anlyt.events import DAY_US, Message, format_instant, parse_instant
from anlyt.frames import REFUSED, Client, read_subject
from anlyt.slots import division

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.subscription import Subscription

    from anlyt.frames import Frame
    from anlyt.settings import Settings
    from anlyt.slots import Division

CONNECT_TIMEOUT_S: Final = 5
REQUEST_TIMEOUT_S: Final = 5.0
PULL_MESSAGES_MAX: Final = 5_000  # one pull request
PULL_BYTES_MAX: Final = 8 * 1_048_576
PULL_EXPIRES_S: Final = 5
PULL_GRACE_S: Final = 5  # silence this long after a pull should have ended means the consumer is gone
BUFFER_MESSAGES_MAX: Final = 20_000  # read and not yet taken, pulls in flight included
BUFFER_BYTES_MAX: Final = 32 * 1_048_576
STALL_LIMIT_S: Final = 20.0  # a stored message that is not delivered for so long: another consumer is asked
CONSUMER_IDLE_S: Final = 60  # nats-server forgets a consumer nobody has asked for this long
HEAD_LIMIT_US: Final = 4_000_000  # in a cluster, for one look at the head: leaders do not change twice in it
STREAM_MAX_AGE_US: Final = 7 * DAY_US
DUPLICATE_WINDOW_S: Final = 120
NOT_FOUND: Final = 404
NOT_READY: Final = 503
SUBJECTS_KNOWN_MAX: Final = 1_000  # remembered as text; more are read again
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
MESSAGE_ID_CHARS_MAX: Final = 512
NOBODY: Final = Identity()  # user and password in the address, or none
_LEFT_HEADER: Final = "Nats-Pending-Messages:"  # of a pull that ended: what it did not deliver
_ACK_TOKENS_V1: Final = 9  # $JS.ACK.stream.consumer.delivered.stream_seq.consumer_seq.time.pending
_ACK_SHIFT_V2: Final = 2  # v2 has the domain and the account in front of them
ID_ONLY: Final = re.compile(
    rb"NATS/1\.0\r\nNats-Msg-Id: ([!-~]+(?: [!-~]+)*)\r\n\r\n"
)  # most carry just "<id> <source>"

log = structlog.get_logger("anlyt.jetstream")


class StreamInfo(Struct, frozen=True):
    """The stream as nats-server describes it; instants in microseconds since 1970 UTC."""

    created: int
    first_seq: int
    last_seq: int
    last_published: int
    messages: int
    now: int  # the server's clock when it answered
    config: dict[str, Any]
    leader: str | None = None  # the server of a cluster that answered
    deleted: int = 0  # messages taken out from between the first and the last


class Outgoing(Struct, frozen=True):
    """One message to publish."""

    subject: str
    body: bytes
    headers: dict[str, str]


def message_id(key: str) -> str | None:
    """An event's identity as the Nats-Msg-Id of the message that holds nothing else; None if no header can carry it."""
    return key if key.isascii() and key.isprintable() and len(key) <= MESSAGE_ID_CHARS_MAX else None


class NoAnswer(StreamUnavailable):
    """JetStream does not answer."""


class JetStreamError(StreamUnavailable):
    """JetStream refused a request."""

    def __init__(self, action: str, code: int, description: str) -> None:
        super().__init__(f"JetStream refused {action}: {description} (code {code})")
        self.code = code


def is_passing(error: StreamUnavailable) -> bool:
    """Whether a cluster that is choosing a leader, or a server that has just started, would say this, too."""
    return isinstance(error, NoAnswer) or (isinstance(error, JetStreamError) and error.code == NOT_READY)


# ---------------------------------------------------------------------------------------------------- connection, API


async def connect_as(settings: Settings, *, name: str, on_disconnect: Callable[[], None] | None = None) -> Client:
    """A connection to where the settings say, as who they say. Raises as `connect` does."""
    assert settings.nats_url is not None  # the command line checks it
    url = settings.nats_url.get_secret_value()
    return await connect(url, name=name, on_disconnect=on_disconnect, identity=identity_of(settings))


async def connect(
    url: str,
    *,
    name: str,
    on_disconnect: Callable[[], None] | None = None,
    identity: Identity = NOBODY,
) -> Client:
    """A connection that reconnects by itself for ever. Raises StreamUnavailable when no server takes it at first.

    And ConfigurationError for files of `identity` that cannot be used.
    """
    servers = url.split(",")
    options = connect_options(identity)
    attempts, connected = 0, False

    async def disconnected() -> None:
        if on_disconnect is not None and connected:
            on_disconnect()

    async def errored(error: Exception) -> None:
        """Give up when each server was tried once; later errors are told by the calls they break."""
        nonlocal attempts
        if connected and REFUSED in str(error):
            log.warning("nats-refused", cause=str(error), connection=name)
        attempts += 1
        if attempts >= len(servers) and not connected:  # the client itself would go on for ever
            raise _unreachable(url, error)

    client = Client(tls_only=needs_tls(url, identity), public_key=public_key(identity))
    try:
        await client.connect(
            servers,
            **options,
            name=name,
            connect_timeout=CONNECT_TIMEOUT_S,
            allow_reconnect=True,
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=10,
            max_outstanding_pings=2,
            disconnected_cb=disconnected,
            error_cb=errored,
        )
    except (OSError, nats.errors.Error, TimeoutError, StreamUnavailable) as error:
        with suppress(OSError, nats.errors.Error, StreamUnavailable):  # closing what was half connected errs, too
            await client.close()
        raise error if isinstance(error, StreamUnavailable) else _unreachable(url, error) from None
    connected = True
    return client


def _unreachable(url: str, error: Exception) -> StreamUnavailable:
    cause = str(error) or type(error).__name__
    at = _without_secret(url)
    return StreamUnavailable(
        f"NATS at {at} cannot be reached: {cause}; check ANLYT_NATS_URL and that the server is running"
    )


async def request(nc: Client, api: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One call of the JetStream API. Raises JetStreamError when refused, StreamUnavailable when not answered."""
    try:
        reply = await nc.request(f"$JS.API.{api}", json.dumps(body or {}).encode(), timeout=REQUEST_TIMEOUT_S)
    except (OSError, nats.errors.Error, TimeoutError) as error:
        if nc.was_refused(f"$JS.API.{api}"):
            raise StreamUnavailable(
                f"NATS does not let this user publish to $JS.API.{api}; grant it the subjects of its role, which the "
                "page on security lists"
            ) from None
        raise NoAnswer(f"JetStream does not answer {api}: {error or type(error).__name__}") from None
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        error = answer["error"]
        raise JetStreamError(api, error.get("code", 0), error.get("description", "no description"))
    return answer


async def stream_info(nc: Client, stream: str) -> StreamInfo:
    """What the stream holds now. Raises JetStreamError with code 404 when there is none."""
    answer = await request(nc, f"STREAM.INFO.{stream}")
    state = answer["state"]
    return StreamInfo(
        created=parse_instant(answer["created"]),
        first_seq=max(1, state["first_seq"]),  # 0 as long as nothing was ever stored
        last_seq=state["last_seq"],
        last_published=max(0, parse_instant(state["last_ts"])),
        messages=state["messages"],
        now=parse_instant(answer["ts"]),
        config=answer["config"],
        leader=answer.get("cluster", {}).get("leader"),
        deleted=state.get("num_deleted", 0),
    )


async def published_at(nc: Client, stream: str, sequence: int) -> int | None:
    """JetStream time of one message; None when the stream does not hold it any more."""
    try:
        answer = await request(nc, f"STREAM.MSG.GET.{stream}", {"seq": sequence})
    except JetStreamError as error:
        if error.code == NOT_FOUND:
            return None
        raise
    return parse_instant(answer["message"]["time"])


async def next_stored(nc: Client, stream: str, subject: str | None, *, start: int) -> tuple[int, str] | None:
    """Sequence and stored subject of the first message of `subject` (None: all) at or behind `start`; None: no such."""
    try:
        answer = await request(nc, f"STREAM.MSG.GET.{stream}", {"seq": start, "next_by_subj": subject or ">"})
    except JetStreamError as error:
        if error.code == NOT_FOUND:
            return None
        raise
    return int(answer["message"]["seq"]), answer["message"]["subject"]


async def check_slots(nc: Client, stream: str, division: Division, *, after: int) -> None:
    """Raises StreamUnavailable when messages are left from before the stream was divided so: no part reads them."""
    left = await next_stored(nc, stream, f"{division.prefix}>", start=after + 1)
    if left is not None and division.slot(left[1]) is None:
        raise StreamUnavailable(
            f"message {left[0]} of stream {stream} is from before it was divided as it is now: "
            "run anlyt worker --until-idle with ANLYT_PARTITIONS=1, and without other workers"
        )


async def ensure_stream(nc: Client, stream: str, subjects: str, *, replicas: int = 1) -> tuple[StreamInfo, bool]:
    """The stream, made if it is missing (True). An existing one is left as it is; ConfigurationError if it is unfit.

    `replicas` servers of the cluster hold the one that is made.
    """
    try:
        info, made = await stream_info(nc, stream), False
    except JetStreamError as error:
        if error.code != NOT_FOUND:
            raise
        await _create_stream(nc, stream, subjects, replicas=replicas)
        info, made = await stream_info(nc, stream), True
    for problem in stream_problems(info.config, subjects):
        if problem.startswith("must"):
            raise ConfigurationError(f"stream {stream} {problem}")
    return info, made


async def _create_stream(nc: Client, stream: str, subjects: str, *, replicas: int) -> None:
    config = {
        "name": stream,
        "subjects": [subjects],
        "retention": "limits",
        "discard": "new",
        "storage": "file",
        "num_replicas": replicas,
        "max_age": STREAM_MAX_AGE_US * 1000,
        "duplicate_window": DUPLICATE_WINDOW_S * 1_000_000_000,
        "allow_direct": True,
        "allow_atomic": True,  # lets publishers have many messages synchronised to disk at once
        "subject_transform": division(subjects, replicas=replicas).transform,
    }
    try:
        await request(nc, f"STREAM.CREATE.{stream}", config)
    except JetStreamError as error:  # two processes found it missing at the same time
        if "already in use" not in str(error):
            raise


def stream_problems(config: dict[str, Any], subjects: str, *, replicas: int = 1) -> list[str]:
    """What is wrong with a stream: `must ...` makes it useless here, `should ...` weakens a promise."""
    problems: list[str] = []
    if config.get("retention", "limits") != "limits":
        problems.append(
            f"must have limits retention, not {config['retention']}: messages have to stay when they are read"
        )
    if not _covers(config.get("subjects", []), subjects):
        problems.append(f"must take in {subjects}, but takes {', '.join(config.get('subjects', [])) or 'nothing'}")
    if config.get("storage") != "file":
        problems.append("should use file storage: messages in memory are gone when nats-server stops")
    if config.get("num_replicas", 1) < replicas:
        problems.append(f"should be on {replicas} servers (ANLYT_STREAM_REPLICAS), not {config.get('num_replicas', 1)}")
    if config.get("discard") != "new" and (config.get("max_bytes", -1) > 0 or config.get("max_msgs", -1) > 0):
        problems.append("should discard new: when full it drops messages that were not counted yet")
    if 0 < config.get("max_age", 0) < 2 * DAY_US * 1000:
        problems.append(
            "should keep messages for at least 48 h (max_age), so that an outage of a weekend loses nothing"
        )
    if config.get("max_msgs_per_subject", -1) > 0:
        problems.append("should not limit messages per subject: older ones are dropped before they are counted")
    return problems


def _covers(subjects: list[str], wanted: str) -> bool:
    return any(s in {">", wanted} or (s.endswith(".>") and wanted.startswith(s[:-1])) for s in subjects)


# ----------------------------------------------------------------------------------------------------------- reading


def headers_size(headers: dict[str, str] | None) -> int:
    """About how many bytes the headers of a message take."""
    return sum(map(len, headers)) + sum(map(len, headers.values())) if headers else 0


class Reader:
    """Reads a stream (or one branch) in order from a sequence on. Opened with `open_reader`, closed with `close`.

    Any doubt (a hole in the consumer's sequence, silence, a lost connection) raises StreamUnavailable from `take`; the
    caller closes this reader and opens a new one from the position in PostgreSQL.
    """

    def __init__(self, nc: Client, stream: str, consumer: str, *, subject: str | None, resume_after: int) -> None:
        self.resume_after = resume_after  # the stream sequence this reader starts behind
        self._pending: bytes = b"1"  # messages the server had left when it sent the last one taken
        self._nc = nc
        self._stream = stream
        self._consumer = consumer
        self._subject = subject
        self._taken_seq = resume_after  # stream sequence up to which everything of this branch has been taken
        self._inbox = nc.new_inbox()
        self._subscription: Subscription | None = None
        self._buffer: deque[Frame] = deque()
        self._buffer_bytes = 0
        self._subjects: dict[bytes, str] = {}
        self._asked = 0  # messages asked for and not yet arrived
        self._consumer_seq = 0  # of the last message taken
        self._arrived = asyncio.Event()
        self._heard_at = 0.0
        self._missed: tuple[int, float] | None = None  # a stored message that does not come, and since when
        self._broken: str | None = None

    @property
    def server_pending(self) -> int:
        """Messages the server had left when it sent the last one taken."""
        return int(self._pending)

    async def start(self) -> None:
        """Subscribe; called once by open_reader."""
        self._subscription = await self._nc.subscribe_raw(self._inbox, self._receive)
        self._heard_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Leave the consumer to nats-server, which forgets it, and drop what was read ahead."""
        if self._subscription is not None:
            with suppress(OSError, nats.errors.Error):  # the connection is gone, and the subscription with it
                await self._nc.unsubscribe_raw(self._subscription)
                await self._nc.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")
        self._buffer.clear()

    def mark_broken(self, cause: str) -> None:
        """Make the next `take` raise: the connection was lost."""
        self._broken = self._broken or cause
        self._arrived.set()

    async def take(self, messages_max: int, *, bytes_max: int, wait_s: float) -> list[Message]:
        """The next messages in stream order, as soon as there is one; [] after `wait_s` without any.

        At most `messages_max`, and no further one once bodies and headers have `bytes_max` bytes.
        """
        await self._pull()
        if not self._buffer and self._broken is None:
            self._arrived.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._arrived.wait()
            except TimeoutError:
                self._check_heard()
        if self._broken is not None:
            raise StreamUnavailable(f"reading {self._stream} has to start anew: {self._broken}")
        self._heard_at = asyncio.get_running_loop().time() if self._buffer else self._heard_at
        taken: list[Message] = []
        bytes_taken, buffer, subjects = 0, self._buffer, self._subjects
        while buffer and len(taken) < messages_max and bytes_taken < bytes_max:
            subject, reply, block, body = buffer.popleft()
            bytes_taken += len(block) + len(body)
            sequence, published = self._place(reply)
            if sequence <= self.resume_after:
                continue  # a server of a cluster that has not all messages yet begins earlier than it was asked to
            headers = None
            if block:
                alone = ID_ONLY.fullmatch(block)
                headers = {MESSAGE_ID_HEADER: alone[1].decode()} if alone else await self._nc.read_headers(block)
            text = subjects.get(subject) or self._subject_text(subject)
            taken.append(Message(text, headers, body, sequence, published))
        if taken:
            self._taken_seq = max(self._taken_seq, taken[-1].sequence)
        self._buffer_bytes -= bytes_taken
        await self._pull()
        return taken

    async def caught_up(self) -> StreamInfo | None:
        """The stream's head, if every message of this branch up to it has been taken; else None.

        Asks the store, because what a consumer counts as pending runs behind what is stored. `now` is from before the
        head was read, so that everything with an earlier time is behind the head.
        """
        before = await stream_info(self._nc, self._stream)
        head = await stream_info(self._nc, self._stream)
        following = await next_stored(self._nc, self._stream, self._subject, start=self._taken_seq + 1)
        if self._broken is not None:
            return None
        if following is not None and following[0] <= head.last_seq:
            self._check_delivery(following[0])
            return None
        if head.config.get("num_replicas", 1) > 1 and not await self._led_throughout(before, head):
            return None
        self._taken_seq = max(self._taken_seq, head.last_seq)
        return replace(head, now=before.now)

    async def _led_throughout(self, before: StreamInfo, head: StreamInfo) -> bool:
        """Whether one server answered all: a new leader may not have yet what the head of the old one says is there."""
        after = await stream_info(self._nc, self._stream)
        return before.leader == head.leader == after.leader and after.now - before.now < HEAD_LIMIT_US

    async def _pull(self) -> None:
        """Keep pull requests open for as much as the buffer may still take."""
        bytes_max = max(PULL_BYTES_MAX, 2 * self._nc.max_payload)
        while self._asked + len(self._buffer) + PULL_MESSAGES_MAX <= BUFFER_MESSAGES_MAX:
            under_way = math.ceil(self._asked / PULL_MESSAGES_MAX) * bytes_max
            if self._buffer_bytes + under_way + (bytes_max if under_way else 0) > BUFFER_BYTES_MAX:
                return
            body = {"batch": PULL_MESSAGES_MAX, "expires": PULL_EXPIRES_S * 1_000_000_000, "max_bytes": bytes_max}
            if self._asked == 0:
                self._heard_at = asyncio.get_running_loop().time()
            self._asked += PULL_MESSAGES_MAX
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            try:
                await self._nc.publish(subject, json.dumps(body).encode(), reply=self._inbox)
            except (OSError, nats.errors.Error) as error:
                raise StreamUnavailable(f"NATS connection lost: {error}") from None

    def _receive(self, run: list[Frame]) -> None:
        """Messages as they came; one without a reply is no message of the stream but says that a pull has ended."""
        kept = [frame for frame in run if frame[1]]
        self._asked -= len(kept)
        self._buffer += kept
        self._buffer_bytes += sum(len(headers) + len(body) for _, _, headers, body in kept)
        for _, reply, headers, _ in run if len(kept) < len(run) else ():
            if not reply:
                self._end_pull(headers)
        self._arrived.set()

    def _end_pull(self, headers: bytes) -> None:
        """A pull ended before it was full: its time or its bytes were up, or the consumer is gone."""
        self._heard_at = asyncio.get_running_loop().time()
        lines = headers.decode("utf-8", "backslashreplace").split("\r\n")
        status = lines[0].removeprefix("NATS/1.0").strip()
        left = next((line for line in lines if line.startswith(_LEFT_HEADER)), "0").rpartition(":")[2]
        if status[:3] in {"404", "408"} or "MaxBytes" in status or "Batch Completed" in status:
            self._asked -= int(left)
        else:
            self.mark_broken(status)
        self._arrived.set()

    def _check_heard(self) -> None:
        silence = asyncio.get_running_loop().time() - self._heard_at
        if self._asked and silence > PULL_EXPIRES_S + PULL_GRACE_S:
            self.mark_broken(f"nothing heard for {silence:.0f} s")

    def _check_delivery(self, sequence: int) -> None:
        """Give up a consumer that does not deliver what is stored: its server may lack what the others have."""
        now = asyncio.get_running_loop().time()
        if self._missed is None or self._missed[0] != sequence:
            self._missed = sequence, now
        elif now - self._missed[1] > STALL_LIMIT_S:
            self.mark_broken(f"message {sequence} is stored, but was not delivered for {STALL_LIMIT_S:.0f} s")

    def _place(self, reply: bytes) -> tuple[int, int]:
        """A message's sequence in the stream and its JetStream time, when it is the next one of the consumer."""
        tokens = reply.split(b".")
        if len(tokens) > _ACK_TOKENS_V1:
            tokens = tokens[_ACK_SHIFT_V2 : _ACK_SHIFT_V2 + _ACK_TOKENS_V1]
        _, _, _, _, _, stream_seq, consumer_seq, time_ns, self._pending = tokens
        self._consumer_seq += 1
        if int(consumer_seq) != self._consumer_seq:
            self.mark_broken(f"message {self._consumer_seq} of the consumer is missing, got {int(consumer_seq)}")
            raise StreamUnavailable(f"reading {self._stream} has to start anew: {self._broken}")
        return int(stream_seq), int(time_ns) // 1000

    def _subject_text(self, subject: bytes) -> str:
        if len(self._subjects) >= SUBJECTS_KNOWN_MAX:
            self._subjects.clear()
        text = self._subjects[subject] = read_subject(subject)
        return text


async def open_reader(
    nc: Client, stream: str, *, subject: str | None, after: int | None = None, since: int = 0
) -> Reader:
    """A reader of `subject` (None: all) that starts behind sequence `after`, or, when that is None, at `since`."""
    name = f"anlyt-{secrets.token_hex(6)}"
    config: dict[str, Any] = {
        "name": name,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": CONSUMER_IDLE_S * 1_000_000_000,
        "max_waiting": 2 * BUFFER_MESSAGES_MAX // PULL_MESSAGES_MAX,
    }
    if after is None:
        config |= {"deliver_policy": "by_start_time", "opt_start_time": format_instant(since)}
    else:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
    if subject is not None:
        config["filter_subject"] = subject
    api = f"CONSUMER.CREATE.{stream}.{name}"
    answer = await request(nc, api, {"stream_name": stream, "config": config, "action": "create"})
    resume_after = answer["delivered"]["stream_seq"] if after is None else after
    reader = Reader(nc, stream, name, subject=subject, resume_after=resume_after)
    await reader.start()
    return reader


def _without_secret(url: str) -> str:
    """The servers of a NATS address, without user, password or token."""
    return ",".join(part.rpartition("@")[2].rpartition("//")[2] for part in url.split(","))
