"""One request and its response, from the first byte to the last: its id, its bytes, its time.

It is watched where every server passes, around the WSGI application, and told once, when the server
has let go of the body: a transfer that was cut is told too, with what went out of it.
"""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

Result = TypeVar("Result")

#: In a WSGI environment, once it was answered: a callable that says whether the same request would be
#: answered the same now, to the second; and the `Repeat` that is made of it.
AGAIN, REPEAT = "pytail.again", "pytail.repeat"

#: The exchange that the running greenlet serves.
_CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)
#: The address of the client that the running greenlet works for.
_CLIENT: ContextVar[str] = ContextVar("client", default="")
_CLIENTS_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
#: What of a path can stand in a line of a log as it is.
_PLAIN = re.compile(r"[!-~]*")


class Exchange:
    """What is known of a request and its response."""

    __slots__ = ("id", "is_cut", "method", "outcome", "path", "seconds", "sent", "started",
                 "status", "waited")  # fmt: skip

    def __init__(self, method: str, path: str, identity: str) -> None:
        self.method = method
        #: Without the query, as WSGI has it: Latin-1, unquoted.
        self.path = path
        #: Of the X-Request-Id header.
        self.id = identity
        self.started = time.perf_counter()
        #: Three digits; empty where no response was begun.
        self.status = ""
        #: The word of the X-Cache header; empty where there is none.
        self.outcome = ""
        #: Bytes of the body that the server has taken.
        self.sent = 0
        #: Seconds until the server let go of the body.
        self.seconds = 0.0
        #: Seconds for which upstream was waited for.
        self.waited = 0.0
        #: Whether the body ended before its end.
        self.is_cut = False

    def __str__(self) -> str:
        cut = "cut after " if self.is_cut else ""
        return (
            f"{self.method} {self.plain_path} {self.status} {self.outcome or '-'}"
            f" {cut}{self.sent} bytes {self.seconds * 1000:.1f} ms"
            f" upstream {self.waited * 1000:.1f} ms {self.id}"
        )

    @property
    def is_watching(self) -> bool:
        """Whether it is of those who watch pytail, not of those who use it."""
        return self.path.startswith("/+")

    @property
    def plain_path(self) -> str:
        """The path without what could break a line."""
        if _PLAIN.fullmatch(self.path):
            return self.path
        return quote(self.path, safe="/:@!$&'()*+,;=~", encoding="latin-1")

    def facts(self) -> dict[str, Any]:
        """What a machine wants to read of it; times in milliseconds."""
        return {
            "method": self.method,
            "path": self.plain_path,
            "status": int(self.status or 0),
            "outcome": self.outcome or None,
            "bytes": self.sent,
            "ms": round(self.seconds * 1000, 2),
            "upstream_ms": round(self.waited * 1000, 2),
            "cut": self.is_cut,
        }


def current_id() -> str | None:
    """The id of the request that the running greenlet serves, None where it serves none."""
    exchange = _CURRENT.get()
    return None if exchange is None else exchange.id


def hand_over(size: int) -> None:
    """Another server sends `size` bytes of the body in our stead: they count as gone out."""
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.sent += size


def current_client() -> str:
    """The address of the client that the running greenlet works for, "" where there is none."""
    return _CLIENT.get()


def for_client(work: Callable[[], Result]) -> Callable[[], Result]:
    """`work`, which another greenlet can do for the client that this one works for."""
    client = _CLIENT.get()

    def do() -> Result:
        _CLIENT.set(client)
        return work()

    return do


class Waiting:
    """The block waits for upstream, on behalf of the exchange that the running greenlet serves."""

    __slots__ = ("_started", "counts")

    def __enter__(self) -> Waiting:  # noqa: PYI034
        #: Whether it did; it may turn out that upstream had nothing to do with it.
        self.counts = True
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        exchange = _CURRENT.get()
        if exchange is not None and self.counts:
            exchange.waited += time.perf_counter() - self._started


class Readable(Protocol):
    """A file as far as it is read here."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Arriving:
    """A file that arrives from upstream: reading it is `Waiting`."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._span = getattr(stream, "span", None)
        self.close = stream.close

    def read(self, size: int) -> bytes:
        """As the stream's."""
        with Waiting():
            return self._stream.read(size)

    def span(self, size: int) -> tuple[int, int, int] | None:
        """As the stream's, None where it has none."""
        with Waiting():
            found: tuple[int, int, int] | None = None if self._span is None else self._span(size)
            return found

    def advance(self, count: int) -> None:
        """As the stream's."""
        self._stream.advance(count)  # type: ignore[attr-defined]


