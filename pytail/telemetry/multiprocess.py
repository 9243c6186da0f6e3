"""Shares metrics between the workers of one gunicorn, through a directory.

prometheus_client maps files of that directory into memory, so that each worker can add up the counters
of all. The files get their full size beforehand: writing to a mapped page kills the process where the
disk is full. A worker is alive while it locks its lock file. The counters of a dead worker are added
to the files of the dead, since a counter must not decrease; the worker's files are removed. The
directory of a gunicorn without a live worker is removed.

One lock of all workers protects this. A worker that does not get it in time, because its holder is
stopped, counts or shows its own figures alone. A file that cannot be read is left out or set aside.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import re
import shutil
import socket
import stat
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from pytail.runtime import locks

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger("pytail.telemetry")

#: The variable with the directory; prometheus_client reads it when it is imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: Bytes of each file, ten times the need.
_SIZE = 128 * 1024
#: Types of metrics that outlive a worker.
_LASTING = ("counter", "histogram")
#: Types that do not: gauges, by the way in which those of several workers are combined.
_LIVE = ("gauge_livesum", "gauge_livemax", "gauge_livemin", "gauge_livemostrecent")
_DEAD = "dead"
_FILE = re.compile(rf"({'|'.join((*_LASTING, *_LIVE))})_({_DEAD}|\d+)\.db")
#: The names of families and samples.
_NAME = re.compile(r"pytail_[a-z0-9_]+")
#: The offset of the first value in a file.
_FIRST = 8
#: Bytes; prometheus_client never makes a larger file of the metrics of pytail.
_LARGEST = 16 * 1024 * 1024
#: Seconds to wait for the lock at the start, and for a response.
_START_TIMEOUT, _READ_TIMEOUT = 5.0, 1.0
#: The errors of prometheus_client at a file that it did not write, or not to its end.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, struct.error)


def share(cache_dir: Path) -> None:
    """Share metrics with the other workers. Call this before any import of prometheus_client.

    Where the directory cannot be used, this logs a warning, and the worker counts alone.
    """
    # Two containers with one cache directory can have the same process ids.
    directory = cache_dir / "+metrics" / f"{socket.gethostname()}-{os.getppid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locks.locked(_lock_of(directory), _START_TIMEOUT):
            _remove_abandoned(directory)
            _join(directory)
    except _DAMAGE as error:
        os.environ.pop(VARIABLE, None)
        log.warning("cannot share metrics, /+metrics shows each worker alone: %s", error)


class SharedMetrics:
    """The metrics of all workers that share a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        #: Names of the files that were left out of the last result.
        self._unreadable: set[str] = set()

    def read(self) -> list[Metric]:
        """Return the metrics, added up over all workers that live or have lived.

        Files that cannot be read are left out and logged once. Blocks for up to a second, so the
        event loop calls this in a thread. Raises OSError.
        """
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        with locks.locked(_lock_of(self._directory), _READ_TIMEOUT):
            _merge_dead(self._directory)
            # Those that a worker cannot read now can be readable later, so they stay.
            faults = {path: _fault(path) for path in sorted(self._directory.glob("*.db"))}
            files = [str(path) for path, fault in faults.items() if fault is None]
            try:
                families = list(MultiProcessCollector.merge(files))
            except _DAMAGE as error:
                raise OSError(f"cannot add up {self._directory}: {error}") from error
        unreadable = {path.name: fault for path, fault in faults.items() if fault is not None}
        for name in unreadable.keys() - self._unreadable:
            log.warning(
                "cannot read the metrics file %s, leaving it out: %s",
                self._directory / name,
                unreadable[name],
            )
        self._unreadable = set(unreadable)
        return families


def _lock_of(directory: Path) -> Path:
    return directory.parent / "lock"


