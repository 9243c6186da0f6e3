"""Sends one request to upstream, or to a host that upstream names, within limits.

Each request has a slot, which it lends while it waits for upstream. Its outcome is charged to the
object that it asks for, or to the host that fails: the last one that a redirect led to.

Upstream is not trusted. A redirect stays on http and https, and never leads from https to http.
Neither a redirect nor a link leads from a public upstream into a private network.
Bodies are bounded in size and time. No message shows credentials.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

import gevent
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
)

from pytail import urls
from pytail.errors import (
    UpstreamAddressRefused,
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamGarbled,
    UpstreamNotConnected,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.runtime.threads import give_way
from pytail.telemetry.access import current_client
from pytail.telemetry.metrics import KINDS, Metrics
from pytail.upstream.circuit_breaker import Attempt, Cause, CircuitBreakers, CircuitOpen
from pytail.upstream.headers import content_length, location, retry_after
from pytail.upstream.limiter import MOST_HANGING, Limiter, LimiterFull, Slot
from pytail.upstream.networks import AddressRefused
from pytail.upstream.reasons import detail_of, reason_of, unreachable
from pytail.upstream.transport import Transport
from pytail.urls import origin, shown

log = logging.getLogger("pytail.upstream")

Result = TypeVar("Result")

#: Statuses that mean "no such project or file" (RFC 9110, sections 15.5.5 and 15.5.11).
MISSING_STATUSES = (404, 410)
#: The method of a request for a range, for the circuit breaker: some hosts fail for ranges only.
RANGE = "RANGE"
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Bytes read at once.
_CHUNK = 64 * 1024
#: Timeouts that reading a small body takes at most.
_BODY_TIMEOUTS = 4


class Client:
    """Sends requests, with slots for each kind, and circuit breakers for hosts and objects."""

    def __init__(
        self,
        transport: Transport,
        metrics: Metrics,
        *,
        max_page_fetches: int = 32,
        max_file_fetches: int = 64,
        max_hanging: int = MOST_HANGING,
        missing_statuses: Collection[int] = MISSING_STATUSES,
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_page_fetches` bounds concurrent small requests, `max_file_fetches` files and ranges.

        Files and ranges have that many slots each. `max_hanging` bounds the requests of each kind that
        wait for upstream without a slot. `missing_statuses` mean "no such project or file". With
        `offline`, `exchange` raises UpstreamOffline. `clock` gives seconds.
        """
        self.metrics, self.missing_statuses = metrics, missing_statuses
        self._transport, self._is_offline, self._clock = transport, offline, clock
        self._breakers = CircuitBreakers(clock)
        #: By kind of fetch.
        self.limiters = {
            kind: Limiter(kind, most, metrics.count_turned_away, max_hanging)
            for kind, most in zip(KINDS, (max_page_fetches, *[max_file_fetches] * 2), strict=True)
        }

    def is_circuit_open(self, url: str) -> bool:
        """Return whether the circuit breaker of the host of `url` is open."""
        return self._breakers.is_open(origin(url))

    def require(self, url: str, method: str = "GET") -> None:
        """Raise UpstreamCircuitOpen where the object at `url` may not be asked for now."""
        with _circuit_errors(url):
            self._breakers.require(origin(url), url, method)

    def is_lost(self, url: str, age: float) -> bool:
        """Return whether a request for `url`, sent `age` seconds ago, is to be sent once more.

        See `CircuitBreakers.is_lost`.
        """
        return self._breakers.is_lost(origin(url), self._clock() - age)

    def exchange(self, url: str, kind: str, method: str = "GET") -> Exchange:
        """Return a request about the object at `url`, with a slot of `kind`, to be closed.

        `method` is GET, HEAD or RANGE. Raises UpstreamOffline or UpstreamCircuitOpen without a wait,
        UpstreamBusy after 8 seconds.
        """
        if self._is_offline:
            raise UpstreamOffline(url)
        self.require(url, method)
        limiter = self.limiters[kind]
        with _busy_errors(url, limiter):
            return Exchange(url, method, limiter, Slot(limiter, current_client()))

    @contextlib.contextmanager
    def attempt(self, exchange: Exchange) -> Iterator[None]:
        """Count the block as one attempt at the object of `exchange`, and at the hosts that it asks.

        Raises UpstreamCircuitOpen.
        """
        url = exchange.url
        with _circuit_errors(url):
            exchange.attempt = self._breakers.attempt(origin(url), url, exchange.method)
        try:
            yield
        except (UpstreamCircuitOpen, UpstreamBusy, UpstreamAddressRefused):
            # No request was sent, or its response was not read.
            raise
        except UpstreamError as error:
            self._charge(exchange.attempt, error)
            raise
        except gevent.Timeout as limit:
            # The client's patience is shorter than the timeout of the request.
            reason = f"no response within {limit.seconds:g} seconds"
            self._breakers.fail(exchange.attempt, Cause.HOST, reason)
            raise
        else:
            self._breakers.succeed(exchange.attempt)

    def request(
        self, exchange: Exchange, url: str, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[BaseHTTPResponse, str]:
        """Return the response of `url`, its body unread, and its URL after up to 5 redirects.

        Raises UpstreamUnreachable, or UpstreamGarbled where a redirect must not be followed, such as
        UpstreamAddressRefused.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send(exchange, method, url, headers)
            target = location(response.headers)
            if response.status not in _REDIRECTS or target is None:
                return response, url
            discard(response)
            url = _followed(target, url)
        raise UpstreamGarbled(url, f"redirects more than {_MOST_REDIRECTS} times")

    def read_body(
        self,
        exchange: Exchange,
        response: BaseHTTPResponse,
        url: str,
        limit: int,
        *,
        decode: bool = False,
    ) -> bytes | None:
        """Return the body of `response`, None where it is longer than `limit` bytes.

        With `decode`, the content coding is undone, and `limit` is for the decoded bytes. Raises
        UpstreamUnreachable where the body breaks off or takes longer than four timeouts,
        UpstreamGarbled where its content coding is broken.
        """
        body = self.read_start(exchange, response, url, limit + 1, decode=decode)
        return body if len(body) <= limit else None

    def read_start(
        self,
        exchange: Exchange,
        response: BaseHTTPResponse,
        url: str,
        enough: int,
        *,
        decode: bool = False,
    ) -> bytes:
        """Return the body of `response`, or at least `enough` bytes of it; see `read_body`."""
        longest = _BODY_TIMEOUTS * self._transport.timeout
        deadline = self._clock() + longest
        chunks, size = [], 0
        try:
            # `read` would wait for a full chunk, past the deadline where bytes come slowly.
            while chunk := exchange.wait(lambda: response.read1(_CHUNK, decode_content=decode)):
                chunks.append(chunk)
                size += len(chunk)
                # Reading from a fast host never waits, so other greenlets would not run.
                give_way()
                if size >= enough:
                    break
                if self._clock() > deadline:
                    reason = f"the body is not complete after {longest:g} seconds"
                    raise UpstreamUnreachable(url, reason)
        except DecodeError as error:
            raise UpstreamGarbled(url, reason_of(error), detail=detail_of(error)) from error
        except (HTTPError, OSError) as error:
            raise unreachable(url, error) from error
        return b"".join(chunks)

    def refusal(self, response: BaseHTTPResponse, url: str) -> UpstreamRefused:
        """Return the error for the status of `response` from `url`."""
        status, is_missing = response.status, response.status in self.missing_statuses
        after = retry_after(response.headers)
        return UpstreamRefused(url, status, after, is_missing=is_missing)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _charge(self, attempt: Attempt, error: UpstreamError) -> None:
        """Count `error` in the metrics, and as a failure of what caused it."""
        cause = _cause_of(error)
        if cause is None:
            self._breakers.succeed(attempt)
        else:
            retry_after = error.retry_after if isinstance(error, UpstreamRefused) else None
            self._breakers.fail(attempt, cause, error.reason, retry_after)
        if isinstance(error, UpstreamGarbled):
            self.metrics.count_upstream_error("garbled")
        elif cause is not None:
            is_refused = isinstance(error, UpstreamRefused)
            self.metrics.count_upstream_error("refused" if is_refused else "unreachable")

    def _send(
        self, exchange: Exchange, method: str, url: str, headers: Mapping[str, str]
    ) -> BaseHTTPResponse:
        started = self._clock()
        with _circuit_errors(url):
            exchange.go_to(url)
        try:
            response = exchange.wait(
                lambda: self._transport.request(method, url, headers), BaseHTTPResponse.close
            )
        except AddressRefused as error:
            raise UpstreamAddressRefused(url, error.network.value) from error
        except (HTTPError, OSError) as error:
            raise unreachable(url, error) from error
        seconds = self._clock() - started
        self.metrics.observe_upstream(seconds)
        log.debug("%s %s: %d in %.0f ms", method, shown(url), response.status, seconds * 1000)
        return response


class Exchange:
    """One request about an object, from its slot to the end of the body of the response."""

    def __init__(self, url: str, method: str, limiter: Limiter, slot: Slot) -> None:
        """`method` is GET, HEAD or RANGE; `close` gives `slot` back."""
        self.url, self.method = url, method
        #: Set while `Client.attempt` runs.
        self.attempt: Attempt | None = None
        self._limiter, self._slot, self._is_kept = limiter, slot, False

    def __enter__(self) -> Exchange:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_kept:
            self.close()

    def keep(self) -> None:
        """Leave it to the caller to close this exchange, not to the end of its ``with`` block."""
        self._is_kept = True

    def close(self) -> None:
        """Give the slot back."""
        self._slot.close()

    @contextlib.contextmanager
    def uncharged(self) -> Iterator[None]:
        """Charge nothing in the block to the hosts that it asks."""
        attempt, self.attempt = self.attempt, None
        try:
            yield
        finally:
            self.attempt = attempt

    def go_to(self, url: str) -> None:
        """Charge what follows to the host of `url`. Raises CircuitOpen."""
        if self.attempt is not None:
            self.attempt.go_to(origin(url))

    def wait(
        self, receive: Callable[[], Result], discard: Callable[[Result], object] | None = None
    ) -> Result:
        """Return what `receive` receives from upstream; the slot is lent where that takes long.

        `discard` is called with the result where no slot is free for it. Raises UpstreamBusy.
        """
        with self._slot.waiting():
            result = receive()
        try:
            with _busy_errors(self.url, self._limiter):
                self._slot.take_back()
        except BaseException:
            if discard is not None:
                discard(result)
            raise
        return result


def discard(response: BaseHTTPResponse) -> None:
    """Close `response`, and return its connection to the pool where little is left to read."""
    # Only bytes that have arrived are read: a slow body is not waited for.
    length = content_length(response.headers)
    if response.status == 304 or (length is not None and length <= _CHUNK):
        with contextlib.suppress(HTTPError, OSError):
            response.read1(_CHUNK)
    response.close()


def _followed(location: str, url: str) -> str:
    """Return the URL that `location` means in a response from `url`. Raises UpstreamGarbled."""
    target = urls.http_url(location, url)
    if target is None or (url.startswith("https:") and not target.startswith("https:")):
        raise UpstreamGarbled(
            url, "redirects to a URL that is not followed", detail=shown(location)[:200]
        )
    return target


def _cause_of(error: UpstreamError) -> Cause | None:
    """Return what `error` is charged to besides its object; None where it is no failure."""
    if isinstance(error, UpstreamRefused):
        if error.status == 429 or (error.status >= 500 and error.retry_after is not None):
            # A host that asks for fewer requests, or for later ones, is well.
            return Cause.OBJECT
        return Cause.RESPONSE if error.status >= 500 else None
    if isinstance(error, UpstreamGarbled):
        return None if isinstance(error, UpstreamWithoutRanges) else Cause.OBJECT
    return Cause.CONNECTION if isinstance(error, UpstreamNotConnected) else Cause.HOST


@contextlib.contextmanager
def _circuit_errors(url: str) -> Iterator[None]:
    try:
        yield
    except CircuitOpen as circuit:
        seconds = math.ceil(circuit.seconds)
        failures = f"{circuit.failures} failures in a row: {circuit.reason}"
        reason = f"circuit breaker is open for {seconds} seconds, after {failures}"
        raise UpstreamCircuitOpen(url, reason, seconds) from None


@contextlib.contextmanager
def _busy_errors(url: str, limiter: Limiter) -> Iterator[None]:
    try:
        yield
    except LimiterFull:
        raise UpstreamBusy(url, limiter.limit) from None
