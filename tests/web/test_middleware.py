"""What is counted of a request, whichever server it comes through."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.telemetry.access import AccessRecord, TimedStream, UpstreamWait, current_id
from pytail.web.middleware import AccessRecording


class Served:
    """A WSGI application under watch, and what was told of it."""

    def __init__(self, body: Iterable[bytes] = (), *headers: tuple[str, str]) -> None:
        self.body, self.headers = body, headers
        self.told: list[AccessRecord] = []
        self.began: list[tuple[Any, ...]] = []
        self.watched = AccessRecording(self, self.told.append)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(self.headers))
        return self.body

    def ask(self, path: str = "/", **environ: str) -> Any:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, **environ}
        return self.watched(environ, lambda *begun: self.began.append(begun))

    def exchange(self, path: str = "/", **environ: str) -> AccessRecord:
        """The exchange of a request whose response is taken whole."""
        body = self.ask(path, **environ)
        for _ in body:
            pass
        body.close()
        return self.told[-1]


def test_a_response_is_counted_to_its_last_byte():
    served = Served([b"abc", b"", b"de"], ("x-cache", "HIT"))
    body = served.ask("/simple/demo/")
    assert list(body) == [b"abc", b"", b"de"]
    assert served.told == []
    body.close()
    (told,) = served.told
    assert (told.method, told.path, told.status, told.outcome) == ("GET", "/simple/demo/", "200", "HIT")  # fmt: skip
    assert (told.bytes_sent, told.is_interrupted) == (5, False)
    assert told.seconds > 0


def test_a_transfer_that_the_server_gives_up_is_cut_after_what_went_out():
    served = Served([b"abc", b"de", b"f"])
    body = served.ask()
    pieces = iter(body)
    assert [next(pieces), next(pieces)] == [b"abc", b"de"]
    body.close()
    assert (served.told[0].bytes_sent, served.told[0].is_interrupted) == (3, True)


def test_a_transfer_that_breaks_is_cut():
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    served = Served(broken())
    with pytest.raises(ConnectionResetError):
        served.exchange()
    assert served.told == []
    served.ask().close()
    assert served.told[0].is_interrupted


def test_an_application_that_fails_is_told_of():
    def failing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise gevent.GreenletExit

    told: list[AccessRecord] = []
    with pytest.raises(gevent.GreenletExit):
        AccessRecording(failing, told.append)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)
    assert (told[0].status, told[0].is_interrupted) == ("", True)


def test_the_body_is_closed_before_it_is_told_of():
    stream = io.BytesIO(b"abc")
    served = Served(stream)
    served.exchange()
    assert stream.closed


def test_a_response_has_the_id_of_its_exchange_and_no_two_the_same():
    served = Served([b"a"])
    ids = {served.exchange().id for _ in range(100)}
    assert len(ids) == 100
    assert {dict(headers)["x-request-id"] for _, headers in served.began} == ids


@pytest.mark.parametrize("given", ["a", "8f-2.E_1:+/=", "a" * 128])
def test_a_client_may_bring_an_id(given: str):
    assert Served().exchange(HTTP_X_REQUEST_ID=given).id == given


@pytest.mark.parametrize("given", ["", "a b", "a\nb", 'a"b', "a" * 129, "\xe4", "a\n"])
def test_an_id_that_could_do_harm_is_replaced(given: str):
    served = Served()
    assert served.exchange(HTTP_X_REQUEST_ID=given).id != given
    assert dict(served.began[0][1])["x-request-id"] == served.told[0].id


def test_the_time_upstream_is_waited_for_is_that_of_the_exchange():
    gate, seen = Event(), []

    def body() -> Iterator[bytes]:
        seen.append(current_id())
        with UpstreamWait():
            gate.wait()
        yield b"a"

    served = Served(body())
    request = gevent.spawn(served.exchange)
    with UpstreamWait():
        gevent.sleep(0.02)
    gate.set()
    exchange = request.get()
    assert seen == [exchange.id]
    assert 0.01 < exchange.upstream_seconds <= exchange.seconds


def test_a_wait_that_had_nothing_to_do_with_upstream_does_not_count():
    def body() -> Iterator[bytes]:
        with UpstreamWait() as wait:
            wait.counts = False
        yield b"a"

    assert Served(body()).exchange().upstream_seconds == 0


def test_reading_an_arriving_file_is_waiting_for_upstream():
    stream = TimedStream(io.BytesIO(b"abc"))

    def body() -> Iterator[bytes]:
        yield stream.read(2)
        stream.close()

    exchange = Served(body()).exchange()
    assert exchange.bytes_sent == 2
    assert exchange.upstream_seconds > 0


def test_no_exchange_is_current_outside_of_one():
    Served().exchange()
    assert current_id() is None
    with UpstreamWait():
        pass


class StoredFile(io.BytesIO):
    """A body that a server may send itself."""

    advanced = 0

    def sendable(self) -> tuple[int, int, int] | None:
        return (7, 100 + self.advanced, 5 - self.advanced) if self.advanced < 5 else None

    def advance(self, count: int) -> None:
        self.advanced += count


@pytest.mark.parametrize(
    ("steps", "sent", "is_cut"), [((2, 3), 5, False), ((2, 1), 3, True), ((), 0, True)]
)
def test_a_file_that_the_server_sends_itself_is_counted_as_it_goes_out(
    steps: tuple[int, ...], sent: int, is_cut: bool
):
    held = StoredFile()
    served = Served(held)
    body = served.ask()
    assert body.sendable() == (7, 100, 5)
    for step in steps:
        body.advance(step)
    if body.sendable() is None:
        assert list(body) == []
    body.close()
    assert held.advanced == sent
    assert (served.told[0].bytes_sent, served.told[0].is_interrupted) == (sent, is_cut)


def test_another_body_is_not_the_servers_to_send():
    assert Served([b"a"]).ask().sendable() is None


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        ("/simple/demo/", "/simple/demo/"),
        ("/a b", "/a%20b"),
        ("/a\n2026-01-01 ERROR x", "/a%0A2026-01-01%20ERROR%20x"),
        ("/\xc3\xa9\x1b[0m", "/%C3%A9%1B%5B0m"),
    ],
)
def test_no_path_can_forge_a_line(path: str, plain: str):
    exchange = Served().exchange(path)
    assert exchange.plain_path == plain == exchange.as_dict()["path"]
    assert len(str(exchange).splitlines()) == 1


def test_an_exchange_is_a_line_for_people_and_facts_for_machines():
    exchange = Served([b"a" * 1234], ("x-cache", "MISS")).exchange("/simple/demo/")
    exchange.seconds, exchange.upstream_seconds = 0.0123, 0.0106
    assert str(exchange) == f"GET /simple/demo/ 200 MISS 1234 bytes 12.3 ms upstream 10.6 ms {exchange.id}"  # fmt: skip
    assert exchange.as_dict() == {
        "method": "GET",
        "path": "/simple/demo/",
        "status": 200,
        "outcome": "MISS",
        "bytes": 1234,
        "ms": 12.3,
        "upstream_ms": 10.6,
        "cut": False,
    }
    exchange.is_interrupted, exchange.outcome = True, ""
    assert "200 - cut after 1234 bytes" in str(exchange)


def test_of_an_arriving_file_the_server_sends_what_it_is_told():
    class Spans(io.BytesIO):
        def sendable(self, size: int) -> tuple[int, int, int]:
            return 7, 100, size

        def advance(self, count: int) -> None:
            self.seek(count)

    arriving = TimedStream(Spans(b"abcdef"))
    assert arriving.sendable(5) == (7, 100, 5)
    arriving.advance(4)
    assert arriving.read(9) == b"ef"
    assert TimedStream(io.BytesIO()).sendable(5) is None
