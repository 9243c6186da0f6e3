"""Bounds the concurrent fetches of each kind; a further one waits for a slot.

A free slot goes to the client with the fewest slots, and among its fetches to the newest: the
oldest is the next to time out anyway. So a client with many requests delays its own, and another
client waits for one fetch to end. A fetch waits for 8 seconds at most. Where 1000 fetches wait, the
oldest of the client with the most waiting fetches gets no slot.

Slots cannot deadlock, because no holder of a slot waits for another one. A slot is taken right
before its one request, and given back at the end of the body. The slot of a page is given back
after the page is in the catalog, so that a flood of pages does not pile up there. The page that
lists a file is complete before the file is requested. Core metadata read from a wheel takes a slot
for each range, and none itself. A broken transfer gives its slot back before the rest is requested.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from gevent.event import AsyncResult

log = logging.getLogger("pytail.upstream")

#: Seconds to wait for a slot: less than the 9 seconds that a client waits in all.
PATIENCE = 8.0
#: Most waiting fetches of one kind; each takes some 20 KB of memory.
MOST_WAITING = 1000


class LimiterFull(Exception):
    """No slot was free in time."""


class Limiter:
    """The slots of one kind of fetch; long fetches do not delay short ones of another kind."""

    def __init__(self, kind: str, most: int, count_refused: Callable[[str], None]) -> None:
        """`most` slots exist; `count_refused(kind)` is called for each fetch without a slot."""
        self._kind, self._most, self._count_refused = kind, most, count_refused
        #: The option that sets `most`.
        self.limit = "--max-page-fetches" if kind == "page" else "--max-file-fetches"
        #: Slots in use, by client.
        self._taken: Counter[str] = Counter()
        #: Waiting fetches by client, oldest first; the result is whether the fetch gets a slot.
        self._queues: dict[str, dict[AsyncResult, None]] = {}
        self._is_full = False

    @property
    def in_progress(self) -> int:
        """The number of slots in use."""
        return sum(self._taken.values())

    @property
    def waiting(self) -> int:
        """The number of fetches that wait for a slot."""
        return sum(map(len, self._queues.values()))

    def acquire(self, client: str = "") -> None:
        """Take a slot for `client`, to be given back by `release`. Raises LimiterFull."""
        if self.in_progress < self._most:
            self._taken[client] += 1
        elif not self._wait(client):
            self._log_full()
            self._count_refused(self._kind)
            raise LimiterFull

    def release(self, client: str = "") -> None:
        """Give a slot of `client` back, to the next waiting fetch."""
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        if self._queues:
            following = min(self._queues, key=lambda name: self._taken[name])
            self._taken[following] += 1
            slot = next(reversed(self._queues[following]))
            self._remove(following, slot)
            slot.set(True)
        elif self._is_full:
            self._is_full = False
            log.info("no fetch of a %s waits for a slot any more", self._kind)

    def _wait(self, client: str) -> bool:
        if self.waiting >= MOST_WAITING:
            longest = max(self._queues, key=lambda name: len(self._queues[name]))
            oldest = next(iter(self._queues[longest]))
            self._remove(longest, oldest)
            oldest.set(False)
        slot = AsyncResult()
        self._queues.setdefault(client, {})[slot] = None
        try:
            slot.wait(PATIENCE)
        except BaseException:
            # The greenlet was killed after it got the slot and before it ran again.
            if slot.value:
                self.release(client)
            raise
        finally:
            if not slot.ready():
                self._remove(client, slot)
        return bool(slot.value)

    def _remove(self, client: str, slot: AsyncResult) -> None:
        queue = self._queues[client]
        del queue[slot]
        if not queue:
            del self._queues[client]

    def _log_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning(
                "refusing fetches of a %s: all %d slots are in use and %d fetches wait (%s)",
                self._kind,
                self._most,
                self.waiting,
                self.limit,
            )
