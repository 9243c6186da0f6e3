"""A gunicorn worker that serves connections with pytail's own server: ``-k pytail.gunicorn.Worker``.

gunicorn's master imports this module before gevent patches the standard library. So no module that
is imported here may import one that waits for the network or for threads.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar

import gevent
from gunicorn.workers.ggevent import GeventPyWSGIWorker, GeventResponse

from pytail.config.load import CONFIG, Configuration, load
from pytail.config.settings import variable
from pytail.errors import SettingError
from pytail.server.connection import Connection
from pytail.server.parser import RequestHead
from pytail.server.server import Server
from pytail.urls import shown

#: Fields of requests that tell who a client is.
_SECRETS = frozenset({"HTTP_AUTHORIZATION", "HTTP_PROXY_AUTHORIZATION", "HTTP_COOKIE"})


class WorkerConnection(Connection):
    """A connection whose requests are counted, and are in gunicorn's access log."""

    def __init__(self, worker: Worker, sock: Any, address: Any, server: Any) -> None:
        super().__init__(sock, address, server)
        self._worker = worker

    @property
    def logs_requests(self) -> bool:  # type: ignore[override]
        """Whether gunicorn has an access log."""
        # Loggers of gunicorn before 25 lack the attribute; `access` itself looks for a log.
        return getattr(self.server.log, "access_log_enabled", True)

    def log_request(self, request: RequestHead, environ: dict[str, Any], seconds: float) -> None:
        """Write the line of a request to gunicorn's access log."""
        sent = self.response
        response = GeventResponse(sent.status or "000", sent.headers, sent.bytes_sent)
        environ = _without_secrets({**environ, "RAW_URI": request.target})
        took = timedelta(seconds=seconds)
        self.server.log.access(response, _fields(environ), environ, took)

    def _respond(self, request: RequestHead, environ: dict[str, Any]) -> None:
        self._worker.count_request()
        super()._respond(request, environ)

    def _may_replay(self) -> bool:
        may_replay = super()._may_replay()
        if may_replay:
            self._worker.count_request()
        return may_replay


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker with pytail's server; ``worker_connections`` bounds connections."""

    server_class = Server
    #: In the master: the last configuration without an error, and the error since then.
    kept: ClassVar[Configuration | None] = None
    kept_error: ClassVar[str] = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        # The master calls this before each fork.
        super().__init__(*args, **options)
        self.wsgi_handler = partial(WorkerConnection, self)
        self._is_quitting = False
        self._variables = self._keep_configuration()

    def init_process(self) -> None:
        """Start the worker's process."""
        if self._variables:
            os.environ.pop(variable(CONFIG), None)
            os.environ.update(self._variables)
        super().init_process()

    def init_signals(self) -> None:
        """Set the handlers of signals. SIGHUP is the master's, also if a terminal sends it to all."""
        super().init_signals()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def run(self) -> None:
        """Serve until gunicorn ends the worker."""
        # The objects of the application live as long as the process: the collector skips them.
        gc.collect()
        gc.freeze()
        super().run()

    def handle_quit(self, *_: Any) -> None:
        """Stop at once. Ctrl-C reaches the worker twice: from the terminal and from the master."""
        if self._is_quitting:
            return
        self._is_quitting = True
        self.alive = False
        # Handlers of signals must not wait.
        gevent.spawn(self._quit)

    def _quit(self) -> None:
        self.cfg.worker_int(self)
        sys.exit(0)

    def count_request(self) -> None:
        """Count a request; at ``max_requests``, end the worker after the responses in progress."""
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False

    def _keep_configuration(self) -> dict[str, str]:
        """Return the variables of the last configuration without an error; none where it is current.

        So an error in the file, made while gunicorn runs, ends neither a new worker nor gunicorn.
        """
        kind = type(self)
        try:
            kind.kept, kind.kept_error = load(os.environ), ""
        except SettingError as error:
            if kind.kept is None:
                # The worker itself reports the error.
                return {}
            if str(error) != kind.kept_error:
                kind.kept_error = str(error)
                self.log.error("settings not reloaded, keeping the ones in force: %s", error)
            return kind.kept.as_variables()
        return {}


def _without_secrets(environ: dict[str, Any]) -> dict[str, Any]:
    """Return `environ` for the log: without queries, and without what a client authenticates with."""
    kept = {name: value for name, value in environ.items() if name not in _SECRETS}
    urls: dict[str, Any] = {
        name: shown(kept[name]) for name in ("RAW_URI", "HTTP_REFERER") if name in kept
    }
    return {**kept, "QUERY_STRING": "", **urls}


def _fields(environ: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.removeprefix("HTTP_").replace("_", "-"), value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
