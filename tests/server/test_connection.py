"""Requests of a connection, and the deadlines of its waits."""

from __future__ import annotations

import itertools
import math
import socket
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.server.client_socket import STALL_TIME
from pytail.server.connection import IDLE_TIME, REQUEST_TIME
from pytail.server.server import Server
from tests.support.raw_http import (
    ask,
    comparable,
    connect,
    get,
    listening,
    statuses,
    until_closed,
    waiting,
)
from tests.support.watching import until

REFUSED_BY_PYWSGI = [
    b"GET\r\n\r\n",
    b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
    b"POST /\r\n\r\n",
    b"GET / / HTTP/1.1\r\nHost: x\r\n\r\n",
    get("/", "Content-Length: x", method="POST"),
    get("/", "Content-Length: -5", method="POST"),
    get("/", "Content-Length: 5", method="HEAD"),
    get("/" + "a" * 9000),
    get("/", "X: " + "x" * 70_000),
    get("/", *(f"X-{number}: x" for number in range(200))),
]


@pytest.mark.parametrize("request_", REFUSED_BY_PYWSGI, ids=range(len(REFUSED_BY_PYWSGI)))
def test_request_that_pywsgi_refuses_is_refused(server: Server, request_: bytes):
    with listening(WSGIServer, log=None, error_log=None) as plain:
        assert statuses(ask(plain, request_))[0] >= 400
    (status,) = statuses(ask(server, request_))
    assert status >= 400


#: Requests after which another one can follow.
COMPLETE = [
    get("/304"),
    get("/a%20b/?x=%20", "X-One: 1"),
    get("/", method="HEAD"),
    get("/parts"),
    get("/read", "Content-Length: 5", method="POST") + b"he\r\no",
    get("/", "Content-Length: 300", method="POST") + b"GET / HTTP/1.1\r\n\r\n" + b"x" * 282,
]


def test_head_may_arrive_byte_by_byte(server: Server):
    with connect(server) as client:
        for byte in get("/304", "Connection: close"):
            client.sendall(bytes([byte]))
        assert statuses(until_closed(client)) == [304]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(COMPLETE), max_size=5), st.lists(st.integers(0, 700)))
def test_responses_are_the_same_wherever_the_requests_are_split(
    requests: list[bytes], cuts: list[int]
):
    data = b"".join(requests)
    ends = sorted({cut for cut in cuts if cut < len(data)} | {len(data)})
    with listening(Server) as server, connect(server) as client:
        for start, end in itertools.pairwise([0, *ends]):
            client.sendall(data[start:end])
            gevent.sleep(0)
        client.shutdown(socket.SHUT_WR)
        received = until_closed(client)
        assert comparable(received) == comparable(ask(server, data))
    assert len(statuses(received)) == len(requests)


def test_busy_connection_lets_other_greenlets_run(server: Server):
    rounds = []
    with connect(server) as client:
        client.sendall(get("/304") * 2000)
        client.shutdown(socket.SHUT_WR)
        counting = gevent.spawn(lambda: [rounds.append(gevent.sleep(0)) for _ in range(50)])
        assert len(statuses(until_closed(client))) == 2000
        assert counting.ready()


def test_slow_tls_handshake_ends_at_its_deadline(tls_server: Server):
    with connect(tls_server) as client:
        client.sendall(b"\x16\x03\x01")
        until(lambda: waiting(tls_server) == 1)
        tls_server.sweep(time.monotonic() + REQUEST_TIME + 1)
        assert until_closed(client) == b""


@pytest.mark.parametrize("start", [b"", b"GET / HT", get()[:-2]])
def test_slow_head_ends_at_its_deadline_though_bytes_arrive(server: Server, start: bytes):
    with connect(server) as client:
        client.sendall(start)
        until(lambda: waiting(server) == 1)
        now = time.monotonic()
        server.sweep(now + REQUEST_TIME - 1)
        for byte in b"X":
            client.sendall(bytes([byte]))
        assert waiting(server) == 1
        server.sweep(now + REQUEST_TIME + 1)
        assert until_closed(client) == b""


def test_slow_body_ends_at_its_deadline(server: Server):
    with connect(server) as client:
        client.sendall(get("/", "Content-Length: 5", method="POST") + b"a")
        until(lambda: any(not one.is_idle for one in server.connections))
        server.sweep(time.monotonic() + REQUEST_TIME + 1)
        assert until_closed(client) == b""


def test_idle_connection_ends_at_its_deadline(server: Server):
    with connect(server) as client:
        client.sendall(get("/304"))
        assert statuses(client.recv(65536)) == [304]
        until(lambda: waiting(server) == 1)
        now = time.monotonic()
        server.sweep(now + IDLE_TIME - 1)
        client.sendall(get("/304"))
        assert statuses(client.recv(65536)) == [304]
        until(lambda: waiting(server) == 1)
        server.sweep(now + IDLE_TIME + 10)
        assert until_closed(client) == b""


def test_client_that_receives_nothing_ends_at_its_deadline(server: Server):
    with connect(server) as client:
        client.sendall(get("/big") * 20)
        until(lambda: server.connections)
        (connection,) = server.connections
        until(lambda: connection.deadline < math.inf and connection.waiting_since is None)
        server.sweep(time.monotonic() + STALL_TIME + 1)
        until(lambda: not server.connections)


def test_application_has_no_deadline():
    gate = Event()

    def slow(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "4")])
        yield b"on"
        gate.wait()
        yield b"ly"

    with listening(Server, slow) as server, connect(server) as client:
        client.sendall(get("/", "Connection: close"))
        assert client.recv(65536).endswith(b"on")
        server.sweep(time.monotonic() + 1000)
        gate.set()
        assert until_closed(client) == b"ly"
