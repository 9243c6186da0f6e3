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
import tempfile
from pathlib import Path

from pytail.model import File
from pytail.simple.names import is_filename

log = logging.getLogger(__name__)

_SHELF = re.compile(r"[0-9a-f]{3}/[0-9a-f]{13}|_url/[0-9a-f]{64}")


def is_shelf(shelf: str) -> bool:
    """Whether `shelf` is one that a file can stand on, and so is safe in a path."""
    return _SHELF.fullmatch(shelf) is not None


class Partial:
    """A file being written, locked against other processes.

    It is written by one greenlet. Others may read what has been written through `descriptor` as
    long as they have not called `close`.
    """

    def __init__(self, descriptor: int, path: Path, final: Path) -> None:
        #: Open for reading and writing.
        self.descriptor = descriptor
        self._path, self._final = path, final

    def write(self, data: bytes) -> None:
        """Append `data`. Raises OSError when the disk does not take it."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]

    def commit(self) -> None:
        """Give the file its final name, durably. Raises OSError, and then it is not held."""
        os.fsync(self.descriptor)
        self._final.parent.mkdir(parents=True, exist_ok=True)
        self._path.rename(self._final)
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def discard(self) -> None:
        """Forget what was written."""
        with contextlib.suppress(OSError):
            self._path.unlink()
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor; the file, where committed, stays."""
        os.close(self.descriptor)


class Spill(Partial):
    """A file for its readers only, outside the cache directory, gone when it is closed."""

    def __init__(self) -> None:
        """Raises OSError when the temporary directory does not take it either."""
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.descriptor = self._file.fileno()

    def commit(self) -> None:
        """Keep nothing."""

    def discard(self) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """Let go of it."""
        self._file.close()


class Store:
    """The files in ``<cache-dir>/+files`` and those on their way in ``<cache-dir>/+partial``."""

    def __init__(self, cache_dir: Path) -> None:
        """Make the directories and clear orphans. Raises OSError where that cannot be done."""
        self._files = cache_dir / "+files" / "root" / "pypi" / "+f"
        self._partials = cache_dir / "+partial"
        for directory in (self._files, self._partials):
            directory.mkdir(parents=True, exist_ok=True)
        self._clear_orphans()

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
        return Partial(descriptor, path, final)

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
            descriptor = _locked(path)
            if descriptor is not None:
                log.info("clearing %s, left by a process that is gone", path)
                path.unlink(missing_ok=True)
                os.close(descriptor)


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
