"""Pages and files fetched ahead, several at a time, until all that is wanted is held.

Pages come first, so that what is to come is known before any of it comes; what the limits of the
cache directory do not let stay is not begun. What is held is not fetched, and counts as used. An
upstream that is left alone, or asks for that, is waited for, unless it never answered.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import gevent
from gevent.pool import Pool

from pytail.cache.files import Files
from pytail.cache.index import REFRESH_INTERVAL, Index
from pytail.errors import PytailError, UpstreamCircuitOpen, UpstreamRefused, WheelUnreadable
from pytail.model import File
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.urls import masked
from pytail.warm.selection import Selection
from pytail.warm.targets import Target
from pytail.warm.wanted import Want

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds since upstream last gave something, beyond which it is no longer waited for.
_LONGEST = 60.0
#: How often upstream may refuse one thing.
_TRIES = 3
#: Bytes by which a file takes the disk.
_BLOCK = 4096


class Warmer:
    """Fetches what is wanted."""

    def __init__(
        self, index: Index, downloads: Files, store: Store, bounds: Quota, jobs: int
    ) -> None:
        """`jobs` is how many pages or files are asked for at a time."""
        self._index, self._downloads = index, downloads
        self._store, self._bounds, self._jobs = store, bounds, jobs
        self._answered = -math.inf

    def choose(self, project: str, wants: Sequence[Want], targets: Sequence[Target]) -> Selection:
        """What is wanted of the page of `project`; what is not on a copy is looked for anew."""
        try:
            choice = self._choose(project, wants, targets, math.inf)
            if choice.missing:
                choice = self._choose(project, wants, targets, REFRESH_INTERVAL)
        except PytailError as error:
            return Selection(missing=[(project, masked(str(error)))])
        return choice

    def fetch(self, file: File, advance: Callable[[int], object]) -> str | None:
        """Have `file` held; why it is not, None where it is. `advance` is told of bytes that come."""

        def advanced(size: int) -> None:
            self._answered = time.monotonic()
            advance(size)

        try:
            self._patiently(lambda: self._downloads.fetch(file, advanced))
        except WheelUnreadable:
            # Its page promises it no longer.
            return None
        except PytailError as error:
            return masked(str(error))
        if not self._store.has(file):
            return "it was removed again to keep to the limits of the cache directory"
        return None

    def stored_size(self, file: File) -> int | None:
        """The bytes of `file` where it is held, which so is used; else None."""
        opened = self._downloads.open_stored(file)
        if opened is None:
            return None
        with opened:
            return opened.seek(0, 2)

    def excess(self, files: Sequence[File]) -> float:
        """The bytes of `files` that the limits would not let stay beside each other."""
        room = self._bounds.room()
        if math.isinf(room):
            return 0
        sizes = self.each(files, self._size)
        return max(0, sum(-(-max(1, size) // _BLOCK) * _BLOCK for _, size in sizes) - room)

    def each(
        self, items: Sequence[Item], work: Callable[[Item], Result]
    ) -> Iterator[tuple[Item, Result]]:
        """The outcome of `work` for each of `items`, as they come."""
        pool = Pool(self._jobs)
        try:
            yield from pool.imap_unordered(lambda item: (item, work(item)), items)
        finally:
            pool.kill()

    def _choose(
        self, project: str, wants: Sequence[Want], targets: Sequence[Target], max_age: float
    ) -> Selection:
        answer = self._patiently(lambda: self._index.page(project, max_age))
        page, choice = self._index.content(answer), Selection()
        for want in wants:
            found = want.choose(page, targets)
            choice.add(found.files.values())
            choice.missing += found.missing
        return choice

    def _size(self, file: File) -> int:
        """The bytes that `file` has, 0 where nobody says or it is small."""
        if file.is_sidecar:
            return 0
        with contextlib.suppress(PytailError):
            return self._downloads.size(file) or 0
        return 0

    def _patiently(self, ask: Callable[[], Result]) -> Result:
        refusals = 0
        while True:
            try:
                result = ask()
            except (UpstreamCircuitOpen, UpstreamRefused) as error:  # noqa: PERF203, it is for seconds
                refusals += isinstance(error, UpstreamRefused)
                is_lost = time.monotonic() - self._answered > _LONGEST
                if error.retry_after is None or is_lost or refusals == _TRIES:
                    raise
                gevent.sleep(min(error.retry_after, 2 * _LONGEST))
            else:
                self._answered = time.monotonic()
                return result