def _join(directory: Path) -> None:
    # From here on prometheus_client may be imported.
    os.environ[VARIABLE] = str(directory)
    for kind in _LASTING:
        _prepare(directory / f"{kind}_{_DEAD}.db")
    _merge_dead(directory)
    # The descriptor stays open, and its file locked, until this process ends.
    descriptor = os.open(
        directory / f"{os.getpid()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for kind in (*_LASTING, *_LIVE):
        _prepare(directory / f"{kind}_{os.getpid()}.db")


def _merge_dead(directory: Path) -> None:
    for lock in directory.glob("*.lock"):
        # An unlocked lock with the id of this process is of a dead worker that had the same id. The
        # counters of this process continue in the files of that worker.
        if lock.stem != str(os.getpid()) and not _is_locked(lock):
            _merge(directory, lock.stem)


def _prepare(path: Path) -> None:
    """Make the file at `path` one that prometheus_client can use. Raises OSError."""
    fault = _fault(path)
    if fault is not None and os.path.lexists(path):
        _set_aside(path, fault)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, _SIZE)
    finally:
        os.close(descriptor)


def _merge(directory: Path, pid: str) -> None:
    """Add the counters of the dead worker `pid` to those of the dead, and remove its files."""
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415

    for kind in _LASTING:
        path = directory / f"{kind}_{pid}.db"
        if not path.exists():
            continue
        if (fault := _fault(path)) is not None:
            _set_aside(path, fault)
            continue
        _prepare(directory / f"{kind}_{_DEAD}.db")
        with contextlib.closing(MmapedDict(str(directory / f"{kind}_{_DEAD}.db"))) as dead:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                dead.write_value(key, dead.read_value(key)[0] + value, 0.0)
    for path in directory.glob(f"*_{pid}.db"):
        path.unlink()
    (directory / f"{pid}.lock").unlink()


def _fault(path: Path) -> str | None:
    """Return why the metrics file at `path` cannot be used, None when it can."""
    from prometheus_client.mmap_dict import MmapedDict  # noqa: PLC0415

    named = _FILE.fullmatch(path.name)
    if named is None:
        return "it is not of pytail"
    try:
        status = path.lstat()
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _LARGEST:
            return "it is not a file of the right size"
        with path.open("rb") as opened:
            (used,) = struct.unpack("i", opened.read(4))
        if used and not _FIRST <= used <= status.st_size:
            return f"it has {status.st_size} bytes, not {used}"
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(path)):
            if not _is_sample(orjson.loads(key), value, timestamp, named[1]):
                return "a value is impossible"
    except _DAMAGE as error:
        return str(error) or type(error).__name__
    return None


def _is_sample(key: object, value: float, timestamp: float, kind: str) -> bool:
    """Return whether prometheus_client writes such a `key` and `value` to files of that `kind`."""
    if not isinstance(key, list) or len(key) != 4:
        return False
    family, name, labels, text = key
    if not isinstance(labels, dict) or not isinstance(text, str):
        return False
    if not all(isinstance(label, str) for label in labels.values()):
        return False
    # The bound of a bucket is a number.
    float(labels.get("le", 0))
    is_possible = math.isfinite(value) and math.isfinite(timestamp)
    is_named = _NAME.fullmatch(family) is not None and _NAME.fullmatch(name) is not None
    return is_named and is_possible and (value >= 0 or kind not in _LASTING)


def _set_aside(path: Path, fault: str) -> None:
    aside = path.with_name(f"{path.name}.set-aside")
    log.warning("cannot use the metrics file %s: %s; renamed it to %s", path, fault, aside.name)
    path.replace(aside)


def _remove_abandoned(directory: Path) -> None:
    """Remove the directories of gunicorns without a live worker."""
    for other in directory.parent.iterdir():
        if other != directory and other.is_dir() and not any(map(_is_locked, other.glob("*.lock"))):
            shutil.rmtree(other, ignore_errors=True)


def _is_locked(lock: Path) -> bool:
    """Return whether the worker with this `lock` file is alive."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        # It is removed, or of another user: nothing can be said of that worker.
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
