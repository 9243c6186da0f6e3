"""Returns the free memory of the C library to the operating system.

A large page is copied several times in several threads. Its freed memory lies between memory in use,
and the C library does not return it: up to ten times the memory in use. `malloc_trim` returns it.
"""

from __future__ import annotations

import contextlib
import ctypes

import gevent

from pytail.runtime.threads import off_loop

#: Seconds from the first large page to the trim, which serves all pages of that time.
_DELAY = 0.25


class MallocTrimmer:
    """Trims soon after a large page, once for all pages of that time."""

    def __init__(self) -> None:
        self._is_due = False

    def trim_soon(self) -> None:
        """Trim after a delay, in a thread."""
        if not self._is_due:
            self._is_due = True
            gevent.spawn_later(_DELAY, self._trim)

    def _trim(self) -> None:
        self._is_due = False
        off_loop(trim)


def trim() -> None:
    """Return free memory to the operating system, where the C library can (glibc)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
