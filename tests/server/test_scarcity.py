"""Which connection ends where connections or descriptors are scarce."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import monkey
from gevent.event import Event

from pytail.server.scarcity import FIRST_BYTE_TIME, PATIENCE, SLOW, Pace
from pytail.server.server import Server
from tests.support.raw_http import application, connect, get, listening, statuses, until_closed
from tests.support.running import clean_environ
from tests.support.watching import until

LARGE = bytes(40_000_000)


class Gated:
    """An application whose responses wait for a gate; ``/large`` is a large response at once."""

    def __init__(self) -> None:
        self.gate, self.entered = Event(), 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/large":
            start_response("200 OK", [("Content-Length", str(len(LARGE)))])
            return [LARGE]
        self.entered += 1
        self.gate.wait()
        return application(environ, start_response)


@pytest.fixture
def gated() -> Gated:
    return Gated()


def raw_connection(server: Server, data: bytes) -> socket.socket:
    """Connect and send `data` while the event loop stands still."""
    client = monkey.get_original("socket", "socket")()
    client.connect(("127.0.0.1", server.server_port))
    client.sendall(data)
    return socket.socket(fileno=client.detach())


def test_a_burst_cuts_no_connection_whose_request_has_arrived():
    with listening(Server, spawn=5) as server, contextlib.ExitStack() as clients:
        burst = [clients.enter_context(raw_connection(server, get("/304"))) for _ in range(60)]
        received = [until_closed(client) for client in burst]
    assert [statuses(one) for one in received] == [[304]] * 60


def test_a_request_that_is_not_read_yet_is_answered_though_its_connection_was_idle():
    with listening(Server, spawn=2) as server, contextlib.ExitStack() as clients:
        first = clients.enter_context(monkey.get_original("socket", "socket")())
        first.connect(("127.0.0.1", server.server_port))
        first.sendall(get("/304"))
        until(lambda: any(one.has_served and one.is_idle for one in server.connections))
        first.recv(65536)
        burst = [clients.enter_context(raw_connection(server, get("/304"))) for _ in range(5)]
        first.sendall(get("/304"))
        # The event loop has not run since the burst.
        assert [statuses(client.recv(65536)) for client in burst] == [[304]] * 5
        assert statuses(first.recv(65536)) == [304]


def test_requests_in_the_application_are_never_cut(gated: Gated):
    with listening(Server, gated, spawn=3) as server, contextlib.ExitStack() as clients:
        busy = [clients.enter_context(connect(server)) for _ in range(3)]
        for client in busy:
            client.sendall(get("/304", "Connection: close"))
        until(lambda: gated.entered == 3)
        late = clients.enter_context(connect(server))
        late.sendall(get("/304", "Connection: close"))
        gevent.sleep(FIRST_BYTE_TIME * 5)
        gated.gate.set()
        for client in (*busy, late):
            assert statuses(until_closed(client)) == [304]


def test_no_connection_is_closed_while_none_waits_to_be_accepted(gated: Gated):
    with listening(Server, gated, spawn=3) as server, contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(connect(server))
        until(lambda: len(server.connections) == 3)
        gevent.sleep(FIRST_BYTE_TIME * 3)
        assert len(server.connections) == 3


def test_half_sent_requests_do_not_lock_others_out():
    starts = (b"GET / HTTP/1.1\r\nX: ", get("/", "Content-Length: 9", method="POST") + b"a")
    with listening(Server, spawn=4) as server, contextlib.ExitStack() as clients:
        for number in range(4):
            clients.enter_context(connect(server)).sendall(starts[number % 2])
        until(lambda: len(server.connections) == 4)
        client = clients.enter_context(connect(server))
        client.sendall(get("/304"))
        client.settimeout(5)
        assert statuses(until_closed(client)) == [304]


def test_slow_readers_do_not_lock_others_out(gated: Gated):
    with listening(Server, gated, spawn=3) as server, contextlib.ExitStack() as clients:
        gated.gate.set()
        readers = [slow_reader(clients, server) for _ in range(3)]
        until(lambda: len(server.connections) == 3)
        late = clients.enter_context(connect(server))
        started = time.monotonic()
        late.sendall(get("/304"))
        assert statuses(until_closed(late)) == [304]
        assert time.monotonic() - started < PATIENCE
        # One place was enough.
        until(lambda: len(server.connections) == 2)
        assert len(readers) == 3


def slow_reader(clients: contextlib.ExitStack, server: Server) -> socket.socket:
    client = clients.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.server_port))
    client.sendall(get("/large"))
    return client


def test_the_slowest_reader_is_cut_and_a_faster_one_gets_all(gated: Gated):
    with listening(Server, gated, spawn=2) as server, contextlib.ExitStack() as clients:
        gated.gate.set()
        slow_reader(clients, server)
        fast = clients.enter_context(connect(server))
        fast.sendall(get("/large"))
        received = gevent.spawn(received_at, fast, 8_000_000)
        gevent.sleep(0.5)
        late = clients.enter_context(connect(server))
        late.sendall(get("/304"))
        assert statuses(until_closed(late)) == [304]
        assert received.get() > len(LARGE)


def received_at(client: socket.socket, speed: int) -> int:
    """Return how many bytes come, received at `speed` bytes a second."""
    count = 0
    while data := client.recv(speed // 20):
        count += len(data)
        gevent.sleep(len(data) / speed)
    return count


def test_the_speed_is_known_from_the_second_measurement_of_one_response():
    pace = Pace()
    pace.note(1.0, 10, 5000)
    assert pace.speed(1.0) == float("inf")
    pace.note(1.0, 12, 7000)
    assert pace.speed(1.0) == 1000
    assert pace.speed(2.0) == float("inf")
    pace.note(2.0, 13, 7000)
    assert pace.speed(2.0) == float("inf")
    assert SLOW > 1000


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process `count` descriptors until the block ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, before[1]))
    fillers = []
    try:
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(fillers.pop())
        yield
    finally:
        for filler in fillers:
            os.close(filler)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_requests_are_answered_with_few_descriptors(caplog: pytest.LogCaptureFixture):
    with listening(Server, spawn=100) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(30)]
        with descriptors_left(4):
            for client in clients:
                client.connect(("127.0.0.1", server.server_port))
            for client in clients:
                client.sendall(get("/304"))
            for client in clients:
                client.settimeout(10)
                assert statuses(client.recv(65536)) == [304]
    lines = [record for record in caplog.records if "cannot accept" in record.getMessage()]
    assert len(lines) == 1
    assert os.strerror(errno.EMFILE) in lines[0].getMessage()


def test_accept_does_not_spin_without_descriptors(gated: Gated):
    with listening(Server, gated, spawn=100) as server, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(6)]
        with descriptors_left(3):
            for client in clients:
                client.connect(("127.0.0.1", server.server_port))
                client.sendall(get("/304"))
            until(lambda: gated.entered == 3)
            before = time.process_time()
            gevent.sleep(1)
            assert time.process_time() - before < 0.2
            gated.gate.set()
            for client in clients:
                client.settimeout(10)
                assert statuses(client.recv(65536)) == [304]


LIMITED = """
import gevent.monkey; gevent.monkey.patch_all()
import logging, resource, socket, sys
from pytail.server.server import Server
logging.basicConfig(stream=sys.stdout, format="%(message)s")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
server = Server(socket.create_server(("127.0.0.1", 0)), None, 1000)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], server.pool.size)
"""


@pytest.mark.process
def test_the_number_of_connections_follows_the_hard_limit_of_open_files():
    environ = clean_environ(PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", LIMITED]
    out = subprocess.run(command, capture_output=True, text=True, env=environ, check=True)
    line, numbers = out.stdout.splitlines()
    limit, connections = map(int, numbers.split())
    assert limit == 128
    assert 20 <= connections <= 30
    assert line == f"the limit of open files permits {connections} connections, not 1000"
