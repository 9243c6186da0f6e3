"""Fetches pages and files ahead of any request, several at a time.

All pages come before any file, so that the total size is known before the first fetch of a file. A
stored file is not fetched again, but counts as used. Where the circuit breaker is open, or upstream
answers with Retry-After, the fetch waits. It fails where upstream gave no page and no file within
the last minute.
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

#: Seconds since the last page or file from upstream after which a failed fetch is not tried again.
_MAX_SILENCE = 60.0
#: Refusals of one page or file after which the fetch fails.
_MAX_REFUSALS = 3
#: Bytes of a disk block; a file takes whole blocks.
_BLOCK = 4096


class Warmer:
    """Fetches pages and files, up to `jobs` at a time."""

    def __init__(self, index: Index, files: Files, store: Store, quota: Quota, jobs: int) -> None:
        self._index, self._files = index, files
        self._store, self._quota, self._jobs = store, quota, jobs
        #: Monotonic seconds of the last page or chunk from upstream.
        self._answered_at = -math.inf

    def select(self, project: str, wanted: Sequence[Want], targets: Sequence[Target]) -> Selection:
        """Return the files of `wanted` from the page of `project`.

        A cached page that lacks a file is revalidated. An error makes the whole project missing.
        """
        try:
            selection = self._select(project, wanted, targets, math.inf)
            if selection.missing:
                selection = self._select(project, wanted, targets, REFRESH_INTERVAL)
        except PytailError as error:
            return Selection(missing=[(project, masked(str(error)))])
        return selection

    def fetch(self, file: File, advance: Callable[[int], object]) -> str | None:
        """Store `file`; return the reason where that fails, None where it succeeds.

        `advance` is called with the size of each chunk that arrives.
        """

        def on_chunk(size: int) -> None:
            self._answered_at = time.monotonic()
            advance(size)

        try:
            self._patiently(lambda: self._files.fetch(file, on_chunk))
        except WheelUnreadable:
            # The catalog now says that the wheel has no core metadata: nothing to fetch.
            return None
        except PytailError as error:
            return masked(str(error))
        if not self._store.has(file):
            return "evicted again: the cache directory is at its limit"
        return None

    def stored_size(self, file: File) -> int | None:
        """Return the bytes of `file` and mark the file as used; None where it is not stored."""
        opened = self._files.open_stored(file)
        if opened is None:
            return None
        with opened:
            return opened.seek(0, 2)

    def excess(self, files: Sequence[File]) -> float:
        """Return the bytes by which `files` together exceed the limits of the cache directory."""
        room = self._quota.room()
        if math.isinf(room):
            return 0
        sizes = self.each(files, self._size)
        return max(0, sum(-(-max(1, size) // _BLOCK) * _BLOCK for _, size in sizes) - room)

    def each(
        self, items: Sequence[Item], work: Callable[[Item], Result]
    ) -> Iterator[tuple[Item, Result]]:
        """Call `work` for each of `items`, several at a time; yield results as they come.

        Closing the iterator ends the calls that are still running.
        """
        pool = Pool(self._jobs)
        try:
            yield from pool.imap_unordered(lambda item: (item, work(item)), items)
        finally:
            pool.kill()

    def _select(
        self,
        project: str,
        wanted: Sequence[Want],
        targets: Sequence[Target],
        max_age: float,
    ) -> Selection:
        answer = self._patiently(lambda: self._index.page(project, max_age))
        page, selection = self._index.content(answer), Selection()
        for each in wanted:
            found = each.select(page, targets)
            selection.add(found.files.values())
            selection.missing += found.missing
        return selection

    def _size(self, file: File) -> int:
        """Return the bytes of `file`, 0 where the size is unknown or the file is a small one."""
        if file.is_sidecar:
            return 0
        with contextlib.suppress(PytailError):
            return self._files.size(file) or 0
        return 0

    def _patiently(self, ask: Callable[[], Result]) -> Result:
        """Call `ask` until it succeeds; wait for the seconds in `retry_after` in between.

        Raises the last error of `ask` where `retry_after` is None, where upstream was silent for
        `_MAX_SILENCE`, or after `_MAX_REFUSALS`.
        """
        refusals = 0
        while True:
            try:
                result = ask()
            except (UpstreamCircuitOpen, UpstreamRefused) as error:  # noqa: PERF203, it is for seconds
                refusals += isinstance(error, UpstreamRefused)
                is_silent = time.monotonic() - self._answered_at > _MAX_SILENCE
                if error.retry_after is None or is_silent or refusals == _MAX_REFUSALS:
                    raise
                gevent.sleep(min(error.retry_after, 2 * _MAX_SILENCE))
            else:
                self._answered_at = time.monotonic()
                return result
