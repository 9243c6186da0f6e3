"""Which connection ends first where connections or descriptors are scarce.

Idle connections end first, then requests that arrive slowly, then the response whose client takes the
fewest bytes a second. A request that has arrived gets its response: no connection ends before that.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable
from typing import Protocol, TypeVar

from pytail.runtime import descriptors

log = logging.getLogger("pytail.server")

#: Seconds that a new connection has for the first byte of its request, and then for the rest.
FIRST_BYTE_TIME, ARRIVAL_TIME = 0.1, 1.0
#: Bytes a second: a client that takes fewer is slow.
SLOW = 64 * 1024
#: Seconds of waiting for a place after which the slowest response ends, slow or not.
PATIENCE = 5.0

#: Measurements of a response, one a second, that its speed is computed from.
_MEASUREMENTS = 4
#: Descriptors for each connection: its socket, its file, a connection to upstream.
_DESCRIPTORS = 3


class Pace:
    """How fast the client of one response takes its bytes."""

    __slots__ = ("_began", "_notes")

    def __init__(self) -> None:
        self._began, self._notes = math.nan, deque[tuple[float, int]](maxlen=_MEASUREMENTS)

    def note(self, began: float, now: float, taken: int) -> None:
        """Note the bytes `taken` in all until `now`, of the response that `began` then."""
        if began != self._began:
            self._began = began
            self._notes.clear()
        self._notes.append((now, taken))

    def speed(self, began: float) -> float:
        """Return bytes a second of the response that `began` then; infinite where it is unknown."""
        if began != self._began or len(self._notes) < 2:
            return math.inf
        (first, taken), (last, taken_last) = self._notes[0], self._notes[-1]
        return (taken_last - taken) / max(last - first, 0.001)


class Closable(Protocol):
    """A connection, as seen here."""

    waiting_since: float | None
    has_served: bool

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request of which no byte is received."""

    @property
    def request_since(self) -> float | None:
        """When the request began that arrives now; None where none arrives."""

    @property
    def has_unread(self) -> bool:
        """Whether bytes of the client are in the kernel."""

    @property
    def speed(self) -> float:
        """Bytes a second that the client takes; infinite where it is not waited for."""


One = TypeVar("One", bound=Closable)


def idle(connections: Iterable[One], now: float) -> Iterable[One]:
    """Return the connections without a request; first the one that is idle for the longest time."""
    waiting = [
        one
        for one in connections
        if one.is_idle and (one.has_served or now - (one.waiting_since or now) >= FIRST_BYTE_TIME)
    ]
    waiting.sort(key=lambda one: one.waiting_since or now)
    return (one for one in waiting if not one.has_unread)


def arriving(connections: Iterable[One], now: float) -> Iterable[One]:
    """Return the connections whose request arrives slowly, first the one that began first."""
    begun = [(one.request_since, one) for one in connections]
    late = [
        (since, one) for since, one in begun if since is not None and now - since >= ARRIVAL_TIME
    ]
    late.sort(key=lambda pair: pair[0])
    return (one for _, one in late if not one.has_unread)


def slowest(connections: Iterable[One], limit: float) -> One | None:
    """Return the connection whose client takes the fewest bytes a second, and fewer than `limit`."""
    found = min(connections, key=lambda one: one.speed, default=None)
    return found if found is not None and found.speed < limit else None


def affordable(wanted: int) -> int:
    """Return how many connections, up to `wanted`, the limit of open files permits."""
    count = max(1, min(wanted, descriptors.spare() // _DESCRIPTORS))
    if count < wanted:
        log.warning("the limit of open files permits %d connections, not %d", count, wanted)
    return count