class Watched:
    """A WSGI application whose exchanges are told of, each at its end."""

    def __init__(self, application: Any, *tell: Callable[[Exchange], None]) -> None:
        self._application, self._tell = application, tell
        # Unlike those of other processes, and cheaper than a random number for each.
        self._ids, self._prefix = itertools.count(1), os.urandom(6).hex()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """As WSGI has it (PEP 3333)."""
        given: str | None = environ.get("HTTP_X_REQUEST_ID")
        identity = given if given and _CLIENTS_ID.fullmatch(given) else self.new_id()
        exchange = Exchange(environ["REQUEST_METHOD"], environ["PATH_INFO"], identity)
        _CURRENT.set(exchange)
        _CLIENT.set(environ.get("REMOTE_ADDR", ""))

        def begin(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            exchange.status, exchange.outcome = status[:3], ""
            for name, value in headers:
                if name == "x-cache":
                    exchange.outcome = value
            headers.append(("x-request-id", exchange.id))
            return start_response(status, headers, *failure)

        try:
            body = self._application(environ, begin)
            again = environ.get(AGAIN)
            if again is not None and "HTTP_X_REQUEST_ID" not in environ:
                environ[REPEAT] = Repeat(exchange, body, again, self)
            return _Body(body, exchange, self.end)
        except BaseException:
            exchange.is_cut = True
            self.end(exchange)
            raise

    def new_id(self) -> str:
        """An id that no other exchange has."""
        return f"{self._prefix}{next(self._ids):x}"

    def end(self, exchange: Exchange) -> None:
        """Tell of `exchange`, which is over."""
        exchange.seconds = time.perf_counter() - exchange.started
        for tell in self._tell:
            tell(exchange)
        # The same greenlet may serve another request, or something else.
        _CURRENT.set(None)


class Repeat:
    """A response that a server may give again by itself, each time as an exchange of its own."""

    __slots__ = ("_again", "_first", "_watched", "body", "copy", "id")

    def __init__(
        self, first: Exchange, body: Any, again: Callable[[], bool], watched: Watched
    ) -> None:
        self._first, self._again, self._watched = first, again, watched
        #: The bytes to give again; None for those that have to be copied first.
        self.body: bytes | None = b"".join(body) if isinstance(body, list) else None
        #: Gives a copy of the body while that is open, None where there is none to be had.
        self.copy: Callable[[], bytes | None] = getattr(body, "copy", lambda: None)
        #: The id in the head of the first response, which each other has its own in place of.
        self.id = first.id.encode()

    def again(self) -> Exchange | None:
        """Another exchange with the same response, None where it would be another one now."""
        if not self._again():
            return None
        first = self._first
        exchange = Exchange(first.method, first.path, self._watched.new_id())
        exchange.status, exchange.outcome = first.status, first.outcome
        return exchange

    def over(self, exchange: Exchange, sent: int) -> None:
        """`sent` bytes of the body have gone out in `exchange`, and no more will."""
        exchange.sent, exchange.is_cut = sent, sent < len(self.body or b"")
        self._watched.end(exchange)


class _Body:
    """A response's body, counted as the server takes it."""

    __slots__ = ("_body", "_end", "_exchange")

    def __init__(
        self, body: Iterable[bytes], exchange: Exchange, end: Callable[[Exchange], None]
    ) -> None:
        self._body, self._exchange, self._end = body, exchange, end
        exchange.is_cut = True

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        for piece in self._body:
            yield piece
            # It asks for more: what it was given last has gone out.
            exchange.sent += len(piece)
        exchange.is_cut = False

    def held(self) -> tuple[int, int, int] | None:
        """As the body's own: descriptor, offset and length for a server that sends files itself.

        None for what has to be iterated. What goes out is told by `advance`.
        """
        held = getattr(self._body, "held", None)
        span: tuple[int, int, int] | None = None if held is None else held()
        return span

    def advance(self, count: int) -> None:
        """Another `count` bytes of what is `held` have gone out."""
        self._body.advance(count)  # type: ignore[attr-defined]
        self._exchange.sent += count

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._end(self._exchange)
