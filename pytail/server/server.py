"""The connections of all clients: how many there may be, for how long, and how they end.

Whoever keeps us waiting for too long is cut. While there are as many connections as there may be,
each answer ends its connection, and who has been waiting longest makes room; so those who only hold
connections cannot keep out those who ask.
"""

from __future__ import annotations

import contextlib
import logging
import resource
import socket
import time
from typing import Any

from gevent.pywsgi import WSGIServer

from pytail.server.connection import Connection
from pytail.server.microcache import Microcache

log = logging.getLogger("pytail.server")

#: Connections at the same time; others wait to be accepted.
MAX_CONNECTIONS = 1000
#: Descriptors for each connection: its own, that of its file, one of upstream's.
_DESCRIPTORS = 3
#: Seconds between looks at the deadlines.
_SWEEP = 1.0


class Server(WSGIServer):
    """A pywsgi server that bounds, cuts and drains; `spawn` is the bound, or a pool of that size."""

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
            # With the first bytes of a request instead, for which there is a deadline.
            options["do_handshake_on_connect"] = False
        super().__init__(listener, application, spawn=spawn, **options)

    @property
    def is_scarce(self) -> bool:
        """Whether connections are to be given up where that is possible."""
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
        """Cut the connections whose deadline has passed, and forget what was said before."""
        self.microcache.forget()
        now = time.monotonic() if now is None else now
        for handler in list(self.connections):
            if handler.deadline < now:
                handler.cut()

    def close(self) -> None:
        """Stop accepting and close the connections between requests; others may end."""
        self.is_draining = True
        super().close()
        for handler in list(self.connections):
            if handler.is_idle:
                # Its wait for a next request ends as if the client had gone.
                with contextlib.suppress(OSError):
                    handler.socket.shutdown(socket.SHUT_RD)

    def stop(self, timeout: float | None = None) -> None:
        """Close, and give the responses under way `timeout` seconds."""
        super().stop(timeout)
        if self._sweeper is not None:
            self._sweeper.close()
            self._sweeper = None


def _allow_descriptors(wanted: int) -> None:
    """Let this process have that many, as many as it may: at first 1024 are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("only %d open files are allowed, %d could be needed", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
