"""What was just said is said again where it is asked for, and nothing else is."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pytail.server.microcache import Microcache
from pytail.server.server import Server
from pytail.telemetry.access import AccessRecord
from pytail.web.middleware import STILL_VALID, AccessRecording, Replay
from tests.support.watching import until

LARGE = os.urandom(20_000_000)


class Site:
    """A served application, what it was asked, and what was told of each exchange."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: list[AccessRecord] = []
        #: Whether its responses may be given again.
        self.is_lasting = True
        self.body = b"body"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.asked.append(environ["PATH_INFO"])
        length = str(len(self.body))
        start_response("200 OK", [("Content-Length", length), ("x-cache", "HIT")])
        environ[STILL_VALID] = lambda: self.is_lasting
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [self.body]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # The second goes on when a test says so.
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = Server(listener, AccessRecording(site, site.told.append))
        running.start()
        try:
            yield running
        finally:
            running.stop(timeout=5)


class Second:
    """Stands for the clock of the replies."""

    now = 1000

    def time(self) -> float:
        return self.now


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        yield client


def request(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def answer(client: socket.socket, length: int = 4) -> tuple[dict[str, str], bytes]:
    """The next response's fields and body of `length` bytes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    while len(body) < length:
        body += client.recv(1 << 20)
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return {"status": status, **fields}, body


def test_the_same_request_is_answered_the_same_under_another_id(server: Server, site: Site):
    with connected(server) as client, connected(server) as other:
        said = []
        for each in (client, client, other, client):
            each.sendall(request())
            said.append(answer(each))
    assert site.asked == ["/"]
    ids = {fields.pop("x-request-id") for fields, _ in said}
    assert len(ids) == 4
    assert said == [said[0]] * 4


def test_each_answer_is_told_with_its_bytes(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request("/a"))
            answer(client)
    until(lambda: len(site.told) == 3)
    facts = {
        (x.method, x.path, x.status, x.outcome, x.bytes_sent, x.is_interrupted) for x in site.told
    }
    assert facts == {("GET", "/a", "200", "HIT", 4, False)}
    assert all(exchange.seconds > 0 for exchange in site.told)


def test_a_head_is_answered_again_without_a_body(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(2):
            client.sendall(request(method="HEAD"))
            assert answer(client, 0)[1] == b""
        client.sendall(request())
        assert answer(client)[1] == b"body"
    assert site.asked == ["/", "/"]


def test_the_application_is_asked_where_it_would_say_otherwise(server: Server, site: Site):
    with connected(server) as client:
        for body in (b"body", b"more"):
            site.body = body
            site.is_lasting = False
            client.sendall(request())
            assert answer(client)[1] == body
    assert len(site.asked) == 2


def test_the_application_is_asked_in_the_next_second(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request())
            answer(client)
            Second.now += 1
    assert len(site.asked) == 3
    server.sweep()
    assert len(server.microcache) == 0


@pytest.mark.parametrize(
    "other",
    [request("/b"), request("/", "X: y"), request("/", "Content-Length: 2") + b"xy",
     request("/", "X-Request-Id: abc")],
)  # fmt: skip
def test_another_request_is_the_applications(server: Server, site: Site, other: bytes):
    with connected(server) as client:
        client.sendall(request())
        answer(client)
        for _ in range(2):
            client.sendall(other)
            answer(client)
    assert len(site.asked) >= 2
    is_kept = b"Content-Length" not in other and b"X-Request-Id" not in other
    assert len(site.asked) == (2 if is_kept else 3)


def test_requests_in_pieces_and_several_at_once_are_answered_in_order(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        answer(client)
        for byte in request():
            client.sendall(bytes([byte]))
        assert answer(client)[1] == b"body"
        client.sendall(request() * 3 + request("/last", "Connection: close"))
        data = b"".join(iter(lambda: client.recv(65536), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 4
    assert site.asked[-1] == "/last"


def test_a_client_that_reads_late_gets_the_whole(server: Server, site: Site):
    site.body = LARGE
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request())
            gevent.sleep(0.05)
            assert answer(client, len(LARGE))[1] == LARGE
    assert site.asked == ["/"]
    until(lambda: len(site.told) == 3)
    assert {exchange.bytes_sent for exchange in site.told} == {len(LARGE)}


def test_a_client_that_goes_away_in_the_middle_is_told_as_cut(server: Server, site: Site):
    site.body = LARGE
    with connected(server) as client:
        client.sendall(request())
        answer(client, len(LARGE))
        client.sendall(request())
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: len(site.told) == 2)
    assert site.told[-1].is_interrupted
    assert site.told[-1].bytes_sent < len(LARGE)
    until(lambda: not server.connections)


def test_a_reset_ends_the_connection(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        answer(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not server.connections)


def test_a_connection_that_is_to_end_is_not_the_porters(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        answer(client)
        server.is_draining = True
        client.sendall(request())
        fields, _ = answer(client)
        assert fields["connection"] == "close"
        assert client.recv(1) == b""
    assert len(site.asked) == 2


def test_answering_again_keeps_a_connection_from_idling_out(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        answer(client)
        (handler,) = server.connections
        before = handler.deadline
        time.sleep(0.01)
        client.sendall(request())
        answer(client)
        assert handler.deadline > before
        assert handler.is_idle


def test_others_get_their_turn_beside_a_client_that_never_stops(server: Server, site: Site):
    with connected(server) as client, connected(server) as other:
        client.sendall(request())
        answer(client)
        busy = gevent.spawn(flood, client)
        for number in range(20):
            other.sendall(request(f"/{number}"))
            answer(other)
        busy.kill()


def flood(client: socket.socket) -> None:
    for _ in itertools.repeat(None):
        client.sendall(request())
        answer(client)
        gevent.sleep(0)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    replies, watched = Microcache(), AccessRecording(None)
    exchange = AccessRecord("GET", "/", watched.new_id())
    for number in range(200):
        one = Replay(exchange, [bytes(1_000_000)], bool, watched)
        replies.store(b"%d" % number, b"head " + one.id + b" rest", one)
    assert len(replies) == 33
    replies.expire()
    replies.store(b"x" * 10_000, b"head", one)
    assert replies.find(b"x" * 10_000) is None
