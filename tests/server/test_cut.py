"""A response that is cut ends by a reset, so that no client takes it for complete."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.server.server import Server
from tests.support.raw_http import connect, get, listening, received_until_reset, until_closed
from tests.support.running import clean_environ
from tests.support.watching import until

FAILURES = {
    "error": RuntimeError("broken"),
    "interrupted": ConnectionResetError(errno.ECONNRESET, "upstream"),
    "killed": gevent.GreenletExit(),
    "timeout": gevent.Timeout(),
}


def breaking(error: BaseException, *headers: tuple[str, str]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", list(headers))
        yield b"half"
        raise error

    return app


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_body_without_length_that_breaks_off_ends_by_a_reset(error: BaseException, version: str):
    with listening(Server, breaking(error)) as server, connect(server) as client:
        client.sendall(get(version=version))
        assert b"half" in received_until_reset(client)


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_body_with_length_that_breaks_off_ends_after_its_bytes(
    error: BaseException, version: str
):
    app = breaking(error, ("Content-Length", "10"))
    with listening(Server, app) as server, connect(server) as client:
        client.sendall(get("/", "Connection: keep-alive", version=version))
        assert until_closed(client).endswith(b"\r\n\r\nhalf")


def test_a_failure_before_the_first_byte_of_a_body_without_length_is_a_response():
    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        raise RuntimeError("broken")
        yield b""

    with listening(Server, app) as server, connect(server) as client:
        client.sendall(get(version="HTTP/1.0"))
        assert client.recv(65536).startswith(b"HTTP/1.1 500")


def test_an_interruption_before_the_head_ends_the_connection(caplog: pytest.LogCaptureFixture):
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise ConnectionResetError(errno.ECONNRESET, "upstream")

    with listening(Server, app) as server, connect(server) as client:
        client.sendall(get())
        assert until_closed(client) == b""
    assert not caplog.records


def test_a_complete_body_without_length_ends_as_usual(server: Server):
    with connect(server) as client:
        client.sendall(get("/parts", version="HTTP/1.0"))
        received = b""
        while data := client.recv(65536):
            received += data
    assert received.endswith(b"\r\n\r\nonetwo")


def test_a_response_that_exceeds_the_grace_time_ends_by_a_reset():
    gate = Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"half"
        gate.wait()

    with listening(Server, app) as server, connect(server) as client:
        client.sendall(get(version="HTTP/1.0"))
        assert client.recv(65536).endswith(b"half")
        server.stop(timeout=0.1)
        assert received_until_reset(client) == b""


def test_a_client_that_is_cut_while_it_sends_a_body_ends_quietly(
    server: Server, caplog: pytest.LogCaptureFixture
):
    with connect(server) as client:
        client.sendall(get("/", "Content-Length: 9", method="POST") + b"a")
        until(lambda: bool(server.connections))
        for connection in list(server.connections):
            connection.cut()
        until(lambda: not server.connections)
    assert not caplog.records


KILLED = """
from gevent import monkey; monkey.patch_all()
import os, socket, gevent
from pytail.server.server import Server
def app(environ, start_response):
    start_response("200 OK", [])
    yield b"half"
    gevent.sleep(60)
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
Server(listener, app).serve_forever()
"""


@pytest.mark.process
def test_a_killed_process_ends_a_body_without_length_by_a_reset():
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environ(PYTHONPATH=os.pathsep.join(sys.path)),
    )
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(get(version="HTTP/1.0"))
            received = b""
            while b"half" not in received:
                received += client.recv(65536)
            process.send_signal(signal.SIGKILL)
            assert received_until_reset(client) == b""
