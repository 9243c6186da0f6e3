"""Memory that large pages took, given back to the system.

A page passes through many pieces of memory in several threads, and what is free again lies scattered
among what is not: the C library keeps it all, ten times of what is in use. It gives it back only when
asked to.
"""

from __future__ import annotations

import contextlib
import ctypes

import gevent

from pytail.runtime.threads import off_loop

#: Seconds from the first large page to giving back what it and those after it took.
_DELAY = 0.25


class MallocTrimmer:
    """Gives back, soon after it was told that there is something."""

    def __init__(self) -> None:
        self._is_due = False

    def trim_soon(self) -> None:
        """A large page has passed."""
        if not self._is_due:
            self._is_due = True
            gevent.spawn_later(_DELAY, self._trim)

    def _trim(self) -> None:
        self._is_due = False
        off_loop(trim)


def trim() -> None:
    """Give back what is free, where the C library can (glibc)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
