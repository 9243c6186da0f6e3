"""The limits of the cache directory: ``--cache-max-size`` and the minimum of free disk space.

A download reserves its bytes before it begins, and a background task enforces the limits each second.
Both evict the least recently used files down to a low watermark, so that few downloads need to evict.
Where that does not free enough space, the new file passes through without being stored.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from pathlib import Path

import gevent
from gevent.lock import Semaphore

from pytail.errors import DownloadAbandoned, NotStored, TooLarge
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.eviction import Evictor
from pytail.storage.partial import PartialFile
from pytail.storage.store import Store

log = logging.getLogger("pytail.storage")

#: Shares of the limit: above the high watermark, files are evicted down to the low one.
_HIGH_WATERMARK, _LOW_WATERMARK = 0.95, 0.85
#: The share of the limit that the catalog may take.
_CATALOG_SHARE = 0.5
#: Seconds between two rounds in the background.
_INTERVAL = 1.0
#: A count that takes longer than `_QUICK_COUNT` seconds is valid for 20 times as long as it took.
_QUICK_COUNT, _SLOW_COUNT_VALIDITY = 0.1, 20
#: Seconds for which a count is valid at least when there is no limit.
_UNLIMITED_COUNT_VALIDITY = 30.0


class Quota:
    """The limits of one cache directory; `run` enforces them in the background."""

    def __init__(
        self, directory: Path, store: Store, catalog: Catalog, *, limit: int, min_free: int
    ) -> None:
        """`limit` is the maximum of bytes below `directory`, 0 for no limit.

        `min_free` is the number of bytes that stay free on its disk.
        """
        self._directory, self._store, self._catalog = directory, store, catalog
        self._limit, self._min_free = limit, min_free
        self._evictor = Evictor(directory, store)
        #: The final size in bytes of each file that this process downloads.
        self._reserved: dict[PartialFile, int] = {}
        #: Bytes of all other files at the last count, and `Store.last_change` at that time.
        self._counted, self._counted_change = 0, 0
        #: Until when the count is valid, by the monotonic clock.
        self._count_valid_until = 0.0
        #: Bytes of the files below ``+metrics``.
        self._counters = 0
        self._lock = Semaphore()
        #: The size of the smallest file that was not stored since the trouble began; None when there is
        #: no trouble.
        self._refused: int | None = None
        #: Stored and partial files at the last count.
        self.files = 0

    @property
    def evicted(self) -> int:
        """The files that this process has evicted."""
        return self._evictor.files

    @property
    def evicted_bytes(self) -> int:
        """The bytes that this process has evicted."""
        return self._evictor.bytes

    @property
    def size(self) -> int:
        """The bytes that the directory takes, including all bytes that are reserved."""
        return self._counted + self._overhead() + sum(self._reserved.values())

    @property
    def limit(self) -> int:
        """The maximum of bytes below the directory, 0 for no limit."""
        return self._limit

    def room(self) -> float:
        """Return how many bytes of files the limits allow in all; infinite without limits.

        So many bytes of the most recently used files are not evicted.
        """
        if not (self._limit or self._min_free):
            return math.inf
        with self._lock:
            self._count()
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize if disk.f_blocks else math.inf
        limit = self._limit * _LOW_WATERMARK - self._overhead() if self._limit else math.inf
        return max(0, min(limit, free - self._min_free + self._counted))

    def reserve(self, partial: PartialFile, size: int) -> None:
        """Reserve `size` bytes, the final size of the file as far as it is known; evict where needed.

        Another call for `partial` can only increase its size. Raises NotStored where the limits do not
        allow it, TooLarge where they never will. `release` is needed in each case.
        """
        self.require_fits(size)
        self._reserved[partial] = max(size, self._reserved.get(partial, 0))
        with self._lock:
            self._make_room()

    def require_fits(self, size: int) -> None:
        """Raise TooLarge where a file of `size` bytes cannot be stored, also in an empty store."""
        if self._limit and size > self._limit - self._overhead():
            raise TooLarge(f"{size} bytes exceed what --cache-max-size leaves for files")

    def release(self, partial: PartialFile, *, is_stored: bool) -> None:
        """End the reservation of `partial`; `is_stored` says whether the file was committed."""
        size = self._reserved.pop(partial, 0)
        if is_stored:
            self._counted += size
            if self._refused is not None and size >= self._refused:
                self._refused = None
                log.warning("files are stored again")

    def report(self, error: NotStored, size: int | None = None) -> None:
        """Log that a file of `size` bytes (None: unknown) is not stored.

        An error that concerns all files is logged once, until a file of that size is stored again.
        """
        if isinstance(error, TooLarge | DownloadAbandoned):
            log.info("cannot store a file, serving it without caching: %s", error)
            return
        if self._refused is None:
            log.error("cannot store files, serving them without caching: %s", error)
        self._refused = min(size or 0, self._refused if self._refused is not None else 2**63)

    def run(self) -> None:
        """Enforce the limits each second until the process ends; log each new error once."""
        logged = ""
        while True:
            trouble = ""
            try:
                self.enforce()
            except OSError as error:
                trouble = str(error)
            if trouble and trouble != logged:
                log.error("cannot enforce the limits of the cache directory: %s", trouble)
            logged = trouble
            gevent.sleep(_INTERVAL)

    def enforce(self) -> None:
        """Write the last uses, trim the catalog, and evict files above the limits. Raises OSError."""
        off_loop(self._store.write_last_uses)
        if self._limit and self._catalog.size() > self._limit * _CATALOG_SHARE:
            self._catalog.trim(int(self._limit * _CATALOG_SHARE))
        with self._lock:
            self._count()
            is_over = self._limit and self._total() > self._limit * _HIGH_WATERMARK
            if is_over or (self._min_free and self._shortfall()):
                self._evict(spare_last=True)

    def _make_room(self) -> None:
        if self._limit:
            self._count()
        if self._limit and self._total() > self._limit:
            self._evict(spare_last=False)
            if self._total() > self._limit:
                raise NotStored(
                    f"--cache-max-size is reached, and all files in {self._directory} are in use"
                )
        if self._shortfall() and (self._limit or self._min_free):
            self._evict(spare_last=False)
        if missing := self._shortfall():
            raise NotStored(f"the disk of {self._directory} lacks {missing} bytes of free space")

    def _total(self) -> int:
        return self.size if self._limit else 0

    def _shortfall(self) -> int:
        """Return the bytes that the disk lacks for `min_free` and all reserved bytes."""
        disk = os.statvfs(self._directory)
        if disk.f_blocks == 0:
            # Some file systems do not report their size.
            return 0
        unwritten = sum(max(0, size - partial.size) for partial, size in self._reserved.items())
        return max(0, unwritten + self._min_free - disk.f_bavail * disk.f_frsize)

    def _overhead(self) -> int:
        """Return the bytes that the catalog and the counters take."""
        return self._counters + self._catalog.size()

    def _counters_size(self) -> int:
        size = 0
        for path in (self._directory / "+metrics").rglob("*"):
            with contextlib.suppress(OSError):
                size += path.stat().st_blocks * 512
        return size

    def _count(self) -> None:
        """Count the files, unless the last count is still valid."""
        change = self._store.last_change()
        if change == self._counted_change or time.monotonic() < self._count_valid_until:
            return
        ours = {partial.path for partial in self._reserved}

        def count() -> list[int]:
            self._counters = self._counters_size()
            return [file.size for file in self._store.files() if file.path not in ours]

        started = time.monotonic()
        sizes = off_loop(count)
        self.files, self._counted, self._counted_change = len(sizes), sum(sizes), change
        took = time.monotonic() - started
        validity = _SLOW_COUNT_VALIDITY * took if took > _QUICK_COUNT else 0.0
        validity = max(validity, 0 if self._limit else _UNLIMITED_COUNT_VALIDITY)
        self._count_valid_until = time.monotonic() + validity

    def _evict(self, *, spare_last: bool) -> None:
        """Evict files until the directory is at the low watermark and the disk has enough space.

        Where the low watermark leaves nothing for files, evict down to the limit.
        """
        ours = {partial.path for partial in self._reserved}
        other = self._overhead() + sum(self._reserved.values())
        low = self._limit * _LOW_WATERMARK - other if self._limit else math.inf
        limit = low if low >= 0 else self._limit - other
        shortfall = self._shortfall()
        self._counted = off_loop(
            lambda: self._evictor.evict(limit, shortfall, ours, spare_last=spare_last)
        )
