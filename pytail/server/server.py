"""The server: how many connections there are, how long they may wait, and how they end.

Every second the server cuts the connections whose deadline has passed. At the maximum number of
connections, each response ends its connection, and a new connection cuts the one that has waited
longest for a request. So clients that send no requests cannot block those that do.
"""

from __future__ import annotations

import logging
import resource
import time
from typing import Any

from gevent.pywsgi import WSGIServer

from pytail.server.connection import Connection
from pytail.server.microcache import Microcache

log = logging.getLogger("pytail.server")

#: Connections at a time; further ones wait to be accepted.
MAX_CONNECTIONS = 1000
#: Descriptors for each connection: its socket, its file, a connection to upstream.
_DESCRIPTORS = 3
#: Seconds between two looks at the deadlines.
_SWEEP = 1.0


class Server(WSGIServer):
    """A pywsgi server that bounds its connections, cuts slow ones, and drains at its end.

    `spawn` is the maximum number of connections, or a gevent Pool of that size.
    """

    handler_class = Connection

    def __init__(
        self, listener: Any, application: Any, spawn: Any = MAX_CONNECTIONS, **options: Any
    ) -> None:
        self.connections: set[Connection] = set()
        self.microcache = Microcache()
        self.is_draining = False
        self._sweeper: Any = None
        options = {"log": None, "error_log": log, **options}
        if "ssl_context" in options:
            # The handshake then belongs to the first request, which has a deadline.
            options["do_handshake_on_connect"] = False
        super().__init__(listener, application, spawn=spawn, **options)

    @property
    def is_scarce(self) -> bool:
        """Whether each response ends its connection, as new connections wait or none may stay."""
        return self.is_draining or self.pool.full()

    def start(self) -> None:
        """Accept connections."""
        _allow_descriptors(_DESCRIPTORS * (self.pool.size or MAX_CONNECTIONS))
        super().start()
        self._sweeper = self.loop.timer(_SWEEP, _SWEEP, ref=False)
        self._sweeper.start(self.sweep)

    def handle(self, sock: Any, address: Any) -> None:
        """Serve a new connection."""
        if self.pool.full():
            waiting = [one for one in self.connections if one.waiting_since is not None]
            if waiting:
                min(waiting, key=lambda one: one.waiting_since or 0).cut()
        super().handle(sock, address)

    def sweep(self, now: float | None = None) -> None:
        """Cut the connections whose deadline is before `now`, and expire the microcache.

        `now` is a `time.monotonic` time, by default the current one.
        """
        self.microcache.expire()
        now = time.monotonic() if now is None else now
        for connection in list(self.connections):
            if connection.deadline < now:
                connection.cut()

    def close(self) -> None:
        """Stop accepting, and close the connections without a request; others end after theirs."""
        self.is_draining = True
        super().close()
        for connection in list(self.connections):
            if connection.is_idle:
                connection.close_idle()

    def stop(self, timeout: float | None = None) -> None:
        """Close, and wait up to `timeout` seconds for responses to end."""
        super().stop(timeout)
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None


def _allow_descriptors(wanted: int) -> None:
    """Raise this process's limit of open files to `wanted`, or as far as its hard limit permits.

    A usual soft limit is 1024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("the limit of open files is %d, but %d may be needed", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
