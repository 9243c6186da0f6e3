"""Around each request: the access record, and the headers of every response."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import falcon

from pytail.server.microcache import REPLAY
from pytail.telemetry import access
from pytail.telemetry.access import AccessRecord

METHODS = ("GET", "HEAD", "OPTIONS")
ALLOW = ", ".join(METHODS)

_EVERY_RESPONSE = {
    "X-Content-Type-Options": "nosniff",
    # For installers that run in a browser, such as micropip.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, Accept-Ranges, ETag",
    # Whatever a page holds, a browser runs none of it and sends nothing from it.
    "Content-Security-Policy": "sandbox allow-top-navigation; default-src 'none'",
}
#: How a response came to be that nobody else had a part in, such as a redirect.
_MADE_HERE = {"X-Cache": "HIT", "Age": "0"}
_PREFLIGHT = {
    "Allow": ALLOW,
    "Access-Control-Allow-Methods": ALLOW,
    "Access-Control-Allow-Headers": "Accept, Cache-Control, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "86400",
}


STILL_VALID = "pytail.still_valid"
_CLIENTS_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


class CommonHeaders:
    """Falcon middleware around each request."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Drop what follows a raw ``#``: it is no part of a path, but some clients send it."""
        req.path = req.path.partition("#")[0]

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """Add the headers; answer OPTIONS, for any path."""
        resp.set_headers(_EVERY_RESPONSE)
        for name, value in _MADE_HERE.items():
            if resp.get_header(name) is None:
                resp.set_header(name, value)
        if req.method == "OPTIONS":
            resp.set_headers(_PREFLIGHT)
            resp.status = falcon.HTTP_204
            resp.data = resp.text = resp.stream = None


class AccessRecording:
    """A WSGI application whose exchanges are told of, each at its end."""

    def __init__(self, application: Any, *tell: Callable[[AccessRecord], None]) -> None:
        self._application, self._tell = application, tell
        # Unlike those of other processes, and cheaper than a random number for each.
        self._ids, self._prefix = itertools.count(1), os.urandom(6).hex()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI has it (PEP 3333)."""
        given: str | None = environ.get("HTTP_X_REQUEST_ID")
        identity = given if given and _CLIENTS_ID.fullmatch(given) else self.new_id()
        exchange = AccessRecord(environ["REQUEST_METHOD"], environ["PATH_INFO"], identity)
        access.begin(exchange, environ.get("REMOTE_ADDR", ""))

        def begin(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            exchange.status, exchange.outcome = status[:3], ""
            for name, value in headers:
                if name == "x-cache":
                    exchange.outcome = value
            headers.append(("x-request-id", exchange.id))
            return start_response(status, headers, *failure)

        try:
            body = self._application(environ, begin)
            again = environ.get(STILL_VALID)
            if again is not None and "HTTP_X_REQUEST_ID" not in environ:
                environ[REPLAY] = Replay(exchange, body, again, self)
            return _Body(body, exchange, self.end)
        except BaseException:
            exchange.is_interrupted = True
            self.end(exchange)
            raise

    def new_id(self) -> str:
        """An id that no other exchange has."""
        return f"{self._prefix}{next(self._ids):x}"

    def end(self, exchange: AccessRecord) -> None:
        """Tell of `exchange`, which is over."""
        exchange.seconds = time.perf_counter() - exchange.started
        for tell in self._tell:
            tell(exchange)
        access.finish()


class Replay:
    """A response that a server may give again by itself, each time as an exchange of its own."""

    __slots__ = ("_again", "_first", "_watched", "body", "copy", "id")

    def __init__(
        self, first: AccessRecord, body: Any, again: Callable[[], bool], watched: AccessRecording
    ) -> None:
        self._first, self._again, self._watched = first, again, watched
        #: The bytes to give again; None for those that have to be copied first.
        self.body: bytes | None = b"".join(body) if isinstance(body, list) else None
        #: Gives a copy of the body while that is open, None where there is none to be had.
        self.copy: Callable[[], bytes | None] = getattr(body, "copy", lambda: None)
        #: The id in the head of the first response, which each other has its own in place of.
        self.id = first.id.encode()

    def begin(self) -> AccessRecord | None:
        """Another exchange with the same response, None where it would be another one now."""
        if not self._again():
            return None
        first = self._first
        exchange = AccessRecord(first.method, first.path, self._watched.new_id())
        exchange.status, exchange.outcome = first.status, first.outcome
        return exchange

    def end(self, exchange: AccessRecord, sent: int) -> None:
        """`sent` bytes of the body have gone out in `exchange`, and no more will."""
        exchange.bytes_sent, exchange.is_interrupted = sent, sent < len(self.body or b"")
        self._watched.end(exchange)


class _Body:
    """A response's body, counted as the server takes it."""

    __slots__ = ("_body", "_end", "_exchange")

    def __init__(
        self, body: Iterable[bytes], exchange: AccessRecord, end: Callable[[AccessRecord], None]
    ) -> None:
        self._body, self._exchange, self._end = body, exchange, end
        exchange.is_interrupted = True

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        for piece in self._body:
            yield piece
            # It asks for more: what it was given last has gone out.
            exchange.bytes_sent += len(piece)
        exchange.is_interrupted = False

    def sendable(self) -> tuple[int, int, int] | None:
        """Return what the body's own `sendable` returns, None where it has none."""
        sendable = getattr(self._body, "sendable", None)
        found: tuple[int, int, int] | None = None if sendable is None else sendable()
        return found

    def advance(self, count: int) -> None:
        """Note that the next `count` bytes of `sendable` are sent."""
        self._body.advance(count)  # type: ignore[attr-defined]
        self._exchange.bytes_sent += count

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._end(self._exchange)
