"""A gunicorn worker that serves connections with pytail's own server: ``-k pytail.gunicorn.Worker``.

gunicorn's master imports this module before gevent patches the standard library. So no module that
is imported here may import one that waits for the network or for threads.
"""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, GeventResponse

from pytail.server.connection import Connection
from pytail.server.parser import RequestHead
from pytail.server.server import Server


class LoggedConnection(Connection):
    """A connection whose requests are in gunicorn's access log."""

    @property
    def logs_requests(self) -> bool:  # type: ignore[override]
        """Whether gunicorn has an access log."""
        # Loggers of gunicorn before 25 lack the attribute; `access` itself looks for a log.
        return getattr(self.server.log, "access_log_enabled", True)

    def log_request(self, request: RequestHead, environ: dict[str, Any], seconds: float) -> None:
        """Write the line of a request to gunicorn's access log."""
        sent = self.response
        response = GeventResponse(sent.status or "000", sent.headers, sent.bytes_sent)
        environ = {**environ, "RAW_URI": request.target}
        took = timedelta(seconds=seconds)
        self.server.log.access(response, _fields(environ), environ, took)


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker with pytail's server; ``worker_connections`` bounds connections."""

    server_class = Server
    wsgi_handler = LoggedConnection

    def run(self) -> None:
        """Serve until gunicorn ends the worker."""
        # The objects of the application live as long as the process: the collector skips them.
        gc.collect()
        gc.freeze()
        super().run()


def _fields(environ: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.removeprefix("HTTP_").replace("_", "-"), value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
