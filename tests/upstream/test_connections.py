"""A connection that is dead, closed or half answered costs a moment, and is no failure of its host."""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme
from gevent.event import Event
from gevent.server import StreamServer

from pytail.cache.cache import Upstream
from pytail.errors import UpstreamUnreachable
from pytail.upstream import attempts
from pytail.upstream.connections import IDLE
from tests.support.fakeindex import JSON, RawConnection, RawServer
from tests.support.leftovers import sockets
from tests.support.upstreams import PAGE, fetched, first_root, following, json_page
from tests.support.watching import until

EARLY_HINTS = "HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\nContent-Length: 9\r\n\r\n"
INTERIM = {
    "continue": "HTTP/1.1 100 Continue\r\n\r\n",
    "processing": "HTTP/1.1 102 Processing\r\nX-A: b\r\n\r\n",
    "hints": EARLY_HINTS,
    "unknown": "HTTP/1.1 199\r\n\r\n",
    "many": EARLY_HINTS * 20 + "HTTP/1.1 100 Continue\r\n\r\n" + EARLY_HINTS,
}


def send_page(connection: RawConnection) -> None:
    data = json_page()
    connection.send(
        "HTTP/1.1 200 OK", f"Content-Type: {JSON}", f"Content-Length: {len(data)}", body=data
    )


def send_file(connection: RawConnection) -> None:
    connection.send("HTTP/1.1 200 OK", "Content-Length: 4", body=b"data")


Script = Callable[[RawConnection], None]


class Faulty:
    """Answers each request on a new connection, and `then` meets the first one on a reused one."""

    def __init__(self, then: Script, answer: Script = send_page) -> None:
        self.asked, self.faults = 0, 0
        self._then, self._answer = then, answer

    def __call__(self, connection: RawConnection) -> None:
        connection.request()
        self.asked += 1
        self._answer(connection)
        if connection.request():
            self.asked += 1
            self.faults += 1
            self._then(connection)


@contextlib.contextmanager
def used(script: Faulty, **options: Any) -> Iterator[Upstream]:
    """Let the block use clients that have an idle connection to a server of `script`."""
    with (
        RawServer(script) as server,
        following(server.url, recall=first_root, **options) as upstream,
    ):
        fetched(upstream)
        yield upstream


def no_failures(upstream: Upstream) -> bool:
    return not upstream.client.is_circuit_open(upstream.pages.root.base_url)


# Interim responses


@pytest.mark.parametrize("interim", INTERIM.values(), ids=INTERIM)
def test_interim_responses_are_skipped_for_pages_and_files(interim: str):
    def script(connection: RawConnection) -> None:
        while request := connection.request():
            connection.send(body=interim.encode())
            if request.startswith(b"HEAD"):
                connection.send("HTTP/1.1 200 OK", "Content-Length: 4")
            elif b"Range: " in request:
                connection.send(
                    "HTTP/1.1 206 Partial Content",
                    "Content-Range: bytes 1-2/4",
                    "Content-Length: 2",
                    body=b"at",
                )
            elif PAGE.encode() in request:
                send_page(connection)
            else:
                send_file(connection)

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        assert fetched(upstream).page.name == "demo"
        url = f"{server.url}/file"
        file = upstream.files.open(url)
        assert (file.read(), file.read()) == (b"data", b"")
        assert upstream.files.size(url) == 4
        assert upstream.files.read_range(url, 1, 3).data == b"at"
        assert fetched(upstream).page.name == "demo"


@pytest.mark.parametrize(
    "answer",
    ["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", EARLY_HINTS * 1000],
    ids=["101", "endless"],
)
def test_a_switch_of_protocols_and_endless_interim_responses_are_errors(answer: str):
    asked = []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        with contextlib.suppress(OSError):
            connection.send(body=answer.encode())
        connection.request()

    with (
        RawServer(script) as server,
        following(server.url, recall=first_root) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)
    assert len(asked) == 1


# Dead connections


def silence(connection: RawConnection) -> None:
    connection.request()


def half_head(connection: RawConnection) -> None:
    connection.send(body=b"HTTP/1.1 200 OK\r\nContent-Type: text/ht")


