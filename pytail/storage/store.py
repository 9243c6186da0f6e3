"""The bytes we hold: a file is here whole and verified, or not at all.

Rename is the commit: a file is written under a private name, verified, synced, and only then given
its final one, so that a crash at any moment leaves nothing wrong. Nothing else records what is
held; a file that was deleted, truncated or grown behind our back is a miss. One that nobody may write
is as it was verified; another came from elsewhere and is to be verified first. Kernel locks, which end
with the process, tell the rest: who has a partial file locked alone is its only writer, and who has
a held file locked with others is reading it.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import fcntl
import hashlib
import io
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytail.model import File
from pytail.simple.names import is_filename

log = logging.getLogger("pytail.storage")

_SHELF = re.compile(r"[0-9a-f]{3}/[0-9a-f]{13}|_url/[0-9a-f]{64}")
#: Seconds after which nobody will come for the rest of a partial file.
_ORPHANED = 24 * 3600.0
#: Bytes after which the disk is set to work: with the last ones, clients wait for what is left.
_WRITTEN_EARLY = 8 * 1024 * 1024
_SYNC_FILE_RANGE_WRITE = 2
#: The bits of a mode by which somebody may write; no verified file has them.
_WRITABLE = 0o222
#: Files remembered whose mode cannot be changed.
_MOST_VOUCHED = 10_000
#: A directory may be swept away, being empty, between its making and its use.
_TRIES = 10


def is_directory(shelf: str) -> bool:
    """Whether `shelf` is one that a file can stand on, and so is safe in a path."""
    return _SHELF.fullmatch(shelf) is not None


class PartialState(enum.Enum):
    """What became of a partial file."""

    ARRIVING = enum.auto()
    COMMITTED = enum.auto()
    #: Its writer removed it, or someone else did.
    GIVEN_UP = enum.auto()


class PartialFile:
    """A file on its way in: the process that has it locked writes it, the others follow.

    It only ever grows. Whoever begins anew makes another file under its name, so that who follows
    can never join the bytes of two. It may be read through `descriptor` until `close`.
    """

    def __init__(self, path: Path, final: Path, *, is_checked: bool = False) -> None:
        """Open or make the file at `path`. Raises OSError.

        `is_checked` says that it will be compared with its digest whenever it is used.
        """
        self.path, self._final, self._is_checked = path, final, is_checked
        #: Whether this process writes it.
        self.is_writer = False
        #: Bytes that the kernel may still keep to itself.
        self._unwritten = 0
        self.descriptor = self._open()

    @property
    def size(self) -> int:
        """The bytes that were written so far."""
        return os.fstat(self.descriptor).st_size

    def state(self) -> PartialState:
        """What became of it. Raises OSError."""
        ours = os.fstat(self.descriptor)
        for path, standing in (
            (self._final, PartialState.COMMITTED),
            (self.path, PartialState.ARRIVING),
            # Between the two looks it may have been renamed.
            (self._final, PartialState.COMMITTED),
        ):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                if os.path.samestat(ours, path.stat()):
                    return standing
        return PartialState.GIVEN_UP

    def try_lock(self) -> bool:
        """Become its writer, where it is arriving and has none; whether that is so now."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.is_writer = self.state() is PartialState.ARRIVING
        if not self.is_writer:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        return self.is_writer

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError when the disk does not take it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self._unwritten += len(data)
        if self._unwritten >= _WRITTEN_EARLY:
            _begin_to_write(self.descriptor, self._unwritten)
            self._unwritten = 0

    def restart(self) -> None:
        """Begin anew: what was written is not of use. Raises OSError."""
        self.path.unlink()
        os.close(self.descriptor)
        self.is_writer = False
        self.descriptor = self._open()

    def commit(self) -> None:
        """Give the file its final name, durably. Raises OSError, and then it is not held."""
        with contextlib.suppress(OSError):
            _protect(self.descriptor)
        if not self._is_checked:
            # Else what a crash of the machine leaves of it is found wrong, and costs one fetch.
            os.fsync(self.descriptor)
        for attempt in range(_TRIES):
            self._final.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path.rename(self._final)
                break
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise
        # From now on it is read like any held file.
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def discard(self) -> None:
        """Forget what was written, where this process wrote it."""
        if self.is_writer:
            with contextlib.suppress(OSError):
                self.path.unlink()
            self.is_writer = False
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor; the file, where committed, stays."""
        os.close(self.descriptor)

    def _open(self) -> int:
        for _ in range(_TRIES):
            # Someone may have emptied the cache directory.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            try:
                self.descriptor = os.open(self.path, flags, 0o644)
            except FileNotFoundError:
                continue
            if self.try_lock() or self.state() is not PartialState.GIVEN_UP:
                break
            os.close(self.descriptor)
        else:
            raise FileNotFoundError(f"{self.path} is removed again and again")
        return self.descriptor


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A file on the disk, held or partial."""

    path: Path
    #: Bytes that it takes of the disk.
    size: int
    #: Seconds since the epoch: when it was last used.
    used: float


