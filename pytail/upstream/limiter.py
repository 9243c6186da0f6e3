"""How much is fetched from upstream at the same time; what is beyond that waits for its turn.

Turns go to the client that has the fewest, and among its fetches to the newest: who floods pytail
waits for himself, everyone else for one fetch to end, and what has waited longest is about to be given
up anyway. Nothing waits longer than clients do, and where much waits, the oldest of the client that
waits for most is turned away.

It cannot deadlock: a turn is taken for one request, right before it, and ends with its body, that of a
page when what came is in the catalog, so that a flood of pages does not wait there instead. Whoever
has one never asks for another. A page that tells where a file is has come before that file is asked
for; metadata is read out of a wheel by requests that each take a turn, for a file that has none
itself; and a broken transfer has given its turn back before it asks for the rest.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from gevent.event import AsyncResult

log = logging.getLogger("pytail.upstream")

#: Seconds to wait for a turn: less than the nine that clients are kept waiting in all.
PATIENCE = 8.0
#: How much may wait at the same time; each takes some 20 KB.
MOST_WAITING = 1000


class LimiterFull(Exception):
    """There was no turn in time."""


class Limiter:
    """The turns of one kind of fetch: long ones of one kind do not hold up short ones of another."""

    def __init__(self, kind: str, most: int, turned_away: Callable[[str], None]) -> None:
        """`most` go on at the same time; `turned_away` is told of each that got no turn."""
        self._kind, self._most, self._turned_away = kind, most, turned_away
        #: The setting that is the reason.
        self.limit = "--max-page-fetches" if kind == "page" else "--max-file-fetches"
        #: Turns, by client.
        self._taken: Counter[str] = Counter()
        #: What waits, by client and age; a result says whether it has its turn, None so far.
        self._lines: dict[str, dict[AsyncResult, None]] = {}
        self._is_spell = False

    @property
    def in_progress(self) -> int:
        """How much has its turn."""
        return sum(self._taken.values())

    @property
    def waiting(self) -> int:
        """How much waits for its turn."""
        return sum(map(len, self._lines.values()))

    def acquire(self, client: str = "") -> None:
        """Take a turn for `client`, to be given back by `end`. Raises LimiterFull."""
        if self.in_progress < self._most:
            self._taken[client] += 1
        elif not self._is_granted(client):
            self._tell()
            self._turned_away(self._kind)
            raise LimiterFull

    def release(self, client: str = "") -> None:
        """Give a turn of `client` back, to what is next."""
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]
        if self._lines:
            following = min(self._lines, key=lambda name: self._taken[name])
            self._taken[following] += 1
            turn = next(reversed(self._lines[following]))
            self._leave(following, turn)
            turn.set(True)
        elif self._is_spell:
            self._is_spell = False
            log.info("fetches of a %s do not wait any more", self._kind)

    def _is_granted(self, client: str) -> bool:
        if self.waiting >= MOST_WAITING:
            longest = max(self._lines, key=lambda name: len(self._lines[name]))
            oldest = next(iter(self._lines[longest]))
            self._leave(longest, oldest)
            oldest.set(False)
        turn = AsyncResult()
        self._lines.setdefault(client, {})[turn] = None
        try:
            turn.wait(PATIENCE)
        except BaseException:
            # Given up at the very moment when it was granted.
            if turn.value:
                self.release(client)
            raise
        finally:
            if not turn.ready():
                self._leave(client, turn)
        return bool(turn.value)

    def _leave(self, client: str, turn: AsyncResult) -> None:
        line = self._lines[client]
        del line[turn]
        if not line:
            del self._lines[client]

    def _tell(self) -> None:
        if not self._is_spell:
            self._is_spell = True
            log.warning(
                "some clients are turned away: %d fetches of a %s are under way and %d wait (%s)",
                self._most,
                self._kind,
                self.waiting,
                self.limit,
            )
