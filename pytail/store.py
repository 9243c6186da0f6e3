"""The bytes we hold: a file is here whole and verified, or not at all.

Rename is the commit: a file is written under a private name, verified, synced, and only then given
its final one, so that a crash at any moment leaves nothing wrong. Nothing else records what is
held; a file that was deleted, truncated or grown behind our back is a miss. The one who writes a
partial file holds a kernel lock on it, which ends with the process, so that two processes never
write the same file and an orphan is told from one in use.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

from pytail.model import File
from pytail.simple.names import is_filename

log = logging.getLogger(__name__)

_SHELF = re.compile(r"[0-9a-f]{3}/[0-9a-f]{13}|_url/[0-9a-f]{64}")
#: Times that a directory is made for a file while others remove it, being empty.
_MOST_ATTEMPTS = 100


def is_shelf(shelf: str) -> bool:
    """Whether `shelf` is one that a file can stand on, and so is safe in a path."""
    return _SHELF.fullmatch(shelf) is not None


class Kept(NamedTuple):
    """A file that takes room: a held one, or a partial one."""

    path: str
    #: Bytes on disk.
    size: int
    #: Seconds since the epoch: when it was written, and last used as far as the disk knows.
    written_at: float
    used_at: float


class Watcher:
    """Decides what is kept and is told of it; this one keeps everything and forgets.

    It is called from any thread.
    """

    def keeps(self, size: int) -> bool:
        """Whether a file of `size` bytes is to be kept."""
        return True

    def note_use(self, path: str) -> None:
        """The held file at `path` was opened."""

    def note_commit(self, path: str, size: int) -> None:
        """The file at `path`, of `size` bytes, is now held."""


class Partial:
    """A file being written, locked against other processes.

    It is written by one greenlet. Others may read what has been written through `descriptor` as
    long as they have not called `close`.
    """

    def __init__(self, descriptor: int, path: Path, final: Path, watcher: Watcher) -> None:
        #: Open for reading and writing.
        self.descriptor = descriptor
        self._path, self._final, self._watcher = path, final, watcher
        self._is_named = True

    def expect(self, size: int | None) -> None:
        """Learn how large the file will be, None when nobody says.

        One that is not to be kept loses its name now: it goes when its readers are done, whatever
        happens, and other processes need not wait for it.
        """
        if size is not None and not self._watcher.keeps(size):
            self.discard()

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError when the disk does not take it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def commit(self) -> bool:
        """Give the file its final name, durably, and say whether it is held now.

        It is not when it is too large to be kept; it can be read through `descriptor` all the same.
        Raises OSError, and then it is not held.
        """
        size = os.fstat(self.descriptor).st_size
        if not self._is_named or not self._watcher.keeps(size):
            self.discard()
            return False
        os.fsync(self.descriptor)
        self._rename()
        self._is_named = False
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)
        self._watcher.note_commit(str(self._final), size)
        return True

    def discard(self) -> None:
        """Forget what was written."""
        if self._is_named:
            self._is_named = False
            with contextlib.suppress(OSError):
                self._path.unlink()
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor; the file, where committed, stays."""
        os.close(self.descriptor)

    def _rename(self) -> None:
        for attempt in range(1, _MOST_ATTEMPTS + 1):
            try:
                self._final.parent.mkdir(parents=True, exist_ok=True)
                self._path.rename(self._final)
            except (FileNotFoundError, FileExistsError):
                # The directory was removed in between, being empty.
                if attempt == _MOST_ATTEMPTS:
                    raise
            else:
                return


