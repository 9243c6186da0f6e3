"""Eviction: removes the least recently used files, in one process at a time.

A file that any process reads or writes is never removed, see `Store.remove`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from pytail.storage.store import Store

log = logging.getLogger("pytail.storage")


class Evictor:
    """Removes files from `store` and counts them."""

    def __init__(self, directory: Path, store: Store) -> None:
        """`directory` is the cache directory, which all processes lock while they evict."""
        self._directory, self._store = directory, store
        #: Files and bytes that this process has removed.
        self.files, self.bytes = 0, 0

    def evict(self, limit: float, shortfall: int, excluded: set[Path], *, spare_last: bool) -> int:
        """Remove files until the others take at most `limit` bytes and `shortfall` bytes are freed.

        The paths `excluded` are neither counted nor removed. With `spare_last` the file used last stays
        in any case. Returns the bytes of the files that stay.

        Must run in a thread, because it reads the whole store. On the event loop, gevent's
        ``os.close`` would also release the lock late (since gevent 25.8.1).
        """
        with self._exclusive():
            self._store.write_last_uses()
            files = sorted(
                (file for file in self._store.files() if file.path not in excluded),
                key=lambda file: file.used,
            )
            total, freed = sum(file.size for file in files), 0
            if not spare_last and shortfall > total:
                # Even without all files the disk lacks space. The files stay, and the new file
                # passes through.
                shortfall = 0
            for file in files[:-1] if spare_last else files:
                if total <= limit and freed >= shortfall:
                    break
                if self._store.remove(file.path):
                    log.debug("evicted %s, %d bytes", file.path, file.size)
                    total, freed = total - file.size, freed + file.size
                    self.files, self.bytes = self.files + 1, self.bytes + file.size
        if freed:
            log.info("evicted the least recently used files, %d bytes", freed)
        return total

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Hold the lock of the cache directory, so that no other process evicts."""
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
