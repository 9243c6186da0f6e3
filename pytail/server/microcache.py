"""Repeats a response to identical requests within one second, from the event loop.

Clients of one kind send the same bytes, and many of them at once. `Microcache` stores the responses
that the application allows to be repeated, by the bytes of their requests, for the running second.
`ReplayingReceiver` sends them from the event loop, without a parser and without a switch of
greenlets. The application confirms each repetition. All other requests go to the greenlet of the
connection.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import gevent
from gevent.hub import Waiter

from pytail.server.client_socket import RECEIVE_SIZE
from pytail.telemetry.access import AccessRecord

#: Key of a WSGI environment: the `Replayable` that the application sets for its response.
REPLAY = "pytail.replay"

#: Bytes of the longest request whose response is stored, and of all stored requests and responses.
_MAX_REQUEST, _MAX_SIZE = 2048, 32 * 1024 * 1024
#: libev's EV_READ.
_READABLE = 1


class Replayable(Protocol):
    """A response that can be repeated; each repetition has its own access record."""

    #: The bytes of the body; None where `copy` gives them.
    body: bytes | None
    #: The request id in the head of the first response; each repetition has its own instead.
    id: bytes
    #: Returns a copy of the body while the body is open, None where the body cannot be copied.
    copy: Callable[[], bytes | None]

    def begin(self, peer: str) -> AccessRecord | None:
        """Return the access record of a repetition, None where the response would differ now.

        `peer` is the address that the request came from, "" for a Unix socket.
        """

    def end(self, record: AccessRecord, sent: int) -> None:
        """End `record`, after `sent` bytes of the body."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response that can be repeated."""

    #: The bytes of the head before and after the request id, and those of the body.
    before_id: bytes
    after_id: bytes
    body: bytes
    replay: Replayable


class Microcache:
    """The responses of the running second, by the bytes of their requests."""

    def __init__(self) -> None:
        self._responses: dict[bytes, CachedResponse] = {}
        #: Requests received once whose responses need a copy of the body.
        self._requested_once: set[bytes] = set()
        self._second, self._size = 0, 0

    def __len__(self) -> int:
        return len(self._responses)

    def find(self, request: bytes) -> CachedResponse | None:
        """Return the response to `request`, None where there is none with the current date."""
        response = self._responses.get(request)
        return response if response is None or int(time.time()) == self._second else None

    def store(self, request: bytes, head: bytes, replay: Replayable) -> None:
        """Store the response to `request` with this `head`, within the bounds of size."""
        self.expire()
        if len(request) > _MAX_REQUEST:
            return
        body = replay.body
        if body is None:
            # Most files are requested once in a second: only the second request is worth a copy.
            is_first = request not in self._requested_once
            self._requested_once.add(request)
            body = None if is_first or self._size >= _MAX_SIZE else replay.copy()
        if body is None:
            return
        size = len(request) + len(head) + len(body)
        if self._size + size <= _MAX_SIZE:
            before_id, _, after_id = head.partition(replay.id)
            replay.body = body
            self._responses[request] = CachedResponse(before_id, after_id, body, replay)
            self._size += size

    def expire(self) -> None:
        """Drop the responses of earlier seconds."""
        second = int(time.time())
        if second != self._second:
            self._responses, self._requested_once, self._size = {}, set(), 0
            self._second = second


class ReplayingReceiver:
    """Receives the bytes of one connection, and repeats the responses that the microcache has.

    Nothing else may read from the connection while `receive` waits.
    """

    def __init__(
        self,
        descriptor: int,
        microcache: Microcache,
        may_replay: Callable[[], bool],
        send_rest: Callable[[memoryview], None],
        peer: str = "",
    ) -> None:
        """`descriptor` is the connection's socket, `peer` the address of its other end.

        `may_replay` is called before each repetition, and returns whether the connection stays open
        after it. `send_rest` sends, in the greenlet, the bytes that the client does not take at once.
        """
        self._descriptor, self._microcache = descriptor, microcache
        self._may_replay, self._send_rest, self._peer = may_replay, send_rest, peer
        self._waiter: Waiter[bytes | None] = Waiter()
        self._unfinished: tuple[CachedResponse, AccessRecord, bytes] | None = None

    def receive(self) -> bytes:
        """Return the next bytes that the microcache has no response to; none at the end.

        Raises OSError.
        """
        while (data := self._wait()) is None:
            self._finish()
        return data

    def _wait(self) -> bytes | None:
        """Return the next bytes, None where a response has to be sent to its end first."""
        self._waiter = Waiter()
        watcher = gevent.get_hub().loop.io(self._descriptor, _READABLE)
        watcher.start(self._on_readable)
        try:
            data: bytes | None = self._waiter.get()
            return data
        finally:
            watcher.stop()
            watcher.close()

    def _on_readable(self) -> None:
        # A callback of the event loop: it must not wait, and its errors belong to the greenlet.
        try:
            data = os.read(self._descriptor, RECEIVE_SIZE)
            response, record = self._microcache.find(data), None
            if response is not None and self._may_replay():
                record = response.replay.begin(self._peer)
            if response is None or record is None:
                self._waiter.switch(data)
            elif not self._is_sent(response, record):
                self._waiter.switch(None)
        except BlockingIOError:
            # The kernel can report a socket as readable that has no bytes: select(2).
            pass
        except BaseException:  # noqa: BLE001
            self._waiter.throw(*sys.exc_info())

    def _is_sent(self, response: CachedResponse, record: AccessRecord) -> bool:
        """Send `response`. Return False where the client does not take all of it at once."""
        head = b"%b%b%b" % (response.before_id, record.id.encode(), response.after_id)
        body = response.body
        try:
            sent = os.writev(self._descriptor, (head, body))
        except BlockingIOError:
            sent = 0
        except BaseException:
            response.replay.end(record, 0)
            raise
        if sent == len(head) + len(body):
            response.replay.end(record, len(body))
            return True
        self._unfinished = response, record, (head + body)[sent:]
        return False

    def _finish(self) -> None:
        assert self._unfinished is not None
        (response, record, rest), self._unfinished = self._unfinished, None
        sent = len(response.body) - len(rest)
        try:
            self._send_rest(memoryview(rest))
            sent = len(response.body)
        finally:
            response.replay.end(record, max(0, sent))
