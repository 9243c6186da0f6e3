"""Shares metrics between the workers of one gunicorn, through a directory.

prometheus_client maps files of that directory into memory, so that each worker can add up the counters
of all. The files get their full size beforehand: writing to a mapped page kills the process where the
disk is full. A worker is alive while it locks its lock file. The counters of a dead worker are added
to the files of the dead, since a counter must not decrease; the worker's files are removed. The
directory of a gunicorn without a live worker is removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

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


def share(cache_dir: Path) -> None:
    """Share metrics with the other workers. Call this before any import of prometheus_client.

    Where the directory cannot be used, this logs a warning, and the worker counts alone.
    """
    # Two containers with one cache directory can have the same process ids.
    directory = cache_dir / "+metrics" / f"{socket.gethostname()}-{os.getppid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory):
            _remove_abandoned(directory)
            _join(directory)
    except OSError as error:
        os.environ.pop(VARIABLE, None)
        log.warning("cannot share metrics, /+metrics shows each worker alone: %s", error)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Merge the metrics of dead workers, and let none start or be merged meanwhile. Raises OSError."""
    with _lock(directory):
        _merge_dead(directory)
        yield


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _join(directory: Path) -> None:
    # From here on prometheus_client may be imported.
    os.environ[VARIABLE] = str(directory)
    for kind in _LASTING:
        _allocate(directory / f"{kind}_{_DEAD}.db")
    _merge_dead(directory)
    # The descriptor stays open, and its file locked, until this process ends.
    descriptor = os.open(
        directory / f"{os.getpid()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for kind in (*_LASTING, *_LIVE):
        _allocate(directory / f"{kind}_{os.getpid()}.db")


def _merge_dead(directory: Path) -> None:
    for lock in directory.glob("*.lock"):
        # An unlocked lock with the id of this process is of a dead worker that had the same id. The
        # counters of this process continue in the files of that worker.
        if lock.stem != str(os.getpid()) and not _is_locked(lock):
            _merge(directory, lock.stem)


def _allocate(path: Path) -> None:
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
        if path.exists():
            dead = MmapedDict(str(directory / f"{kind}_{_DEAD}.db"))
            for key, value, _, _ in MmapedDict.read_all_values_from_file(str(path)):
                dead.write_value(key, dead.read_value(key)[0] + value, 0.0)
            dead.close()
    for path in directory.glob(f"*_{pid}.db"):
        path.unlink()
    (directory / f"{pid}.lock").unlink()


def _remove_abandoned(directory: Path) -> None:
    """Remove the directories of gunicorns without a live worker."""
    for other in directory.parent.iterdir():
        if other != directory and other.is_dir() and not any(map(_is_locked, other.glob("*.lock"))):
            shutil.rmtree(other)


def _is_locked(lock: Path) -> bool:
    """Return whether the worker with this `lock` file is alive."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
