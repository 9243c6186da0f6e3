"""A steady beat in the event loop: how late it comes is how long everyone waits for the loop.

What is measured by looking, rather than told, is looked at with each beat.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent

#: Seconds between two beats.
INTERVAL = 0.5


class Pulse:
    """Beats until it is stopped."""

    def __init__(self, was_late: Callable[[float], None], *looks: Callable[[], None]) -> None:
        """`was_late` is told how many seconds after its time each beat came; `looks` are quick."""
        self._was_late, self._looks = was_late, looks
        self.beat()
        self._greenlet = gevent.spawn(self._run)

    def beat(self) -> None:
        """Look now."""
        for look in self._looks:
            look()

    def stop(self) -> None:
        """Beat no more."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL
            gevent.sleep(INTERVAL)
            self._was_late(time.monotonic() - due)
            self.beat()
