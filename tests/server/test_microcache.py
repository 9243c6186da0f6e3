"""The microcache repeats responses to identical requests, and answers no other request."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from pytail.config.values import proxies
from pytail.server.microcache import Microcache
from pytail.server.server import Server
from pytail.telemetry.access import AccessRecord
from pytail.web.middleware import STILL_VALID, AccessRecording, Replay
from tests.support.watching import until

LARGE = os.urandom(20_000_000)


class Site:
    """An application, the paths of its requests, and the access records that ended."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.records: list[AccessRecord] = []
        #: Whether its responses are still valid.
        self.is_valid = True
        self.body = b"body"

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.paths.append(environ["PATH_INFO"])
        length = str(len(self.body))
        start_response("200 OK", [("Content-Length", length), ("x-cache", "HIT")])
        environ[STILL_VALID] = lambda: self.is_valid
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [self.body]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture
def server(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    # The clock stands still unless a test advances it.
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        trusted = proxies("127.0.0.1")
        recording = AccessRecording(site, site.records.append, trusted=trusted)
        running = Server(listener, recording)
        running.start()
        try:
            yield running
        finally:
            running.stop(timeout=5)


class Second:
    """The clock of the microcache, in place of the module `time`."""

    now = 1000

    def time(self) -> float:
        return self.now


@contextlib.contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as client:
        yield client


def request(path: str = "/", *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]).encode()


