"""Writes responses: status line, headers, framing, and bodies from memory or from open files."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Protocol

import gevent

from pytail.server import parser
from pytail.server.client_socket import ClientSocket

log = logging.getLogger("pytail.server")

#: Bytes of a file after which other greenlets run.
_BYTES_BETWEEN_SWITCHES = 1024 * 1024


class SendableBody(Protocol):
    """A WSGI body, some or all of whose bytes can be sent from an open file."""

    def sendable(self) -> tuple[int, int, int] | None:
        """Return descriptor, offset and length in bytes of what comes next in an open file.

        None where the rest of the body, if any, has to be iterated. May wait for bytes to arrive.
        """

    def advance(self, count: int) -> None:
        """Note that the next `count` bytes of `sendable` are sent."""

    def __iter__(self) -> Iterator[bytes]: ...


class ResponseWriter:
    """Writes the responses of one connection, one after the other.

    There is one writer a connection, not one a response: `begin` costs less than a new object.
    """

    __slots__ = (
        "_body",
        "_client",
        "_code",
        "_ends_with_connection",
        "_is_head_done",
        "_names",
        "_request",
        "_server",
        "_unsent_length",
        "bytes_sent",
        "head",
        "headers",
        "is_chunked",
        "is_cut",
        "must_close",
        "status",
    )

    _body: Any
    #: Bytes of the announced Content-Length that are not sent yet, None without one.
    _unsent_length: int | None

    def __init__(self, client: ClientSocket, server: Any) -> None:
        self._client, self._server = client, server
        #: Status code with its phrase, and headers, as the application gave them.
        self.status, self.headers = "", list[tuple[str, str]]()
        #: Status line and headers as sent, with the empty line.
        self.head = b""

    def begin(self, request: parser.RequestHead) -> None:
        """Prepare for the response to `request`."""
        self._request, self._body, self._is_head_done = request, None, False
        #: Bytes of the head and of the body.
        self.bytes_sent = 0
        #: Whether the body has the transfer coding ``chunked``.
        self.is_chunked = False
        self._unsent_length, self._ends_with_connection = None, False
        #: Whether the response ended early.
        self.is_cut = False
        #: Whether the connection ends with this response.
        self.must_close = not request.keeps_alive

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        """Set the head, as PEP 3333 has it. Raises ValueError for control characters."""
        if exc_info and self._is_head_done:
            raise exc_info[1].with_traceback(exc_info[2])
        lines = [f"HTTP/1.1 {status}", *(name + ": " + value for name, value in headers)]
        head = "\r\n".join(lines).encode("latin-1")
        if parser.control_characters(head) != b"\r\n" * (len(lines) - 1):
            raise ValueError("control characters in a header")
        self._code, self.status, self.headers, self.head = int(status[:3]), status, headers, head
        self._names = {name.lower(): value for name, value in headers}
        if self._names.get("connection") == "close" or self._server.is_scarce:
            self.must_close = True
        return self.write

    def write(self, data: bytes) -> None:
        """Send `data` of the body, together with the head where that is not sent yet."""
        head = b"" if self._is_head_done else self._complete_head()
        if self._unsent_length is not None:
            self._unsent_length -= len(data)
        if self.is_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self.bytes_sent += len(head) + len(data)
        self._client.send(head, data)

    def send_body(self, body: Any) -> None:
        """Send the `body` that the application returned, and end the response."""
        self._body = body
        sendable = getattr(body, "sendable", None)
        if sendable is not None and not self._server.ssl_enabled:
            self._send_from_files(body, sendable)
        for data in body:
            if data:
                self.write(data)
        if not self._is_head_done:
            self.write(b"")
        if self.is_chunked and self._request.method != "HEAD":
            self.bytes_sent += 5
            self._client.send(b"0\r\n\r\n")
        if self._unsent_length and self._request.method != "HEAD" and self._code != 304:
            log.warning(
                "%s: body is %d bytes shorter than its Content-Length, closing the connection",
                self._request.line,
                self._unsent_length,
            )
            self.cut()
        elif self._ends_with_connection:
            self._client.reset_on_close(False)
        # The body may be large, and the connection may be idle for a while.
        self._body = None

    def send_error(self, status: str, body: bytes) -> None:
        """Send an error response; where another response has begun, cut that one."""
        if self.bytes_sent or self._ends_with_connection:
            self.cut()
            return
        headers = [("Content-Type", "text/plain"), ("Connection", "close"),
                   ("Content-Length", str(len(body)))]  # fmt: skip
        try:
            self.start_response(status, headers)
            self.write(body)
        except OSError:
            self.must_close = True

    def cut(self) -> None:
        """Let the connection end, by a reset where the body has no Content-Length.

        A client could take the usual end of the connection for the end of such a body (RFC 9112
        section 8). With a Content-Length it sees the cut, and receives the bytes sent before.
        """
        self.is_cut = self.must_close = True
        if self._unsent_length is None:
            self._client.reset_on_close(True)

    def _complete_head(self) -> bytes:
        """Return the head with the server's own headers and the empty line."""
        head, names = self.head, self._names
        if "date" not in names:
            head += _date(int(time.time()))
        if "content-length" in names:
            self._unsent_length = int(names["content-length"])
        elif self._code not in {204, 304}:
            head += self._framing()
        if "connection" not in names and self.must_close:
            head += b"\r\nConnection: close"
        elif "connection" not in names and self._request.version == "HTTP/1.0":
            head += b"\r\nConnection: keep-alive"
        self.head, self._is_head_done = head + b"\r\n\r\n", True
        return self.head

    def _framing(self) -> bytes:
        """Return the header that tells where a body ends without the application's Content-Length.

        It is empty for HTTP/1.0, where the end of the connection ends the body.
        """
        if hasattr(self._body, "__len__"):
            return b"\r\nContent-Length: %d" % sum(map(len, self._body))
        if self._request.version == "HTTP/1.0":
            self.must_close = self._ends_with_connection = True
            # From now on, so that a killed process ends no body as if it were complete.
            self._client.reset_on_close(True)
            return b""
        self.is_chunked = True
        return b"\r\nTransfer-Encoding: chunked"

    def _send_from_files(
        self, body: SendableBody, sendable: Callable[[], tuple[int, int, int] | None]
    ) -> None:
        """Send the bytes of `body` that are in open files, until the rest has to be iterated."""
        while (found := sendable()) is not None:
            if not self._is_head_done:
                head = self._complete_head()
                self._client.send_head(head)
                self.bytes_sent += len(head)
            if not self._send_file(body, *found):
                break

    def _send_file(self, body: SendableBody, descriptor: int, offset: int, length: int) -> bool:
        """Send `length` bytes of an open file. Return False where it gives no more of them."""
        end, since_switch = offset + length, 0
        while offset < end:
            sent = self._client.send_from_file(descriptor, offset, end - offset)
            if sent == 0:
                break
            offset, since_switch = offset + sent, since_switch + sent
            body.advance(sent)
            self.bytes_sent += sent
            if self._unsent_length is not None:
                self._unsent_length -= sent
            if since_switch >= _BYTES_BETWEEN_SWITCHES and offset < end:
                # A client that reads fast enough never makes this greenlet wait.
                gevent.sleep(0)
                since_switch = 0
        return offset == end


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return b"\r\nDate: " + formatdate(second, usegmt=True).encode()
