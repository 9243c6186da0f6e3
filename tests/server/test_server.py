"""The number of connections, and the end of a server."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import time
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from pytail.server.server import Server
from tests.support.raw_http import (
    application,
    connect,
    get,
    listening,
    statuses,
    until_closed,
    waiting,
)
from tests.support.watching import until


def response_time(server: Server) -> float:
    started = time.monotonic()
    with connect(server) as client:
        client.sendall(get("/304", "Connection: close"))
        assert statuses(until_closed(client)) == [304]
    return time.monotonic() - started


def test_500_idle_or_slow_connections_do_not_delay_a_request(server: Server):
    before = resident()
    with contextlib.ExitStack() as clients:
        for number in range(500):
            client = clients.enter_context(connect(server))
            client.sendall(b"" if number % 2 else b"GET / HTTP/1.1\r\nX: " + b"x" * 1000)
        until(lambda: waiting(server) == 500)
        assert response_time(server) < 1
        assert resident() - before < 50_000_000


def resident() -> int:
    """Return the bytes of memory that this process uses."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_new_connection_cuts_the_oldest_one_at_the_maximum():
    with listening(Server, spawn=20) as server, contextlib.ExitStack() as clients:
        waiting_clients = [clients.enter_context(connect(server)) for _ in range(40)]
        assert response_time(server) < 1
        # The oldest was closed.
        assert waiting_clients[0].recv(1) == b""
        assert len(server.connections) <= 20


def test_limit_of_open_files_is_raised_for_the_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        with listening(Server, spawn=700):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 700
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_each_response_ends_its_connection_at_the_maximum():
    gate = Event()

    def slow(environ: dict[str, Any], start_response: Any) -> Any:
        gate.wait()
        return application(environ, start_response)

    with (
        listening(Server, slow, spawn=1) as server,
        connect(server) as first,
        connect(server) as second,
    ):
        first.sendall(get("/304"))
        second.sendall(get("/304"))
        until(lambda: len(server.connections) == 1)
        gate.set()
        for client in (first, second):
            received = until_closed(client)
            assert statuses(received) == [304]
            assert b"\r\nConnection: close\r\n" in received


def test_draining_closes_idle_connections_and_ends_others_after_their_response():
    gate, entered = Event(), Event()

    def slow(environ: dict[str, Any], start_response: Any) -> Any:
        entered.set()
        gate.wait()
        return application(environ, start_response)

    with (
        listening(Server, slow) as server,
        connect(server) as idle,
        connect(server) as busy,
    ):
        busy.sendall(get("/304") + get("/never"))
        entered.wait()
        until(lambda: waiting(server) == 1)
        server.close()
        assert until_closed(idle) == b""
        gate.set()
        received = until_closed(busy)
        assert statuses(received) == [304]
        assert b"\r\nConnection: close\r\n" in received


HALF_SENT = [
    b"",
    b"GET / HTT",
    get()[:-2],
    get("/", "Content-Length: 9", method="POST"),
    get("/", "Content-Length: 9", method="POST") + b"half",
    get("/", "Transfer-Encoding: chunked", method="POST") + b"9\r\nhalf",
    get("/", "Content-Length: 900000", method="POST") + b"half",
]


@pytest.mark.parametrize("start", HALF_SENT, ids=range(len(HALF_SENT)))
def test_the_end_does_not_wait_for_half_sent_requests(start: bytes):
    with listening(Server) as server, connect(server) as client:
        client.sendall(start)
        until(lambda: waiting(server) == 1)
        gevent.sleep(0.05)
        started = time.monotonic()
        server.stop(timeout=10)
        assert time.monotonic() - started < 1


def test_requests_that_have_arrived_at_the_end_are_answered():
    with listening(Server) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(blocking_connection(server))]
        until(lambda: waiting(server) == 1)
        clients += [stack.enter_context(blocking_connection(server)) for _ in range(20)]
        for client in clients:
            client.sendall(get("/304"))
        # The event loop has not run since the second one connected.
        server.close()
        until(lambda: not server.connections)
        for client in clients:
            client.settimeout(5)
            assert statuses(until_closed(client)) == [304]


def blocking_connection(server: Server) -> Any:
    """Connect with a socket that does not let the event loop run."""
    client = monkey.get_original("socket", "socket")()
    client.connect(("127.0.0.1", server.server_port))
    return client


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPERM, errno.ENOBUFS, errno.ENFILE])
def test_an_error_of_accept_ends_nothing(server: Server, number: int, capfd: Any):
    class Failing:
        """The listening socket, whose next `accept` fails."""

        def __init__(self, listener: Any) -> None:
            self.listener, self.is_failing = listener, True

        def _accept(self) -> Any:
            if self.is_failing:
                self.is_failing = False
                raise OSError(number, os.strerror(number))
            return self.listener._accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.listener, name)

    server.socket = Failing(server.socket)
    assert response_time(server) < 1
    assert "Traceback" not in capfd.readouterr().err