class Store:
    """The files in ``<cache-dir>/+files`` and those on their way in ``<cache-dir>/+partial``."""

    def __init__(self, cache_dir: Path) -> None:
        """Make the directories and clear orphans. Raises OSError where that cannot be done."""
        self._files = cache_dir / "+files" / "root" / "pypi" / "+f"
        self._partials = cache_dir / "+partial"
        self._watcher = Watcher()
        for directory in (self._files, self._partials):
            directory.mkdir(parents=True, exist_ok=True)
        self._clear_orphans()

    def watch(self, watcher: Watcher) -> None:
        """From now on let `watcher` decide what is kept, and tell it of all that is."""
        self._watcher = watcher

    def open(self, file: File) -> io.FileIO | None:
        """`file` open for reading, None when it is not held."""
        path = self._path(file)
        try:
            opened = io.FileIO(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.error("cannot open a held file, asking upstream: %s", error)
            return None
        if self._is_right(opened, file):
            self._watcher.note_use(str(path))
            return opened
        opened.close()
        log.warning("%s was changed behind pytail's back; asking upstream again", path)
        return None

    def size(self, file: File) -> int | None:
        """The size of `file` in bytes, None when it is not held."""
        opened = self.open(file)
        if opened is None:
            return None
        with opened:
            return os.fstat(opened.fileno()).st_size

    def holds(self, file: File) -> bool:
        """Whether `file` is held."""
        return self.size(file) is not None

    def partial(self, file: File) -> Partial | None:
        """An empty file to write `file` to, None while another process is writing it.

        Raises OSError when the disk does not let it.
        """
        final = self._path(file)
        path = self._partials / hashlib.sha256(file.location.encode()).hexdigest()
        # Someone may have emptied the cache directory.
        self._partials.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
        if descriptor is None:
            return None
        os.ftruncate(descriptor, 0)
        partial = Partial(descriptor, path, final, self._watcher)
        partial.expect(file.size)
        return partial

    @property
    def directory(self) -> Path:
        """Where the files are held."""
        return self._files

    def kept(self) -> Generator[Kept]:
        """All that takes room, held files and partial ones; slow.

        Empty directories on the way are removed.
        """
        yield from _kept_in(self._partials)
        for first in _directories(self._files):
            for shelf in _directories(Path(first.path)):
                if is_shelf(f"{first.name}/{shelf.name}"):
                    yield from _kept_in(Path(shelf.path), taking=_size(shelf.stat()))

    def remove(self, kept: Kept) -> bool:
        """Remove `kept` unless it is being written, or was since it was seen; whether it is gone.

        Whoever has it open can go on reading. Raises OSError where it cannot be removed.
        """
        path = Path(kept.path)
        if path.parent == self._partials:
            return _removed(path)
        try:
            if path.stat(follow_symlinks=False).st_mtime != kept.written_at:
                return False
            path.unlink()
        except FileNotFoundError:
            return True
        _remove_empty(path.parent)
        return True

    def _path(self, file: File) -> Path:
        if not is_shelf(file.shelf) or not is_filename(file.filename):
            raise ValueError(f"not a file's location: {file.location!r}")
        return self._files / file.shelf / file.filename

    def _is_right(self, opened: io.FileIO, file: File) -> bool:
        found = os.fstat(opened.fileno()).st_size
        if file.size is not None and found != file.size:
            return False
        expected = file.hashes.get("sha256")
        if file.is_beside_another and expected is not None:
            # Small, and upstream may have advertised another one since.
            right = hashlib.sha256(opened.read()).hexdigest() == expected
            opened.seek(0)
            return right
        return found > 0 or file.size == 0

    def _clear_orphans(self) -> None:
        for path in self._partials.iterdir():
            if _removed(path):
                log.info("cleared %s, left by a process that is gone", path)


def _locked(path: Path) -> int | None:
    """A descriptor of `path`, made where missing and locked, None while another has it locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, its writer may have renamed or removed it.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _removed(path: Path) -> bool:
    """Whether the partial file at `path` could be removed, nobody having it locked."""
    descriptor = _locked(path)
    if descriptor is None:
        return False
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return True


def _directories(directory: Path) -> Generator[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry


def _kept_in(directory: Path, taking: int | None = None) -> Generator[Kept]:
    """The files in `directory`; the first one carries the bytes that a shelf itself is `taking`."""
    is_shelf_, is_empty, room = taking is not None, True, taking or 0
    with contextlib.suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            is_empty = False
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    found = entry.stat(follow_symlinks=False)
                    used_at = max(found.st_atime, found.st_mtime)
                    yield Kept(entry.path, _size(found) + room, found.st_mtime, used_at)
                    room = 0
    if is_shelf_ and is_empty:
        _remove_empty(directory)


def _remove_empty(shelf: Path) -> None:
    with contextlib.suppress(OSError):
        shelf.rmdir()
        shelf.parent.rmdir()


def _size(found: os.stat_result) -> int:
    # Blocks are what a small file really takes; some file systems count them late.
    return max(found.st_size, found.st_blocks * 512)
