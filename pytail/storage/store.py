"""The files on disk: each one complete and verified, or absent.

The disk is the only record of the stored files. A deleted, truncated or grown file is a miss. A file
without write permission is as pytail verified it; a file with write permission comes from another
program and must be verified first. Each reader holds a shared ``flock(2)`` on its file, so that no
process removes a file that is read. See `pytail.storage.partial` for files that are still downloading.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytail.errors import NOT_WRITABLE
from pytail.model import File, is_directory
from pytail.simple.names import is_filename
from pytail.storage.digests import hash_file
from pytail.storage.partial import WRITE_BITS, PartialFile, make_read_only

log = logging.getLogger("pytail.storage")

#: Seconds after its last write when an unlocked partial file is removed at the start.
_MAX_PARTIAL_AGE = 24 * 3600.0
#: Verified files to remember whose mode pytail may not change.
_MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A stored or partial file."""

    path: Path
    #: Bytes of its content or of its disk blocks, the larger number.
    size: int
    #: Time of the last read or write, in seconds since the epoch.
    used: float


class Store:
    """The stored files below ``<cache-dir>/+files`` and the partial ones in ``<cache-dir>/+partial``."""

    def __init__(self, cache_dir: Path) -> None:
        """Create the directories and remove old partial files.

        Does neither where `cache_dir` cannot be written. Raises OSError.
        """
        self._files = cache_dir / "+files" / "root" / "pypi" / "+f"
        self._partials = cache_dir / "+partial"
        self._last_uses: dict[Path, float] = {}
        #: Verified files whose mode pytail may not change, see `_identity`.
        self._verified: set[tuple[int, ...]] = set()
        try:
            for directory in (self._files, self._partials):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
        with contextlib.suppress(OSError):
            self._remove_old_partials()

    def open(self, file: File) -> io.FileIO | None:
        """Open `file` for reading, and count that as a use; None when the file is not stored.

        No process removes the file until the caller closes it. Raises ValueError where the directory
        or the filename is not safe in a path.
        """
        path = self._path(file)
        opened = self._open(path, file)
        if opened is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._last_uses[path] = time.time()
        return opened

    def is_verified(self, opened: io.FileIO) -> bool:
        """Return whether pytail verified a stored file; False for one that another program put there."""
        status = os.fstat(opened.fileno())
        return not status.st_mode & WRITE_BITS or _identity(status) in self._verified

    def mark_verified(self, opened: io.FileIO) -> None:
        """Record that a stored file was verified, for all processes if its mode can be changed."""
        try:
            make_read_only(opened.fileno())
        except OSError:
            # The file belongs to another user, or its file system is read-only. Only this process
            # remembers it as verified.
            if len(self._verified) >= _MAX_REMEMBERED:
                self._verified.clear()
            self._verified.add(_identity(os.fstat(opened.fileno())))

    def discard(self, file: File) -> None:
        """Remove a damaged file, unless a process reads it."""
        self.remove(self._path(file))

    def size(self, file: File) -> int | None:
        """Return the size of `file` in bytes, None when it is not stored. Does not count as a use."""
        opened = self._open(self._path(file), file)
        if opened is None:
            return None
        with opened:
            return os.fstat(opened.fileno()).st_size

    def has(self, file: File) -> bool:
        """Return whether `file` is stored. Does not count as a use."""
        return self.size(file) is not None

    def stored_at(self, file: File) -> float | None:
        """Return when `file` was last written, in seconds since the epoch; None when it does not exist."""
        try:
            return os.stat(self._path(file)).st_mtime  # noqa: PTH116
        except OSError:
            return None

    def partial(self, file: File) -> PartialFile:
        """Open the partial file of `file`, to write it or to follow its writer. Raises OSError."""
        final = self._path(file)
        name = hashlib.sha256(file.key.encode()).hexdigest()
        return PartialFile(
            self._partials / name, final, is_verified_on_open=_is_verified_on_open(file)
        )

    def files(self) -> Iterator[DiskFile]:
        """Yield all stored and partial files in no order, without those removed in the meantime."""
        for path in _files_below(self._files, self._partials):
            with contextlib.suppress(OSError):
                status = path.stat()
                size = max(status.st_size, status.st_blocks * 512)
                yield DiskFile(path, size, max(status.st_atime, status.st_mtime))

    def last_change(self) -> int:
        """Return a number that changes when a file is added or removed. Raises OSError."""
        # Each file begins in the directory of the partial files; `remove` touches that directory.
        with contextlib.suppress(FileNotFoundError):
            return self._partials.stat().st_mtime_ns
        return -1

    def write_last_uses(self) -> None:
        """Write the time of each file's last use to its atime, where all processes can read it."""
        uses, self._last_uses = self._last_uses, {}
        for path, used in uses.items():
            with contextlib.suppress(OSError):
                # With the mount options relatime or noatime, the kernel updates an atime once a day
                # or never (mount(8)).
                os.utime(path, ns=(int(used * 1e9), path.stat().st_mtime_ns))

    def remove(self, path: Path) -> bool:
        """Remove the file at `path` if no process uses it; return whether it was removed."""
        try:
            with io.FileIO(path) as opened:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(opened.fileno()), path.stat()):
                    return False
                path.unlink()
        except OSError:
            return False
        if path.is_relative_to(self._files):
            with contextlib.suppress(OSError):
                # For `last_change`. The time is given because the kernel's own timestamps have a
                # resolution of some milliseconds only.
                os.utime(self._partials, ns=(time.time_ns(), time.time_ns()))
            for directory in path.relative_to(self._files).parents:
                with contextlib.suppress(OSError):
                    (self._files / directory).rmdir()
        return True

    def _open(self, path: Path, file: File) -> io.FileIO | None:
        try:
            opened = io.FileIO(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.error("cannot open a stored file, asking upstream: %s", error)
            return None
        if self._is_intact(opened, file):
            return opened
        opened.close()
        log.warning("%s has another size or digest than listed, asking upstream", path)
        return None

    def _path(self, file: File) -> Path:
        if not is_directory(file.directory) or not is_filename(file.filename):
            raise ValueError(f"not the key of a file: {file.key!r}")
        return self._files / file.directory / file.filename

    def _is_intact(self, opened: io.FileIO, file: File) -> bool:
        found = os.fstat(opened.fileno()).st_size
        expected = file.size if file.size is not None else file.verified_size
        if expected is not None and found != expected:
            return False
        if _is_verified_on_open(file):
            _, digest = hash_file(opened.fileno(), "sha256")
            return digest == file.hashes["sha256"]
        return found > 0 or file.size == 0

    def _remove_old_partials(self) -> None:
        # A download can continue from a younger one. `remove` leaves those that have a writer.
        for path in self._partials.iterdir():
            is_old = time.time() - path.stat().st_mtime > _MAX_PARTIAL_AGE
            if is_old and self.remove(path):
                log.info("removed the partial file %s, left by a process that ended", path)


def _is_verified_on_open(file: File) -> bool:
    """Return whether the store compares `file` with its digest each time it opens the file.

    That is so for core metadata. It is small, and upstream may list another digest later.
    """
    return file.is_sidecar and "sha256" in file.hashes


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _files_below(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        for root, _, names in os.walk(directory):
            for name in names:
                yield Path(root, name)
