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
from collections.abc import Callable
from pathlib import Path

import gevent

from pytail.errors import DownloadAbandoned, NotStored, TooLarge
from pytail.runtime.singleflight import SingleFlight, StillRunning
from pytail.runtime.threads import off_loop
from pytail.storage.catalog import Catalog
from pytail.storage.eviction import Evictor
from pytail.storage.partial import PartialFile
from pytail.storage.store import Store
from pytail.storage.usage import Usage

log = logging.getLogger("pytail.storage")

#: Shares of the limit: above the high watermark, files are evicted down to the low one.
_HIGH_WATERMARK, _LOW_WATERMARK = 0.95, 0.85
#: The share of the limit that the catalog may take.
_CATALOG_SHARE = 0.5
#: Seconds between two rounds in the background.
_INTERVAL = 1.0
#: Seconds for which a count is valid at least when there is no limit.
_UNLIMITED_COUNT_VALIDITY = 30.0
#: Seconds until a download that waits for a count or an eviction is not stored. A client waits.
_PATIENCE = 1.9
#: Bytes that the disk allocates in some microseconds, which is less than a change of threads takes.
_SMALL = 1024 * 1024
#: Errors of the background that are remembered as logged.
_MAX_LOGGED = 100


class Quota:
    """The limits of one cache directory; `run` enforces them in the background."""

    def __init__(
        self,
        directory: Path,
        store: Store,
        catalog: Catalog,
        *,
        limit: int,
        min_free: int,
        count_error: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`limit` is the maximum of bytes below `directory`, 0 for no limit.

        `min_free` is the number of bytes that stay free on its disk. `count_error` is called with the
        name of a background task that failed.
        """
        self._directory, self._store, self._catalog = directory, store, catalog
        self._limit, self._min_free = limit, min_free
        self._evictor, self._count_error = Evictor(directory, store), count_error
        validity = 0.0 if limit else _UNLIMITED_COUNT_VALIDITY
        self._usage = Usage(directory, store, catalog, validity)
        #: The final size in bytes of each file that this process downloads, until the usage has it.
        self._reserved: dict[PartialFile, int] = {}
        self._evictions: SingleFlight[None] = SingleFlight()
        #: The size of the smallest file that was not stored since the trouble began; None when there is
        #: no trouble.
        self._refused: int | None = None
        #: The errors of each background task that were logged since it last succeeded.
        self._logged: dict[str, set[str]] = {}

    @property
    def files(self) -> int:
        """Stored and partial files at the last count."""
        return self._usage.files

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
        return self._usage.stored + self._usage.overhead + self._uncounted()

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
        self._usage.update()
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize if disk.f_blocks else math.inf
        limit = self._limit * _LOW_WATERMARK - self._usage.overhead if self._limit else math.inf
        return max(0, min(limit, free - self._min_free + self._usage.stored))

    def reserve(self, partial: PartialFile, size: int) -> None:
        """Reserve `size` bytes, the final size of the file as far as it is known; evict where needed.

        Another call for `partial` can only increase its size. The caller is to know from upstream that
        the file comes, because an eviction cannot be undone. Raises NotStored where the limits do not
        allow the file or their check takes more than two seconds, TooLarge where they never will allow
        it. `release` is needed in each case.
        """
        self.require_fits(size)
        self._reserved[partial] = size = max(size, self._reserved.get(partial, 0))
        deadline = time.monotonic() + _PATIENCE
        try:
            self._make_room(deadline)
            self._allocate(partial, size)
        except NotStored:
            # Downloads that wait for room at the same time may fit without this one.
            del self._reserved[partial]
            raise
        except StillRunning:
            raise NotStored(
                f"counting or evicting the files in {self._directory} takes longer than a client waits"
            ) from None
        except OSError as error:
            raise NotStored(str(error)) from error

    def require_fits(self, size: int) -> None:
        """Raise TooLarge or NotStored where no eviction can make room for a file of `size` bytes."""
        if self._limit and size > self._limit - self._usage.overhead:
            raise TooLarge(f"{size} bytes exceed what --cache-max-size leaves for files")
        if not (self._limit or self._min_free) and (missing := self._shortfall(size)):
            raise NotStored(f"the disk of {self._directory} lacks {missing} bytes of free space")

    def release(self, partial: PartialFile, *, is_stored: bool) -> None:
        """End the reservation of `partial`; `is_stored` says whether the file was committed."""
        size = self._reserved.pop(partial, 0)
        if not is_stored:
            self._free(partial)
            return
        self._usage.commit(partial, max(size, self._usage.of(partial)))
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
        """Enforce the limits each second until the process ends.

        Survives any error of a round, and logs each new one once.
        """
        while True:
            for task, work in self._tasks():
                self._try(task, work)
            gevent.sleep(_INTERVAL)

    def enforce(self) -> None:
        """Write the last uses, trim the catalog, and evict files above the limits. Raises OSError."""
        for _, work in self._tasks():
            work()

    def _tasks(self) -> tuple[tuple[str, Callable[[], None]], ...]:
        """Return each background task with its name in the metrics."""
        return (
            ("last_uses", lambda: off_loop(self._store.write_last_uses)),
            ("catalog", self._trim_catalog),
            ("eviction", self._evict_above_limits),
        )

    def _try(self, task: str, work: Callable[[], None]) -> None:
        """Do the `work` of a background task, and report its failure."""
        try:
            work()
        except (gevent.GreenletExit, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001
            # gevent's Timeout is no Exception.
            with contextlib.suppress(Exception):
                self._report_failure(task, error)
        else:
            self._logged.pop(task, None)

    def _report_failure(self, task: str, error: BaseException) -> None:
        """Count a failure of `task`, and log it unless it was logged since `task` last succeeded."""
        self._count_error(task)
        message = str(error) or repr(error)
        logged = self._logged.setdefault(task, set())
        if message in logged:
            return
        if len(logged) >= _MAX_LOGGED:
            logged.clear()
        logged.add(message)
        # An error of the system needs no traceback; any other is a fault of pytail.
        traceback = None if isinstance(error, OSError) else error
        log.error(
            "cannot enforce the limits of the cache directory (%s): %s",
            task,
            message,
            exc_info=traceback,
        )

    def _trim_catalog(self) -> None:
        size = int(self._limit * _CATALOG_SHARE)
        if self._limit and self._catalog.size() > size:
            self._catalog.trim(size)

    def _evict_above_limits(self) -> None:
        self._usage.update()
        is_over = self._limit and self.size > self._limit * _HIGH_WATERMARK
        if is_over or (self._min_free and self._shortfall()):
            self._evict(None, spare_last=True)

    def _make_room(self, deadline: float) -> None:
        """Evict files until the limits allow what is reserved. Raises NotStored, StillRunning."""
        is_joined = True
        while is_joined:
            if self._limit:
                self._usage.update(_seconds_to(deadline))
            is_over = bool(self._limit) and self.size > self._limit
            missing = self._shortfall()
            if not (is_over or missing):
                return
            if not (self._limit or self._min_free):
                break
            # An eviction in progress may free less than is needed now.
            is_joined = "evict" in self._evictions
            self._evict(_seconds_to(deadline), spare_last=False)
        if self._limit and self.size > self._limit:
            raise NotStored(
                f"--cache-max-size is reached, and all files in {self._directory} are in use"
            )
        if missing := self._shortfall():
            raise NotStored(f"the disk of {self._directory} lacks {missing} bytes of free space")

    def _allocate(self, partial: PartialFile, size: int) -> None:
        """Have the disk show all processes the `size` that is reserved. Raises OSError."""
        if partial.allocated >= size:
            return
        if size <= _SMALL:
            partial.reserve(size)
        else:
            off_loop(lambda: partial.reserve(size))
        self._store.note_change()

    def _uncounted(self) -> int:
        """Return the bytes that are reserved and not counted in the usage."""
        return sum(max(0, size - self._usage.of(each)) for each, size in self._reserved.items())

    def _shortfall(self, size: int = 0) -> int:
        """Return the bytes that the disk lacks for `size`, `min_free` and all reserved bytes."""
        disk = os.statvfs(self._directory)
        if disk.f_blocks == 0:
            # Some file systems do not report their size.
            return 0
        unallocated = size + sum(
            max(0, each - partial.allocated) for partial, each in self._reserved.items()
        )
        return max(0, unallocated + self._min_free - disk.f_bavail * disk.f_frsize)

    def _evict(self, patience: float | None, *, spare_last: bool) -> None:
        """Evict files until the directory is at the low watermark and the disk has enough space.

        Where the low watermark leaves nothing for files, evict down to the limit. Joins an eviction
        that is in progress. Raises StillRunning after `patience` seconds, and OSError.
        """

        def evict() -> None:
            other = self._usage.overhead + self._uncounted()
            limit = self._limit - other if self._limit else math.inf
            low = self._limit * _LOW_WATERMARK - other if self._limit else math.inf
            shortfall = self._shortfall()
            low = low if low >= 0 else limit

            def evicted() -> tuple[int, dict[str, int]]:
                stays = self._evictor.evict(low, limit, shortfall, spare_last=spare_last)
                return stays, self._store.partials()

            self._usage.set_stored(*off_loop(evicted))

        self._evictions.run("evict", evict, patience)

    def _free(self, partial: PartialFile) -> None:
        """Free the disk blocks of a partial file that stays without its last bytes."""
        if partial.is_writer:
            with contextlib.suppress(OSError):
                partial.free_reserved()
            self._store.note_change()


def _seconds_to(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
