"""Work around each request: the access record and the headers of every response."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import falcon

from pytail.config.values import Proxies
from pytail.server.client_socket import reset_on_close
from pytail.server.microcache import REPLAY
from pytail.telemetry import access
from pytail.telemetry.access import AccessRecord
from pytail.web.forwarded import ClientAddresses

log = logging.getLogger("pytail.web")

METHODS = ("GET", "HEAD", "OPTIONS")
ALLOW = ", ".join(METHODS)
#: In a WSGI environment: a function that returns whether the response is still valid.
STILL_VALID = "pytail.still_valid"

_EVERY_RESPONSE = {
    "X-Content-Type-Options": "nosniff",
    # For installers that run in a browser, such as micropip.
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Content-Length, Content-Range, Accept-Ranges, ETag",
    # A browser runs no script of a response and sends no form from it.
    "Content-Security-Policy": "sandbox allow-top-navigation; default-src 'none'",
}
#: For responses whose resource sets no outcome, such as a redirect.
_DEFAULTS = {"X-Cache": "HIT", "Age": "0"}
_PREFLIGHT = {
    "Allow": ALLOW,
    "Access-Control-Allow-Methods": ALLOW,
    "Access-Control-Allow-Headers": "Accept, Cache-Control, If-None-Match, If-Range, Range",
    "Access-Control-Max-Age": "86400",
}
#: Characters that cannot forge a log line or a header.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")


class CommonHeaders:
    """Falcon middleware: the headers of every response, and the response to OPTIONS."""

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Cut the path at a raw ``#``: some clients send the fragment of a link."""
        req.path = req.path.partition("#")[0]

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: Any, req_succeeded: bool
    ) -> None:
        """Add the common headers; answer OPTIONS on every path."""
        resp.set_headers(_EVERY_RESPONSE)
        for name, value in _DEFAULTS.items():
            if resp.get_header(name) is None:
                resp.set_header(name, value)
        if req.method == "OPTIONS":
            resp.set_headers(_PREFLIGHT)
            resp.status = falcon.HTTP_204
            resp.data = resp.text = resp.stream = None


class AccessRecording:
    """WSGI middleware that makes one access record per request and reports it at the end."""

    def __init__(
        self,
        application: Any,
        *report: Callable[[AccessRecord], None],
        trusted: Proxies = Proxies(),  # noqa: B008, it is immutable
    ) -> None:
        """Each function of `report` is called with each finished record.

        `trusted` proxies tell the address of the client.
        """
        self._application, self._report = application, report
        #: Returns the address of the client, for that of the peer and X-Forwarded-For.
        self.client_of = ClientAddresses(trusted).of
        # Unique among processes, and cheaper than a random number per request.
        self._ids, self._prefix = itertools.count(1), os.urandom(6).hex()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        record = self._begin(environ)
        # The class "gevent" of gunicorn has no other way to cut a response without Content-Length.
        sock = environ.get("gunicorn.socket")

        def begin_response(status: str, headers: list[tuple[str, str]], *failure: Any) -> Any:
            nonlocal sock
            if sock is not None and "content-length" in dict(headers):
                sock = None
            record.status, record.outcome = status[:3], ""
            for name, value in headers:
                if name == "x-cache":
                    record.outcome = value
            headers.append(("x-request-id", record.id))
            return start_response(status, headers, *failure)

        try:
            body = self._application(environ, begin_response)
            is_valid = environ.get(STILL_VALID)
            if is_valid is not None and "HTTP_X_REQUEST_ID" not in environ:
                environ[REPLAY] = Replay(record, body, is_valid, self, _sender(environ))
            return _Body(body, record, self.end, sock)
        except BaseException:
            record.is_interrupted = True
            self.end(record)
            raise

    def _begin(self, environ: dict[str, Any]) -> AccessRecord:
        """Return the record of a request and make it the current one of this greenlet."""
        given: str | None = environ.get("HTTP_X_REQUEST_ID")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else self.new_id()
        client = self.client_of(*_sender(environ))
        record = AccessRecord(environ["REQUEST_METHOD"], environ["PATH_INFO"], request_id, client)
        access.begin(record)
        return record

    def new_id(self) -> str:
        """Return a request id that no other request has."""
        return f"{self._prefix}{next(self._ids):x}"

    def end(self, record: AccessRecord) -> None:
        """Finish `record` and report it."""
        record.seconds = time.perf_counter() - record.started
        for report in self._report:
            report(record)
        access.finish()


