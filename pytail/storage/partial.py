"""A file while it is downloaded: one process writes the partial file, other processes follow it.

The writer holds an exclusive ``flock(2)`` on the partial file. The kernel releases that lock when the
process ends. Then another process can take the lock and continue the download. `PartialFile.commit`
renames the complete file to its final path. Before that rename, no file exists under the final path.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import stat
from pathlib import Path

#: The mode bits that allow writing; a verified file has none of them.
WRITE_BITS = 0o222

#: Bytes after which the kernel is asked to begin writing to the disk. Otherwise the sync in `commit`
#: writes the whole file, while clients wait for its last bytes.
_WRITE_BEHIND = 8 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
_FALLOC_FL_KEEP_SIZE = 1
#: Bytes of a disk block of most file systems.
_BLOCK = 4096
#: Attempts to use a directory, because another process may remove it while it is empty.
_TRIES = 10


class PartialState(enum.Enum):
    """The state of a partial file."""

    DOWNLOADING = enum.auto()
    COMMITTED = enum.auto()
    #: Removed, by its writer or by another process.
    ABANDONED = enum.auto()


class PartialFile:
    """An open partial file, which this process writes or follows.

    A partial file only grows. A writer that starts again creates another file under the same path.
    So a follower never joins the bytes of two downloads. `descriptor` is readable until `close`, even
    after `commit` and `discard`.
    """

    def __init__(self, path: Path, final: Path, *, is_verified_on_open: bool = False) -> None:
        """Open or create the partial file at `path`, and become its writer if it has none.

        `final` is the path of the complete file. `is_verified_on_open` says that the store compares
        that file with its digest each time it opens the file. Raises OSError.
        """
        self.path, self._final = path, final
        self._is_verified_on_open = is_verified_on_open
        #: Whether this process is the writer.
        self.is_writer = False
        #: Bytes written since the kernel was last asked to write to the disk.
        self._unwritten = 0
        self.descriptor = self._open()

    @property
    def size(self) -> int:
        """The number of bytes written so far."""
        return os.fstat(self.descriptor).st_size

    def state(self) -> PartialState:
        """Return the state of the file that `descriptor` refers to. Raises OSError."""
        ours = os.fstat(self.descriptor)
        for path, state in (
            (self._final, PartialState.COMMITTED),
            (self.path, PartialState.DOWNLOADING),
            # The writer may rename the file between the first two steps.
            (self._final, PartialState.COMMITTED),
        ):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if os.path.samestat(ours, path.stat()):
                    return state
        return PartialState.ABANDONED

    def try_lock(self) -> bool:
        """Become the writer if the file is downloading and has no writer; return whether it is so now."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_writer = self.state() is PartialState.DOWNLOADING
        if not self.is_writer:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return self.is_writer

    def reserve(self, size: int) -> bool:
        """Allocate disk blocks for `size` bytes in all; return whether the disk has them now.

        `size` of the file does not change. The blocks tell all processes how much is reserved. Where
        the file system cannot allocate blocks ahead, does nothing and returns False. Raises OSError.
        """
        if self.allocated < size:
            _allocate(self.descriptor, size)
        return self.allocated >= size

    def free_reserved(self) -> None:
        """Free the disk blocks beyond the bytes written so far. Raises OSError."""
        if self.allocated - self.size >= _BLOCK:
            os.truncate(self.descriptor, self.size)

    @property
    def allocated(self) -> int:
        """The bytes written so far or the bytes of the disk blocks, the larger number."""
        status = os.fstat(self.descriptor)
        return max(status.st_size, status.st_blocks * 512)

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self._unwritten += len(data)
        if self._unwritten >= _WRITE_BEHIND:
            _start_writeback(self.descriptor, self._unwritten)
            self._unwritten = 0

    def restart(self) -> None:
        """Replace the partial file by an empty one; check `is_writer` afterwards. Raises OSError."""
        self.path.unlink()
        os.close(self.descriptor)
        self.is_writer = False
        self.descriptor = self._open()

    def commit(self) -> None:
        """Sync the file and rename it to its final path.

        Raises OSError; then the file is not stored.
        """
        with contextlib.suppress(OSError):
            make_read_only(self.descriptor)
        if not self._is_verified_on_open:
            # A crash of the machine may damage a file that was not synced. `Store.open` finds the
            # damage of a file that it verifies, at the cost of one more fetch.
            os.fsync(self.descriptor)
        for attempt in range(_TRIES):
            self._final.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path.rename(self._final)
                break
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise
        # `descriptor` is now one of a stored file, which readers lock like that.
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def discard(self) -> None:
        """Remove the partial file if this process is its writer."""
        if self.is_writer:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.is_writer = False
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close `descriptor`. The partial or committed file stays on disk."""
        os.close(self.descriptor)

    def _open(self) -> int:
        for _ in range(_TRIES):
            # An operator may have emptied the cache directory.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            try:
                self.descriptor = os.open(self.path, flags, 0o644)
            except FileNotFoundError:
                continue
            if self.try_lock() or self.state() is not PartialState.ABANDONED:
                break
            os.close(self.descriptor)
        else:
            raise FileNotFoundError(f"{self.path}: another process keeps removing it")
        return self.descriptor


def make_read_only(descriptor: int) -> None:
    """Remove `WRITE_BITS` from the mode of an open file. Raises OSError."""
    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~WRITE_BITS)


def _allocate(descriptor: int, size: int) -> None:
    """Allocate disk blocks for the first `size` bytes of a file, where that is possible (Linux).

    Raises OSError where the disk lacks them. Not `os.posix_fallocate`, which changes the size of the
    file and writes zeros where the file system cannot allocate.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # With 32-bit addresses, glibc has 64-bit offsets in another function.
    allocate = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if allocate is None:
        return
    while allocate(descriptor, _FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise OSError(number, os.strerror(number))
        if number != errno.EINTR:
            return


def _start_writeback(descriptor: int, length: int) -> None:
    """Ask the kernel to begin writing the last `length` bytes of a file to the disk (Linux only)."""
    offset = os.fstat(descriptor).st_size - length
    with contextlib.suppress(AttributeError):
        start = ctypes.CDLL(None).sync_file_range
        start(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
