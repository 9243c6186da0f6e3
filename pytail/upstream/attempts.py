"""Sends a request once more where its connection gives no response.

Only GET and HEAD are sent, which a server may get twice (RFC 9110, section 9.2.2).
"""

from __future__ import annotations

import contextvars
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from gevent.lock import BoundedSemaphore
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import ProtocolError, ProxyError

from pytail.runtime.race import first_result
from pytail.urls import Origin

log = logging.getLogger("pytail.upstream")

#: A request that is ready to be sent.
Call: TypeAlias = Callable[[], BaseHTTPResponse]

#: Seconds without a response after which a reused connection may be dead: of most hosts, and of slow
#: ones. A new connection must give the response while the client still waits.
_SILENCE, _LONGEST_SILENCE = 1.0, 4.0
#: Seconds for which the slowest response of a host counts.
_REMEMBERED = 60.0
#: Most requests of a host that are sent again at a time because a reused connection is silent.
_MOST_TWICE = 16
#: Most hosts with a state: pages may name any number of hosts.
_MOST_HOSTS = 1000


class Attempt:
    """Which connection one request may use, which it uses, and how the request fails."""

    def __init__(self, *, must_be_new: bool = False) -> None:
        self.must_be_new = must_be_new
        #: Whether the connection has carried a request before; None: it is not chosen yet.
        self.is_reused: bool | None = None
        #: Closes the idle connections to the same host; None as above.
        self.close_idle: Callable[[], None] | None = None
        #: None: no error yet.
        self.error: Exception | None = None


#: The attempt of the running greenlet: urllib3 chooses the connection within its call.
CURRENT: contextvars.ContextVar[Attempt] = contextvars.ContextVar("attempt")


class Host:
    """How one host responds, and so how long its silence is nothing unusual."""

    def __init__(self) -> None:
        self._twice = BoundedSemaphore(_MOST_TWICE)
        #: Seconds until the slowest recent response, and when it came.
        self._slowest, self._slowest_at = 0.0, 0.0

    def request(self, name: str, call: Call) -> BaseHTTPResponse:
        """Return the response of `call`, or of the same request over a new connection.

        That one is sent where the connection ends without a response, or where a reused one is
        silent. The first response counts. `name` is that of the host, for the log.
        """
        return first_result(self._attempts(name, call), self._patience(), _close)

    def _attempts(self, name: str, call: Call) -> Iterator[Call]:
        first = Attempt()
        yield partial(self._send, first, call)
        # This runs where the first one fails or is silent. A host that says nothing on a new
        # connection would say nothing on another one, too.
        if first.is_reused or (first.error is not None and _is_closed_connection(first.error)):
            yield partial(self._send_again, name, call)

    def _send(self, attempt: Attempt, call: Call) -> BaseHTTPResponse:
        CURRENT.set(attempt)
        started = time.monotonic()
        try:
            response = call()
        except Exception as error:
            attempt.error = error
            raise
        self._note(time.monotonic() - started)
        return response

    def _send_again(self, name: str, call: Call) -> BaseHTTPResponse:
        attempt = Attempt(must_be_new=True)
        with self._twice:
            response = self._send(attempt, call)
        log.debug("%s: no response on a pooled connection, sent again on a new one", name)
        if attempt.close_idle is not None:
            # What happened to one of them, happened to all.
            attempt.close_idle()
        return response

    def _patience(self) -> float:
        """Return the seconds after which a reused connection without a response may be dead.

        For a host that was slow within the last minute, the double of its slowest response: a slow
        host must not get each request twice.
        """
        is_recent = time.monotonic() - self._slowest_at < _REMEMBERED
        patience = 2 * self._slowest if is_recent else 0.0
        return min(max(_SILENCE, patience), _LONGEST_SILENCE)

    def _note(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._slowest_at >= _REMEMBERED:
            self._slowest = 0.0
        # A host that stays slow must not be forgotten for a moment in each minute.
        if 2 * seconds >= self._slowest:
            self._slowest, self._slowest_at = max(seconds, self._slowest), now


class Hosts:
    """The hosts by their origin."""

    def __init__(self) -> None:
        self._hosts: dict[Origin, Host] = {}

    def __getitem__(self, where: Origin) -> Host:
        """Return the host of `where`."""
        if where not in self._hosts and len(self._hosts) >= _MOST_HOSTS:
            self._hosts.clear()
        return self._hosts.setdefault(where, Host())


def _close(response: BaseHTTPResponse) -> None:
    response.close()


def _is_closed_connection(error: Exception) -> bool:
    """Return whether `error` is a connection that ended before the response."""
    if isinstance(error, ProxyError):
        # urllib3 raises ProxyError also where a connection through the proxy was closed.
        return isinstance(error.original_error, ConnectionError)
    return isinstance(error, ProtocolError) and isinstance(error.args[-1], ConnectionError)