class Replay:
    """A response that the server may send again, with a new access record each time."""

    __slots__ = ("_first", "_is_valid", "_recording", "_sender", "body", "copy", "id")

    def __init__(
        self,
        first: AccessRecord,
        body: Any,
        is_valid: Callable[[], bool],
        recording: AccessRecording,
        sender: tuple[str, str | None],
    ) -> None:
        """`first` and `body` are of the first response; `is_valid` checks the response now.

        `sender` is the peer of the first request and its X-Forwarded-For.
        """
        self._first, self._is_valid, self._recording = first, is_valid, recording
        self._sender = sender
        #: The bytes to send again; None where only `copy` gives them.
        self.body: bytes | None = b"".join(body) if isinstance(body, list) else None
        #: Returns the bytes of a body that is sent but not yet closed; None where there are none.
        self.copy: Callable[[], bytes | None] = getattr(body, "copy", lambda: None)
        #: The request id in the head of the first response, to be replaced in each further one.
        self.id = first.id.encode()

    def begin(self, peer: str) -> AccessRecord | None:
        """Return the access record of a further response, to a request that `peer` sent.

        None where the first response is no longer valid.
        """
        if not self._is_valid():
            return None
        first, (first_peer, forwarded) = self._first, self._sender
        client = first.client
        if peer != first_peer:
            client = self._recording.client_of(peer, forwarded)
        record = AccessRecord(first.method, first.path, self._recording.new_id(), client)
        record.status, record.outcome = first.status, first.outcome
        return record

    def end(self, record: AccessRecord, sent: int) -> None:
        """Finish `record` after `sent` bytes of the body."""
        record.bytes_sent, record.is_interrupted = sent, sent < len(self.body or b"")
        self._recording.end(record)


def _sender(environ: dict[str, Any]) -> tuple[str, str | None]:
    """Return the address of the peer, "" for a Unix socket, and its X-Forwarded-For."""
    return environ.get("REMOTE_ADDR", ""), environ.get("HTTP_X_FORWARDED_FOR")


class _Body:
    """The body of a response; counts the bytes that the server takes."""

    __slots__ = ("_body", "_end", "_record", "_socket")

    def __init__(
        self,
        body: Iterable[bytes],
        record: AccessRecord,
        end: Callable[[AccessRecord], None],
        sock: Any,
    ) -> None:
        """`sock` is the client's socket where a failure is to end the connection by a reset."""
        self._body, self._record, self._end, self._socket = body, record, end, sock
        record.is_interrupted = True

    def __iter__(self) -> Iterator[bytes]:
        record = self._record
        try:
            for chunk in self._body:
                yield chunk
                # The server asks for the next chunk after it has sent this one.
                record.bytes_sent += len(chunk)
        except Exception as error:
            if self._socket is None or record.bytes_sent == 0:
                raise
            reset_on_close(self._socket)
            if isinstance(error, OSError):
                raise
            # After another error, gunicorn shuts the connection down, so that the client sees its usual
            # end.
            log.error("%s %s failed", record.method, record.plain_path, exc_info=error)
            raise ConnectionResetError(errno.ECONNRESET, str(error)) from error
        record.is_interrupted = False

    def sendable(self) -> tuple[int, int, int] | None:
        """Return the descriptor, offset and length of the next bytes, None: iterate the body.

        The server sends them itself and reports them to `advance`.
        """
        sendable = getattr(self._body, "sendable", None)
        found: tuple[int, int, int] | None = None if sendable is None else sendable()
        return found

    def advance(self, count: int) -> None:
        """Count `count` bytes that the server has sent from the descriptor."""
        self._body.advance(count)  # type: ignore[attr-defined]
        self._record.bytes_sent += count

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._end(self._record)