def half_head_and_silence(connection: RawConnection) -> None:
    half_head(connection)
    connection.request()


def one_line(connection: RawConnection) -> None:
    connection.send(body=b"HTTP/1.1 200 OK\r\n")


def nothing(_: RawConnection) -> None:
    pass


def no_http(connection: RawConnection) -> None:
    connection.send(body=b"the rest of another response\r\n\r\n")
    connection.request()


@pytest.mark.parametrize(
    "fault", [silence, half_head, half_head_and_silence, one_line, nothing, no_http]
)
def test_a_reused_connection_without_a_response_is_replaced(fault: Script):
    script = Faulty(fault)
    before = set(sockets())
    with used(script) as upstream:
        assert fetched(upstream).page.name == "demo"
        assert no_failures(upstream)
        assert (script.asked, script.faults) == (3, 1)
    until(lambda: set(sockets()) == before)


def test_a_dead_connection_is_replaced_also_for_files_and_ranges():
    def answer(connection: RawConnection) -> None:
        connection.send(
            "HTTP/1.1 206 Partial Content",
            "Content-Range: bytes 0-3/4",
            "Content-Length: 4",
            body=b"data",
        )

    script = Faulty(silence, answer)
    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        for _ in range(2):
            assert upstream.files.read_range(f"{server.url}/file", 0, 4).data == b"data"
    assert script.faults == 1


def test_many_connections_that_died_are_replaced_at_the_same_time():
    together, asked = Event(), []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        if len(asked) == 30:
            together.set()
        together.wait()
        send_page(connection)
        connection.request()
        connection.request()

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        for _ in range(2):
            fetches = [gevent.spawn(fetched, upstream) for _ in range(30)]
            gevent.joinall(fetches, raise_error=True)
        assert no_failures(upstream)


def test_the_idle_connections_of_a_host_are_closed_with_a_dead_one():
    together, asked, ended = Event(), [], []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        if len(asked) == 3:
            together.set()
        together.wait()
        send_page(connection)
        connection.request()
        ended.append(connection.request())

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        gevent.joinall([gevent.spawn(fetched, upstream) for _ in range(3)], raise_error=True)
        fetched(upstream)
        until(lambda: len(ended) == 3)
        assert server.connections == 4


def test_a_new_connection_that_is_silent_is_not_replaced():
    asked = []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        connection.request()

    with (
        RawServer(script) as server,
        following(server.url, timeout=2, recall=first_root) as upstream,
        pytest.raises(UpstreamUnreachable, match="timed out"),
    ):
        fetched(upstream)
    assert len(asked) == 1


@pytest.mark.parametrize("fault", [half_head, one_line])
def test_half_a_head_on_new_connections_is_no_response(fault: Script):
    asked = []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        fault(connection)

    with (
        RawServer(script) as server,
        following(server.url, recall=first_root) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)
    assert len(asked) == 2


# Slow servers


def test_the_response_of_a_slow_server_on_a_reused_connection_counts():
    asked, gate = [], Event()

    def script(connection: RawConnection) -> None:
        while request := connection.request():
            asked.append(request)
            # The second request is slow. The third is the second one again, and gets no response.
            if len(asked) == 2:
                until(lambda: len(asked) == 3)
            if len(asked) == 3 and connection is not second[0]:
                gate.wait()
            send_page(connection)

    second: list[RawConnection] = []

    def noted(connection: RawConnection) -> None:
        second.append(connection)
        script(connection)

    with RawServer(noted) as server, following(server.url, recall=first_root) as upstream:
        fetched(upstream)
        assert fetched(upstream).page.name == "demo"
        assert len(asked) == 3
        # The slow server is known as slow now.
        assert fetched(upstream).page.name == "demo"
        assert server.connections == 2
        gate.set()


def test_a_slow_server_is_not_asked_twice():
    asked = []

    def script(connection: RawConnection) -> None:
        while request := connection.request():
            asked.append(request)
            gevent.sleep(1.2)
            send_page(connection)

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        for _ in range(3):
            fetched(upstream)
        assert len(asked) == 3
        assert server.connections == 1


