"""A `Server` with a small application, and requests to it as bytes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

from pytail.server.server import Server

BIG = os.urandom(3_000_000)


PLAIN = ("Content-Type", "text/plain")


#: Status, headers and body of the responses to some paths.
RESPONSES: dict[str, tuple[str, list[tuple[str, str]], Any]] = {
    "/big": ("200 OK", [PLAIN, ("Content-Length", str(len(BIG)))], [BIG]),
    "/parts": ("200 OK", [PLAIN], (b"one", b"", b"two")),
    "/304": ("304 Not Modified", [("ETag", '"x"')], []),
    "/short": ("200 OK", [PLAIN, ("Content-Length", "10")], [b"short"]),
    "/close": ("200 OK", [PLAIN, ("Connection", "close")], [b"bye"]),
    "/injected": ("200 OK", [("X", "a\r\nY: b")], []),
}


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """Respond as RESPONSES has it, else with the strings of `environ` as JSON."""
    path = environ["PATH_INFO"]
    if path in RESPONSES:
        status, headers, body = RESPONSES[path]
        start_response(status, headers)
        return iter(body) if isinstance(body, tuple) else body
    if path == "/broken":
        raise RuntimeError("broken")
    if path == "/breaks":
        return breaking(start_response)
    start_response("200 OK", [PLAIN])
    if path == "/read":
        return [environ["wsgi.input"].read()]
    strings = {key: value for key, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**strings, "REMOTE_PORT": None}, sort_keys=True).encode()]


def breaking(start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    yield b"half"
    raise RuntimeError("broken")


@contextlib.contextmanager
def listening(make: Callable[..., Any], app: Any = application, **options: Any) -> Iterator[Any]:
    """Run a server of the class `make`."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = make(listener, app, environ={"SERVER_PORT": "80"}, **options)
        server.start()
        try:
            yield server
        finally:
            server.stop(timeout=5)


def connect(server: Any) -> socket.socket:
    """Return a new connection to `server`."""
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)


def until_closed(client: socket.socket) -> bytes:
    """Return all bytes until the server closes the connection."""
    received = []
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(1 << 20):
            received.append(chunk)
    return b"".join(received)


def received_until_reset(client: socket.socket) -> bytes:
    """Return all bytes until the reset. Fails where the connection ends as usual."""
    received = b""
    while True:
        try:
            data = client.recv(65536)
        except ConnectionResetError:
            return received
        assert data, "the connection ended as usual"
        received += data


def ask(server: Any, request: bytes) -> bytes:
    """Return all bytes that come back for `request` on its own connection."""
    with connect(server) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return until_closed(client)


def statuses(data: bytes) -> list[int]:
    """Return the status codes of the responses in `data`."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    """Return a request with `fields`, as bytes."""
    return "\r\n".join([f"{method} {path} {version}", "Host: x", *fields, "", ""]).encode("latin-1")


def waiting(server: Server) -> int:
    """Return how many connections wait for a request."""
    return sum(one.waiting_since is not None for one in server.connections)


#: Headers that change with time, or that only pytail sends (RFC 9112 section 9.6).
_VARYING = re.compile(rb"Date: [^\r]*\r\n|Connection: close\r\n")


def comparable(data: bytes) -> bytes:
    """Return responses without Date and ``Connection: close``."""
    return _VARYING.sub(b"", data)
