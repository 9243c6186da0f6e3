"""One client's connection: its requests one after the other, each answered as WSGI says.

pywsgi's handler with other ways in and out: a head is read in one piece by `heads`, a small answer
leaves in one piece, a file goes out as it is on the disk, and what was just answered is for the
`porter`. Each wait for the client has a deadline, at which the server cuts the connection; a client
that never makes us wait gives way to the others.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import socket
import struct
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache, partial
from typing import Any

import gevent
from gevent.pywsgi import Input, WSGIHandler
from gevent.socket import wait_write

from pytail.errors import PytailError
from pytail.server import parser
from pytail.server.microcache import REPLAY, ReplayingReceiver

log = logging.getLogger("pytail.server")

#: Seconds that a client has for a whole request, however it dribbles, and between two of them.
REQUEST_TIME, IDLE_TIME = 15.0, 75.0
#: Seconds without progress after which a client no longer takes its answer.
STALL_TIME = 75.0
#: Seconds for which what a client still sends is received, so that it comes to read the answer.
LINGER_TIME = 5.0

_RECEIVED = 16 * 1024
#: Bytes of a request body that are received before it is answered; more is the application's.
_SMALL_BODY = 64 * 1024
#: Bytes from which a body is not copied behind its head.
_LARGE = 64 * 1024
#: Bytes of a file copied at once.
_PIECE = 256 * 1024
#: Requests, and bytes of a file, after which a connection gives way.
_TURN, _TURN_BYTES = 16, 1024 * 1024
#: What is copied of a file is in here until it is sent, before which no other greenlet runs.
_COPY = memoryview(bytearray(_PIECE))

_DROP_UNSENT = struct.pack("ii", 1, 0)
_MORE = getattr(socket, "MSG_MORE", 0)


class RequestBuffer:
    """What a client has sent and nobody has read yet, as a file for a request body."""

    def __init__(self, source: Any) -> None:
        self._source, self._data = source, b""

    def __bool__(self) -> bool:
        return bool(self._data)

    def more(self) -> bool:
        """Wait for more; False at the end."""
        return self.add(self._source.recv(_RECEIVED))

    def add(self, data: bytes) -> bool:
        """Put `data` behind what there is; False where there is none."""
        self._data = self._data + data if self._data else data
        return bool(data)

    def head(self) -> bytes | None:
        """The next head without its empty line, None where it is not whole. Raises RequestRefused."""
        if self._data.startswith(b"\r\n"):
            # RFC 9112 section 2.2: some clients end a body by a line too many.
            self._data = self._data[2:]
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if len(head) > parser.LONGEST_LINE:
            parser.check_size(head)
        if not end:
            return None
        self._data = rest
        return head

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer at the end."""
        while len(self._data) < size and self.more():
            pass
        data, self._data = self._data[:size], self._data[size:]
        return data

    def readline(self, size: int) -> bytes:
        """Up to `size` bytes of a line, with its end."""
        while b"\n" not in self._data[:size] and len(self._data) < size and self.more():
            pass
        return self.read(min(size, self._data.find(b"\n") + 1 or len(self._data)))


class BufferedBody(io.BytesIO):
    """A request body that has arrived."""

    def _discard(self) -> None:
        """Nothing of it is in the way of the next request."""


class StreamedBody(Input):
    """A request body for the application to read; the connection ends with this request."""

    __slots__ = ()

    def _discard(self) -> None:
        """What the application left of it is for `Connection.linger`."""