def test_a_dead_connection_to_a_slow_server_is_replaced_while_the_client_waits(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(attempts, "_LONGEST_SILENCE", 0.2)
    over = Event()

    def script(connection: RawConnection) -> None:
        is_first = server.connections == 1
        while connection.request():
            if is_first:
                gevent.sleep(1.5)
            send_page(connection)
            if is_first:
                # The second request on this connection gets no response.
                over.wait()

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        fetched(upstream)
        second = gevent.spawn(fetched, upstream)
        until(lambda: server.connections == 2, seconds=2)
        assert second.get().page.name == "demo"
        over.set()


def test_a_slow_server_is_waited_for_where_it_accepts_no_further_connection():
    asked, over = [], Event()

    def script(connection: RawConnection) -> None:
        if server.connections > 1:
            over.wait()
        while request := connection.request():
            asked.append(request)
            if len(asked) > 1:
                until(lambda: server.connections > 1)
                gevent.sleep(0.1)
            send_page(connection)

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        fetched(upstream)
        assert fetched(upstream).page.name == "demo"
        assert len(asked) == 2
        over.set()


# Idle connections


def test_an_idle_connection_expires():
    ended = Event()

    def script(connection: RawConnection) -> None:
        while connection.request():
            send_page(connection)
        ended.set()

    with RawServer(script) as server, following(server.url, idle=0.1) as upstream:
        fetched(upstream)
        assert ended.wait(20)
        fetched(upstream)
        assert server.connections == 2


def test_an_idle_connection_expires_before_firewalls_forget_it():
    assert 10 <= IDLE <= 60


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="Linux shows its timers")
def test_tcp_keepalive_is_on():
    def script(connection: RawConnection) -> None:
        while connection.request():
            send_page(connection)

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
        fetched(upstream)
        port = int(server.url.rpartition(":")[2])
        # Remote address, state (1: established), queues, timer (2: keepalive).
        line = rf"0100007F:{port:04X} 01 \w+:\w+ 02:"
        assert re.search(line, Path("/proc/net/tcp").read_text())


# TLS and proxies


@contextlib.contextmanager
def secure(script: Script) -> Iterator[tuple[str, ssl.SSLContext, trustme.CA]]:
    """Let the block use the URL and the authority of a TLS server of `script`."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def handle(client: Any, _: Any) -> None:
        with client, contextlib.suppress(OSError):
            script(RawConnection(client))

    server = StreamServer(("127.0.0.1", 0), handle, ssl_context=context)
    server.start()
    yield f"https://127.0.0.1:{server.server_port}", context, authority
    server.stop(timeout=0)


@pytest.mark.parametrize("fault", [silence, half_head, nothing])
def test_a_dead_tls_connection_is_replaced(fault: Script, tmp_path: Path):
    script = Faulty(fault)
    with secure(script) as (url, _, authority):
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with following(url, ca=tmp_path / "ca.pem") as upstream:
            for _ in range(2):
                assert fetched(upstream).page.name == "demo"
            assert no_failures(upstream)
    assert script.faults == 1


def test_a_tls_session_that_upstream_closed_is_replaced(tmp_path: Path):
    def script(connection: RawConnection) -> None:
        connection.request()
        send_page(connection)
        # Ends the session (close_notify), and leaves the TCP connection open.
        with contextlib.suppress(OSError):
            connection._socket.unwrap()

    with secure(script) as (url, _, authority):
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        with following(url, ca=tmp_path / "ca.pem") as upstream:
            for _ in range(3):
                assert fetched(upstream).page.name == "demo"


@pytest.mark.parametrize("fault", [silence, half_head, nothing])
def test_a_dead_connection_to_a_proxy_is_replaced(fault: Script):
    script = Faulty(fault)
    with RawServer(script) as proxy:
        environ = {"http_proxy": proxy.url, "HOME": "/x"}
        with following("http://index.example.org", environ=environ) as upstream:
            for _ in range(2):
                assert fetched(upstream).page.name == "demo"
    assert script.faults == 1
