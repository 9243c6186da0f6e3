"""Requests that were just answered, answered once more where they arrive.

Clients of one kind send the same bytes, and many of them at once. What the application says may be
said again is kept for the running second, by the bytes of its request, and then goes out from the
event loop itself, without a parser and without a switch of greenlets. Nothing is decided here: the
application is asked each time whether it would say the same, and whatever else comes is handed to the
greenlet of the connection.
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

from pytail.telemetry.access import AccessRecord

#: In a WSGI environment: the `Replay` of the response, set by the application.
REPLAY = "pytail.replay"
_RECEIVED = 16 * 1024
#: Bytes of a request that could be one of many, and of all that is kept.
_LONGEST, _MOST = 2048, 32 * 1024 * 1024
_READABLE = 1


class Replay(Protocol):
    """A response that may be sent again, each time as an exchange of its own."""

    #: The bytes to send again; None for those that `copy` gives.
    body: bytes | None
    #: The request id in the head of the first response; each repetition has its own instead.
    id: bytes
    #: Returns a copy of the body while that is open, None where there is none.
    copy: Callable[[], bytes | None]

    def begin(self) -> AccessRecord | None:
        """Return the exchange of another response, None where it would be a different one now."""

    def end(self, exchange: AccessRecord, sent: int) -> None:
        """End `exchange`, of whose body `sent` bytes have gone out."""


@dataclass(frozen=True, slots=True)
class CachedResponse:
    """A response that may be given again."""

    #: The head up to the id of its exchange, what follows that, and the body.
    before: bytes
    after: bytes
    body: bytes
    replay: Replay


class Microcache:
    """What was said in the running second, by the bytes of the requests."""

    def __init__(self) -> None:
        self._kept: dict[bytes, CachedResponse] = {}
        #: Requests that came once and whose answers take a copy.
        self._once: set[bytes] = set()
        self._second, self._size = 0, 0

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, request: bytes) -> CachedResponse | None:
        """What was said to `request`; None where there is nothing, or it would tell an old date."""
        reply = self._kept.get(request)
        return reply if reply is None or int(time.time()) == self._second else None

    def keep(self, request: bytes, head: bytes, repeat: Replay) -> None:
        """Remember the `head` of the response to `request`, and how to give it again."""
        self.forget()
        if len(request) > _LONGEST:
            return
        body = repeat.body
        if body is None:
            # Most files are asked for once.
            is_first = request not in self._once
            self._once.add(request)
            body = None if is_first or self._size >= _MOST else repeat.copy()
        if body is None:
            return
        size = len(request) + len(head) + len(body)
        if self._size + size <= _MOST:
            before, _, after = head.partition(repeat.id)
            repeat.body = body
            self._kept[request] = CachedResponse(before, after, body, repeat)
            self._size += size

    def forget(self) -> None:
        """Let go of what was said before this second."""
        second = int(time.time())
        if second != self._second:
            self._kept, self._once, self._size, self._second = {}, set(), 0, second


class ReplayingReceiver:
    """Receives for one connection, from which nobody else reads meanwhile."""

    def __init__(
        self,
        descriptor: int,
        replies: Microcache,
        may_answer: Callable[[], bool],
        send: Callable[[memoryview], None],
    ) -> None:
        """`descriptor` is the connection's.

        `may_answer` says before each answer whether the connection goes on after it; `send` sends,
        in the greenlet, what the client does not take at once.
        """
        self._descriptor, self._replies = descriptor, replies
        self._may_answer, self._send = may_answer, send
        self._waiter: Waiter[bytes | None] = Waiter()
        self._unsent: tuple[CachedResponse, AccessRecord, bytes] | None = None

    def receive(self) -> bytes:
        """What arrives and is not answered here; empty at the end. Raises OSError."""
        while (data := self._wait()) is None:
            self._finish()
        return data

    def _wait(self) -> bytes | None:
        """What arrives, None where a reply to it is to be sent."""
        self._waiter = Waiter()
        arrival = gevent.get_hub().loop.io(self._descriptor, _READABLE)
        arrival.start(self._arrived)
        try:
            data: bytes | None = self._waiter.get()
            return data
        finally:
            arrival.stop()
            arrival.close()

    def _arrived(self) -> None:
        # In the event loop, where nothing may wait and no error may end.
        try:
            data = os.read(self._descriptor, _RECEIVED)
            reply = self._replies.find(data)
            exchange = reply.replay.begin() if reply is not None and self._may_answer() else None
            if reply is None or exchange is None:
                self._waiter.switch(data)
            elif not self._answered(reply, exchange):
                self._waiter.switch(None)
        except BlockingIOError:
            # Nothing had come after all.
            pass
        except BaseException:  # noqa: BLE001
            self._waiter.throw(*sys.exc_info())

    def _answered(self, reply: CachedResponse, exchange: AccessRecord) -> bool:
        """Whether the client took all of the reply at once."""
        head = b"%b%b%b" % (reply.before, exchange.id.encode(), reply.after)
        body = reply.body
        try:
            sent = os.writev(self._descriptor, (head, body))
        except BlockingIOError:
            sent = 0
        except BaseException:
            reply.replay.end(exchange, 0)
            raise
        if sent == len(head) + len(body):
            reply.replay.end(exchange, len(body))
            return True
        self._unsent = reply, exchange, (head + body)[sent:]
        return False

    def _finish(self) -> None:
        assert self._unsent is not None
        (reply, exchange, rest), self._unsent = self._unsent, None
        sent = len(reply.body) - len(rest)
        try:
            self._send(memoryview(rest))
            sent = len(reply.body)
        finally:
            reply.replay.end(exchange, max(0, sent))
