"""Connections of urllib3 and their pools, for hosts and paths that are not in order.

A connection is opened by a `Connector`, skips responses that are not final, and takes no half head
for a whole one. An idle connection expires.
"""

from __future__ import annotations

import http.client
import queue
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
)

from pytail.runtime.threads import give_way
from pytail.upstream.addresses import Option
from pytail.upstream.attempts import CURRENT

#: Returns a socket connected to host and port, within a timeout, with options.
Connect: TypeAlias = Callable[[str, int, float, list[Option]], socket.socket]

#: Seconds after which an idle connection is closed. Firewalls forget one after a minute or more.
IDLE = 30.0
#: Most interim responses before the final one.
_MOST_INTERIM = 100


def socket_options() -> list[Option]:
    """Return the options of each connection: no delay of small packets, and TCP keepalive.

    A peer that no longer acknowledges probes ends a transfer after about half a minute.
    """
    options: list[Option] = [
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ]
    # Not each system has all of them.
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):
            options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
    return options


class _Head:
    """The lines of a response head, of which the last is empty."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines
        self.flush, self.close = lines.flush, lines.close

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._lines.readline(limit)
        if not line.endswith(b"\n") and len(line) != limit:
            # http.client takes the end of the connection for the end of the head.
            raise http.client.RemoteDisconnected(
                "the connection ended before a whole response head"
            )
        return line


class FinalResponse(http.client.HTTPResponse):
    """A response that skips the interim ones before it (RFC 9110, section 15.2)."""

    def begin(self) -> None:
        """Read the head of the final response."""
        if self.headers is not None:
            return
        body, self.fp = self.fp, _Head(self.fp)
        super().begin()
        self.fp = body

    def _read_status(self) -> tuple[str, int, str]:
        for _ in range(_MOST_INTERIM):
            version, status, reason = super()._read_status()  # type: ignore[misc]
            if not 100 <= status < 200:
                return version, status, reason
            if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise http.client.BadStatusLine("101: no other protocol was asked for")
            http.client.parse_headers(self.fp)
            # Reading from a fast host never waits, so other greenlets would not run.
            give_way()
        raise http.client.BadStatusLine(f"more than {_MOST_INTERIM} responses before the final one")


class _Connected:
    """How connections differ from those of urllib3."""

    response_class: Any = FinalResponse

    def __init__(self, *args: Any, connect: Connect, **options: Any) -> None:
        super().__init__(*args, **options)
        self._connect = connect

    def _new_conn(self: Any) -> socket.socket:
        # `host` lacks the dot at the end of a name, which DNS needs to see.
        host = self._dns_host.strip("[]")
        try:
            return self._connect(host, self.port, self.timeout, self.socket_options)  # type: ignore[no-any-return]
        except UnicodeError:
            raise LocationParseError(f"{host!r}, label empty or too long") from None
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            reason = f"Connection to {self.host} timed out. (connect timeout={self.timeout})"
            raise ConnectTimeoutError(self, reason) from error
        except OSError as error:
            raise NewConnectionError(
                self, f"Failed to establish a new connection: {error}"
            ) from error


class HTTPConnection(_Connected, urllib3.connection.HTTPConnection):
    """A connection without TLS to a host or a proxy."""


class HTTPSConnection(_Connected, urllib3.connection.HTTPSConnection):
    """A connection with TLS to a host, also through a proxy."""


class IdleConnections:
    """The idle connections of a pool; the last one that was used is the next. A queue to urllib3."""

    def __init__(self, most: int, seconds: float = IDLE) -> None:
        """At most `most` connections are kept, each for `seconds` at most."""
        self._most, self._seconds = most, seconds
        #: Connections, and when each became idle, oldest first.
        self._idle: list[tuple[float, Any]] = []

    def put(self, connection: Any, block: bool = False) -> None:  # noqa: ARG002
        """Add `connection`; None is ignored. Raises queue.Full."""
        if connection is None or connection.is_closed:
            return
        if len(self._idle) >= self._most:
            raise queue.Full
        self._idle.append((time.monotonic(), connection))

    def get(self, block: bool = False, timeout: float | None = None) -> Any:  # noqa: ARG002
        """Remove and return a connection. Raises queue.Empty."""
        self.expire()
        if not self._idle:
            raise queue.Empty
        return self._idle.pop()[1]

    def qsize(self) -> int:
        """Return the number of connections."""
        return len(self._idle)

    def expire(self, seconds: float | None = None) -> None:
        """Close the connections that have been idle for `seconds` or longer; None: too long."""
        oldest = time.monotonic() - (self._seconds if seconds is None else seconds)
        while self._idle and self._idle[0][0] <= oldest:
            self._idle.pop(0)[1].close()


class Pool(HTTPConnectionPool):
    """The connections to one host."""

    _connection_class: type[_Connected] = HTTPConnection

    def __init__(self, *args: Any, connect: Connect, idle: float, **options: Any) -> None:
        self.QueueCls: Any = partial(IdleConnections, seconds=idle)
        super().__init__(*args, **options)
        self.ConnectionCls = partial(self._connection_class, connect=connect)  # type: ignore[assignment]

    def expire(self, seconds: float | None = None) -> None:
        """Close the connections that have been idle for `seconds` or longer; None: too long."""
        idle: Any = self.pool
        if idle is not None:
            idle.expire(seconds)

    def _get_conn(self, timeout: float | None = None) -> Any:
        attempt = CURRENT.get()
        connection = self._new_conn() if attempt.must_be_new else super()._get_conn(timeout)
        attempt.is_reused = not connection.is_closed
        attempt.close_idle = partial(self.expire, 0)
        return connection


class _SecurePool(Pool, HTTPSConnectionPool):
    _connection_class = HTTPSConnection


def pool_classes(connect: Connect, idle: float) -> dict[str, Any]:
    """Return by scheme the pools of a PoolManager.

    Their connections are opened by `connect`, and closed where they are idle for `idle` seconds.
    """
    return {
        scheme: partial(kind, connect=connect, idle=idle)
        for scheme, kind in (("http", Pool), ("https", _SecurePool))
    }
