"""How much the cache directory may hold: room is made before a file comes, and in the background.

What was used least recently goes first, down to a low watermark, so that it is not done for each
file; what any process reads or writes at that moment stays. One process at a time removes. Where
no room can be made, the file goes to its client unkept, and an operator reads one line about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
from gevent.lock import Semaphore

from pytail.errors import DownloadAbandoned, NotStored, TooLarge
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.store import PartialFile, Store

log = logging.getLogger("pytail.storage")

#: Shares of the limit: beyond the high one files are removed until it is the low one.
_HIGH, _LOW = 0.95, 0.85
#: The share of the limit that what we know of upstream may take.
_CATALOG_SHARE = 0.5
#: Seconds between looks in the background.
_INTERVAL = 1.0
#: A count of all files that takes longer than so many seconds is believed for a multiple of them.
_QUICK, _BELIEF = 0.1, 20
#: Seconds for which it is believed at least where nothing depends on it.
_UNBOUNDED = 30.0


class Quota:
    """The limits of one cache directory; `run` looks after them in the background."""

    def __init__(
        self, directory: Path, store: Store, catalog: Catalog, *, limit: int, min_free: int
    ) -> None:
        """`limit` is in bytes for all that grows below `directory`, 0 for none.

        `min_free` bytes of its disk are to stay free.
        """
        self._directory, self._store, self._catalog = directory, store, catalog
        self._limit, self._min_free = limit, min_free
        # What this process is writing: the bytes that each file will have.
        self._reserved: dict[PartialFile, int] = {}
        self._counted, self._believed_until, self._seen = 0, 0.0, 0
        # What the workers' counters take.
        self._fixed = 0
        self._one = Semaphore()
        # The smallest file refused in this spell of trouble, None when there is no trouble.
        self._refused: int | None = None
        #: Files on the disk when they were last counted, held and partial.
        self.files = 0
        #: Files and bytes removed so far.
        self.evicted, self.evicted_bytes = 0, 0

    @property
    def size(self) -> int:
        """The bytes that are taken below the directory, or will be by what is arriving."""
        return self._counted + self._overhead() + sum(self._reserved.values())

    @property
    def limit(self) -> int:
        """The bytes that may be taken, 0 for any number."""
        return self._limit

    def room(self) -> float:
        """The bytes of files that stay as long as they are the last used; infinite without limits."""
        if not (self._limit or self._min_free):
            return math.inf
        with self._one:
            self._count()
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize if disk.f_blocks else math.inf
        limit = self._limit * _LOW - self._overhead() if self._limit else math.inf
        return max(0, min(limit, free - self._min_free + self._counted))

    def reserve(self, partial: PartialFile, size: int) -> None:
        """Make room for a file of `size` bytes in all, as far as is known.

        Raises NotStored where that cannot be.
        """
        self._reserved[partial] = max(size, self._reserved.get(partial, 0))
        if self._limit and size > self._limit - self._overhead():
            raise TooLarge(f"{size} bytes are over what --cache-max-size leaves for files")
        with self._one:
            self._make_room()

    def release(self, partial: PartialFile, *, is_kept: bool) -> None:
        """No more is written to `partial`; whether it is held now."""
        size = self._reserved.pop(partial, 0)
        if is_kept:
            self._counted += size
            if self._refused is not None and size >= self._refused:
                self._refused = None
                log.warning("files are kept again")

    def report(self, error: NotStored, size: int | None = None) -> None:
        """Tell the operator that a file of `size` bytes (None: unknown) goes unkept."""
        if isinstance(error, TooLarge | DownloadAbandoned):
            log.info("a file is passed on unkept: %s", error)
            return
        if self._refused is None:
            log.error("files are passed on unkept until this is mended: %s", error)
        self._refused = min(size or 0, self._refused if self._refused is not None else 2**63)

    def run(self) -> None:
        """Keep to the limits until the process ends."""
        told = ""
        while True:
            trouble = ""
            try:
                self.enforce()
            except OSError as error:
                trouble = str(error)
            if trouble and trouble != told:
                log.error("cannot look after the cache directory: %s", trouble)
            told = trouble
            gevent.sleep(_INTERVAL)

    def enforce(self) -> None:
        """Note uses, and remove files where there are too many. Raises OSError."""
        off_loop(self._store.write_last_uses)
        if self._limit and self._catalog.size() > self._limit * _CATALOG_SHARE:
            self._catalog.trim(int(self._limit * _CATALOG_SHARE))
        with self._one:
            self._count()
            is_over = self._limit and self._total() > self._limit * _HIGH
            if is_over or (self._min_free and self._shortfall()):
                self._remove(spare_last=True)

    def _make_room(self) -> None:
        if self._limit:
            self._count()
        if self._limit and self._total() > self._limit:
            self._remove(spare_last=False)
            if self._total() > self._limit:
                raise NotStored(f"--cache-max-size is reached by files in use in {self._directory}")
        if self._shortfall() and (self._limit or self._min_free):
            self._remove(spare_last=False)
        if missing := self._shortfall():
            raise NotStored(f"the disk of {self._directory} has {missing} bytes too few free")

    def _total(self) -> int:
        return self.size if self._limit else 0

    def _shortfall(self) -> int:
        """The bytes that the disk will have too few when all under way has come."""
        disk = os.statvfs(self._directory)
        if disk.f_blocks == 0:
            # A file system that does not say.
            return 0
        coming = sum(max(0, size - partial.size) for partial, size in self._reserved.items())
        return max(0, coming + self._min_free - disk.f_bavail * disk.f_frsize)

    def _overhead(self) -> int:
        """The bytes that are no files'."""
        return self._fixed + self._catalog.size()

    def _counters_size(self) -> int:
        size = 0
        for path in (self._directory / "+metrics").rglob("*"):
            with contextlib.suppress(OSError):
                size += path.stat().st_blocks * 512
        return size

    def _count(self) -> None:
        """Count what is kept, unless nothing came or went since."""
        seen = self._store.last_change()
        if seen == self._seen or time.monotonic() < self._believed_until:
            return
        ours = {partial.path for partial in self._reserved}

        def count() -> list[int]:
            self._fixed = self._counters_size()
            return [kept.size for kept in self._store.files() if kept.path not in ours]

        started = time.monotonic()
        sizes = off_loop(count)
        self.files, self._counted, self._seen = len(sizes), sum(sizes), seen
        took = time.monotonic() - started
        belief = _BELIEF * took if took > _QUICK else 0.0
        self._believed_until = time.monotonic() + max(belief, 0 if self._limit else _UNBOUNDED)

    def _remove(self, *, spare_last: bool) -> None:
        """Remove the least recently used until there is room; not the very last one used."""
        ours = {partial.path for partial in self._reserved}
        fixed = self._overhead() + sum(self._reserved.values())
        low = self._limit * _LOW - fixed if self._limit else math.inf
        most = low if low >= 0 else self._limit - fixed
        shortfall = self._shortfall()
        self._counted = off_loop(lambda: self._evict(most, shortfall, ours, spare_last=spare_last))

    def _evict(self, most: float, shortfall: int, ours: set[Path], *, spare_last: bool) -> int:
        """Remove files until the others take `most` bytes and `shortfall` more are free."""
        with self._alone():
            self._store.write_last_uses()
            kept = sorted(
                (kept for kept in self._store.files() if kept.path not in ours),
                key=lambda kept: kept.used,
            )
            total, freed = sum(each.size for each in kept), 0
            if not spare_last and shortfall > total:
                # All of them would not do: the one that comes is passed on instead.
                shortfall = 0
            for each in kept[:-1] if spare_last else kept:
                if total <= most and freed >= shortfall:
                    break
                if self._store.remove(each.path):
                    log.debug("removed %s, %d bytes, to make room", each.path, each.size)
                    total, freed = total - each.size, freed + each.size
                    self.evicted, self.evicted_bytes = (
                        self.evicted + 1,
                        self.evicted_bytes + each.size,
                    )
        if freed:
            log.info("removed %d bytes of the least recently used files to make room", freed)
        return total

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process removes files."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
