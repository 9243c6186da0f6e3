"""Locks between processes (``flock(2)``) that are waited for during a limited time only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from gevent import monkey

#: Seconds between two attempts.
_POLL = 0.01


class LockTimeout(OSError):
    """Another process holds the lock for longer than the time limit."""


def lock(descriptor: int, timeout: float) -> bool:
    """Lock an open file exclusively; return whether the lock was free within `timeout` seconds.

    Blocks the thread, so the event loop calls it in another thread. Raises OSError where the file
    system has no locks; NFS has them for descriptors open for writing only (nfs(5)).
    """
    # The sleep of gevent would need an event loop in each thread.
    sleep, deadline = monkey.get_original("time", "sleep"), time.monotonic() + timeout
    while not _try_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        sleep(_POLL)
    return True


@contextlib.contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of the file at `path`, created where it is missing, until the block ends.

    Blocks the thread as `lock` does. Raises LockTimeout, or another OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not lock(descriptor, timeout):
            raise LockTimeout(f"{path} is locked by another process for {timeout:g} seconds")
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
