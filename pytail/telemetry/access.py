"""The access record of each request and its response: id, status, bytes, times.

The record covers the whole response, until the server closes its body. So it also covers responses
that end early. The running greenlet has a current record and a current client, as context variables.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, TypeVar
from urllib.parse import quote

Result = TypeVar("Result")

_CURRENT: ContextVar[AccessRecord | None] = ContextVar("record", default=None)
_CLIENT: ContextVar[str] = ContextVar("client", default="")
#: Characters of a path that need no quoting in a line of a log.
_PLAIN = re.compile(r"[!-~]*")


class AccessRecord:
    """The facts about one request and its response."""

    __slots__ = ("bytes_sent", "client", "id", "is_interrupted", "method", "outcome", "path", "seconds",
                 "started", "status", "upstream_seconds")  # fmt: skip

    def __init__(self, method: str, path: str, identity: str, client: str = "") -> None:
        self.method = method
        #: Without the query, as WSGI has it: unquoted, decoded as Latin-1.
        self.path = path
        #: The value of the X-Request-Id header.
        self.id = identity
        #: The address of the client; empty where that is unknown, as behind a Unix socket.
        self.client = client
        self.started = time.perf_counter()
        #: Three digits; empty where no response has begun.
        self.status = ""
        #: The value of the X-Cache header; empty without one.
        self.outcome = ""
        #: Bytes of the body.
        self.bytes_sent = 0
        #: Seconds until the server closed the body.
        self.seconds = 0.0
        #: Seconds of waiting for upstream.
        self.upstream_seconds = 0.0
        #: Whether the body ended early.
        self.is_interrupted = False

    def __str__(self) -> str:
        cut = "cut after " if self.is_interrupted else ""
        client = f"{self.client} " if self.client else ""
        return (
            f"{self.method} {self.plain_path} {self.status} {self.outcome or '-'}"
            f" {cut}{self.bytes_sent} bytes {self.seconds * 1000:.1f} ms"
            f" upstream {self.upstream_seconds * 1000:.1f} ms {client}{self.id}"
        )

    @property
    def is_monitoring(self) -> bool:
        """Whether the request is for a page of pytail itself, such as ``/+health``."""
        return self.path.startswith("/+")

    @property
    def plain_path(self) -> str:
        """The path, with white space and control characters quoted."""
        if _PLAIN.fullmatch(self.path):
            return self.path
        return quote(self.path, safe="/:@!$&'()*+,;=~", encoding="latin-1")

    def as_dict(self) -> dict[str, Any]:
        """Return the facts by their names in the JSON log; times in milliseconds."""
        return {
            "method": self.method,
            "path": self.plain_path,
            "status": int(self.status or 0),
            "outcome": self.outcome or None,
            "bytes": self.bytes_sent,
            "ms": round(self.seconds * 1000, 2),
            "upstream_ms": round(self.upstream_seconds * 1000, 2),
            "cut": self.is_interrupted,
            "client": self.client or None,
        }


def begin(record: AccessRecord) -> None:
    """Set the record, and with it the client, that the running greenlet works for."""
    _CURRENT.set(record)
    _CLIENT.set(record.client)


def finish() -> None:
    """Unset the record of the running greenlet, which may serve another request later."""
    _CURRENT.set(None)


def current_id() -> str | None:
    """Return the request id that the running greenlet works for, None without a request."""
    record = _CURRENT.get()
    return None if record is None else record.id


def current_client() -> str:
    """Return the client address that the running greenlet works for, "" without a client."""
    return _CLIENT.get()


def for_client(work: Callable[[], Result]) -> Callable[[], Result]:
    """Return `work` for another greenlet, with the client of the running one."""
    client = _CLIENT.get()

    def run() -> Result:
        _CLIENT.set(client)
        return work()

    return run


def count_sent_elsewhere(size: int) -> None:
    """Count `size` bytes of the body that another server sends, such as an nginx in front."""
    record = _CURRENT.get()
    if record is not None:
        record.bytes_sent += size


class UpstreamWait:
    """Adds the time of a ``with`` block to the current record, as time of waiting for upstream."""

    __slots__ = ("_started", "counts")

    def __enter__(self) -> UpstreamWait:  # noqa: PYI034
        #: Set to False inside the block where upstream was not needed.
        self.counts = True
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        record = _CURRENT.get()
        if record is not None and self.counts:
            record.upstream_seconds += time.perf_counter() - self._started
