"""A breaker for each host: one that failed a few times in a row is left alone for a while.

While it is open, nobody waits for that host; after the interval one request at a time probes it, and
the first that succeeds closes it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

#: Failures in a row that open it, and seconds until a probe.
FAILURES, INTERVAL = 3, 10.0
#: Seconds that a host can ask for at most, by Retry-After.
LONGEST = 120.0
#: Hosts remembered; pages can name any number.
_MOST_HOSTS = 1000


class CircuitOpen(Exception):
    """The host is left alone for another `seconds`."""

    def __init__(self, failures: int, seconds: float) -> None:
        super().__init__(failures, seconds)
        self.failures, self.seconds = failures, seconds


@dataclass(slots=True)
class _State:
    failures: int = 0
    #: When it may be probed, by the clock; before its first failures, always.
    probe_at: float = 0.0
    is_probed: bool = False


class Attempt:
    """A request under way; it counts as a failure unless told otherwise, or if told so."""

    def __init__(self) -> None:
        self.is_failure: bool | None = None
        #: Seconds for which the host asked to be left alone; None when it named no time.
        self.retry_after: float | None = None


class CircuitBreakers:
    """The breakers of all hosts."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._states: dict[Hashable, _State] = {}

    def is_open(self, host: Hashable) -> bool:
        """Whether a request to `host` would be refused now."""
        state = self._states.get(host)
        return state is not None and self._rest(state) > 0

    def require(self, host: Hashable) -> None:
        """Raise Open where a request to `host` would be refused now."""
        state = self._states.get(host)
        if state is not None and (rest := self._rest(state)) > 0:
            raise CircuitOpen(state.failures, rest)

    @contextmanager
    def attempt(self, host: Hashable) -> Iterator[Attempt]:
        """A request to `host` in the block, which says by `is_failure` how it went.

        An exception out of the block is a failure, unless `is_failure` says it is not. Raises CircuitOpen.
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
                self._failed(state, attempt.retry_after)

    def _rest(self, state: _State) -> float:
        if state.is_probed:
            return 1.0
        return state.probe_at - self._clock()

    def _failed(self, state: _State, retry_after: float | None) -> None:
        state.failures += 1
        if retry_after is not None:
            # It said so itself, once is enough.
            state.failures = max(state.failures, FAILURES)
        if state.failures >= FAILURES:
            state.probe_at = self._clock() + min(max(INTERVAL, retry_after or 0.0), LONGEST)

    def _state(self, host: Hashable) -> _State:
        if host not in self._states and len(self._states) >= _MOST_HOSTS:
            self._states.clear()
        return self._states.setdefault(host, _State())
