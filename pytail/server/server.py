"""The server: how many connections there are, how long they may wait, and how they end.

Every second the server cuts the connections whose deadline has passed. At the maximum number of
connections, each response ends its connection, and a new connection ends another one: see
`pytail.server.scarcity`. So clients that send or receive slowly cannot block the others.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from typing import Any

from gevent.pool import Pool
from gevent.pywsgi import WSGIServer

from pytail.server import scarcity
from pytail.server.connection import Connection
from pytail.server.microcache import Microcache

log = logging.getLogger("pytail.server")

#: Connections at a time; further ones wait to be accepted.
MAX_CONNECTIONS = 1000
#: Seconds between two looks at the deadlines.
_SWEEP = 1.0
#: Seconds after which room is made once more, and a connection is accepted once more.
_RETRY = 0.1
#: Seconds between two log lines about connections that cannot be accepted.
_QUIET = 60.0
#: Errors of `accept` that concern one connection, which is gone then: see accept(2).
_OF_ONE_CONNECTION = {
    errno.ECONNABORTED, errno.ECONNRESET, errno.EPERM, errno.EPROTO, errno.ENOPROTOOPT,
    errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EOPNOTSUPP,
    errno.EINTR, errno.ETIMEDOUT, getattr(errno, "ENONET", errno.ENETDOWN),
}  # fmt: skip
#: libev's EV_READ.
_READABLE = 1


class Server(WSGIServer):
    """A pywsgi server that bounds its connections, cuts slow ones, and drains at its end.

    `spawn` is the maximum number of connections, or a gevent Pool of that size. The limit of open
    files may permit fewer.
    """

    handler_class = Connection

    def __init__(
        self, listener: Any, application: Any, spawn: Any = MAX_CONNECTIONS, **options: Any
    ) -> None:
        self.connections: set[Connection] = set()
        self.microcache = Microcache()
        self.is_draining = False
        self._sweeper: Any = None
        #: Watches for a connection that waits to be accepted, and looks once more; at the maximum.
        self._newcomer: Any = None
        self._retry: Any = None
        #: When connections began to wait to be accepted, None where none waits; `time.monotonic`.
        self._short_since: float | None = None
        #: The connection that ends to make room, and the end of the wait for that.
        self._leaving: tuple[Connection | None, float] = None, 0.0
        self._quiet_until = 0.0
        options = {"log": None, "error_log": log, **options}
        if "ssl_context" in options:
            # The handshake then belongs to the first request, which has a deadline.
            options["do_handshake_on_connect"] = False
        wanted = getattr(spawn, "size", spawn) or MAX_CONNECTIONS
        pool = Pool(scarcity.affordable(wanted))
        super().__init__(listener, application, spawn=pool, **options)
        # gevent calls this before each `accept`.
        self.full = self._is_full

    @property
    def is_scarce(self) -> bool:
        """Whether each response ends its connection, as new connections wait or none may stay."""
        return self.is_draining or self.pool.full()

    def start(self) -> None:
        """Accept connections."""
        super().start()
        self._sweeper = self.loop.timer(_SWEEP, _SWEEP, ref=False)
        self._sweeper.start(self.sweep)

    def do_read(self) -> Any:
        """Return the socket and the address of the next connection, None without one.

        Where no descriptor is left, another connection ends, and the next try is a moment later.
        """
        try:
            accepted = super().do_read()
        except OSError as error:
            if error.errno in self.fatal_errors:
                raise
            if error.errno not in _OF_ONE_CONNECTION:
                self._accept_later(error)
            return None
        self._short_since = None
        return accepted

    def sweep(self, now: float | None = None) -> None:
        """Cut the connections whose deadline is before `now`, and expire the microcache.

        `now` is a `time.monotonic` time, by default the current one.
        """
        self.microcache.expire()
        now = time.monotonic() if now is None else now
        for connection in list(self.connections):
            if connection.deadline < now:
                connection.cut()
            else:
                connection.measure(now)

    def close(self) -> None:
        """Stop accepting, and end the connections that wait for a request or the rest of one.

        Others end after their response. Requests that have arrived completely get a response.
        """
        self.is_draining = True
        if self.started:
            # A connection that waits to be accepted may have sent its request.
            self._do_read()
        super().close()
        self._stop_watching()
        for connection in list(self.connections):
            if connection.waiting_since is not None:
                connection.stop_receiving()

    def stop(self, timeout: float | None = None) -> None:
        """Close, and wait up to `timeout` seconds for responses to end."""
        super().stop(timeout)
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None

    def _is_full(self) -> bool:
        """Return whether no connection may be added; then make room where a connection waits."""
        if self.pool.full():
            self._watch_for_newcomer()
            return True
        return False

    def _watch_for_newcomer(self) -> None:
        self._stop_watching()
        if self.started and self.pool.full():
            self._newcomer = self.loop.io(self.socket.fileno(), _READABLE)
            self._newcomer.start(self._on_newcomer)

    def _on_newcomer(self) -> None:
        self._stop_watching()
        if self.pool.full():
            self._make_room()
            self._retry = self.loop.timer(_RETRY)
            self._retry.start(self._watch_for_newcomer)

    def _stop_watching(self) -> None:
        for watcher in (self._newcomer, self._retry):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        self._newcomer = self._retry = None

    def _accept_later(self, error: OSError) -> None:
        """Make room after `error`, and accept once more a moment later."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET
            log.warning("cannot accept a connection: %s; closing idle and slow ones", error)
        self._make_room()
        self.stop_accepting()
        self._timer = self.loop.timer(_RETRY)
        self._timer.start(self._start_accepting_if_started)

    def _make_room(self) -> None:
        """End the connection that is needed least, if any may end."""
        now = time.monotonic()
        if self._short_since is None:
            self._short_since = now
        leaving, until = self._leaving
        if leaving in self.connections and now < until:
            return
        if (one := next(iter(scarcity.idle(self.connections, now)), None)) is not None:
            one.stop_receiving()
        elif (one := next(iter(scarcity.arriving(self.connections, now)), None)) is not None:
            one.cut()
        else:
            is_patient = now - self._short_since < scarcity.PATIENCE
            one = scarcity.slowest(self.connections, scarcity.SLOW if is_patient else math.inf)
            if one is not None:
                log.info(
                    "cut the response to %s, which takes %d bytes a second, to accept others",
                    one.client_address, one.speed,
                )  # fmt: skip
                one.cut()
        self._leaving = one, now + scarcity.ARRIVAL_TIME
