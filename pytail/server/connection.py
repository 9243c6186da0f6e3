"""One connection of a client: its requests, one after the other.

`Connection` takes the place of gevent pywsgi's handler. A request head is parsed at once, small
responses leave in one packet, files go out from their descriptors, and the microcache repeats
responses. A client that never makes its greenlet wait still lets other greenlets run.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent.pywsgi import _InvalidClientInput

from pytail.errors import PytailError
from pytail.server import parser
from pytail.server.body import BufferedBody, RequestBuffer, StreamedBody, request_body
from pytail.server.client_socket import ClientSocket
from pytail.server.microcache import REPLAY, ReplayingReceiver
from pytail.server.response import ResponseWriter
from pytail.server.scarcity import Pace

log = logging.getLogger("pytail.server")

#: Seconds for a whole request, however slowly it arrives, and between two requests.
REQUEST_TIME, IDLE_TIME = 15.0, 75.0

#: Requests of a connection after which other greenlets run.
_REQUESTS_BETWEEN_SWITCHES = 16
#: Errors of a client that has closed its connection.
_CLIENT_GONE = (errno.EPIPE, errno.ECONNRESET)


class Connection:
    """Serves the requests of one connection until the connection ends."""

    #: Whether `log_request` is called after each response.
    logs_requests = False

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        self.server = server
        #: Host and port, or the path of a Unix socket.
        self.client_address = address
        self._peer = str(address[0]) if isinstance(address, tuple) else ""
        #: When the wait for a request began, None outside of one; `time.monotonic`.
        self.waiting_since: float | None = None
        self._socket, self._client = sock, ClientSocket(sock, is_encrypted=server.ssl_enabled)
        self._received = RequestBuffer(self._client.receive)
        self.response = ResponseWriter(self._client, server)
        #: Whether a response has been sent.
        self.has_served = False
        #: When the last response began, in seconds since the epoch.
        self.began = 0.0
        self._pace: Pace | None = None
        self._is_head_read = False
        self._receive = self._client.receive
        if not server.ssl_enabled:
            # The bytes of a TLS connection can be read through its socket only.
            self._receive = ReplayingReceiver(
                sock.fileno(), server.microcache, self._may_replay, self._send_repeated, self._peer
            ).receive

    @property
    def deadline(self) -> float:
        """When the server closes the connection; `time.monotonic`."""
        return self._client.deadline

    @property
    def is_idle(self) -> bool:
        """Whether the connection waits for a request of which no byte is received."""
        return self.waiting_since is not None and not self._received and not self._is_head_read

    @property
    def request_since(self) -> float | None:
        """When the request began that arrives now; `time.monotonic`. None: none arrives."""
        if self.waiting_since is None or self.is_idle:
            return None
        return self._client.deadline - REQUEST_TIME

    @property
    def has_unread(self) -> bool:
        """Whether bytes of the client are in the kernel, not received yet."""
        return self._client.unread() > 0

    @property
    def speed(self) -> float:
        """Bytes a second that the client takes; infinite where the connection does not wait for it."""
        if self._pace is None or self.waiting_since is not None or self.deadline == math.inf:
            return math.inf
        return self._pace.speed(self.began)

    def measure(self, now: float) -> None:
        """Note how many bytes of a response the client has taken until `now`."""
        if self.waiting_since is None:
            if self._pace is None:
                self._pace = Pace()
            self._pace.note(self.began, now, self._client.taken())

    def stop_receiving(self) -> None:
        """End a wait for a request as if the client had closed its side.

        A request that has arrived completely gets its response.
        """
        self._client.stop_receiving()

    def cut(self) -> None:
        """End each wait for the client, and thereby the connection."""
        # The kernel is not to hold a response that the client does not receive.
        self._client.cut(drop_unsent=self.waiting_since is None)

    def handle(self) -> None:
        """Serve requests until the client or the server ends the connection."""
        self.server.connections.add(self)
        try:
            requests = 0
            while self._serve_request():
                requests += 1
                if requests % _REQUESTS_BETWEEN_SWITCHES == 0:
                    gevent.sleep(0)
        except OSError:
            # The client has closed the connection, or the server has cut it.
            pass
        finally:
            self.server.connections.discard(self)
            self._client.close()

    def log_request(
        self, request: parser.RequestHead, environ: dict[str, Any], seconds: float
    ) -> None:
        """Log a request whose response took `seconds`. Subclasses with an access log implement this."""

    def _serve_request(self) -> bool:
        """Serve one request. Return whether another one may follow."""
        try:
            request = self._next_request()
        except parser.RequestRefused as refused:
            log.info("refused a request from %s: %s", self.client_address, refused)
            status = refused.status.encode()
            self._client.send(
                b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % status
            )
            self._linger()
            return False
        if request is None:
            return False
        response, body = self.response, self._body(request)
        response.begin(request)
        is_streamed = isinstance(body, StreamedBody)
        if is_streamed:
            response.must_close = True
        self._client.deadline = math.inf
        self._respond(request, self._environ(request, body))
        self.has_served = True
        if is_streamed and not response.is_cut:
            self._linger()
        return not response.must_close

    def _body(self, request: parser.RequestHead) -> BufferedBody | StreamedBody:
        """Receive the body of `request`. Raises ConnectionError where the body ends early."""
        if request.length == 0:
            return BufferedBody()
        with self._receiving():
            return request_body(request, self._received, self._socket)

    def _linger(self) -> None:
        """End the response, and receive the rest of the request. Raises OSError."""
        with self._receiving():
            if self.server.is_draining:
                self._client.stop_receiving()
            self._client.linger()

    @contextlib.contextmanager
    def _receiving(self) -> Iterator[None]:
        """Count as waiting for the rest of a request until the block ends."""
        self.waiting_since, self._is_head_read = time.monotonic(), True
        yield
        self.waiting_since, self._is_head_read = None, False

    def _next_request(self) -> parser.RequestHead | None:
        """Return the next request, None where the client sends none. Raises RequestRefused."""
        received, now = self._received, time.monotonic()
        is_begun = not self.has_served or bool(received)
        self.waiting_since = now
        self._client.deadline = now + (REQUEST_TIME if is_begun else IDLE_TIME)
        if self.server.is_draining:
            # A request that has arrived is received in spite of that.
            self._client.stop_receiving()
        while (head := received.head()) is None:
            if not received:
                if not received.add(self._receive()):
                    return None
                self._client.deadline = time.monotonic() + REQUEST_TIME
            elif not received.receive():
                return None
        self.waiting_since = None
        return parser.parse(head)

    def _may_replay(self) -> bool:
        """Note a request whose response is repeated. Return whether another request may follow."""
        now = time.monotonic()
        self.waiting_since, self._client.deadline = now, now + IDLE_TIME
        return not self.server.is_scarce

    def _send_repeated(self, rest: memoryview) -> None:
        """Send the `rest` of a repeated response that the client does not take at once."""
        self.waiting_since, self.began = None, time.time()
        self._client.send_rest(rest)
        self.waiting_since = time.monotonic()
        self._client.deadline = self.waiting_since + IDLE_TIME

    def _environ(
        self, request: parser.RequestHead, body: BufferedBody | StreamedBody
    ) -> dict[str, Any]:
        environ = {**self.server.environ, **request.environ, "SCRIPT_NAME": ""}
        if isinstance(self.client_address, tuple):
            environ["REMOTE_ADDR"] = self._peer
            environ["REMOTE_PORT"] = str(self.client_address[1])
        environ["wsgi.input"] = body
        environ["wsgi.input_terminated"] = True
        return environ

    def _respond(self, request: parser.RequestHead, environ: dict[str, Any]) -> None:
        """Run the application; where it fails, send an error response or cut the response."""
        self.began = started = time.time()
        response = self.response
        try:
            self._run_application(request, environ)
        except _InvalidClientInput as error:
            log.info("refused a request from %s: %s", self.client_address, error)
            response.must_close = True
            response.send_error("400 Bad Request", b"")
        except OSError as error:
            if error.args and error.args[0] in _CLIENT_GONE:
                # Also a download that was interrupted.
                response.cut()
            else:
                self._fail(request, error)
        except BaseException as error:  # noqa: BLE001
            # A client gets a response even where a gevent.Timeout or a GreenletExit ends its request.
            self._fail(request, error)
        finally:
            if self.logs_requests:
                self.log_request(request, environ, time.time() - started)

    def _run_application(self, request: parser.RequestHead, environ: dict[str, Any]) -> None:
        response, body = self.response, None
        try:
            body = self.server.application(environ, response.start_response)
            response.send_body(body)
            if not response.must_close:
                self._store(request, environ)
        finally:
            close: Callable[[], None] | None = getattr(body, "close", None)
            if close is not None:
                close()

    def _store(self, request: parser.RequestHead, environ: dict[str, Any]) -> None:
        """Store the response in the microcache where the application allows its repetition."""
        replay = environ.get(REPLAY)
        if replay is None or request.length != 0:
            return
        if not self.logs_requests and not self.response.is_chunked:
            self.server.microcache.store(request.data + b"\r\n\r\n", self.response.head, replay)

    def _fail(self, request: parser.RequestHead, error: BaseException) -> None:
        if isinstance(error, PytailError):
            log.warning("%s: %s", request.line, error)
        elif not isinstance(error, gevent.GreenletExit):
            log.error("internal error while serving %s", request.line, exc_info=error)
        self.response.send_error("500 Internal Server Error", b"Internal Server Error")