class Connection(WSGIHandler):
    """Answers the requests of one connection until it ends."""

    #: When the wait for a request began, None where we do not wait for one; `time.monotonic`.
    waiting_since: float | None = None
    #: When the server is to cut the connection; `time.monotonic`.
    deadline = math.inf
    #: Whether each request must come to `log_request`.
    logs_requests = False
    #: The head of the request, where there is nothing else to it.
    _request: bytes | None = None
    #: Bytes of the body that the client still expects, None where it was not told how many.
    _left: int | None = None

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        received = RequestBuffer(sock)
        super().__init__(sock, address, server, received)
        # What arrives encrypted is for the socket alone.
        self._receive: Callable[[], bytes] = partial(sock.recv, _RECEIVED)
        if not server.ssl_enabled:
            may_answer, send = self._is_to_be_repeated, self._send_rest
            self._receive = ReplayingReceiver(
                sock.fileno(), server.microcache, may_answer, send
            ).receive

    @property
    def is_idle(self) -> bool:
        """Whether the connection is between requests, where it can be closed."""
        return self.waiting_since is not None and not self.rfile

    def cut(self) -> None:
        """End any wait for the client, and the connection with it."""
        with contextlib.suppress(OSError):
            if self.waiting_since is None:
                # What the client does not take is not to stay in the kernel either.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _DROP_UNSENT)
            self.socket.shutdown(socket.SHUT_RDWR)

    def handle(self) -> None:
        """Answer requests until the client or we have enough of it."""
        self.server.connections.add(self)
        try:
            requests = 0
            while self.handle_one_request():
                requests += 1
                if requests % _TURN == 0:
                    gevent.sleep(0)
        except OSError:
            # The client has gone, or was cut.
            pass
        finally:
            self.server.connections.discard(self)
            self.socket.close()

    def handle_one_request(self) -> bool:
        """Answer one request; whether there may be another one."""
        try:
            head = self._head()
        except parser.RequestRefused as refused:
            log.info("refused a request from %s: %s", self.client_address, refused)
            self._send(b"HTTP/1.1 %b\r\nConnection: close\r\n" % refused.status.encode())
            self._send(b"Content-Length: 0\r\n\r\n")
            self._linger()
            return False
        if head is None:
            return False
        self._request = head.data if head.length == 0 else None
        self.requestline, self.command, self.path = head.line, head.method, head.target
        self.request_version, self.close_connection = head.version, not head.keeps_alive
        self.wsgi_input = self._body(head)
        self.environ = self._environ(head)
        self.application = self.server.application
        self.deadline = math.inf
        self.handle_one_response()
        if isinstance(self.wsgi_input, StreamedBody):
            self._linger()
        return not self.close_connection

    def _head(self) -> parser.RequestHead | None:
        """The next request's head, None where the client has none. Raises RequestRefused."""
        received, now = self.rfile, time.monotonic()
        is_begun = self.environ is None or bool(received)
        self.waiting_since, self.deadline = now, now + (REQUEST_TIME if is_begun else IDLE_TIME)
        while (head := received.head()) is None:
            if not received:
                if self.server.is_draining or not received.add(self._receive()):
                    return None
                self.deadline = time.monotonic() + REQUEST_TIME
            elif not received.more():
                return None
        self.waiting_since = None
        return parser.parsed(head)

    def _is_to_be_repeated(self) -> bool:
        """Whether the connection goes on after another request that needs no thought."""
        now = time.monotonic()
        self.waiting_since, self.deadline = now, now + IDLE_TIME
        return not self.server.is_scarce

    def _keep(self) -> None:
        """Keep the response where the application says that it may be given again."""
        repeat = self.environ.get(REPLAY)
        is_to_be_seen = self.logs_requests or self.response_use_chunked
        if repeat is not None and self._request is not None and not is_to_be_seen:
            self.server.microcache.keep(self._request + b"\r\n\r\n", self._said, repeat)

    def _body(self, head: parser.RequestHead) -> BufferedBody | StreamedBody:
        expects = head.environ.get("HTTP_EXPECT", "").lower() == "100-continue"
        if head.length is None or head.length > _SMALL_BODY or (head.length and expects):
            self.close_connection = True
            chunked = head.length is None
            return StreamedBody(self.rfile, head.length, self.socket if expects else None, chunked)
        body = self.rfile.read(head.length) if head.length else b""
        if len(body) < head.length:
            raise ConnectionError("the request was cut short")
        return BufferedBody(body)

    def _environ(self, head: parser.RequestHead) -> dict[str, Any]:
        environ = {**self.server.environ, **head.environ, "SCRIPT_NAME": ""}
        if isinstance(self.client_address, tuple):
            environ["REMOTE_ADDR"] = str(self.client_address[0])
            environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["wsgi.input"] = self.wsgi_input
        environ["wsgi.input_terminated"] = True
        return environ

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """As WSGI has it. Raises ValueError for control characters."""
        if exc_info and self.headers_sent:
            raise exc_info[1].with_traceback(exc_info[2])
        lines = [f"HTTP/1.1 {status}", *(name + ": " + value for name, value in headers)]
        head = "\r\n".join(lines).encode("latin-1")
        if parser.controls(head) != b"\r\n" * (len(lines) - 1):
            raise ValueError("control characters in a header")
        self.code, self.status, self._orig_status = int(status[:3]), status.encode(), status
        self.response_headers, self._said, self._left = headers, head, None
        self._names = {name.lower(): value for name, value in headers}
        if self._names.get("connection") == "close" or self.server.is_scarce:
            self.close_connection = True
        return self.write

    def write(self, data: bytes) -> None:
        """Send `data` of the body, and before it the head where that is due."""
        head = b"" if self.headers_sent else self._whole_head()
        if self._left is not None:
            self._left -= len(data)
        if self.response_use_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._send(head, data)

    def _whole_head(self) -> bytes:
        """The head with what the server has to say and the empty line."""
        self.headers_sent = True
        head, names = self._said, self._names
        if "date" not in names:
            head += _date(int(time.time()))
        if "content-length" in names:
            self._left = int(names["content-length"])
        elif self.code not in {204, 304}:
            head += self._framing()
        if "connection" not in names and self.close_connection:
            head += b"\r\nConnection: close"
        elif "connection" not in names and self.request_version == "HTTP/1.0":
            head += b"\r\nConnection: keep-alive"
        self._said = head + b"\r\n\r\n"
        return self._said

    def _framing(self) -> bytes:
        """What tells the client where a body ends whose length the application did not tell."""
        if hasattr(self.result, "__len__"):
            return b"\r\nContent-Length: %d" % sum(map(len, self.result))
        if self.request_version == "HTTP/1.0":
            self.close_connection = True
            return b""
        self.response_use_chunked = True
        return b"\r\nTransfer-Encoding: chunked"

    def process_result(self) -> None:
        """Send what the application returned."""
        held = getattr(self.result, "sendable", None)
        if held is not None and not self.server.ssl_enabled:
            self._send_held(held)
        for data in self.result:
            if data:
                self.write(data)
        if not self.headers_sent:
            self.write(b"")
        if self.response_use_chunked and self.command != "HEAD":
            self._send(b"0\r\n\r\n")
        if self._left and self.command != "HEAD" and self.code != 304:
            log.warning("%s: cut short by %d bytes", self.requestline, self._left)
            self.close_connection = True
        if not self.close_connection:
            self._keep()

    def _send(self, head: bytes, data: bytes = b"") -> None:
        """Send both, as one piece where the kernel takes that much."""
        self.deadline = time.monotonic() + STALL_TIME
        self.response_length += len(head) + len(data)
        if len(data) < _LARGE or self.server.ssl_enabled:
            head, data = head + data, b""
            sent = self.socket.send(head)
        else:
            sent = self.socket.sendmsg((head, data))
        if sent < len(head) + len(data):
            self._send_rest(memoryview(head)[sent:])
            self._send_rest(memoryview(data)[max(0, sent - len(head)) :])
        self.deadline = math.inf

    def _send_rest(self, rest: memoryview) -> None:
        while rest:
            self.deadline = time.monotonic() + STALL_TIME
            rest = rest[self.socket.send(rest) :]

    def _send_held(self, held: Callable[[], tuple[int, int, int] | None]) -> None:
        """Send what the application has in open files, as long as it has; the rest is iterated."""
        while (span := held()) is not None:
            if not self.headers_sent:
                head = self._whole_head()
                self._send_rest(memoryview(head)[self.socket.send(head, _MORE) :])
                self.response_length += len(head)
            if not self._send_file(*span):
                break

    def _send_file(self, descriptor: int, offset: int, length: int) -> bool:
        """Send `length` bytes from `offset` of an open file; False where it has become shorter."""
        peer, end, turn = self.socket.fileno(), offset + length, 0
        while offset < end:
            self.deadline = time.monotonic() + STALL_TIME
            try:
                sent = _copied(descriptor, offset, min(end - offset, _PIECE), peer)
            except BlockingIOError:
                wait_write(peer)
                continue
            if sent == 0:
                break
            offset, turn = offset + sent, turn + sent
            self.result.advance(sent)
            self.response_length += sent
            if self._left is not None:
                self._left -= sent
            if turn >= _TURN_BYTES and offset < end:
                gevent.sleep(0)
                turn = 0
        self.deadline = math.inf
        return offset == end

    def _linger(self) -> None:
        """Receive what the client still sends, for a while: else it would not read the answer."""
        self.deadline = time.monotonic() + LINGER_TIME
        self.socket.shutdown(socket.SHUT_WR)
        while time.monotonic() < self.deadline and self.socket.recv(_RECEIVED):
            gevent.sleep(0)

    def log_request(self) -> None:
        """Nothing: the application logs its requests itself."""

    def _log_error(self, kind: Any, error: Any, traceback: Any) -> None:
        if isinstance(error, PytailError):
            log.warning("%s: %s", self.requestline, error)
        elif not issubclass(kind, gevent.GreenletExit):
            log.error("%s failed", self.requestline, exc_info=(kind, error, traceback))


def _copied(descriptor: int, offset: int, length: int, peer: int) -> int:
    """Send bytes of a file to `peer` as far as it takes them at once; how many, 0 at the end.

    Not by sendfile, which hands over the file's pages one by one: a client on the same machine takes
    half as long again to receive those, and that costs a tenth less processor time here.
    """
    size = os.preadv(descriptor, [_COPY[:length]], offset)
    return os.write(peer, _COPY[:size]) if size else 0


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"\r\nDate: " + formatdate(second, usegmt=True).encode()
