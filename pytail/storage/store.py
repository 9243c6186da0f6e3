"""The files on disk: each one complete and verified, or absent.

The disk is the only record of the stored files. A deleted, truncated or grown file is a miss. A file
without write permission is as pytail verified it; a file with write permission comes from another
program and must be verified first. Each reader holds a shared ``flock(2)`` on its file, so that no
process removes a file that is read. See `pytail.storage.partial` for files that are still downloading.

NFS locks a file exclusively only where it is open for writing, and `Store.remove` opens it so. Where a
file system has no locks, a stored file is removed also while it is read: its readers keep their
descriptor. A partial file is then removed only after it was not written for a day.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import logging
import math
import os
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gevent import monkey

from pytail.errors import NOT_WRITABLE
from pytail.model import LARGEST_SIDECAR, File, is_directory
from pytail.simple.names import is_filename
from pytail.storage.digests import expected_digest, hash_file
from pytail.storage.partial import WRITE_BITS, PartialFile, make_read_only

log = logging.getLogger("pytail.storage")

_DAY = 24 * 3600.0
#: Seconds after its last write when an unlocked partial file is removed at the start.
_MAX_PARTIAL_AGE = _DAY
#: Attempts to use a directory, because another process may remove it while it is empty.
_TRIES = 3
#: Verified files to remember, see `Store.mark_verified`, and digests of core metadata.
_MAX_REMEMBERED = 10_000
#: Errors of ``flock(2)`` on a file system without locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
#: A walk sleeps for so many seconds after so many entries, so that the event loop gets the GIL.
_PAUSE, _ENTRIES_UNTIL_PAUSE = 0.001, 500


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A stored or partial file."""

    path: Path
    #: Bytes of its content or of its disk blocks, the larger number.
    size: int
    #: Time of the last read or write, in seconds since the epoch. A time in the future is not believed.
    used: float


class StoredFile(io.FileIO):
    """A file on the disk as a `FileStream`, at the position of its next byte."""

    def sendable(self, size: int) -> tuple[int, int, int]:
        """Return descriptor, offset and length of the next `size` bytes."""
        return self.fileno(), self.tell(), size

    def advance(self, count: int) -> None:
        """Skip `count` bytes."""
        self.seek(count, os.SEEK_CUR)


