"""A file while it is downloaded: one process writes the partial file, other processes follow it.

The writer holds an exclusive ``flock(2)`` on the partial file. The kernel releases that lock when the
process ends. Then another process can take the lock and continue the download. `PartialFile.commit`
renames the complete file to its final path. Before that rename, no file exists under the final path.

The partial file itself tells other processes what they need: its length how much is written, an
extended attribute the length of the whole file, a mode bit that all bytes are verified, and its
modification time that the writer is alive.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import fcntl
import os
import stat
from pathlib import Path

#: The mode bits that allow writing; a verified file has none of them.
WRITE_BITS = 0o222
#: The mode bit of a partial file whose bytes are complete and verified, but not yet synced.
_VERIFIED_BIT = stat.S_IXUSR

#: The extended attribute (xattr(7)) with the length of the whole file. File systems may lack it.
_SIZE_ATTRIBUTE = "user.pytail.size"
#: Bytes after which the kernel is asked to begin writing to the disk. Otherwise the sync in `commit`
#: writes the whole file at once.
_WRITE_BEHIND = 8 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
#: Attempts to use a directory, because another process may remove it while it is empty.
_TRIES = 10


class PartialState(enum.Enum):
    """The state of a partial file."""

    DOWNLOADING = enum.auto()
    #: All bytes are there and verified; the writer syncs them.
    VERIFIED = enum.auto()
    COMMITTED = enum.auto()
    #: Removed, by its writer or by another process.
    ABANDONED = enum.auto()


class PartialFile:
    """An open partial file, which this process writes or follows; to be closed.

    A partial file only grows. A writer that starts again creates another file under the same path.
    So a follower never joins the bytes of two downloads. `descriptor` is readable until `close`, even
    after `commit` and `discard`. Every change of a name first compares the file under that name with
    `descriptor`: an operator or another process may have put another file there.
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
        #: -1 once closed.
        self.descriptor = -1
        self._open()

    @property
    def size(self) -> int:
        """The number of bytes written so far."""
        return os.fstat(self.descriptor).st_size

    @property
    def written_at(self) -> int:
        """When the writer was last alive, in nanoseconds of the file system's clock; see `touch`."""
        return os.fstat(self.descriptor).st_mtime_ns

    @property
    def whole_size(self) -> int | None:
        """The length of the whole file as `announce` wrote it, None where that is unknown."""
        try:
            value = os.getxattr(self.descriptor, _SIZE_ATTRIBUTE)
            return int(value)
        except (AttributeError, OSError, ValueError):
            return None

    def announce(self, size: int | None) -> None:
        """Tell followers the length of the whole file, where the file system has attributes."""
        with contextlib.suppress(AttributeError, OSError):
            if size is not None:
                os.setxattr(self.descriptor, _SIZE_ATTRIBUTE, b"%d" % size)

    def touch(self) -> None:
        """Tell followers that the writer is alive."""
        with contextlib.suppress(OSError):
            os.utime(self.descriptor)

    def state(self) -> PartialState:
        """Return the state of the file that `descriptor` refers to. Raises OSError."""
        if self._is_at(self._final):
            return PartialState.COMMITTED
        if self._is_at(self.path):
            is_verified = os.fstat(self.descriptor).st_mode & _VERIFIED_BIT
            return PartialState.VERIFIED if is_verified else PartialState.DOWNLOADING
        # The writer may have renamed the file between the first two looks.
        return PartialState.COMMITTED if self._is_at(self._final) else PartialState.ABANDONED

    def try_lock(self) -> bool:
        """Become the writer if the file is not stored and has no writer; return whether it is so now.

        Raises OSError, also where the file system has no locks.
        """
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_writer = self._is_at(self.path)
        if not self.is_writer:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        elif os.fstat(self.descriptor).st_mode & _VERIFIED_BIT:
            # The last writer ended before its sync. A crash of the machine may have damaged bytes.
            _change_mode(self.descriptor, remove=_VERIFIED_BIT)
        return self.is_writer

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
        if self._is_at(self.path):
            self.path.unlink()
        self.is_writer, old = False, self.descriptor
        self._open()
        os.close(old)

    def mark_verified(self) -> None:
        """Tell followers that all bytes are there and verified."""
        with contextlib.suppress(OSError):
            _change_mode(self.descriptor, add=_VERIFIED_BIT)

    def commit(self) -> None:
        """Sync the file, rename it to its final path, and protect it from writing.

        Blocks until the disk has the bytes. Raises OSError; then the file is not stored.
        """
        if not self._is_verified_on_open:
            # A crash of the machine may damage a file that was not synced. `Store.open` finds the
            # damage of a file that it verifies, at the cost of one more fetch.
            os.fsync(self.descriptor)
        for attempt in range(_TRIES):
            self._final.parent.mkdir(parents=True, exist_ok=True)
            if not self._is_at(self.path):
                raise FileNotFoundError(f"{self.path} was removed or replaced by another program")
            try:
                self.path.rename(self._final)
                break
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise
        # Not before the rename: another process could not open a partial file without write bits,
        # and after a crash its own user could not resume it.
        with contextlib.suppress(OSError):
            _change_mode(self.descriptor, remove=WRITE_BITS | _VERIFIED_BIT)
        # `descriptor` is now one of a stored file, which readers lock like that.
        with contextlib.suppress(OSError):
            fcntl.flock(self.descriptor, fcntl.LOCK_SH)
        self.is_writer = False

    def discard(self) -> None:
        """Remove the partial file if this process is its writer."""
        if self.is_writer:
            with contextlib.suppress(OSError):
                if self._is_at(self.path):
                    self.path.unlink()
            self.leave()

    def leave(self) -> None:
        """Let another process continue the partial file, if this process is its writer."""
        if self.is_writer:
            self.is_writer = False
            with contextlib.suppress(OSError):
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close `descriptor`. The partial or committed file stays on disk."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open(self) -> None:
        """Set `descriptor` to a file that is not abandoned. Raises OSError with nothing left open."""
        before = self.descriptor
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        for _ in range(_TRIES):
            # An operator may have emptied the cache directory.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.descriptor = os.open(self.path, flags, 0o644)
            except FileNotFoundError:
                continue
            try:
                if self.try_lock() or self.state() is not PartialState.ABANDONED:
                    return
            except BaseException:
                os.close(self.descriptor)
                self.descriptor = before
                raise
            os.close(self.descriptor)
        self.descriptor = before
        raise FileNotFoundError(f"{self.path}: another process keeps removing it")

    def _is_at(self, path: Path) -> bool:
        """Return whether the file under the name `path` is the open one. Raises OSError."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False


def make_read_only(descriptor: int) -> None:
    """Remove `WRITE_BITS` from the mode of an open file. Raises OSError."""
    _change_mode(descriptor, remove=WRITE_BITS)


def _change_mode(descriptor: int, add: int = 0, remove: int = 0) -> None:
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    os.fchmod(descriptor, (mode | add) & ~remove)


def _start_writeback(descriptor: int, length: int) -> None:
    """Ask the kernel to begin writing the last `length` bytes of a file to the disk (Linux only)."""
    offset = os.fstat(descriptor).st_size - length
    with contextlib.suppress(AttributeError):
        start = ctypes.CDLL(None).sync_file_range
        start(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)
