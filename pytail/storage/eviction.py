"""Eviction: removes the least recently used files, in one process at a time.

A file that any process reads or writes is never removed, see `Store.remove`. Where the file system has
no locks, two processes may evict at the same time, and then evict more than is needed.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import gevent

from pytail.runtime.locks import LockTimeout, locked
from pytail.storage.store import Store

log = logging.getLogger("pytail.storage")

#: The file in the cache directory that a process locks while it evicts.
LOCK_FILE = "+evict.lock"
#: Seconds to wait for that lock. A client waits meanwhile.
LOCK_WAIT = 1.5
#: The number of files to remove after one look at the whole store. They take 20 MB of memory.
_BATCH = 50_000


class Evictor:
    """Removes files from `store` and counts them."""

    def __init__(self, directory: Path, store: Store) -> None:
        """`directory` is the cache directory, which has the lock of all processes."""
        self._lock, self._store = directory / LOCK_FILE, store
        #: Files and bytes that this process has removed.
        self.files, self.bytes = 0, 0

    def evict(self, low: float, limit: float, shortfall: int, *, spare_last: bool) -> int:
        """Remove files until the others take at most `low` bytes and `shortfall` bytes are freed.

        With `spare_last`, removes as many as possible, but never the file used last. Else removes no
        file unless the others then take at most `limit` bytes and `shortfall` bytes are freed: a new
        file needs that. Returns the bytes of the files that stay. Raises LockTimeout and other
        OSErrors.

        Must run in a thread, because it reads the whole store. On the event loop, gevent's
        ``os.close`` would also release the lock late (since gevent 25.8.1).
        """
        freed, is_first = 0, True
        with self._exclusive():
            while True:
                with contextlib.suppress(Exception, gevent.Timeout):
                    # Without them, the last uses of the last second do not count.
                    self._store.write_last_uses()
                total, oldest = self._least_recently_used(spare_last=spare_last)
                is_useful = spare_last or not is_first
                needed = max(total - limit, shortfall)
                if not is_useful and not self._can_free(needed, oldest, total):
                    return total
                is_first, before = False, freed
                for used, size, path in oldest:
                    if total <= low and freed >= shortfall:
                        break
                    if self._remove(Path(path), used, size):
                        total, freed = total - size, freed + size
                is_enough = total <= low and freed >= shortfall
                if is_enough or freed == before or len(oldest) < _BATCH:
                    break
        if freed:
            log.info("evicted the least recently used files, %d bytes", freed)
        return total

    def _least_recently_used(self, *, spare_last: bool) -> tuple[int, list[tuple[float, int, str]]]:
        """Return the bytes of all files, and last use, size and path of those used least recently.

        The oldest is first. There are `_BATCH` at most, because a store may have a million files.
        """
        total, number = 0, 0
        # The first of a heap is its smallest, here the file used last.
        heap: list[tuple[float, int, str]] = []
        for file in self._store.files():
            total, number = total + file.size, number + 1
            entry = (-file.used, file.size, str(file.path))
            if len(heap) < _BATCH:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
        if spare_last and heap and number == len(heap):
            heapq.heappop(heap)
        heap.sort(reverse=True)
        return total, [(-used, size, path) for used, size, path in heap]

    def _can_free(self, needed: float, oldest: list[tuple[float, int, str]], total: int) -> bool:
        """Return whether `needed` of the `total` bytes are freed without files that are in use.

        Tries the locks of the `oldest` files only. The others are then expected to have enough.
        """
        freed = 0
        for _, size, path in oldest:
            if freed >= needed:
                return True
            if self._store.is_removable(Path(path)):
                freed += size
        return freed >= needed or (len(oldest) >= _BATCH and total >= needed)

    def _remove(self, path: Path, used: float, size: int) -> bool:
        """Remove a file that was not used since; return whether its bytes are free now."""
        if self._store.remove(path, unused_since=used):
            log.debug("evicted %s, %d bytes", path, size)
            self.files, self.bytes = self.files + 1, self.bytes + size
            return True
        try:
            os.lstat(path)
        except FileNotFoundError:
            # Another process removed it.
            return True
        except OSError:
            return False
        return False

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock, so that no other process evicts. Raises LockTimeout."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self._lock, LOCK_WAIT))
            except LockTimeout:
                raise
            except OSError as error:
                log.debug("cannot lock %s, evicting without: %s", self._lock, error)
            yield
