"""Responses: the same as pywsgi's, in fewer packets, from memory and from files."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from gevent import monkey
from gevent.pywsgi import WSGIServer

from pytail.server.server import Server
from tests.support.raw_http import (
    BIG,
    ask,
    comparable,
    connect,
    get,
    listening,
    statuses,
    until_closed,
)
from tests.support.watching import until

REQUESTS = [
    get(),
    get("/a%20b/%C3%A9?x=%20&y"),
    get("/caf\xe9"),
    get("/", "X-One: 1", "x-one: 2", "Cookie: a=1", "Cookie: b=2", "A_B: c"),
    get("/", "Connection: close"),
    get("/", "Connection: keep-alive", version="HTTP/1.0"),
    get("/", version="HTTP/1.0"),
    get("/", method="HEAD"),
    get("/304"),
    get("/parts"),
    get("/parts", version="HTTP/1.0"),
    get("/close"),
    get("/broken"),
    get("/breaks"),
    get("/injected"),
    get("/read", "Content-Length: 5", method="POST") + b"hello",
    get("/read", "Transfer-Encoding: chunked", method="POST") + b"5\r\nhello\r\n0\r\n\r\n",
    get("/", "Content-Length: 5", method="POST") + b"hello" + get("/after"),
    get("/1") + get("/2") + get("/304") + get("/3"),
    get("/read", "Content-Length: 5", "Expect: 100-continue", method="POST") + b"hello",
]


@pytest.mark.parametrize("request_", REQUESTS, ids=range(len(REQUESTS)))
def test_response_is_the_same_as_that_of_pywsgi(server: Server, request_: bytes):
    with listening(WSGIServer, log=None, error_log=None) as plain:
        expected, found = ask(plain, request_), ask(server, request_)
    assert sorted(comparable(found).split(b"\r\n")) == sorted(comparable(expected).split(b"\r\n"))


def test_head_and_small_body_arrive_at_once(server: Server):
    with connect(server) as client:
        client.sendall(get())
        received = client.recv(65536)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert received.endswith(b"}")


def test_large_body_arrives_completely(server: Server):
    received = ask(server, get("/big") + get("/304"))
    assert received.partition(b"\r\n\r\n")[2].startswith(BIG)
    assert statuses(received.replace(BIG, b"")) == [200, 304]


def test_response_to_connection_close_has_connection_close(server: Server):
    with connect(server) as client:
        client.sendall(get("/", "Connection: close"))
        received = until_closed(client)
    assert b"\r\nConnection: close\r\n" in received


def test_response_to_head_without_content_length_has_no_body(server: Server):
    received = ask(server, get("/parts", method="HEAD") + get("/304"))
    assert statuses(received) == [200, 304]
    assert b"0\r\n\r\n" not in received


def test_body_shorter_than_its_content_length_closes_the_connection(server: Server):
    assert statuses(ask(server, get("/short") + get())) == [200]


class SendableFile:
    """A `SendableBody` that cannot be iterated."""

    def __init__(self, file: Any, offset: int, length: int) -> None:
        self.file, self.offset, self.length = file, offset, length
        self.sent, self.position, self.is_closed = 0, 0, False

    def advance(self, count: int) -> None:
        self.sent += count
        self.position += count

    def sendable(self) -> tuple[int, int, int] | None:
        rest = self.length - self.position
        return (self.file.fileno(), self.offset + self.position, rest) if rest else None

    def __iter__(self) -> Iterator[bytes]:
        assert self.position == self.length, "iterated"
        return iter(())

    def close(self) -> None:
        self.position, self.is_closed = 0, True


@contextlib.contextmanager
def serving_file(path: Path, offset: int, length: int) -> Iterator[tuple[Server, SendableFile]]:
    with path.open("rb", buffering=0) as file:
        body = SendableFile(file, offset, length)

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [("Content-Length", str(length))])
            return body

        with listening(Server, app) as server:
            yield server, body


@pytest.mark.parametrize(("offset", "length"), [(0, len(BIG)), (1_234_567, 1_000_000), (5, 0)])
def test_file_is_sent_from_its_descriptor(tmp_path: Path, offset: int, length: int):
    (tmp_path / "file").write_bytes(BIG)
    with serving_file(tmp_path / "file", offset, length) as (server, body):
        received = ask(server, get() * 2)
    head, _, rest = received.partition(b"\r\n\r\n")
    assert rest[:length] == BIG[offset : offset + length]
    assert rest[length:].startswith(head.partition(b"\r\nDate")[0])
    assert body.is_closed
    assert body.sent == 2 * length


def test_file_truncated_while_it_is_sent_closes_the_connection(tmp_path: Path):
    size = 50_000_000
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    with (
        serving_file(tmp_path / "file", 0, size) as (server, _),
        connect(server) as client,
    ):
        client.sendall(get() * 2)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        os.truncate(tmp_path / "file", 20_000_000)
        assert len(until_closed(client)) < size


def test_client_that_disconnects_closes_the_file(tmp_path: Path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50_000_000)
    with serving_file(tmp_path / "file", 0, 50_000_000) as (server, body):
        with connect(server) as client:
            client.sendall(get())
            client.recv(1000)
        until(lambda: body.is_closed and not server.connections)


def drained(address: tuple[str, int], request: bytes) -> int:
    """Return how many bytes come back, received in a thread outside of the event loop."""
    with monkey.get_original("socket", "socket")() as client:
        client.connect(address)
        client.sendall(request)
        buffer, count = bytearray(1 << 20), 0
        while received := client.recv_into(buffer):
            count += received
        return count


def test_fast_client_of_a_file_lets_other_greenlets_run(tmp_path: Path):
    size = 500_000_000
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    with serving_file(tmp_path / "file", 0, size) as (server, _):
        address = ("127.0.0.1", server.server_port)
        client = gevent.get_hub().threadpool.spawn(drained, address, get("/", "Connection: close"))
        rounds = 0
        while not client.ready():
            gevent.sleep(0)
            rounds += 1
        assert client.get() > size
    assert rounds > 100


def test_tls_connection_carries_the_same_responses(authority: trustme.CA, tls_server: Server):
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with trusting.wrap_socket(connect(tls_server), server_hostname="127.0.0.1") as client:
        client.sendall(get("/big") + get("/304", "Connection: close"))
        received = until_closed(client)
    assert received.partition(b"\r\n\r\n")[2].startswith(BIG)
    assert statuses(received.replace(BIG, b"")) == [200, 304]


def test_failure_in_the_framing_is_a_complete_response_500():
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "unknown")])
        return [b"body"]

    with listening(Server, app) as server:
        received = ask(server, get())
    assert statuses(received) == [500]
    assert received.endswith(b"\r\n\r\nInternal Server Error")
