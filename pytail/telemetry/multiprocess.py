"""Which processes count together: the workers of one gunicorn, through a directory of their own.

prometheus_client keeps the counters of each process in mapped files there, so that whichever worker
is asked can add them up. Their space is taken beforehand, because a page that a full disk has no
room for would end the process. A dead worker's counters are added to those of the dead, since a
counter must not go back; whatever else it left is removed. A worker is alive while it holds the lock
on its file, and where everyone of a gunicorn is dead, its directory goes too.
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

#: Where prometheus_client looks for the directory, when it is imported.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: Bytes of each file, ten times what is needed.
_SIZE = 128 * 1024
#: What outlives a worker, and what does not: gauges, by how those of several workers become one.
_LASTING = ("counter", "histogram")
_PASSING = ("gauge_livesum", "gauge_livemax", "gauge_livemin", "gauge_livemostrecent")
_DEAD = "dead"


def share(cache_dir: Path) -> None:
    """Count together with the other workers; before anything imports prometheus_client.

    Where the directory cannot be made, this worker counts alone, and the log says so.
    """
    # Containers may share a cache directory and have the same process ids.
    directory = cache_dir / "+metrics" / f"{socket.gethostname()}-{os.getppid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            _clear(directory)
            _join(directory)
    except OSError as error:
        os.environ.pop(VARIABLE, None)
        log.warning("/+metrics is of each worker alone: %s", error)


@contextlib.contextmanager
def living(directory: Path) -> Iterator[None]:
    """While no worker comes or goes, and the dead ones are buried. Raises OSError."""
    with _alone(directory):
        _bury_dead(directory)
        yield


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _join(directory: Path) -> None:
    # Once set, prometheus_client may be imported.
    os.environ[VARIABLE] = str(directory)
    for kind in _LASTING:
        _allocate(directory / f"{kind}_{_DEAD}.db")
    _bury_dead(directory)
    # Open until this process ends, however it does.
    descriptor = os.open(
        directory / f"{os.getpid()}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    for kind in (*_LASTING, *_PASSING):
        _allocate(directory / f"{kind}_{os.getpid()}.db")


def _bury_dead(directory: Path) -> None:
    for lock in directory.glob("*.lock"):
        # A lock of our own number that we do not hold yet is of a worker long dead; but what it
        # counted is where we go on.
        if lock.stem != str(os.getpid()) and not _is_held(lock):
            _bury(directory, lock.stem)


def _allocate(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, _SIZE)
    finally:
        os.close(descriptor)


def _bury(directory: Path, pid: str) -> None:
    """Add what worker `pid` counted to what the dead did, and remove its files."""
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


def _clear(directory: Path) -> None:
    for other in directory.parent.iterdir():
        if other != directory and other.is_dir() and not any(map(_is_held, other.glob("*.lock"))):
            shutil.rmtree(other)


def _is_held(lock: Path) -> bool:
    """Whether the worker whose `lock` it is lives."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
