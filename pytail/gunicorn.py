"""A gunicorn worker with pytail's own handling of connections: ``-k pytail.gunicorn.Worker``.

gunicorn's master loads this room before gevent has patched anything, so it must not lead to any
that waits for others.
"""

from __future__ import annotations

import gc
from datetime import timedelta
from typing import Any

from gunicorn.workers.ggevent import GeventPyWSGIWorker, GeventResponse

from pytail.server.connection import Connection
from pytail.server.server import Server


class LoggedConnection(Connection):
    """A handler that writes gunicorn's access log."""

    @property
    def logs_requests(self) -> bool:  # type: ignore[override]
        """Whether gunicorn has an access log."""
        # Versions before 25 do not tell, but look for themselves.
        return getattr(self.server.log, "access_log_enabled", True)

    def log_request(self) -> None:
        """Log the request where gunicorn has an access log."""
        access = self.server.log
        if self.logs_requests:
            status, headers = self._orig_status or "000", self.response_headers or []
            response = GeventResponse(status, headers, self.response_length)
            environ = {**self.environ, "RAW_URI": self.path}
            took = timedelta(seconds=self.time_finish - self.time_start)
            access.access(response, _fields(environ), environ, took)


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, with our server; ``worker_connections`` bounds the connections."""

    server_class = Server
    wsgi_handler = LoggedConnection

    def run(self) -> None:
        """Serve until gunicorn says otherwise."""
        # What is there now stays, and is not to be looked through again and again.
        gc.collect()
        gc.freeze()
        super().run()


def _fields(environ: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (key.removeprefix("HTTP_").replace("_", "-"), value)
        for key, value in environ.items()
        if key.startswith("HTTP_")
    ]