class Store:
    """The files in ``<cache-dir>/+files`` and those on their way in ``<cache-dir>/+partial``."""

    def __init__(self, cache_dir: Path) -> None:
        """Make the directories and clear old orphans. Raises OSError where that cannot be done."""
        self._files = cache_dir / "+files" / "root" / "pypi" / "+f"
        self._partials = cache_dir / "+partial"
        self._uses: dict[Path, float] = {}
        self._vouched: set[tuple[int, ...]] = set()
        for directory in (self._files, self._partials):
            directory.mkdir(parents=True, exist_ok=True)
        self._clear_orphans()

    def open(self, file: File) -> io.FileIO | None:
        """`file` open for reading, to stay until that is closed; None when it is not held."""
        path = self._path(file)
        opened = self._opened(path, file)
        if opened is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            self._uses[path] = time.time()
        return opened

    def is_verified(self, opened: io.FileIO) -> bool:
        """Whether a held file is as pytail verified it, and not one that someone else put there."""
        found = os.fstat(opened.fileno())
        return not found.st_mode & _WRITABLE or _identity(found) in self._vouched

    def mark_verified(self, opened: io.FileIO) -> None:
        """Note that a held file was verified."""
        try:
            _protect(opened.fileno())
        except OSError:
            # Another user's, or on a disk that cannot be written: it holds for this process.
            if len(self._vouched) >= _MOST_VOUCHED:
                self._vouched.clear()
            self._vouched.add(_identity(os.fstat(opened.fileno())))

    def discard(self, file: File) -> None:
        """Remove a held file that is wrong, where nobody is reading it."""
        self.remove(self._path(file))

    def size(self, file: File) -> int | None:
        """The size of `file` in bytes, None when it is not held; to ask is not to use it."""
        opened = self._opened(self._path(file), file)
        if opened is None:
            return None
        with opened:
            return os.fstat(opened.fileno()).st_size

    def has(self, file: File) -> bool:
        """Whether `file` is held."""
        return self.size(file) is not None

    def stored_at(self, file: File) -> float | None:
        """When what is held of `file` last changed, in seconds since the epoch; None when nothing is."""
        try:
            return os.stat(self._path(file)).st_mtime  # noqa: PTH116
        except OSError:
            return None

    def partial(self, file: File) -> PartialFile:
        """The partial file to write `file` to, or to follow where another process writes it.

        Raises OSError when the disk does not let it.
        """
        final = self._path(file)
        name = hashlib.sha256(file.key.encode()).hexdigest()
        return PartialFile(self._partials / name, final, is_checked=_is_checked(file))

    def files(self) -> Iterator[DiskFile]:
        """All files on the disk, held and partial, in no order; whatever goes meanwhile is left out."""
        for path in _below(self._files, self._partials):
            with contextlib.suppress(OSError):
                found = path.stat()
                size = max(found.st_size, found.st_blocks * 512)
                yield DiskFile(path, size, max(found.st_atime, found.st_mtime))

    def last_change(self) -> int:
        """A number that is another one after a file came or went. Raises OSError."""
        # Each file that comes passes through there.
        with contextlib.suppress(FileNotFoundError):
            return self._partials.stat().st_mtime_ns
        return -1

    def write_last_uses(self) -> None:
        """Write down when held files were last used, for all processes to see."""
        uses, self._uses = self._uses, {}
        for path, used in uses.items():
            with contextlib.suppress(OSError):
                # Not left to the kernel, which notes it once a day or never.
                os.utime(path, ns=(int(used * 1e9), path.stat().st_mtime_ns))

    def remove(self, path: Path) -> bool:
        """Remove a kept file that no process is using, as `last_change` will tell; whether it is gone."""
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
                # Unlike one that comes, it has not passed through there. The kernel's own clock
                # stands still for milliseconds.
                os.utime(self._partials, ns=(time.time_ns(), time.time_ns()))
            for directory in path.relative_to(self._files).parents:
                with contextlib.suppress(OSError):
                    (self._files / directory).rmdir()
        return True

    def _opened(self, path: Path, file: File) -> io.FileIO | None:
        try:
            opened = io.FileIO(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.error("cannot open a held file, asking upstream: %s", error)
            return None
        if self._is_right(opened, file):
            return opened
        opened.close()
        log.warning("%s was changed behind pytail's back; asking upstream again", path)
        return None

    def _path(self, file: File) -> Path:
        if not is_directory(file.directory) or not is_filename(file.filename):
            raise ValueError(f"not a file's location: {file.key!r}")
        return self._files / file.directory / file.filename

    def _is_right(self, opened: io.FileIO, file: File) -> bool:
        found = os.fstat(opened.fileno()).st_size
        known = file.size if file.size is not None else file.verified_size
        if known is not None and found != known:
            return False
        if _is_checked(file):
            # Small, and upstream may have advertised another one since.
            right = hashlib.sha256(opened.read()).hexdigest() == file.hashes["sha256"]
            opened.seek(0)
            return right
        return found > 0 or file.size == 0

    def _clear_orphans(self) -> None:
        # A young one may be gone on with; `remove` leaves those that are being written.
        for path in self._partials.iterdir():
            is_old = time.time() - path.stat().st_mtime > _ORPHANED
            if is_old and self.remove(path):
                log.info("cleared %s, left by a process that is gone", path)


def _is_checked(file: File) -> bool:
    """Whether a held `file` is compared with its digest each time it is opened."""
    return file.is_sidecar and "sha256" in file.hashes


def _protect(descriptor: int) -> None:
    """Let nobody write in an open file. Raises OSError."""
    os.fchmod(descriptor, stat.S_IMODE(os.fstat(descriptor).st_mode) & ~_WRITABLE)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _begin_to_write(descriptor: int, length: int) -> None:
    """Have the kernel begin to write the last `length` bytes of a file, where it can (Linux)."""
    offset = os.fstat(descriptor).st_size - length
    with contextlib.suppress(AttributeError):
        start = ctypes.CDLL(None).sync_file_range
        start(descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _SYNC_FILE_RANGE_WRITE)


def _below(*directories: Path) -> Iterator[Path]:
    for directory in directories:
        for root, _, names in os.walk(directory):
            for name in names:
                yield Path(root, name)
