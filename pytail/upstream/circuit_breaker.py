"""Stops requests to a host that failed three times in a row.

Each host has a circuit breaker. While it is open, a request raises `CircuitOpen` without waiting.
After an interval it is half-open: one request at a time probes the host, and a success closes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Failures in a row that open a circuit breaker, and seconds until it is half-open.
FAILURES, INTERVAL = 3, 10.0
#: Most seconds that the Retry-After of a host keeps its circuit breaker open.
LONGEST = 120.0
#: Most hosts with a state: pages may name any number of hosts.
_MOST_HOSTS = 1000


class CircuitOpen(Exception):
    """The circuit breaker is open for another `seconds`, after `failures` in a row."""

    def __init__(self, failures: int, seconds: float) -> None:
        super().__init__(failures, seconds)
        self.failures, self.seconds = failures, seconds


@dataclass(slots=True)
class _State:
    failures: int = 0
    #: When the circuit breaker is half-open, by the clock; 0: closed.
    probe_at: float = 0.0
    is_probed: bool = False


class Attempt:
    """The outcome of one request, set while it runs."""

    def __init__(self) -> None:
        #: None: a failure only where the block raises.
        self.is_failure: bool | None = None
        #: Seconds of the Retry-After of the host; None where it sent none.
        self.retry_after: float | None = None


class CircuitBreakers:
    """The circuit breakers of all hosts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._states: dict[Hashable, _State] = {}

    def is_open(self, host: Hashable) -> bool:
        """Return whether a request to `host` would raise CircuitOpen."""
        state = self._states.get(host)
        return state is not None and self._seconds_open(state) > 0

    def require(self, host: Hashable) -> None:
        """Raise CircuitOpen where the circuit breaker of `host` is open."""
        state = self._states.get(host)
        if state is not None and (seconds := self._seconds_open(state)) > 0:
            raise CircuitOpen(state.failures, seconds)

    @contextmanager
    def attempt(self, host: Hashable) -> Iterator[Attempt]:
        """Count the block as a request to `host`.

        An exception from the block is a failure, unless the block set `is_failure` to False. Raises
        CircuitOpen.
        """
        self.require(host)
        state = self._state(host)
        state.is_probed = state.failures >= FAILURES
        attempt = Attempt()
        try:
            yield attempt
            attempt.is_failure = bool(attempt.is_failure)
        finally:
            state.is_probed = False
            if attempt.is_failure is False:
                self._states.pop(host, None)
            else:
                self._count_failure(state, attempt.retry_after)

    def _seconds_open(self, state: _State) -> float:
        if state.is_probed:
            return 1.0
        return state.probe_at - self._clock()

    def _count_failure(self, state: _State, retry_after: float | None) -> None:
        state.failures += 1
        if retry_after is not None:
            # The host asks for a pause itself, so one failure is enough.
            state.failures = max(state.failures, FAILURES)
        if state.failures >= FAILURES:
            state.probe_at = self._clock() + min(max(INTERVAL, retry_after or 0.0), LONGEST)

    def _state(self, host: Hashable) -> _State:
        if host not in self._states and len(self._states) >= _MOST_HOSTS:
            self._states.clear()
        return self._states.setdefault(host, _State())
