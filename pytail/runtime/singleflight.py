"""Runs the same work once for several callers, which share its result or its error.

The work runs in its own greenlet. So it goes on after the greenlet of a caller ends, and each caller
can have its own timeout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import gevent
from gevent.lock import Semaphore

Result = TypeVar("Result")


class StillRunning(Exception):
    """The work has not ended within the caller's patience; it continues."""


class _Call(Generic[Result]):
    __slots__ = ("_done", "_error", "_result", "started")

    def __init__(self) -> None:
        #: Monotonic seconds.
        self.started = time.monotonic()
        self._done = Semaphore(0)
        self._result: Result | None = None
        self._error: BaseException | None = None

    def run(self, work: Callable[[], Result]) -> None:
        try:
            self._result = work()
        except BaseException as error:  # noqa: BLE001
            # gevent's Timeout and GreenletExit are not Exceptions, but are for the callers too.
            self._error = error
        finally:
            self._done.release()

    def wait(self, patience: float | None) -> Result:
        if not self._done.acquire(timeout=patience):
            raise StillRunning
        # Each caller wakes the next one.
        self._done.release()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]


class SingleFlight(Generic[Result]):
    """The calls that run, by key. A key is present only while its work runs."""

    def __init__(self) -> None:
        self._calls: dict[Hashable, _Call[Result]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._calls

    def age(self, key: Hashable) -> float:
        """Return for how many seconds the work for `key` runs, 0 where none does."""
        call = self._calls.get(key)
        return 0.0 if call is None else time.monotonic() - call.started

    def run(
        self,
        key: Hashable,
        work: Callable[[], Result],
        patience: float | None = None,
        *,
        anew: bool = False,
    ) -> Result:
        """Return the result of the running work for `key`; without one, start `work`.

        With `anew`, start `work` beside one that runs, whose result is for its earlier callers
        only. Waits at most `patience` seconds, or without limit for None. Raises StillRunning where
        the work has not ended by then, and to each caller the error of the work.
        """
        call = self._calls.get(key)
        if call is None or anew:
            call = self._calls[key] = _Call()
            gevent.spawn(self._run, key, call, work)
        return call.wait(patience)

    def _run(self, key: Hashable, call: _Call[Result], work: Callable[[], Result]) -> None:
        try:
            call.run(work)
        finally:
            if self._calls.get(key) is call:
                del self._calls[key]
