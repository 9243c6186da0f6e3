"""Stops requests where upstream keeps failing, and charges each failure to what caused it.

An object is what is asked for, such as a page or a file. Each object and each host has a circuit
breaker. That of an object opens after three failures in a row, or for the seconds of a Retry-After.
That of a host opens after three failed connections in a row, or after ten objects that failed in a
row: one object that always fails stops no other. A good response resets the counts of its host.

While a circuit breaker is open, a request raises `CircuitOpen` without waiting. After a pause it is
half-open: one request may pass, and the next one after the next pause, also where the first one
hangs. The pauses grow from 0.5 to 2.5 seconds, so that a host is used again within three seconds of
its recovery. Those of a host that responds do not grow: one object that always fails would take each
request of the host.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Callable, Hashable
from typing import TypeVar

#: Failures in a row that open the circuit breaker of an object; of connections, that of a host.
FAILURES = 3
#: Objects that fail in a row until the circuit breaker of their host opens. An installer asks for
#: dozens of objects at once, and a few of them may always fail.
OBJECTS = 10
#: Seconds of the first pause, and of the longest one; each is twice as long as the one before.
FIRST_PAUSE, LAST_PAUSE = 0.5, 2.5
#: Most seconds that the Retry-After of an object counts.
LONGEST = 120.0
#: Most hosts and objects with a state: pages may name any number of them.
_MOST_HOSTS, _MOST_OBJECTS = 1000, 4000

Key = TypeVar("Key", bound=Hashable)
State = TypeVar("State", bound="_Circuit")


class CircuitOpen(Exception):
    """The circuit breaker is open for another `seconds`, after `failures` in a row.

    `reason` is that of the last failure.
    """

    def __init__(self, failures: int, seconds: float, reason: str) -> None:
        super().__init__(failures, seconds, reason)
        self.failures, self.seconds, self.reason = failures, seconds, reason


class Cause(enum.Enum):
    """What a failure is charged to, besides its object."""

    #: The connection to the host.
    CONNECTION = "connection"
    #: The host, where more objects fail: it sent no response, or a part of one.
    HOST = "host"
    #: As HOST, by a response: connections work.
    RESPONSE = "response"
    #: Nothing: the host answers as it means to.
    OBJECT = "object"


class _Circuit:
    """The circuit breaker of an object."""

    def __init__(self) -> None:
        #: Failures in a row, and the reason of the last one.
        self.failures, self.reason = 0, ""
        #: Seconds until a further probe; 0: closed.
        self.pause = 0.0
        #: When a probe may pass, by the clock.
        self.probe_at = 0.0
        #: When the circuit breaker opened or a request succeeded. A failure of a request that began
        #: before says nothing about the time since.
        self.changed_at = -math.inf

    def require(self, now: float) -> None:
        """Raise CircuitOpen while no request may pass."""
        if self.probe_at > now:
            raise CircuitOpen(self.failures, self.probe_at - now, self.reason)

    def begin(self, now: float) -> None:
        """Note that a request passes."""
        if self.pause:
            # The next one need not wait for its end, which may be a timeout.
            self.probe_at = now + self.pause

    def close(self, now: float) -> None:
        """Note a success."""
        self.failures, self.pause, self.probe_at, self.changed_at = 0, 0.0, 0.0, now

    def open(self, now: float, seconds: float = 0.0) -> None:
        """Let no request pass for a pause, or for `seconds` where that is longer."""
        self.pause = min(max(FIRST_PAUSE, 2 * self.pause), LAST_PAUSE)
        self.probe_at, self.changed_at = now + max(self.pause, seconds), now


class _Host(_Circuit):
    """The circuit breaker of a host."""

    def __init__(self) -> None:
        super().__init__()
        #: When a request last succeeded, and when a lost one was last sent once more.
        self.succeeded_at = self.asked_again_at = -math.inf
        #: Failed connections in a row, and the objects that failed in a row.
        self.connections = 0
        self.objects: set[str] = set()

    def close(self, now: float) -> None:
        super().close(now)
        self.succeeded_at, self.connections = now, 0
        self.objects.clear()

    def count(self, cause: Cause, url: str) -> bool:
        """Count a failure of the object at `url`, and return whether there are too many."""
        self.failures += 1
        if cause is Cause.CONNECTION:
            self.connections += 1
        else:
            self.connections = 0
            if len(self.objects) < OBJECTS:
                self.objects.add(url)
        return self.connections >= FAILURES or len(self.objects) >= OBJECTS

    def resume(self, now: float) -> None:
        """Let requests pass again where none may, without a success."""
        if self.pause:
            self.pause, self.probe_at, self.changed_at = 0.0, 0.0, now


class CircuitBreakers:
    """The circuit breakers of all hosts and objects."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        #: Both in the order of their last use.
        self._hosts: dict[Hashable, _Host] = {}
        self._objects: dict[tuple[str, str], _Circuit] = {}

    def is_open(self, host: Hashable) -> bool:
        """Return whether the circuit breaker of `host` opened, and no request succeeded since."""
        state = self._hosts.get(host)
        return state is not None and state.pause > 0

    def is_lost(self, host: Hashable, began: float) -> bool:
        """Return whether a request that hangs since `began` is to be sent once more.

        That is where `host` has sent no good response since: it may have recovered, and have
        forgotten the request. True once in 2.5 seconds for each host.
        """
        now, state = self._clock(), _state(self._hosts, host, _Host, _MOST_HOSTS)
        if max(began, state.asked_again_at) > now - LAST_PAUSE or state.succeeded_at > began:
            return False
        state.asked_again_at = now
        return True

    def require(self, host: Hashable, url: str, method: str = "GET") -> None:
        """Raise CircuitOpen where a request of the object at `url` may not pass."""
        now = self._clock()
        for state in (self._objects.get((url, method)), self._hosts.get(host)):
            if state is not None:
                state.require(now)

    def attempt(self, host: Hashable, url: str, method: str = "GET") -> Attempt:
        """Begin a request of the object at `url`. Raises CircuitOpen."""
        self.require(host, url, method)
        attempt = Attempt(self, self._clock(), url, method)
        if (state := self._objects.get((url, method))) is not None:
            state.begin(attempt.began)
        attempt.go_to(host)
        return attempt

    def enter(self, host: Hashable) -> None:
        """Begin a request to `host`. Raises CircuitOpen."""
        if (state := self._hosts.get(host)) is not None:
            state.require(self._clock())
            state.begin(self._clock())

    def close(self, host: Hashable) -> None:
        """Count a good response of `host`, such as a redirect."""
        _state(self._hosts, host, _Host, _MOST_HOSTS).close(self._clock())

    def succeed(self, attempt: Attempt) -> None:
        """Count a good response, or one that says what is wrong with the request."""
        self._objects.pop(attempt.object, None)
        self.close(attempt.host)

    def fail(
        self, attempt: Attempt, cause: Cause, reason: str, retry_after: float | None = None
    ) -> None:
        """Count a failure; `retry_after` is in seconds, None where the response had none."""
        self._charge_object(attempt, reason, retry_after)
        if cause is Cause.OBJECT:
            self.close(attempt.host)
        else:
            self._charge_host(attempt, cause, reason)

    def _charge_object(self, attempt: Attempt, reason: str, retry_after: float | None) -> None:
        state = _state(self._objects, attempt.object, _Circuit, _MOST_OBJECTS)
        if attempt.began < state.changed_at:
            return
        state.failures, state.reason = state.failures + 1, reason
        if retry_after is not None or state.failures >= FAILURES:
            state.open(self._clock(), min(retry_after or 0.0, LONGEST))

    def _charge_host(self, attempt: Attempt, cause: Cause, reason: str) -> None:
        state = _state(self._hosts, attempt.host, _Host, _MOST_HOSTS)
        if attempt.began < state.changed_at:
            return
        state.reason = reason
        is_failing = state.count(cause, attempt.object[0])
        if cause is Cause.RESPONSE:
            # An object that always fails, and has its own pauses, must not take each probe of the host.
            state.resume(self._clock())
        if is_failing or state.pause:
            state.open(self._clock())


class Attempt:
    """One request of an object, with its redirects."""

    def __init__(self, breakers: CircuitBreakers, began: float, url: str, method: str) -> None:
        self._breakers, self.began = breakers, began
        #: The URL and the method: a host may refuse HEAD or ranges, and send the file to GET.
        self.object = url, method
        #: The host that is asked now.
        self.host: Hashable = None

    def go_to(self, host: Hashable) -> None:
        """Note that `host` is asked from now on, where the one before sent a redirect.

        Raises CircuitOpen.
        """
        if host == self.host:
            return
        if self.host is not None:
            self._breakers.close(self.host)
        self._breakers.enter(host)
        self.host = host


def _state(states: dict[Key, State], key: Key, make: Callable[[], State], most: int) -> State:
    """Return the state of `key`, the last one to be dropped where there are more than `most`."""
    state = states.pop(key, None) or make()
    if len(states) >= most:
        del states[next(iter(states))]
    states[key] = state
    return state
