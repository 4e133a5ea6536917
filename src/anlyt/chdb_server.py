"""The owner of a chDB directory: ClickHouse's HTTP protocol on loopback, for every process that needs the archive.

In: requests as clickhouse-connect sends them (statement, parameters, settings, rows in any input format), with the
password from the owner's file. Out: rows in the format a statement names, or ClickHouse's own error. Run as
`python -m anlyt.chdb_server DIRECTORY` by chdb_owner.py. A lock makes it the only one. It ends on SIGTERM, and by
itself when nobody has been connected for LINGER_S; killed, it leaves a lock that is free and a file nobody answers to.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import gzip
import hmac
import json
import os
import re
import secrets
import signal
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct

from anlyt.chdb_owner import LOCK_FILE, OWNER_FILE, TAKEN_EXIT_CODE, USER, Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LINGER_S: Final = 10.0  # after the last connection was closed
LOOK_S: Final = 0.2
IDLE_CONNECTION_S: Final = 3600.0  # a connection that sends nothing for so long is closed
STATEMENT_BYTES_MAX: Final = 16 * 2**20
PIECE_BYTES: Final = 2**20
CONNECTIONS_MAX: Final = 64

# What the protocol carries beside settings of the engine; here they mean nothing, or something else.
_TRANSPORT: Final = frozenset(
    {
        "query",
        "database",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "compress",
        "decompress",
        "role",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
        "enable_http_compression",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
    }
)
_SETTING: Final = re.compile(r"[a-z_][a-z0-9_]{0,100}")
_INSERT: Final = re.compile(
    r"(?P<insert>\s*INSERT\s+INTO\s.*?)\sFORMAT\s+(?P<format>\w+)\s*?(?:\n|$)", re.IGNORECASE | re.DOTALL
)
_FORMAT: Final = re.compile(r"\sFORMAT\s+(\w+)\s*$", re.IGNORECASE)
_READ: Final = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/)*(?:SELECT|WITH)\b", re.IGNORECASE | re.DOTALL)
_CODE: Final = re.compile(r"Code: (\d+)\. DB::")
_STREAMED: Final = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})  # pieces add up


class Request(Struct, frozen=True):
    """A statement with what belongs to it; `rows` are left to be read for an INSERT with a format."""

    statement: str
    format: str
    parameters: dict[str, str]
    settings: dict[str, str]
    database: str
    rows: Iterator[bytes] | None


class Refused(Exception):
    """A request that cannot be understood."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# ------------------------------------------------------------------------------------------------------------- process


def main(directory: Path, linger_s: float = LINGER_S) -> int:
    """Start an owner that lives on in a process and a session of its own; answer when it can be found.

    The exit code: 0, TAKEN_EXIT_CODE when somebody else owns the directory, or that of an owner that failed.
    """
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready)
        os.setsid()
        return own(directory, linger_s, lambda: os.write(told, b"1"))
    os.close(told)
    if os.read(ready, 1):
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def own(directory: Path, linger_s: float, ready: Callable[[], object]) -> int:
    """Own the directory and serve until told to stop, or until nobody is connected. The exit code."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return TAKEN_EXIT_CODE
    os.umask(0o077)
    import chdb  # noqa: PLC0415 - half a second, and only for who owns the directory

    engine = chdb.connect(str(directory))  # held open: the engine ends with its last handle
    server = Server(lambda: chdb.connect(str(directory)))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.stop)
    path = directory / OWNER_FILE
    try:
        _write_owner(path, Owner(os.getpid(), server.server_address[1], server.password))
        ready()
        server.run(linger_s)
    finally:
        path.unlink(missing_ok=True)
        server.server_close()
        engine.close()
    return 0


def _write_owner(path: Path, owner: Owner) -> None:
    work = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(work, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(owner))
    work.replace(path)


class Server(ThreadingHTTPServer):
    """A thread for each connection; every request has a handle of its own, so that its settings are its own."""

    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, connect: Callable[[], Any]) -> None:
        self.connect = connect
        self.password = secrets.token_hex(24)
        self._connections = 0
        self._last_s = time.monotonic()
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    def run(self, linger_s: float) -> None:
        """Serve until `stop`, or until nobody has been connected for so long."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": LOOK_S}, daemon=True)
        thread.start()
        while not self._stopping.wait(LOOK_S):
            with self._busy:
                if not self._connections and time.monotonic() - self._last_s > linger_s:
                    break
        self.shutdown()

    def stop(self, *_: object) -> None:
        """End `run`; what is being answered is cut off, as by a crash, which the engine survives."""
        self._stopping.set()

    def count(self, change: int) -> bool:
        """Count a connection in or out; false when there are too many."""
        with self._busy:
            self._connections += change
            self._last_s = time.monotonic()
            return self._connections <= CONNECTIONS_MAX


