"""The wire: answers as pywsgi gives them, in fewer pieces, to clients good and bad."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from gevent import monkey
from gevent.event import Event
from gevent.pywsgi import WSGIServer
from hypothesis import given, settings
from hypothesis import strategies as st

from pytail.server.connection import IDLE_TIME, REQUEST_TIME, STALL_TIME
from pytail.server.server import Server

BIG = os.urandom(3_000_000)


PLAIN = ("Content-Type", "text/plain")
#: What is answered to some paths: the status, headers and a body.
ANSWERS: dict[str, tuple[str, list[tuple[str, str]], Any]] = {
    "/big": ("200 OK", [PLAIN, ("Content-Length", str(len(BIG)))], [BIG]),
    "/parts": ("200 OK", [PLAIN], (b"one", b"", b"two")),
    "/304": ("304 Not Modified", [("ETag", '"x"')], []),
    "/short": ("200 OK", [PLAIN, ("Content-Length", "10")], [b"short"]),
    "/close": ("200 OK", [PLAIN, ("Connection", "close")], [b"bye"]),
    "/injected": ("200 OK", [("X", "a\r\nY: b")], []),
}


def application(environ: dict[str, Any], start_response: Any) -> Any:
    """What the path asks for, or what was asked."""
    path = environ["PATH_INFO"]
    if path in ANSWERS:
        status, headers, body = ANSWERS[path]
        start_response(status, headers)
        return iter(body) if isinstance(body, tuple) else body
    if path == "/broken":
        raise RuntimeError("broken")
    if path == "/breaks":
        return breaking(start_response)
    start_response("200 OK", [PLAIN])
    if path == "/read":
        return [environ["wsgi.input"].read()]
    shown = {key: value for key, value in environ.items() if isinstance(value, str)}
    return [json.dumps({**shown, "REMOTE_PORT": None}, sort_keys=True).encode()]


def breaking(start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "10")])
    yield b"half"
    raise RuntimeError("broken")


@contextlib.contextmanager
def listening(make: Callable[..., Any], app: Any = application, **options: Any) -> Iterator[Any]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = make(listener, app, environ={"SERVER_PORT": "80"}, **options)
        server.start()
        try:
            yield server
        finally:
            server.stop(timeout=5)


@pytest.fixture
def server() -> Iterator[Server]:
    with listening(Server) as running:
        yield running


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)


def until_closed(client: socket.socket) -> bytes:
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := client.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces)


def ask(server: Any, request: bytes) -> bytes:
    """All that comes back for `request` on a connection that says nothing more."""
    with connect(server) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return until_closed(client)


def statuses(data: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", data)]


def get(path: str = "/", *fields: str, method: str = "GET", version: str = "HTTP/1.1") -> bytes:
    return "\r\n".join([f"{method} {path} {version}", "Host: x", *fields, "", ""]).encode("latin-1")


GOOD = [
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

#: After which another one may follow.
WELL_ENDED = [
    get("/304"),
    get("/a%20b/?x=%20", "X-One: 1"),
    get("/", method="HEAD"),
    get("/parts"),
    get("/read", "Content-Length: 5", method="POST") + b"he\r\no",
    get("/", "Content-Length: 300", method="POST") + b"GET / HTTP/1.1\r\n\r\n" + b"x" * 282,
]

#: Not of the answer, or said where pywsgi does not although RFC 9112 section 9.6 asks for it.
_APART = re.compile(rb"Date: [^\r]*\r\n|Connection: close\r\n")


@pytest.mark.parametrize("request_", GOOD, ids=range(len(GOOD)))
def test_answer_is_that_of_pywsgi(server: Server, request_: bytes):
    with listening(WSGIServer, log=None, error_log=None) as plain:
        expected, found = ask(plain, request_), ask(server, request_)
    assert sorted(_APART.sub(b"", found).split(b"\r\n")) == sorted(
        _APART.sub(b"", expected).split(b"\r\n")
    )


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
def test_what_pywsgi_refuses_is_refused(server: Server, request_: bytes):
    with listening(WSGIServer, log=None, error_log=None) as plain:
        assert statuses(ask(plain, request_))[0] >= 400
    (status,) = statuses(ask(server, request_))
    assert status >= 400


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 0"],
        ["Transfer-Encoding : chunked"],
        ["X: a\nTransfer-Encoding: chunked"],
    ],
)
def test_no_request_hides_in_another(server: Server, fields: list[str]):
    hidden = b"0\r\n\r\n" + get("/hidden")
    answer = ask(server, get("/", *fields, method="POST") + hidden)
    assert statuses(answer) == [400]
    assert b"Connection: close" in answer


def test_head_and_small_body_arrive_in_one_piece(server: Server):
    with connect(server) as client:
        client.sendall(get())
        piece = client.recv(65536)
        assert piece.startswith(b"HTTP/1.1 200 OK\r\n")
        assert piece.endswith(b"}")


def test_large_body_arrives_whole(server: Server):
    answer = ask(server, get("/big") + get("/304"))
    assert answer.partition(b"\r\n\r\n")[2].startswith(BIG)
    assert statuses(answer.replace(BIG, b"")) == [200, 304]


def test_close_is_answered_by_close(server: Server):
    with connect(server) as client:
        client.sendall(get("/", "Connection: close"))
        answer = until_closed(client)
    assert b"\r\nConnection: close\r\n" in answer


def test_head_answer_without_length_has_no_body(server: Server):
    answer = ask(server, get("/parts", method="HEAD") + get("/304"))
    assert statuses(answer) == [200, 304]
    assert b"0\r\n\r\n" not in answer


def test_body_that_is_shorter_than_said_closes_the_connection(server: Server):
    assert statuses(ask(server, get("/short") + get())) == [200]


def test_line_end_after_a_body_is_ignored(server: Server):
    sent = get("/", "Content-Length: 2", method="POST") + b"ab\r\n" + get("/304")
    assert statuses(ask(server, sent)) == [200, 304]


def test_head_may_arrive_byte_by_byte(server: Server):
    with connect(server) as client:
        for byte in get("/304", "Connection: close"):
            client.sendall(bytes([byte]))
        assert statuses(until_closed(client)) == [304]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(WELL_ENDED), max_size=5), st.lists(st.integers(0, 700)))
def test_it_matters_to_no_answer_where_requests_are_torn(requests: list[bytes], cuts: list[int]):
    data = b"".join(requests)
    ends = sorted({cut for cut in cuts if cut < len(data)} | {len(data)})
    with listening(Server) as server, connect(server) as client:
        for start, end in itertools.pairwise([0, *ends]):
            client.sendall(data[start:end])
            gevent.sleep(0)
        client.shutdown(socket.SHUT_WR)
        torn = until_closed(client)
        assert _APART.sub(b"", torn) == _APART.sub(b"", ask(server, data))
    assert len(statuses(torn)) == len(requests)


def test_upload_that_nobody_reads_does_not_keep_the_answer_from_the_client(server: Server):
    with connect(server) as client:
        client.sendall(get("/", f"Content-Length: {len(BIG)}", method="POST"))
        client.sendall(BIG)
        answer = until_closed(client)
    assert statuses(answer) == [200]
    assert b"\r\nConnection: close\r\n" in answer


def test_upload_is_not_invited_where_nobody_reads_it(server: Server):
    fields = ("Content-Length: 5", "Expect: 100-continue")
    with connect(server) as client:
        client.sendall(get("/", *fields, method="POST"))
        assert statuses(until_closed(client)) == [200]


def test_busy_connection_gives_way(server: Server):
    turns = []
    with connect(server) as client:
        client.sendall(get("/304") * 2000)
        client.shutdown(socket.SHUT_WR)
        counting = gevent.spawn(lambda: [turns.append(gevent.sleep(0)) for _ in range(50)])
        assert len(statuses(until_closed(client))) == 2000
        assert counting.ready()


# Files


class StoredFile:
    """A body that can be sent in one way only."""

    def __init__(self, file: Any, offset: int, length: int) -> None:
        self.file, self.offset, self.length = file, offset, length
        self.sent, self.position, self.is_closed = 0, 0, False

    def advance(self, count: int) -> None:
        self.sent += count
        self.position += count

    def sendable(self) -> tuple[int, int, int] | None:
        left = self.length - self.position
        return (self.file.fileno(), self.offset + self.position, left) if left else None

    def __iter__(self) -> Iterator[bytes]:
        assert self.position == self.length, "iterated"
        return iter(())

    def close(self) -> None:
        self.position, self.is_closed = 0, True


@contextlib.contextmanager
def serving_held(path: Path, offset: int, length: int) -> Iterator[tuple[Server, StoredFile]]:
    with path.open("rb", buffering=0) as file:
        held = StoredFile(file, offset, length)

        def app(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [("Content-Length", str(length))])
            return held

        with listening(Server, app) as server:
            yield server, held


@pytest.mark.parametrize(("offset", "length"), [(0, len(BIG)), (1_234_567, 1_000_000), (5, 0)])
def test_held_file_is_sent_from_its_descriptor(tmp_path: Path, offset: int, length: int):
    (tmp_path / "file").write_bytes(BIG)
    with serving_held(tmp_path / "file", offset, length) as (server, held):
        answer = ask(server, get() * 2)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert rest[:length] == BIG[offset : offset + length]
    assert rest[length:].startswith(head.partition(b"\r\nDate")[0])
    assert held.is_closed
    assert held.sent == 2 * length


def test_file_truncated_while_it_is_sent_closes_the_connection(tmp_path: Path):
    size = 50_000_000
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    with (
        serving_held(tmp_path / "file", 0, size) as (server, _),
        connect(server) as client,
    ):
        client.sendall(get() * 2)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
        os.truncate(tmp_path / "file", 20_000_000)
        assert len(until_closed(client)) < size


def test_client_that_leaves_a_file_frees_it(tmp_path: Path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(50_000_000)
    with serving_held(tmp_path / "file", 0, 50_000_000) as (server, held):
        with connect(server) as client:
            client.sendall(get())
            client.recv(1000)
        wait_until(lambda: held.is_closed and not server.connections)


def drained(address: tuple[str, int], request: bytes) -> int:
    """The bytes that come back, counted as fast as a thread beside the hub can."""
    with monkey.get_original("socket", "socket")() as client:
        client.connect(address)
        client.sendall(request)
        buffer, count = bytearray(1 << 20), 0
        while received := client.recv_into(buffer):
            count += received
        return count


def test_fast_client_of_a_file_gives_way(tmp_path: Path):
    size = 500_000_000
    with (tmp_path / "file").open("wb") as file:
        file.truncate(size)
    with serving_held(tmp_path / "file", 0, size) as (server, _):
        address = ("127.0.0.1", server.server_port)
        client = gevent.get_hub().threadpool.spawn(drained, address, get("/", "Connection: close"))
        turns = 0
        while not client.ready():
            gevent.sleep(0)
            turns += 1
        assert client.get() > size
    assert turns > 100


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with listening(Server, ssl_context=context) as running:
        yield running


def test_tls_carries_the_same(authority: trustme.CA, tls_server: Server):
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with trusting.wrap_socket(connect(tls_server), server_hostname="127.0.0.1") as client:
        client.sendall(get("/big") + get("/304", "Connection: close"))
        answer = until_closed(client)
    assert answer.partition(b"\r\n\r\n")[2].startswith(BIG)
    assert statuses(answer.replace(BIG, b"")) == [200, 304]


def test_slow_tls_handshake_is_cut_off(tls_server: Server):
    with connect(tls_server) as client:
        client.sendall(b"\x16\x03\x01")
        wait_until(lambda: waiting(tls_server) == 1)
        tls_server.sweep(time.monotonic() + REQUEST_TIME + 1)
        assert until_closed(client) == b""


# Clients that hold connections


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        gevent.sleep(0.01)


def waiting(server: Server) -> int:
    return sum(one.waiting_since is not None for one in server.connections)


def answer_time(server: Server) -> float:
    started = time.monotonic()
    with connect(server) as client:
        client.sendall(get("/304", "Connection: close"))
        assert statuses(until_closed(client)) == [304]
    return time.monotonic() - started


@pytest.mark.parametrize("start", [b"", b"GET / HT", get()[:-2]])
def test_slow_head_is_cut_off_however_it_dribbles(server: Server, start: bytes):
    with connect(server) as client:
        client.sendall(start)
        wait_until(lambda: waiting(server) == 1)
        now = time.monotonic()
        server.sweep(now + REQUEST_TIME - 1)
        for byte in b"X":
            client.sendall(bytes([byte]))
        assert waiting(server) == 1
        server.sweep(now + REQUEST_TIME + 1)
        assert until_closed(client) == b""


def test_slow_body_is_cut_off(server: Server):
    with connect(server) as client:
        client.sendall(get("/", "Content-Length: 5", method="POST") + b"a")
        wait_until(lambda: bool(server.connections) and waiting(server) == 0)
        server.sweep(time.monotonic() + REQUEST_TIME + 1)
        assert until_closed(client) == b""


def test_idle_connection_is_closed_after_a_while(server: Server):
    with connect(server) as client:
        client.sendall(get("/304"))
        assert statuses(client.recv(65536)) == [304]
        wait_until(lambda: waiting(server) == 1)
        now = time.monotonic()
        server.sweep(now + IDLE_TIME - 1)
        client.sendall(get("/304"))
        assert statuses(client.recv(65536)) == [304]
        wait_until(lambda: waiting(server) == 1)
        server.sweep(now + IDLE_TIME + 10)
        assert until_closed(client) == b""


def test_client_that_takes_nothing_is_cut_off(server: Server):
    with connect(server) as client:
        client.sendall(get("/big") * 20)
        (handler,) = wait_for_handler(server)
        wait_until(lambda: handler.deadline < float("inf") and handler.waiting_since is None)
        server.sweep(time.monotonic() + STALL_TIME + 1)
        wait_until(lambda: not server.connections)


def wait_for_handler(server: Server) -> set[Any]:
    wait_until(lambda: bool(server.connections))
    return server.connections


def test_application_may_take_its_time():
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


def test_500_idle_and_dribbling_connections_keep_nobody_waiting(server: Server):
    before = resident()
    with contextlib.ExitStack() as clients:
        for number in range(500):
            client = clients.enter_context(connect(server))
            client.sendall(b"" if number % 2 else b"GET / HTTP/1.1\r\nX: " + b"x" * 1000)
        wait_until(lambda: waiting(server) == 500)
        assert answer_time(server) < 1
        assert resident() - before < 50_000_000


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def test_connections_beyond_the_bound_make_room_for_new_ones():
    with listening(Server, spawn=20) as server, contextlib.ExitStack() as clients:
        held = [clients.enter_context(connect(server)) for _ in range(40)]
        assert answer_time(server) < 1
        # It was the oldest that had to go.
        assert held[0].recv(1) == b""
        assert len(server.connections) <= 20


def test_as_many_files_may_be_open_as_there_may_be_connections():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    try:
        with listening(Server, spawn=700):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= 700
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_no_connection_is_kept_while_they_are_scarce():
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
        wait_until(lambda: len(server.connections) == 1)
        gate.set()
        for client in (first, second):
            answer = until_closed(client)
            assert statuses(answer) == [304]
            assert b"\r\nConnection: close\r\n" in answer


def test_answers_under_way_end_the_connection_while_draining():
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
        wait_until(lambda: waiting(server) == 1)
        server.close()
        assert until_closed(idle) == b""
        gate.set()
        answer = until_closed(busy)
        assert statuses(answer) == [304]
        assert b"\r\nConnection: close\r\n" in answer
