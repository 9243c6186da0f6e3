"""One caller works, the others wait and share the outcome, errors too.

The work runs in a greenlet of its own, so that it outlives whoever asked first, and each caller may
wait as long as suits it. A key is in the map only while its work runs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import gevent
from gevent.lock import Semaphore

Result = TypeVar("Result")


class StillRunning(Exception):
    """The work goes on, but the caller has waited as long as it wanted."""


class _Call(Generic[Result]):
    __slots__ = ("error", "landed", "result")

    def __init__(self) -> None:
        self.landed = Semaphore(0)
        self.result: Result | None = None
        self.error: BaseException | None = None

    def fly(self, work: Callable[[], Result]) -> None:
        try:
            self.result = work()
        except BaseException as error:  # noqa: BLE001
            # gevent's Timeout and GreenletExit are no Exceptions, and waiters must learn of them.
            self.error = error
        finally:
            self.landed.release()

    def outcome(self, patience: float | None) -> Result:
        if not self.landed.acquire(timeout=patience):
            raise StillRunning
        # A turnstile: whoever passes lets the next one pass.
        self.landed.release()
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]


class SingleFlight(Generic[Result]):
    """A map from keys to work under way."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Call[Result]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._flights

    def run(
        self, key: Hashable, work: Callable[[], Result], patience: float | None = None
    ) -> Result:
        """The outcome of the work under way for `key`, else of `work`, now started.

        Waits at most `patience` seconds (None: for ever), then raises StillRunning. The errors of
        the work are raised to every caller.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Call()
            gevent.spawn(self._run, key, flight, work)
        return flight.outcome(patience)

    def _run(self, key: Hashable, flight: _Call[Result], work: Callable[[], Result]) -> None:
        try:
            flight.fly(work)
        finally:
            del self._flights[key]