# ------------------------------------------------------------------------------------------------------------ protocol


class Handler(BaseHTTPRequestHandler):
    """One connection, which may carry many requests."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE_CONNECTION_S
    disable_nagle_algorithm = True  # an answer in two writes would wait 40 ms for the client's acknowledgement
    wbufsize = PIECE_BYTES

    @property
    def owner(self) -> Server:
        """The server this connection is to."""
        return cast("Server", self.server)

    def handle(self) -> None:
        """Serve the connection, counted."""
        try:
            if self.owner.count(+1):
                super().handle()
        except ConnectionError:
            pass
        finally:
            self.owner.count(-1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's own name
        """Say nothing: statements may carry ids."""

    def do_GET(self) -> None:
        """`/ping` tells who we are; anything else is a statement in the address."""
        if urlsplit(self.path).path == "/ping":
            self._send(200, b"Ok.\n", {"X-Anlyt-Pid": str(os.getpid())})
        else:
            self.do_POST()

    def do_POST(self) -> None:
        """Run a statement."""
        body = self._body()
        try:
            self._check_password()
            request = _read_request(self.path, body)
            self._run(request)
        except Refused as refused:
            self._fail(refused.status, str(refused), 0)
        except RuntimeError as error:  # of chDB: ClickHouse's own words
            text = str(error)
            code = _CODE.search(text)
            self._fail(500, text[text.find("Code: ") :] if code else text, int(code[1]) if code else 0)
        finally:
            for _ in body:  # what was not read would be taken for the next request
                pass

    def _check_password(self) -> None:
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        given = b""
        with suppress(binascii.Error):
            given = base64.b64decode(encoded)
        wanted = f"{USER}:{self.owner.password}".encode()
        if scheme.lower() != "basic" or not hmac.compare_digest(given, wanted):
            raise Refused(403, "Code: 516. DB::Exception: anlyt: Authentication failed. (AUTHENTICATION_FAILED)")

    def _run(self, request: Request) -> None:
        handle = self.owner.connect()
        try:
            if request.database:
                handle.query(f"USE `{request.database}`")  # a name that _read_request has checked
            for name, value in request.settings.items():
                handle.query(f"SET {name} = {_quoted(value)}")
            if request.rows is not None:
                self._insert(handle, request)
            elif request.format in _STREAMED and _READ.match(request.statement):
                self._stream(handle, request)
            else:
                self._answer(handle, request)
        finally:
            handle.close()

    def _insert(self, handle: Any, request: Request) -> None:  # noqa: ANN401 - chDB's own
        assert request.rows is not None
        with handle.send_insert(request.statement, request.format) as insert:
            for piece in request.rows:
                insert.append(piece)
            done = insert.finish()
        summary = {"written_rows": str(done.rows_written), "written_bytes": str(done.bytes_written)}
        self._send(200, b"", {"X-ClickHouse-Summary": json.dumps(summary)})

    def _answer(self, handle: Any, request: Request) -> None:  # noqa: ANN401 - chDB's own
        done = handle.query(request.statement, "TabSeparated", params=request.parameters)
        form = {"X-ClickHouse-Format": request.format} if request.format else {}
        self._send(200, done.bytes() or b"", form)

    def _stream(self, handle: Any, request: Request) -> None:  # noqa: ANN401 - chDB's own
        """Rows piece by piece, as the client takes them. An error behind the first piece breaks the connection."""
        pieces = handle.send_query(request.statement, request.format, params=request.parameters)
        with pieces:
            first = pieces.fetch()
            self.send_response(200)
            self.send_header("X-ClickHouse-Format", request.format)
            self.send_header("X-ClickHouse-Timezone", "UTC")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                while first is not None:
                    self._send_piece(first.bytes())
                    first = pieces.fetch()
            except RuntimeError as error:
                self.close_connection = True
                sys.stderr.write(f"a stream broke: {error}\n")
                return
        self.wfile.write(b"0\r\n\r\n")

    def _send_piece(self, piece: bytes) -> None:
        if piece:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("X-ClickHouse-Timezone", "UTC")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int, message: str, code: int) -> None:
        self.close_connection = True  # whatever is left of the request is not worth reading
        self._send(status, f"{message}\n".encode(), {"X-ClickHouse-Exception-Code": str(code), "Connection": "close"})

    def _body(self) -> Iterator[bytes]:
        """The body in pieces, unpacked."""
        pieces = self._pieces()
        encoding = self.headers.get("Content-Encoding", "identity")
        return pieces if encoding == "identity" else _unpack(encoding, pieces)

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline(64).partition(b";")[0], 16):
                yield self._read(size)
                self.rfile.readline(8)
            self.rfile.readline(8)
            return
        left = int(self.headers.get("Content-Length", "0"))
        while left > 0:
            piece = self._read(min(left, PIECE_BYTES))
            left -= len(piece)
            yield piece

    def _read(self, size: int) -> bytes:
        piece = self.rfile.read(size)
        if len(piece) < size:
            raise ConnectionResetError("the client went away within a request")
        return piece


def _unpack(encoding: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    if encoding == "gzip":
        yield gzip.decompress(b"".join(pieces))
    elif encoding == "lz4":
        import lz4.frame  # noqa: PLC0415 - hardly anybody packs what stays on the machine

        packed: Any = lz4.frame.LZ4FrameDecompressor()
        yield from map(packed.decompress, pieces)
    else:
        raise Refused(415, f"the body is packed with {encoding!r}; send lz4, gzip or plain")


def _read_request(path: str, body: Iterator[bytes]) -> Request:
    """What a request asks, read as ClickHouse does: the body stands behind the statement in the address."""
    given = dict(parse_qsl(urlsplit(path).query, keep_blank_values=True, strict_parsing=False))
    database = given.get("database", "")
    if not re.fullmatch(r"\w{0,64}", database):
        raise Refused(400, "the name of the database is not one")
    settings = {name: value for name, value in given.items() if name not in _TRANSPORT and name[:6] != "param_"}
    for name in settings:
        if not _SETTING.fullmatch(name):
            raise Refused(400, f"{name!r} is not the name of a setting")
    head, statement = _read_statement(given.get("query", ""), body)
    insert = _INSERT.match(statement)
    parameters = {name[6:]: value for name, value in given.items() if name.startswith("param_")}
    if insert is not None:
        rest = statement[insert.end() :].encode(errors="surrogateescape")
        rows = _joined(rest, head, body)
        return Request(insert["insert"].strip(), insert["format"], parameters, settings, database, rows)
    whole = statement + b"".join(_bounded(head, body)).decode(errors="surrogateescape")
    form = _FORMAT.search(whole)
    return Request(whole, form[1] if form else "", parameters, settings, database, None)


def _read_statement(query: str, body: Iterator[bytes]) -> tuple[bytes, str]:
    """The statement as far as the address has it, else as far as the first piece of the body does."""
    if query.strip():
        return b"", query + "\n"
    first = next(body, b"")
    line, newline, rest = first.partition(b"\n")
    if line.lstrip()[:6].upper() == b"INSERT":
        return rest, (line + newline).decode()
    return b"", first.decode(errors="surrogateescape")


def _joined(*parts: bytes | Iterator[bytes]) -> Iterator[bytes]:
    for part in parts:
        if isinstance(part, bytes):
            if part:
                yield part
        else:
            yield from part


def _bounded(head: bytes, body: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in _joined(head, body):
        size += len(piece)
        if size > STATEMENT_BYTES_MAX:
            raise Refused(413, f"a statement has at most {STATEMENT_BYTES_MAX} bytes")
        yield piece


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), *map(float, sys.argv[2:])))