def response(client: socket.socket, length: int = 4) -> tuple[dict[str, str], bytes]:
    """Return the fields and the body of the next response, whose body has `length` bytes."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += client.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    while len(body) < length:
        body += client.recv(1 << 20)
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    return {"status": status, **fields}, body


def test_identical_requests_get_the_same_response_with_different_ids(server: Server, site: Site):
    with connected(server) as client, connected(server) as other:
        responses = []
        for each in (client, client, other, client):
            each.sendall(request())
            responses.append(response(each))
    assert site.paths == ["/"]
    ids = {fields.pop("x-request-id") for fields, _ in responses}
    assert len(ids) == 4
    assert responses == [responses[0]] * 4


def test_each_repetition_has_an_access_record_with_its_bytes(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request("/a"))
            response(client)
    until(lambda: len(site.records) == 3)
    facts = {
        (
            record.method,
            record.path,
            record.status,
            record.outcome,
            record.bytes_sent,
            record.is_interrupted,
        )
        for record in site.records
    }
    assert facts == {("GET", "/a", "200", "HIT", 4, False)}
    assert all(record.seconds > 0 for record in site.records)


def test_repeated_response_to_head_has_no_body(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(2):
            client.sendall(request(method="HEAD"))
            assert response(client, 0)[1] == b""
        client.sendall(request())
        assert response(client)[1] == b"body"
    assert site.paths == ["/", "/"]


def test_response_that_is_no_longer_valid_is_not_repeated(server: Server, site: Site):
    with connected(server) as client:
        for body in (b"body", b"more"):
            site.body = body
            site.is_valid = False
            client.sendall(request())
            assert response(client)[1] == body
    assert len(site.paths) == 2


def test_response_is_not_repeated_in_the_next_second(server: Server, site: Site):
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request())
            response(client)
            Second.now += 1
    assert len(site.paths) == 3
    server.sweep()
    assert len(server.microcache) == 0


@pytest.mark.parametrize(
    "other",
    [request("/b"), request("/", "X: y"), request("/", "Content-Length: 2") + b"xy",
     request("/", "X-Request-Id: abc")],
)  # fmt: skip
def test_request_with_other_bytes_goes_to_the_application(server: Server, site: Site, other: bytes):
    with connected(server) as client:
        client.sendall(request())
        response(client)
        for _ in range(2):
            client.sendall(other)
            response(client)
    assert len(site.paths) >= 2
    is_stored = b"Content-Length" not in other and b"X-Request-Id" not in other
    assert len(site.paths) == (2 if is_stored else 3)


def test_split_and_pipelined_requests_get_their_responses_in_order(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        response(client)
        for byte in request():
            client.sendall(bytes([byte]))
        assert response(client)[1] == b"body"
        client.sendall(request() * 3 + request("/last", "Connection: close"))
        data = b"".join(iter(lambda: client.recv(65536), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 4
    assert site.paths[-1] == "/last"


def test_slow_client_gets_the_complete_body(server: Server, site: Site):
    site.body = LARGE
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request())
            # The kernel has taken as much as it can before the client receives.
            client.recv(1, socket.MSG_PEEK)
            assert response(client, len(LARGE))[1] == LARGE
    assert site.paths == ["/"]
    until(lambda: len(site.records) == 3)
    assert {record.bytes_sent for record in site.records} == {len(LARGE)}


def test_connection_does_not_wait_for_a_request_while_a_repeated_response_is_sent(
    server: Server, site: Site
):
    site.body = LARGE
    with connected(server) as client:
        client.sendall(request())
        response(client, len(LARGE))
        (connection,) = server.connections
        assert connection.waiting_since is not None
        client.sendall(request())
        client.recv(1, socket.MSG_PEEK)
        until(lambda: connection.waiting_since is None)
        assert not connection.is_idle
        assert response(client, len(LARGE))[1] == LARGE
        until(lambda: connection.waiting_since is not None)
    assert site.paths == ["/"]


def test_response_to_a_client_that_disconnects_is_recorded_as_interrupted(
    server: Server, site: Site
):
    site.body = LARGE
    with connected(server) as client:
        client.sendall(request())
        response(client, len(LARGE))
        client.sendall(request())
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: len(site.records) == 2)
    assert site.records[-1].is_interrupted
    assert site.records[-1].bytes_sent < len(LARGE)
    until(lambda: not server.connections)


def test_reset_ends_the_connection(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        response(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: not server.connections)


def test_request_during_draining_goes_to_the_application(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        response(client)
        server.is_draining = True
        client.sendall(request())
        fields, _ = response(client)
        assert fields["connection"] == "close"
        assert client.recv(1) == b""
    assert len(site.paths) == 2


def test_repetition_extends_the_deadline_of_an_idle_connection(server: Server, site: Site):
    with connected(server) as client:
        client.sendall(request())
        response(client)
        (connection,) = server.connections
        before = connection.deadline
        client.sendall(request())
        response(client)
        assert connection.deadline > before
        assert connection.is_idle


def test_other_clients_are_served_beside_a_client_that_never_pauses(server: Server, site: Site):
    with connected(server) as client, connected(server) as other:
        client.sendall(request())
        response(client)
        busy = gevent.spawn(flood, client)
        for number in range(20):
            other.sendall(request(f"/{number}"))
            response(other)
        busy.kill()


def flood(client: socket.socket) -> None:
    """Send identical requests without an end."""
    for _ in itertools.repeat(None):
        client.sendall(request())
        response(client)
        gevent.sleep(0)


def test_requests_and_responses_are_bounded_in_size(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    microcache, recording = Microcache(), AccessRecording(None)
    record = AccessRecord("GET", "/", recording.new_id())
    for number in range(200):
        replay = Replay(record, [bytes(1_000_000)], bool, recording, ("", None))
        microcache.store(b"%d" % number, b"head " + replay.id + b" rest", replay)
    assert len(microcache) == 33
    microcache.expire()
    microcache.store(b"x" * 10_000, b"head", replay)
    assert microcache.find(b"x" * 10_000) is None


def test_a_repeated_response_is_recorded_for_its_own_client(server: Server, site: Site):
    # The first address is that of the peer, which sends no X-Forwarded-For.
    for address in ("127.0.0.1", "127.0.0.2"):
        with socket.create_connection(
            ("127.0.0.1", server.server_port), timeout=10, source_address=(address, 0)
        ) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(1000).endswith(b"body")
    until(lambda: len(site.records) == 2)
    assert len(site.paths) == 1
    assert [record.client for record in site.records] == ["127.0.0.1", "127.0.0.2"]


def test_a_repeated_response_is_recorded_for_the_client_behind_a_proxy(server: Server, site: Site):
    request = b"GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n"
    for address in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        with socket.create_connection(
            ("127.0.0.1", server.server_port), timeout=10, source_address=(address, 0)
        ) as client:
            client.sendall(request)
            assert client.recv(1000).endswith(b"body")
    until(lambda: len(site.records) == 3)
    assert len(site.paths) == 1
    # The last one is no trusted proxy.
    assert [record.client for record in site.records] == ["192.0.2.7", "192.0.2.7", "127.0.0.2"]
