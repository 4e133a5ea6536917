"""frames.py takes in what nats-py takes in, however the bytes are cut, and nothing stops it half way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nats.errors
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.protocol import parser

from anlyt.events import Decoder, Message, Rules
from anlyt.frames import LINE_BYTES_MAX, Client, Frames, read_subject
from anlyt.jetstream import ID_ONLY, MESSAGE_ID_HEADER, message_id
from support import run

if TYPE_CHECKING:
    from nats.protocol.parser import Parser

DIVERTED, OTHER = 7, 8


class Recorder(Client):
    """A client without a connection, which notes what its parser tells it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[Any, ...]] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        self.heard.append((sid, bytes(subject), bytes(reply), data, headers or b""))

    async def _process_ping(self) -> None:
        self.heard.append(("PING",))

    async def _process_pong(self) -> None:
        self.heard.append(("PONG",))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.heard.append(("INFO", info))

    async def _process_err(self, err_msg: str) -> None:
        self.heard.append(("ERR", err_msg))
        if err_msg == "'lost'":
            self._ps.reset()


def diverted(client: Recorder) -> Frames:
    """The client's own parser, with one subscription diverted."""
    frames = client._frames
    frames.sinks[b"%d" % DIVERTED] = lambda run: client.heard.extend(
        (DIVERTED, subject, reply, body, headers) for subject, reply, headers, body in run
    )
    return frames


def hear(made: Parser, client: Recorder, pieces: list[bytes]) -> list[tuple[Any, ...]]:
    async def parse() -> None:
        for piece in pieces:
            await made.parse(piece)

    run(parse())
    return client.heard


words = st.from_regex(rb"[!-~]{1,12}", fullmatch=True)
blocks = st.one_of(st.just(b""), st.binary(max_size=20).map(lambda text: b"NATS/1.0\r\nk: " + text + b"\r\n\r\n"))


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    subject, sid = draw(words), draw(st.sampled_from([DIVERTED, OTHER]))
    reply = draw(st.one_of(st.just(b""), words.map(lambda word: word + b" ")))
    headers, body = draw(blocks), draw(st.one_of(st.binary(max_size=40), st.just(b"MSG x 7 3\r\nabc\r\n")))
    if headers:
        sizes = b"%d %d" % (len(headers), len(headers) + len(body))
        return b"HMSG %b %d %b%b\r\n%b%b\r\n" % (subject, sid, reply, sizes, headers, body)
    return b"MSG %b %d %b%d\r\n%b\r\n" % (subject, sid, reply, len(body), body)


lines = st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow'\r\n", b'INFO {"server_id":"A"}\r\n'])


@given(st.lists(st.one_of(messages(), lines), max_size=12), st.data())
def test_whatever_arrives_is_heard_as_nats_py_hears_it_however_it_is_cut(
    frames: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(frames)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    theirs, ours = Recorder(), Recorder()

    assert hear(diverted(ours), ours, pieces) == hear(parser.Parser(theirs), theirs, [stream])


def test_a_message_that_arrives_byte_by_byte_is_heard_once() -> None:
    client = Recorder()

    heard = hear(diverted(client), client, [bytes([byte]) for byte in b"MSG s 7 r 3\r\nabc\r\nPING\r\n"])

    assert heard == [(DIVERTED, b"s", b"r", b"abc", b""), ("PING",)]


def test_a_word_holds_any_byte_but_white_space() -> None:
    client = Recorder()

    heard = hear(diverted(client), client, [b"MSG a\x0b\xff\x00b 7 3\r\nabc\r\n"])

    assert heard == [(DIVERTED, b"a\x0b\xff\x00b", b"", b"abc", b"")]
    assert read_subject(heard[0][1]) == "a\x0b\\xff\\x00b"


def test_what_came_before_a_lost_connection_does_not_meet_what_comes_after() -> None:
    client = Recorder()

    heard = hear(
        diverted(client), client, [b"-ERR 'lost'\r\nMSG s 7 3\r\nabc\r\nMSG s 7 9\r\nab", b"MSG s 7 3\r\nnew\r\n"]
    )

    assert heard == [("ERR", "'lost'"), (DIVERTED, b"s", b"", b"new", b"")]


@pytest.mark.parametrize(
    "junk", [b"HELO\r\n", b"MSG\r\n", b"x" * (LINE_BYTES_MAX + 1)], ids=["verb", "words", "endless"]
)
def test_what_is_no_protocol_of_nats_is_an_error(junk: bytes) -> None:
    client = Recorder()

    with pytest.raises(nats.errors.ProtocolError):
        hear(diverted(client), client, [junk])


def test_header_values_that_are_no_text_stay_different() -> None:
    block = "NATS/1.0\r\nce-id: é%20\r\nA: 1\xff\r\n\xe4: 2\xff\r\n\r\n".encode("latin-1")
    block = block.replace("é".encode("latin-1"), "é".encode())

    found = run(Client().read_headers(block))

    assert found == {"ce-id": "é%20", "A": "1%FF"}


@given(st.text(' \t:aZ~!"é\x7f', min_size=1, max_size=20))
def test_an_id_that_is_read_at_once_is_the_one_nats_py_reads(text: str) -> None:
    block = b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % text.encode()

    alone = ID_ONLY.fullmatch(block)

    assert alone is None or {MESSAGE_ID_HEADER: alone[1].decode()} == run(Client().read_headers(block))


def test_the_id_of_an_event_is_read_at_once() -> None:
    known_by = message_id("0198c5a2-7a4e-7b3c-9d2e-1f6a5b4c3d2e /gateway/fra1")
    assert known_by is not None

    assert ID_ONLY.fullmatch(b"NATS/1.0\r\nNats-Msg-Id: %b\r\n\r\n" % known_by.encode()) is not None


@pytest.mark.parametrize("last", [b"\xfe", b"\xff", b"\xed\xa0\x80"])
def test_an_event_whose_id_is_no_text_is_malformed(last: bytes) -> None:
    names = {b"specversion": b"1.0", b"id": b"a" + last, b"source": b"/s", b"type": b"operator.error", b"time": b"x"}
    block = b"NATS/1.0\r\n" + b"".join(b"ce-%b: %b\r\n" % pair for pair in names.items()) + b"\r\n"

    headers = run(Client().read_headers(block))
    found = Decoder(Rules()).decode([Message("s", headers, b"{}", 1, 0)])

    assert [(letter.reason, letter.key) for letter in found.letters] == [("malformed", None)]
