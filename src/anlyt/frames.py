"""nats-py's client with a shorter way in: messages of a reading subscription go to its reader as the bytes they are.

In: what nats-server sends. Out: for a subscription that was diverted, its messages by runs to its sink; for everything
else what nats-py does. nats-py builds an object, a queue entry and a callback a message and moves its whole buffer for
each; a stream read at full speed spends more on that than on decoding. And neither a producer's bytes nor an error of
the server stops this client for good, as they do stop nats-py's.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import nats.aio.client
import nats.errors
from nats.aio.transport import TcpTransport
from nats.protocol import parser

if TYPE_CHECKING:
    from collections.abc import Callable

    from nats.aio.msg import Msg
    from nats.aio.subscription import Subscription

    Frame = tuple[bytes, bytes, bytes, bytes]  # subject, reply, headers, body; empty when there is none
    Sink = Callable[[list[Frame]], None]

REFUSED: Final = "permissions violation"
REFUSALS_KEPT: Final = 20
LINE_BYTES_MAX: Final = 1_048_576  # of what is no message: INFO lists the servers of a cluster
_CRLF: Final = b"\r\n"
_ASCII: Final = "".join(map(chr, range(128)))
_WORD: Final = rb"[^ \t\r\n]+"  # as nats-server cuts a line into words; nats-py does at any white space
_MESSAGE: Final = re.compile(  # subject, subscription, reply, size of the headers (of HMSG alone), size of all
    rb"(H)?MSG[ \t]+(%b)[ \t]+(\d+)[ \t]+(?:(%b)[ \t]+)?(?(1)(\d+)[ \t]+)(\d+)\r\n" % (_WORD, _WORD)
)


class Frames(parser.Parser):
    """nats-py's parser, which takes whole messages out of one buffer and leaves all other lines to nats-py."""

    def __init__(self, client: Client) -> None:
        self.sinks: dict[bytes, Sink] = {}  # by the subscription's number
        super().__init__(client)
        self._client = client

    def reset(self) -> None:
        """Forget what arrived: the connection is a new one. nats-py calls this."""
        super().reset()
        self._epoch = object()  # whoever was parsing sees that it has changed
        self._wanted = 0  # bytes that complete what the buffer begins with

    async def parse(self, data: bytes = b"") -> None:
        """Take in what nats-server sent, and hand every message on that is complete."""
        self.buf += data
        if len(self.buf) < self._wanted:
            return
        chunk, at, epoch = bytes(self.buf), 0, self._epoch
        while at < len(chunk):
            begin, at = at, self._divert(chunk, at)
            if at == begin:
                at = await self._leave_to_client(chunk, at)
                if epoch is not self._epoch:
                    return
                if at == begin:
                    break
        self.buf = bytearray(chunk[at:])

    def _divert(self, chunk: bytes, at: int) -> int:
        """Hand the messages of diverted subscriptions on, up to the first line that is something else."""
        self._wanted = 0
        runs: dict[bytes, list[Frame]] = {sid: [] for sid in self.sinks}
        while line := _MESSAGE.match(chunk, at):
            _, subject, sid, reply, headers_size, size = line.groups(b"")
            run, begin = runs.get(sid), line.end()
            end = begin + int(size) + len(_CRLF)
            if run is None:
                break
            if end > len(chunk):
                self._wanted = end - at
                break
            middle = begin + int(headers_size) if headers_size else begin
            run.append((subject, reply, chunk[begin:middle], chunk[middle : end - 2]))
            at = end
        for sid, run in runs.items():
            if run:
                self.sinks[sid](run)
        return at

    async def _leave_to_client(self, chunk: bytes, at: int) -> int:
        """One message of another subscription, or one line; where it ends, or `at` when that has not arrived."""
        message = _MESSAGE.match(chunk, at)
        if message is not None:
            _, subject, sid, reply, headers_size, size = message.groups(b"")
            begin = message.end()
            middle, end = begin + int(headers_size or 0), begin + int(size) + len(_CRLF)
            if end > len(chunk):
                return at
            await self._client.take(int(sid), subject, reply, chunk[begin:middle], chunk[middle : end - 2])
            return end
        line, found, _ = chunk[at : at + LINE_BYTES_MAX].partition(_CRLF)
        if not found:
            if len(line) == LINE_BYTES_MAX:
                raise nats.errors.ProtocolError
            return at
        self.buf = bytearray(line + found)
        await super().parse()
        return at + len(line) + len(found)


