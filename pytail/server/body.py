"""Request bodies, and the buffer of received bytes that they are read from."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from gevent.pywsgi import Input

from pytail.server import parser

#: Bytes of a request body that is received before the application runs.
_SMALL_BODY = 64 * 1024


class RequestBuffer:
    """Bytes of a client that are received and not read yet, as a file for pywsgi's `Input`."""

    __slots__ = ("_data", "_receive")

    def __init__(self, receive: Callable[[], bytes]) -> None:
        """`receive` waits for the next bytes and returns none at the end of the stream."""
        self._receive, self._data = receive, b""

    def __bool__(self) -> bool:
        return bool(self._data)

    def receive(self) -> bool:
        """Wait for more bytes. Return whether there were any. Raises OSError."""
        return self.add(self._receive())

    def add(self, data: bytes) -> bool:
        """Append `data`. Return whether it has any bytes."""
        self._data = self._data + data if self._data else data
        return bool(data)

    def head(self) -> bytes | None:
        """Take the next request head, without its empty line.

        Returns None where the head has not arrived completely. Raises RequestRefused.
        """
        if self._data.startswith(b"\r\n"):
            # RFC 9112 section 2.2: some clients send an extra line end after a body.
            self._data = self._data[2:]
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if len(head) > parser.MAX_LINE:
            parser.check_size(head)
        if not end:
            return None
        self._data = rest
        return head

    def read(self, size: int) -> bytes:
        """Take `size` bytes, fewer at the end of the stream. Raises OSError."""
        while len(self._data) < size and self.receive():
            pass
        data, self._data = self._data[:size], self._data[size:]
        return data

    def readline(self, size: int) -> bytes:
        """Take a line with its end, at most `size` bytes. Raises OSError."""
        while b"\n" not in self._data[:size] and len(self._data) < size and self.receive():
            pass
        return self.read(min(size, self._data.find(b"\n") + 1 or len(self._data)))


class BufferedBody(io.BytesIO):
    """A request body that is received completely."""


class StreamedBody(Input):
    """A request body that the application receives by reading.

    The application may leave a rest, so the connection ends after the response.
    """

    __slots__ = ()


def request_body(
    head: parser.RequestHead, received: RequestBuffer, sock: Any
) -> BufferedBody | StreamedBody:
    """Return the body of the request with this `head`.

    `sock` sends the 100 (Continue) that a client may wait for (RFC 9110 section 10.1.1). Raises
    ConnectionError where the body ends early.
    """
    expects = head.environ.get("HTTP_EXPECT", "").lower() == "100-continue"
    if head.length is None or head.length > _SMALL_BODY or (head.length and expects):
        return StreamedBody(received, head.length, sock if expects else None, head.length is None)
    body = received.read(head.length) if head.length else b""
    if len(body) < head.length:
        raise ConnectionError("the request body ended early")
    return BufferedBody(body)
