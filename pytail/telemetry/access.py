"""One request and its response, from the first byte to the last: its id, its bytes, its time.

It is watched where every server passes, around the WSGI application, and told once, when the server
has let go of the body: a transfer that was cut is told too, with what went out of it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

Result = TypeVar("Result")

#: The exchange that the running greenlet serves.
_CURRENT: ContextVar[AccessRecord | None] = ContextVar("exchange", default=None)
#: The address of the client that the running greenlet works for.
_CLIENT: ContextVar[str] = ContextVar("client", default="")
#: What of a path can stand in a line of a log as it is.
_PLAIN = re.compile(r"[!-~]*")


class AccessRecord:
    """What is known of a request and its response."""

    __slots__ = ("id", "is_interrupted", "method", "outcome", "path", "seconds", "bytes_sent", "started",
                 "status", "upstream_seconds")  # fmt: skip

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
        self.bytes_sent = 0
        #: Seconds until the server let go of the body.
        self.seconds = 0.0
        #: Seconds for which upstream was waited for.
        self.upstream_seconds = 0.0
        #: Whether the body ended before its end.
        self.is_interrupted = False

    def __str__(self) -> str:
        cut = "cut after " if self.is_interrupted else ""
        return (
            f"{self.method} {self.plain_path} {self.status} {self.outcome or '-'}"
            f" {cut}{self.bytes_sent} bytes {self.seconds * 1000:.1f} ms"
            f" upstream {self.upstream_seconds * 1000:.1f} ms {self.id}"
        )

    @property
    def is_monitoring(self) -> bool:
        """Whether it is of those who watch pytail, not of those who use it."""
        return self.path.startswith("/+")

    @property
    def plain_path(self) -> str:
        """The path without what could break a line."""
        if _PLAIN.fullmatch(self.path):
            return self.path
        return quote(self.path, safe="/:@!$&'()*+,;=~", encoding="latin-1")

    def as_dict(self) -> dict[str, Any]:
        """What a machine wants to read of it; times in milliseconds."""
        return {
            "method": self.method,
            "path": self.plain_path,
            "status": int(self.status or 0),
            "outcome": self.outcome or None,
            "bytes": self.bytes_sent,
            "ms": round(self.seconds * 1000, 2),
            "upstream_ms": round(self.upstream_seconds * 1000, 2),
            "cut": self.is_interrupted,
        }


def current_id() -> str | None:
    """The id of the request that the running greenlet serves, None where it serves none."""
    exchange = _CURRENT.get()
    return None if exchange is None else exchange.id


def count_handed_over(size: int) -> None:
    """Another server sends `size` bytes of the body in our stead: they count as gone out."""
    exchange = _CURRENT.get()
    if exchange is not None:
        exchange.bytes_sent += size


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


class UpstreamWait:
    """The block waits for upstream, on behalf of the exchange that the running greenlet serves."""

    __slots__ = ("_started", "counts")

    def __enter__(self) -> UpstreamWait:  # noqa: PYI034
        #: Whether it did; it may turn out that upstream had nothing to do with it.
        self.counts = True
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        exchange = _CURRENT.get()
        if exchange is not None and self.counts:
            exchange.upstream_seconds += time.perf_counter() - self._started


class Readable(Protocol):
    """A file as far as it is read here."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, none at the end."""

    def close(self) -> None:
        """Free what it holds."""


class TimedStream:
    """A file that arrives from upstream: reading it is `UpstreamWait`."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._span = getattr(stream, "span", None)
        self.close = stream.close

    def read(self, size: int) -> bytes:
        """As the stream's."""
        with UpstreamWait():
            return self._stream.read(size)

    def span(self, size: int) -> tuple[int, int, int] | None:
        """As the stream's, None where it has none."""
        with UpstreamWait():
            found: tuple[int, int, int] | None = None if self._span is None else self._span(size)
            return found

    def advance(self, count: int) -> None:
        """As the stream's."""
        self._stream.advance(count)  # type: ignore[attr-defined]