class Store:
    """The stored files below ``<cache-dir>/+files`` and the partial ones in ``<cache-dir>/+partial``."""

    def __init__(self, cache_dir: Path) -> None:
        """Create the directories and remove old partial files.

        Does neither where `cache_dir` cannot be written. Raises OSError, also where a file cannot be
        moved from one directory to the other.
        """
        self._files = cache_dir / "+files" / "root" / "pypi" / "+f"
        self._partials = cache_dir / "+partial"
        self._last_uses: dict[Path, float] = {}
        #: Files that this process verified, see `_identity`.
        self._verified: set[tuple[int, ...]] = set()
        #: The sha256 of core metadata, by the `_identity` of its file.
        self._digests: dict[tuple[str | int, ...], str] = {}
        try:
            for directory in (self._files, self._partials):
                directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
        _refuse_two_file_systems(self._partials, self._files)
        with contextlib.suppress(OSError):
            self._remove_old_partials()

    def open(self, file: File) -> StoredFile | None:
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

    def is_verified(self, opened: StoredFile, file: File) -> bool:
        """Return whether pytail verified the stored `file`; where not, its digest decides.

        That is not so for a file that another program put there, and for one of another size than
        `file` has by `verified_size` or else by its page.
        """
        status = os.fstat(opened.fileno())
        if _identity(status) in self._verified:
            return True
        return not status.st_mode & WRITE_BITS and _has_known_size(status.st_size, file)

    def mark_verified(self, opened: StoredFile) -> None:
        """Record that a stored file was verified, for all processes if its mode can be changed."""
        # This process also remembers a file of another user or on a read-only file system, and one
        # whose page has another size.
        if len(self._verified) >= _MAX_REMEMBERED:
            self._verified.clear()
        with contextlib.suppress(OSError):
            self._verified.add(_identity(os.fstat(opened.fileno())))
            make_read_only(opened.fileno())

    def distrust(self, opened: StoredFile) -> None:
        """Have a stored file verified again before its next use, by all processes."""
        with contextlib.suppress(OSError):
            found = os.fstat(opened.fileno())
            self._verified.discard(_identity(found))
            os.fchmod(opened.fileno(), stat.S_IMODE(found.st_mode) | stat.S_IWUSR)

    def discard(self, file: File, found: os.stat_result | None = None) -> None:
        """Remove a damaged file, unless a process reads it.

        `found` is the status of the file that is damaged. Another file under its name stays.
        """
        self.remove(self._path(file), found=found)

    def move(self, opened: StoredFile, old: File, new: File) -> bool:
        """Give a stored file, `opened` under the key of `old`, the key of `new`; return whether it has it.

        The file must be the one that `new` means. Raises ValueError as `open`.
        """
        source, target = self._path(old), self._path(new)
        for _ in range(_TRIES):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                if not os.path.samestat(os.fstat(opened.fileno()), source.stat()):
                    return False
                source.rename(target)
            except FileNotFoundError:
                # Another process moved the file, or removed the directory while it was empty.
                continue
            except OSError as error:
                log.warning("cannot move %s to %s: %s", source, target, error)
                return False
            with contextlib.suppress(OSError):
                source.parent.rmdir()
            return True
        return False

    def size(self, file: File) -> int | None:
        """Return the size of `file` in bytes, None when it is not stored. Does not count as a use.

        None also where the size of the stored file is not that of `is_verified`.
        """
        opened = self._open(self._path(file), file)
        if opened is None:
            return None
        with opened:
            status = os.fstat(opened.fileno())
            is_known = _has_known_size(status.st_size, file) or _identity(status) in self._verified
            return status.st_size if is_known else None

    def has(self, file: File) -> bool:
        """Return whether `open` returns the file. Does not count as a use."""
        opened = self._open(self._path(file), file)
        if opened is None:
            return False
        opened.close()
        return True

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
        """Yield all stored and partial files in no order, without those that cannot be read.

        The walk needs the same memory for any number of files.
        """
        for directory in (self._files, self._partials):
            for path, status in entries_below(directory):
                if not stat.S_ISDIR(status.st_mode):
                    yield DiskFile(Path(path), size_on_disk(status), _last_use(status))

    def partials(self) -> dict[str, int]:
        """Return the bytes on disk of each partial file, by its name."""
        entries = entries_below(self._partials)
        return {os.path.basename(path): size_on_disk(status) for path, status in entries}  # noqa: PTH119

    def last_change(self) -> int:
        """Return a number that changes when a file is added, reserved or removed. Raises OSError."""
        # Each file begins in the directory of the partial files; `note_change` touches it.
        with contextlib.suppress(FileNotFoundError):
            return self._partials.stat().st_mtime_ns
        return -1

    def note_change(self) -> None:
        """Change the number that `last_change` returns, for all processes."""
        with contextlib.suppress(OSError):
            # The time is given because the kernel's own timestamps have a resolution of some
            # milliseconds only.
            os.utime(self._partials, ns=(time.time_ns(), time.time_ns()))

    def write_last_uses(self) -> None:
        """Write the time of each file's last use to its atime, where all processes can read it."""
        uses, self._last_uses = self._last_uses, {}
        for path, used in list(uses.items()):
            with contextlib.suppress(OSError, OverflowError):
                # With the mount options relatime or noatime, the kernel updates an atime once a day
                # or never (mount(8)).
                os.utime(path, ns=(int(used * 1e9), path.stat().st_mtime_ns))

    def is_removable(self, path: Path) -> bool:
        """Return whether no process uses the file at `path`, so that `remove` would remove it."""
        try:
            self._open_unused(path).close()
        except OSError:
            return False
        return True

    def remove(
        self, path: Path, *, found: os.stat_result | None = None, unused_since: float = math.inf
    ) -> bool:
        """Remove the file at `path` if no process uses it; return whether it was removed.

        With `found`, only the file of that status is removed. A file that was used later than
        `unused_since`, in seconds since the epoch, stays.
        """
        if self._last_uses.get(path, -math.inf) > unused_since:
            return False
        try:
            with self._open_unused(path) as opened:
                status = os.fstat(opened.fileno())
                if not os.path.samestat(status, path.stat()):
                    return False
                if found is not None and _identity(status) != _identity(found):
                    return False
                if _last_use(status) > unused_since:
                    return False
                path.unlink()
        except OSError:
            return False
        self.note_change()
        if path.is_relative_to(self._files):
            for directory in path.relative_to(self._files).parents:
                with contextlib.suppress(OSError):
                    (self._files / directory).rmdir()
        return True

    def _open_unused(self, path: Path) -> StoredFile:
        """Open and lock a file that no process uses. Raises OSError, also where a process uses it."""
        try:
            opened = _opened(path, "r+")
        except OSError:
            # A verified file is read-only, also for its owner.
            opened = _opened(path)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS and self._may_be_unused(path):
                return opened
            with opened:
                if error.errno == errno.EBADF and not opened.writable():
                    return _locked_for_writing(opened, path)
                raise
        return opened

    def _may_be_unused(self, path: Path) -> bool:
        """Return whether a file may be removed where the file system has no locks."""
        try:
            return path.is_relative_to(self._files) or _is_old(path.stat())
        except OSError:
            return False

    def _open(self, path: Path, file: File) -> StoredFile | None:
        try:
            opened = _opened(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.error("cannot open a stored file, asking upstream: %s", error)
            return None
        try:
            is_intact = self._is_intact(opened, file)
        except BaseException as error:
            opened.close()
            if not isinstance(error, OSError):
                raise
            log.error("cannot read a stored file, asking upstream: %s: %s", path, error)
            return None
        if is_intact:
            return opened
        opened.close()
        log.warning("%s has another size or digest than listed, asking upstream", path)
        return None

    def _path(self, file: File) -> Path:
        if not is_directory(file.directory) or not is_filename(file.filename):
            raise ValueError(f"not the key of a file: {file.key!r}")
        return self._files / file.directory / file.filename

    def _is_intact(self, opened: StoredFile, file: File) -> bool:
        """Return whether an open file can be `file`; see `is_verified`. Raises OSError."""
        size = os.fstat(opened.fileno()).st_size
        if size == 0:
            return 0 in (file.size, file.verified_size)
        if _is_verified_on_open(file):
            algorithm, digest = expected_digest(file)
            assert algorithm is not None, "a sidecar is verified by the digest of its page"
            return size <= LARGEST_SIDECAR and self._digest(opened, algorithm) == digest
        if _has_known_size(size, file):
            return True
        # The size of a page is a hint, which a digest can refute.
        return expected_digest(file)[0] is not None and (
            file.verified_size is None or size == file.size
        )

    def _digest(self, opened: StoredFile, algorithm: str) -> str:
        """Return the digest of a small file, read once for all requests until it changes.

        The result is "" where the disk cannot read the file.
        """
        found: tuple[str | int, ...] = (algorithm, *_identity(os.fstat(opened.fileno())))
        digest = self._digests.get(found)
        if digest is None:
            try:
                _, digest = hash_file(opened.fileno(), algorithm)
            except OSError as error:
                log.error("cannot read a stored file, asking upstream: %s", error)
                return ""
            if len(self._digests) >= _MAX_REMEMBERED:
                self._digests.clear()
            self._digests[found] = digest
        return digest

    def _remove_old_partials(self) -> None:
        # A download can continue from a younger one. `remove` leaves those that have a writer.
        for path, status in entries_below(self._partials):
            if _is_old(status) and self.remove(Path(path)):
                log.info("removed the partial file %s, left by a process that ended", path)


def size_on_disk(status: os.stat_result) -> int:
    """Return the bytes of a file's content or of its disk blocks, the larger number."""
    if stat.S_ISDIR(status.st_mode):
        return status.st_blocks * 512
    return max(status.st_size, status.st_blocks * 512)


def entries_below(directory: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield path and status of each file and directory below `directory`, in no order.

    Skips what cannot be read, and does not follow symbolic links. Needs the same memory for any number
    of entries. Sleeps now and then, so use a thread.
    """
    # The sleep of gevent would need an event loop in each thread.
    sleep = monkey.get_original("time", "sleep")
    for number, entry in enumerate(_entries(directory), 1):
        yield entry
        if number % _ENTRIES_UNTIL_PAUSE == 0:
            sleep(_PAUSE)


def _entries(directory: str | Path) -> Iterator[tuple[str, os.stat_result]]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            yield os.fspath(entry.path), status
            if stat.S_ISDIR(status.st_mode):
                yield from _entries(entry.path)


def _opened(path: Path, mode: str = "r") -> StoredFile:
    """Open a regular file. Raises OSError."""
    opened = StoredFile(path, mode, opener=_open_at_once)
    try:
        is_regular = stat.S_ISREG(os.fstat(opened.fileno()).st_mode)
    except BaseException:
        opened.close()
        raise
    if not is_regular:
        opened.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return opened


def _open_at_once(path: str, flags: int) -> int:
    # The open of a named pipe would wait for its other end.
    return os.open(path, flags | os.O_NONBLOCK)


def _locked_for_writing(opened: StoredFile, path: Path) -> StoredFile:
    """Return the read-only file `opened` open for writing too, and locked exclusively.

    NFS needs that (nfs(5)), and the owner may change the mode. While it is changed, the file does not
    say that it is verified: a process that opens it then verifies it once more. Raises OSError.
    """
    mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
    os.fchmod(opened.fileno(), mode | stat.S_IWUSR)
    try:
        writable = _opened(path, "r+")
    finally:
        os.fchmod(opened.fileno(), mode)
    try:
        fcntl.flock(writable, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        writable.close()
        raise
    return writable


def _refuse_two_file_systems(source: Path, target: Path) -> None:
    """Raise OSError where no file can be renamed from `source` to `target`."""
    try:
        is_same = source.stat().st_dev == target.stat().st_dev
    except OSError:
        # Nothing can be stored, which is no reason not to serve.
        return
    if is_same and sys.platform == "linux":
        # A second mount of the same file system has the same `st_dev`. Linux refuses each link to a
        # directory, and with this error (link(2)) before all others.
        try:
            os.link(source, target / source.name)
        except OSError as error:
            is_same = error.errno != errno.EXDEV
    if not is_same:
        reason = "are on different file systems; a file cannot be renamed from one to the other"
        raise OSError(errno.EXDEV, f"{source} and {target} {reason}")


def _has_known_size(size: int, file: File) -> bool:
    """Return whether `size` is that of the verified file, or else that of the page, if one is known."""
    expected = file.size if file.verified_size is None else file.verified_size
    return expected in (None, size)


def _is_verified_on_open(file: File) -> bool:
    """Return whether the store compares `file` with its digest each time it opens the file.

    That is so for core metadata. It is small, and upstream may list another digest later.
    """
    return file.is_sidecar and file.has_digest


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _last_use(status: os.stat_result) -> float:
    """Return when a file was last read or written, in seconds since the epoch."""
    used = max(status.st_atime, status.st_mtime)
    # A wrong clock or another program set a time of the future. No program can set `st_ctime`.
    return used if used < time.time() + _DAY else status.st_ctime


def _is_old(status: os.stat_result) -> bool:
    """Return whether a partial file was not written for a day, or has a time of the future."""
    return abs(time.time() - status.st_mtime) > _MAX_PARTIAL_AGE
