"""How many files and sockets this process may open."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

#: Descriptors for the catalog, the log, locks, and files that are open for a moment.
_RESERVED = 32


def spare() -> int:
    """Return how many more descriptors may be open, less a reserve; 0 or more.

    Raises the soft limit of this process to the hard one first: a usual soft limit is 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(0, soft - _open() - _RESERVED)


def _open() -> int:
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        # No /proc: as many as pytail has after its start, and some more.
        return _RESERVED