class Client(nats.aio.client.Client):
    """A connection to nats-server.

    nats-server stores any subject and any headers; where they are no text nats-py ends its reading, again and again at
    the same message. And it closes for good at an error like expired credentials, where waiting is what helps.
    """

    def __init__(self, *, tls_only: bool = False, public_key: str | None = None) -> None:
        super().__init__()
        self._ps = self._frames = Frames(self)
        self._tls_only = tls_only
        self._public_nkey = public_key
        self._refusals: deque[str] = deque(maxlen=REFUSALS_KEPT)

    def was_refused(self, subject: str) -> bool:
        """Whether nats-server said lately that this user may not publish to `subject`."""
        return any(f'"{subject.lower()}"' in refusal for refusal in self._refusals)

    async def subscribe_raw(self, subject: str, sink: Sink) -> Subscription:
        """Subscribe, with messages given to `sink` as they arrived, some at a time; it must neither wait nor raise."""
        subscription = await self.subscribe(subject)
        self._frames.sinks[b"%d" % subscription._id] = sink  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - no public name
        return subscription

    async def unsubscribe_raw(self, subscription: Subscription) -> None:
        """Undo `subscribe_raw`. Raises nats.errors.Error when the connection is gone, and the subscription with it."""
        self._frames.sinks.pop(b"%d" % subscription._id, None)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - as above
        await subscription.unsubscribe()

    async def take(self, sid: int, subject: bytes, reply: bytes, headers: bytes, body: bytes) -> None:  # noqa: PLR0917 - nats-py's
        """One message the way nats-py takes it."""
        await self._process_msg(sid, subject, reply, body, headers)

    async def read_headers(self, block: bytes) -> dict[str, str] | None:
        """The headers in a message's header block; None when it is no text."""
        return await self._process_headers(block)

    def _build_message(  # noqa: PLR0917 - nats-py's
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        text = read_subject(subject)
        return self.msg_class(subject=text, reply=reply.decode(), data=data, headers=headers, _client=self, _sid=sid)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        if not headers:
            return None
        try:
            return await super()._process_headers(_as_text(headers))
        except (IndexError, UnicodeDecodeError):
            return None

    async def _process_connect_init(self) -> None:
        """Let go of a connection that failed to become TLS: nats-py would wait for its end, which never comes."""
        try:
            await super()._process_connect_init()
        except (OSError, TimeoutError):
            if isinstance(self._transport, TcpTransport) and self._transport._io_writer is not None:  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - no public way
                self._transport._io_writer.transport.abort()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - the same
            self._transport = None
            raise

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 - nats-py's
        """Nothing is sent before this: whoever takes TLS away on the line gets no password either."""
        if self._tls_only and initial_connection and not info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS, which the settings ask for")
        await super()._process_info(info, initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        if REFUSED in err_msg:
            self._refusals.append(err_msg.lower())
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(nats.errors.Error(f"nats-server said {err_msg}"))


def read_subject(subject: bytes) -> str:
    """A subject as text that PostgreSQL takes: bytes that are no UTF-8, and NUL, are shown escaped."""
    return subject.decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def _as_text(headers: bytes) -> bytes:
    """The same header block, values that are not UTF-8 percent-encoded: nats-py would make different ones the same."""
    return headers if headers.isascii() else _CRLF.join(map(_line_as_text, headers.split(_CRLF)))


def _line_as_text(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    try:
        value.decode()
    except UnicodeDecodeError:
        return name + colon + quote(value, safe=_ASCII).encode()
    return line
