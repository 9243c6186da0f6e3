"""Bounds the concurrent fetches of each kind; a further one waits for a slot.

A slot is for work. A fetch that waits for bytes of upstream for longer than 0.25 seconds hangs: it
lends its slot, and takes one again when bytes arrive. So an upstream that does not respond delays no
other fetch. At most 2000 fetches hang, and a client may have as many as there are places left: one
client half of them, and there is always a place for another one.

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

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator

import gevent
from gevent.event import AsyncResult

log = logging.getLogger("pytail.upstream")

#: Seconds to wait for a slot: less than the 9 seconds that a client waits in all.
PATIENCE = 8.0
#: Most waiting fetches of one kind; each takes some 20 KB of memory.
MOST_WAITING = 1000
#: Most fetches of one kind that hang; each has a connection and takes some 75 KB of memory, with that
#: of its client. Half of them is the default of --max-connections: one address may be a proxy.
MOST_HANGING = 2000
#: Seconds of waiting for upstream after which a fetch lends its slot. Most upstreams respond sooner,
#: so that the slots also bound the requests that one client can cause.
GRACE = 0.25


class LimiterFull(Exception):
    """No slot was free in time."""


class Limiter:
    """The slots of one kind of fetch; long fetches do not delay short ones of another kind."""

    def __init__(
        self,
        kind: str,
        most: int,
        count_refused: Callable[[str], None],
        most_hanging: int = MOST_HANGING,
    ) -> None:
        """`most` slots exist, and `most_hanging` fetches may hang.

        `count_refused(kind)` is called for each fetch without a slot.
        """
        self._kind, self._most, self._count_refused = kind, most, count_refused
        self._most_hanging = most_hanging
        #: The option that sets `most`.
        self.limit = "--max-page-fetches" if kind == "page" else "--max-file-fetches"
        #: Slots in use, and fetches that hang, by client.
        self._taken: Counter[str] = Counter()
        self._hanging: Counter[str] = Counter()
        #: Waiting fetches by client, oldest first, and whether upstream responds to them already. The
        #: result is whether the fetch gets a slot.
        self._queues: dict[str, dict[AsyncResult, bool]] = {}
        self._is_full = False

    @property
    def in_progress(self) -> int:
        """The number of fetches whose request was sent: with a slot, or hanging."""
        return sum(self._taken.values()) + self.hanging

    @property
    def hanging(self) -> int:
        """The number of fetches that wait for upstream without a slot."""
        return sum(self._hanging.values())

    @property
    def waiting(self) -> int:
        """The number of fetches that wait for their first slot."""
        return sum(not begun for queue in self._queues.values() for begun in queue.values())

    def acquire(self, client: str = "") -> None:
        """Take a slot for `client`, to be given back by `release`. Raises LimiterFull."""
        if not self._may_hang(client) or not self._takes(client):
            self._refuse()

    def release(self, client: str = "") -> None:
        """Give a slot of `client` back, to the next waiting fetch."""
        _count_down(self._taken, client)
        self._hand_on()
        if self._is_full and not self._queues and all(map(self._may_hang, self._hanging)):
            self._is_full = False
            log.info("no fetch of a %s waits for a slot any more", self._kind)

    def lend(self, client: str) -> bool:
        """Give a slot back for as long as its fetch hangs; return False where too many do."""
        if self.hanging >= self._most_hanging:
            return False
        self._hanging[client] += 1
        self.release(client)
        return True

    def reclaim(self, client: str) -> None:
        """Take a slot for a fetch that hung, before `end_hanging`. Raises LimiterFull."""
        if not self._takes(client, is_begun=True):
            self._refuse()

    def end_hanging(self, client: str) -> None:
        """Count one hanging fetch less."""
        _count_down(self._hanging, client)

    def _may_hang(self, client: str) -> bool:
        """Return whether `client` has fewer hanging fetches than there are places left.

        Choudhury and Hahne, Dynamic queue length thresholds, 1998: no client can take all places.
        """
        return self._hanging[client] < max(1, self._most_hanging - self.hanging)

    def _takes(self, client: str, *, is_begun: bool = False) -> bool:
        """Take a slot, waiting for it, and return whether there was one in time."""
        if self._taken.total() < self._most:
            self._taken[client] += 1
            return True
        return self._wait(client, is_begun=is_begun)

    def _hand_on(self) -> None:
        """Give free slots to waiting fetches."""
        while self._queues and self._taken.total() < self._most:
            following = min(self._queues, key=lambda name: self._taken[name])
            slot, is_begun = next(reversed(self._queues[following].items()))
            self._remove(following, slot)
            gets_slot = is_begun or self._may_hang(following)
            if gets_slot:
                self._taken[following] += 1
            slot.set(gets_slot)

    def _wait(self, client: str, *, is_begun: bool) -> bool:
        if sum(map(len, self._queues.values())) >= MOST_WAITING:
            longest = max(self._queues, key=lambda name: len(self._queues[name]))
            oldest = next(iter(self._queues[longest]))
            self._remove(longest, oldest)
            oldest.set(False)
        slot = AsyncResult()
        self._queues.setdefault(client, {})[slot] = is_begun
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

    def _refuse(self) -> None:
        """Count and log a fetch without a slot. Raises LimiterFull."""
        if not self._is_full:
            self._is_full = True
            log.warning(
                "refusing fetches of a %s: %d are in progress and %d wait for a slot (%s)",
                self._kind,
                self.in_progress,
                self.waiting,
                self.limit,
            )
        self._count_refused(self._kind)
        raise LimiterFull


class Slot:
    """The slot of one fetch, lent while the fetch hangs; `close` gives it back."""

    def __init__(self, limiter: Limiter, client: str = "") -> None:
        """Take a slot of `limiter` for `client`. Raises LimiterFull."""
        limiter.acquire(client)
        self._limiter, self._client = limiter, client
        self._is_lent = self._is_closed = False
        self._timer = gevent.get_hub().loop.timer(GRACE)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for upstream in this block, without the slot where that takes long.

        `take_back` has to follow, unless the fetch ends.
        """
        self._timer.start(self._lend)
        try:
            yield
        finally:
            self._timer.stop()

    def take_back(self) -> None:
        """Take the slot again where it was lent. Raises LimiterFull."""
        if not self._is_lent:
            return
        self._limiter.reclaim(self._client)
        # Where another greenlet closed the fetch meanwhile, the slot itself.
        self._give_back()

    def close(self) -> None:
        """Give the slot back, once."""
        if self._is_closed:
            return
        self._is_closed = True
        self._timer.close()
        self._give_back()

    def _give_back(self) -> None:
        """Give back the place of a fetch that hangs, or else its slot."""
        if self._is_lent:
            self._is_lent = False
            self._limiter.end_hanging(self._client)
        else:
            self._limiter.release(self._client)

    def _lend(self) -> None:
        if not self._is_lent and not self._is_closed:
            self._is_lent = self._limiter.lend(self._client)


def _count_down(counter: Counter[str], client: str) -> None:
    counter[client] -= 1
    if not counter[client]:
        del counter[client]
