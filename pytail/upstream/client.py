"""Sends one request to upstream, or to a host that upstream names, within limits.

Upstream is not trusted. A redirect stays on http and https, and never leads from https to http.
Bodies are bounded in size and time. No message shows credentials.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import DecodeError, HTTPError

from pytail import urls
from pytail.errors import (
    UpstreamBusy,
    UpstreamCircuitOpen,
    UpstreamGarbled,
    UpstreamOffline,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.runtime.threads import give_way
from pytail.telemetry.access import current_client
from pytail.telemetry.metrics import KINDS, Metrics
from pytail.upstream.circuit_breaker import CircuitBreakers, CircuitOpen
from pytail.upstream.headers import content_length, retry_after
from pytail.upstream.limiter import Limiter, LimiterFull
from pytail.upstream.reasons import detail_of, reason_of, unreachable
from pytail.upstream.transport import Transport
from pytail.urls import origin, shown

log = logging.getLogger("pytail.upstream")

_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Bytes read at once.
_CHUNK = 64 * 1024
#: Timeouts that reading a small body takes at most.
_BODY_TIMEOUTS = 4


class Client:
    """Sends requests, with slots for each kind and a circuit breaker for each host."""

    def __init__(
        self,
        transport: Transport,
        metrics: Metrics,
        *,
        max_page_fetches: int = 32,
        max_file_fetches: int = 64,
        offline: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_page_fetches` bounds concurrent small requests, `max_file_fetches` files and ranges.

        Files and ranges have that many slots each. With `offline`, `slot` raises UpstreamOffline.
        `clock` gives seconds.
        """
        self.metrics = metrics
        self._transport, self._is_offline, self._clock = transport, offline, clock
        self._breakers = CircuitBreakers(clock)
        #: By kind of fetch.
        self.limiters = {
            kind: Limiter(kind, most, metrics.count_turned_away)
            for kind, most in zip(KINDS, (max_page_fetches, *[max_file_fetches] * 2), strict=True)
        }

    def is_circuit_open(self, url: str) -> bool:
        """Return whether the circuit breaker of the host of `url` is open."""
        return self._breakers.is_open(origin(url))

    def slot(self, url: str, kind: str) -> contextlib.ExitStack:
        """Return a slot of `kind` for a request of `url`; closing the stack gives the slot back.

        Raises UpstreamOffline or UpstreamCircuitOpen without a wait, UpstreamBusy after 8 seconds.
        """
        if self._is_offline:
            raise UpstreamOffline(url)
        with _circuit_errors(url):
            self._breakers.require(origin(url))
        limiter, client = self.limiters[kind], current_client()
        try:
            limiter.acquire(client)
        except LimiterFull:
            raise UpstreamBusy(url, limiter.limit) from None
        slot = contextlib.ExitStack()
        slot.callback(limiter.release, client)
        return slot

    @contextlib.contextmanager
    def attempt(self, url: str) -> Iterator[None]:
        """Count the block as one attempt at the host of `url`, in metrics and circuit breaker.

        Raises UpstreamCircuitOpen.
        """
        with _circuit_errors(url), self._breakers.attempt(origin(url)) as attempt:
            try:
                yield
            except UpstreamRefused as error:
                attempt.is_failure = error.status >= 500 or error.status == 429
                if attempt.is_failure:
                    self.metrics.count_upstream_error("refused")
                attempt.retry_after = error.retry_after
                raise
            except UpstreamUnreachable:
                self.metrics.count_upstream_error("unreachable")
                raise
            except UpstreamGarbled:
                self.metrics.count_upstream_error("garbled")
                # A wrong response shows that the host can be reached.
                attempt.is_failure = False
                raise

    def request(
        self, url: str, headers: Mapping[str, str], method: str = "GET"
    ) -> tuple[BaseHTTPResponse, str]:
        """Return the response, its body unread, and its URL after up to 5 redirects.

        Raises UpstreamUnreachable, or UpstreamGarbled where a redirect must not be followed.
        """
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send(method, url, headers)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response, url
            discard(response)
            target = urls.http_url(location, url)
            if target is None or (url.startswith("https:") and not target.startswith("https:")):
                raise UpstreamGarbled(
                    url, "redirects to a URL that is not followed", detail=shown(location)[:200]
                )
            url = target
        raise UpstreamGarbled(url, f"redirects more than {_MOST_REDIRECTS} times")

    def read_body(
        self, response: BaseHTTPResponse, url: str, limit: int, *, decode: bool = False
    ) -> bytes | None:
        """Return the body of `response`, None where it is longer than `limit` bytes.

        With `decode`, the content coding is undone, and `limit` is for the decoded bytes. Raises
        UpstreamUnreachable where the body breaks off or takes longer than four timeouts,
        UpstreamGarbled where its content coding is broken.
        """
        longest = _BODY_TIMEOUTS * self._transport.timeout
        deadline = self._clock() + longest
        chunks, size = [], 0
        try:
            # `read` would wait for a full chunk, past the deadline where bytes come slowly.
            while chunk := response.read1(_CHUNK, decode_content=decode):
                chunks.append(chunk)
                size += len(chunk)
                # Reading from a fast host never waits, so other greenlets would not run.
                give_way()
                if size > limit:
                    return None
                if self._clock() > deadline:
                    reason = f"the body is not complete after {longest:g} seconds"
                    raise UpstreamUnreachable(url, reason)
        except DecodeError as error:
            raise UpstreamGarbled(url, reason_of(error), detail=detail_of(error)) from error
        except (HTTPError, OSError) as error:
            raise unreachable(url, error) from error
        return b"".join(chunks)

    def close(self) -> None:
        """Close the idle connections."""
        self._transport.close()

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> BaseHTTPResponse:
        started = self._clock()
        try:
            response = self._transport.request(method, url, headers)
        except (HTTPError, OSError) as error:
            raise unreachable(url, error) from error
        seconds = self._clock() - started
        self.metrics.observe_upstream(seconds)
        log.debug("%s %s: %d in %.0f ms", method, shown(url), response.status, seconds * 1000)
        return response


def discard(response: BaseHTTPResponse) -> None:
    """Close `response`, and return its connection to the pool where little is left to read."""
    # Only bytes that have arrived are read: a slow body is not waited for.
    length = content_length(response.headers)
    if response.status == 304 or (length is not None and length <= _CHUNK):
        with contextlib.suppress(HTTPError, OSError):
            response.read1(_CHUNK)
    response.close()


def refusal(response: BaseHTTPResponse, url: str) -> UpstreamRefused:
    """Return the error for the status of `response` from `url`."""
    return UpstreamRefused(url, response.status, retry_after(response.headers))


@contextlib.contextmanager
def _circuit_errors(url: str) -> Iterator[None]:
    try:
        yield
    except CircuitOpen as circuit:
        seconds = math.ceil(circuit.seconds)
        failures = f"{circuit.failures} failures in a row"
        reason = f"circuit breaker is open for {seconds} seconds, after {failures}"
        raise UpstreamCircuitOpen(url, reason, seconds) from None
