"""The access record of a request, for bodies that a server iterates and bodies that it sends itself."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any

import gevent
import pytest

from pytail.config.values import proxies
from pytail.telemetry.access import AccessRecord, current_client, current_id
from pytail.web.middleware import AccessRecording


class RecordedApplication:
    """A WSGI application behind `AccessRecording`, and the records of its requests."""

    def __init__(self, body: Iterable[bytes] = (), *headers: tuple[str, str]) -> None:
        self.body, self.headers = body, headers
        self.records: list[AccessRecord] = []
        self.responses: list[tuple[Any, ...]] = []
        self.recording = AccessRecording(self, self.records.append)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", list(self.headers))
        return self.body

    def request(self, path: str = "/", **environ: str) -> Any:
        """Send a request and return the body of its response."""
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, **environ}
        return self.recording(environ, lambda *response: self.responses.append(response))

    def record(self, path: str = "/", **environ: str) -> AccessRecord:
        """Send a request, read the whole response, and return the record."""
        body = self.request(path, **environ)
        for _ in body:
            pass
        body.close()
        return self.records[-1]


def test_a_response_is_recorded_with_all_its_bytes():
    application = RecordedApplication([b"abc", b"", b"de"], ("x-cache", "HIT"))
    body = application.request("/simple/demo/")
    assert list(body) == [b"abc", b"", b"de"]
    assert application.records == []
    body.close()
    (record,) = application.records
    assert (record.method, record.path, record.status, record.outcome) == ("GET", "/simple/demo/", "200", "HIT")  # fmt: skip
    assert (record.bytes_sent, record.is_interrupted) == (5, False)
    assert record.seconds > 0


def test_a_body_closed_early_is_interrupted_after_the_bytes_sent():
    application = RecordedApplication([b"abc", b"de", b"f"])
    body = application.request()
    chunks = iter(body)
    assert [next(chunks), next(chunks)] == [b"abc", b"de"]
    body.close()
    (record,) = application.records
    assert (record.bytes_sent, record.is_interrupted) == (3, True)


def test_a_body_that_raises_is_interrupted():
    def broken() -> Iterator[bytes]:
        yield b"abc"
        raise ConnectionResetError

    application = RecordedApplication(broken())
    with pytest.raises(ConnectionResetError):
        application.record()
    assert application.records == []
    application.request().close()
    assert application.records[0].is_interrupted


def test_a_request_whose_application_raises_is_recorded():
    def failing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        raise gevent.GreenletExit

    records: list[AccessRecord] = []
    with pytest.raises(gevent.GreenletExit):
        AccessRecording(failing, records.append)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, print)
    assert (records[0].status, records[0].is_interrupted) == ("", True)


def test_the_body_is_closed_before_the_record_is_reported():
    stream = io.BytesIO(b"abc")
    application = RecordedApplication(stream)
    application.record()
    assert stream.closed


def test_each_response_has_a_request_id_of_its_own():
    application = RecordedApplication([b"a"])
    ids = {application.record().id for _ in range(100)}
    assert len(ids) == 100
    assert {dict(headers)["x-request-id"] for _, headers in application.responses} == ids


@pytest.mark.parametrize("request_id", ["a", "8f-2.E_1:+/=", "a" * 128])
def test_a_client_may_set_the_request_id(request_id: str):
    assert RecordedApplication().record(HTTP_X_REQUEST_ID=request_id).id == request_id


@pytest.mark.parametrize("request_id", ["", "a b", "a\nb", 'a"b', "a" * 129, "\xe4", "a\n"])
def test_an_unsafe_request_id_is_replaced(request_id: str):
    application = RecordedApplication()
    assert application.record(HTTP_X_REQUEST_ID=request_id).id != request_id
    assert dict(application.responses[0][1])["x-request-id"] == application.records[0].id


def test_the_body_is_iterated_with_the_record_as_the_current_one():
    ids = []

    def body() -> Iterator[bytes]:
        ids.append(current_id())
        yield b"a"

    record = RecordedApplication(body()).record()
    assert ids == [record.id]


def test_after_the_response_no_record_is_current():
    RecordedApplication().record()
    assert current_id() is None


class SendableBody(io.BytesIO):
    """A body whose 5 bytes a server may send from a descriptor."""

    advanced = 0

    def sendable(self) -> tuple[int, int, int] | None:
        return (7, 100 + self.advanced, 5 - self.advanced) if self.advanced < 5 else None

    def advance(self, count: int) -> None:
        self.advanced += count


@pytest.mark.parametrize(
    ("steps", "sent", "is_interrupted"), [((2, 3), 5, False), ((2, 1), 3, True), ((), 0, True)]
)
def test_bytes_that_the_server_sends_itself_are_counted(
    steps: tuple[int, ...], sent: int, is_interrupted: bool
):
    stored = SendableBody()
    application = RecordedApplication(stored)
    body = application.request()
    assert body.sendable() == (7, 100, 5)
    for step in steps:
        body.advance(step)
    if body.sendable() is None:
        assert list(body) == []
    body.close()
    assert stored.advanced == sent
    (record,) = application.records
    assert (record.bytes_sent, record.is_interrupted) == (sent, is_interrupted)


def test_a_body_without_a_descriptor_has_to_be_iterated():
    assert RecordedApplication([b"a"]).request().sendable() is None


@pytest.mark.parametrize(
    ("peer", "trusted", "client"),
    [
        ("10.0.0.1", "10.0.0.1", "203.0.113.7"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("", "unix", "203.0.113.7"),
        ("", "", ""),
    ],
)
def test_a_request_works_for_the_client_behind_a_trusted_proxy(
    peer: str, trusted: str, client: str
):
    application = RecordedApplication()
    recording = AccessRecording(application, application.records.append, trusted=proxies(trusted))
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_X_FORWARDED_FOR": "203.0.113.7"}
    if peer:
        environ["REMOTE_ADDR"] = peer
    body = recording(environ, lambda *_: None)
    assert current_client() == client
    body.close()
    assert application.records[0].client == client
