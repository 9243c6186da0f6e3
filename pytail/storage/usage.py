"""Counts the bytes below the cache directory: files, directories and the catalog.

The disk is the only record, also of what other processes reserve: a partial file has its disk blocks
from the start. The partial files are counted whenever one changes. All other files are counted then
too, unless that takes long.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path

from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.partial import PartialFile
from pytail.storage.store import Store, entries_below, size_on_disk

#: A count that takes longer than `_QUICK_COUNT` seconds is valid for 20 times as long as it took.
_QUICK_COUNT, _SLOW_COUNT_VALIDITY = 0.1, 20
#: Seconds after which the files beside the store are counted again, also where no file changed.
_LOOK_INTERVAL = 10.0
_STORE, _PARTIALS = "+files", "+partial"
#: The files that `Catalog.size` counts.
_CATALOG = tuple("index.sqlite3" + suffix for suffix in ("", "-wal", "-shm"))


class Usage:
    """The bytes below one cache directory, as of the last `update`."""

    def __init__(self, directory: Path, store: Store, catalog: Catalog, validity: float) -> None:
        """A count of all files is valid for `validity` seconds at least."""
        self._directory, self._store, self._catalog = directory, store, catalog
        self._validity = validity
        #: Bytes and number of stored files, and bytes of their directories.
        self._stored, self._stored_files, self._directories = 0, 0, 0
        #: Bytes of each partial file.
        self._partials: dict[str, int] = {}
        #: Bytes of all that lies beside stored files, partial files and the catalog.
        self._others = 0
        #: `Store.last_change` at the last look.
        self._change = 0
        #: Until when the look and the count of stored files are valid, by the monotonic clock; the
        #: count is 0 before the first one.
        self._look_valid_until, self._count_valid_until = 0.0, 0.0
        self._updates: SingleFlight[None] = SingleFlight()

    @property
    def files(self) -> int:
        """The number of stored and partial files."""
        return self._stored_files + len(self._partials)

    @property
    def stored(self) -> int:
        """The bytes of stored and partial files."""
        return self._stored + sum(self._partials.values())

    @property
    def overhead(self) -> int:
        """The bytes of all but stored and partial files: the catalog, directories, counters."""
        return self._directories + self._others + self._catalog.size()

    def of(self, partial: PartialFile) -> int:
        """Return the bytes of `partial` that are counted in `stored`."""
        return self._partials.get(partial.path.name, 0)

    def commit(self, partial: PartialFile, size: int) -> None:
        """Count `partial`, of `size` bytes, as stored."""
        self._partials.pop(partial.path.name, None)
        self._stored += size
        self._stored_files += 1

    def set_stored(self, size: int, partials: dict[str, int]) -> None:
        """Set the bytes of stored and partial files, and those of `Store.partials`, as just counted."""
        self._stored, self._partials = max(0, size - sum(partials.values())), partials

    def update(self, patience: float | None = None) -> None:
        """Count what has changed since the last time, for at most `patience` seconds.

        A count that takes longer continues, and until it ends the last one holds. Raises StillRunning
        where there is none yet, and OSError.
        """
        is_valid = time.monotonic() < self._look_valid_until
        if is_valid and self._store.last_change() == self._change:
            return
        try:
            self._updates.run("update", self._update, patience)
        except StillRunning:
            if not self._count_valid_until:
                raise

    def _update(self) -> None:
        change = self._store.last_change()
        # Partial files first: one that is stored meanwhile is counted twice rather than not at all.
        partials, self._others = off_loop(lambda: (self._store.partials(), self._count_others()))
        if time.monotonic() < self._count_valid_until:
            # A partial file that is gone was stored, or at worst removed.
            gone = [size for name, size in self._partials.items() if name not in partials]
            self._stored, self._stored_files = (
                self._stored + sum(gone),
                self._stored_files + len(gone),
            )
        elif change != self._change or not self._count_valid_until:
            started = time.monotonic()
            self._stored, self._stored_files, self._directories = off_loop(self._count_stored)
            took = time.monotonic() - started
            validity = _SLOW_COUNT_VALIDITY * took if took > _QUICK_COUNT else 0.0
            self._count_valid_until = time.monotonic() + max(validity, self._validity)
        self._partials, self._change = partials, change
        self._look_valid_until = time.monotonic() + _LOOK_INTERVAL

    def _count_stored(self) -> tuple[int, int, int]:
        """Return the bytes and number of stored files, and the bytes of their directories."""
        size = files = directories = 0
        for _, status in entries_below(self._directory / _STORE):
            if stat.S_ISDIR(status.st_mode):
                directories += size_on_disk(status)
            else:
                size, files = size + size_on_disk(status), files + 1
        return size, files, directories

    def _count_others(self) -> int:
        """Return the bytes of all that lies beside stored files, partial files and the catalog."""
        size = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name not in _CATALOG:
                        size += size_on_disk(status)
                    if entry.is_dir() and entry.name not in (_STORE, _PARTIALS):
                        size += sum(size_on_disk(below) for _, below in entries_below(entry.path))
        return size
