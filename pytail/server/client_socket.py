"""The socket of a client: sending and receiving, with a deadline for each wait."""

from __future__ import annotations

import array
import contextlib
import fcntl
import math
import os
import socket
import struct
import termios
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from gevent.socket import wait_write

#: Bytes received at once.
RECEIVE_SIZE = 16 * 1024
#: Seconds for which a client may take no byte of a response.
STALL_TIME = 75.0
#: Seconds for which the rest of a request is received after the response.
LINGER_TIME = 5.0

#: Bytes of a body from which joining it to the head costs more than a second buffer.
_LARGE_BODY = 64 * 1024
#: Bytes of a file sent at once.
_FILE_CHUNK = 256 * 1024
#: Between `preadv` and `write` no other greenlet runs, so all connections share one buffer.
_COPY = memoryview(bytearray(_FILE_CHUNK))

#: For SO_LINGER: closing drops the bytes that the kernel has not sent yet, and sends a reset.
_RESET, _NO_RESET = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
#: For `send`: more bytes follow at once. Linux only.
_MORE = getattr(socket, "MSG_MORE", 0)


def reset_on_close(sock: Any, *, is_reset: bool = True) -> None:
    """Let the kernel end the connection of `sock` by a reset, or as usual.

    A Unix socket has no reset. Of a TCP connection that has been shut down, the client sees the usual
    end.
    """
    with contextlib.suppress(OSError):
        linger = _RESET if is_reset else _NO_RESET
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class ClientSocket:
    """The socket of one client.

    Each wait for the client has a `deadline`. The server closes the connections whose deadline has
    passed.
    """

    __slots__ = ("_is_encrypted", "_socket", "deadline", "receive", "sent")

    def __init__(self, sock: Any, *, is_encrypted: bool) -> None:
        self._socket, self._is_encrypted = sock, is_encrypted
        #: A `time.monotonic` time; infinite where the connection does not wait for the client.
        self.deadline = math.inf
        #: Bytes that the kernel has taken, less those of repeated responses that it took at once.
        self.sent = 0
        #: Returns the next bytes, none at the end of the stream. Raises OSError.
        self.receive: Callable[[], bytes] = partial(sock.recv, RECEIVE_SIZE)

    def send(self, head: bytes, data: bytes = b"") -> None:
        """Send `head` and `data`, in one call where the kernel takes both. Raises OSError."""
        self.deadline = time.monotonic() + STALL_TIME
        if len(data) < _LARGE_BODY or self._is_encrypted:
            head, data = head + data, b""
            sent = self._socket.send(head)
        else:
            sent = self._socket.sendmsg((head, data))
        self.sent += sent
        if sent < len(head) + len(data):
            self.send_rest(memoryview(head)[sent:])
            self.send_rest(memoryview(data)[max(0, sent - len(head)) :])
        self.deadline = math.inf

    def send_head(self, head: bytes) -> None:
        """Send `head`, which a file follows. Raises OSError."""
        sent = self._socket.send(head, _MORE)
        self.sent += sent
        self.send_rest(memoryview(head)[sent:])

    def send_rest(self, rest: memoryview) -> None:
        """Send `rest`, in as many calls as needed. Leaves the deadline set. Raises OSError."""
        while rest:
            self.deadline = time.monotonic() + STALL_TIME
            sent = self._socket.send(rest)
            self.sent += sent
            rest = rest[sent:]

    def send_from_file(self, descriptor: int, offset: int, length: int) -> int:
        """Send up to `length` bytes of an open file, from `offset` on.

        Returns the number of bytes sent, at least 1, or 0 at the end of the file and where it cannot be
        read. Raises OSError for an error of the connection.

        This does not use sendfile, which hands over the file's pages one by one. A client on the same
        machine needs half as long again to receive those. The copy costs a tenth more processor time.
        """
        peer = self._socket.fileno()
        while True:
            self.deadline = time.monotonic() + STALL_TIME
            try:
                size = os.preadv(descriptor, [_COPY[: min(length, _FILE_CHUNK)]], offset)
            except OSError:
                # The caller reads the same bytes from the body, which knows the file.
                return 0
            try:
                sent = os.write(peer, _COPY[:size]) if size else 0
            except BlockingIOError:
                wait_write(peer)
            else:
                self.deadline = math.inf
                self.sent += sent
                return sent

    def unread(self) -> int:
        """Return how many bytes of the client are in the kernel and not received yet."""
        return self._count(termios.FIONREAD)

    def taken(self) -> int:
        """Return how many of the `sent` bytes the client's kernel has acknowledged.

        For a Unix socket, these are the bytes that the client has received, roughly.
        """
        return self.sent - self._count(termios.TIOCOUTQ)

    def _count(self, request: int) -> int:
        count = array.array("i", [0])
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._socket.fileno(), request, count)
        return count[0]

    def linger(self) -> None:
        """End the response, and receive the rest of the request for at most LINGER_TIME seconds.

        A close with unread bytes makes the kernel send a reset, for which the client may drop the
        response (RFC 9112 section 9.6). Raises OSError.
        """
        self.deadline = time.monotonic() + LINGER_TIME
        self._shut(socket.SHUT_WR)
        while time.monotonic() < self.deadline and self.receive():
            gevent.sleep(0)

    def stop_receiving(self) -> None:
        """Make a wait for the client end as if the client had closed its side.

        Bytes that have arrived are received before that.
        """
        with contextlib.suppress(OSError):
            self._shut(socket.SHUT_RD)

    def cut(self, *, drop_unsent: bool) -> None:
        """End each wait for the client. With `drop_unsent`, the kernel forgets unsent bytes."""
        if drop_unsent:
            self.reset_on_close(True)
        with contextlib.suppress(OSError):
            self._shut(socket.SHUT_RDWR)

    def reset_on_close(self, is_reset: bool) -> None:
        """Let the end of the connection be a reset, also where the process is killed, or not."""
        reset_on_close(self._socket, is_reset=is_reset)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _shut(self, how: int) -> None:
        # gevent's own `shutdown` fails each wait for the socket, though bytes may have arrived, and
        # ends encryption under a greenlet that sends.
        self._socket._sock.shutdown(how)  # noqa: SLF001
