"""Request bodies, and the buffer that they are read from."""

from __future__ import annotations

import pytest

from pytail.server.body import RequestBuffer
from pytail.server.parser import MAX_LINE, RequestRefused
from pytail.server.server import Server
from tests.support.raw_http import BIG, ask, connect, get, statuses, until_closed


def buffer(*chunks: bytes) -> RequestBuffer:
    """Return a buffer whose client sends `chunks`."""
    arriving = iter(chunks)
    return RequestBuffer(lambda: next(arriving, b""))


def test_read_returns_the_size_across_chunks_and_less_at_the_end():
    received = buffer(b"ab", b"cd", b"e")
    assert [received.read(3), received.read(3), received.read(3)] == [b"abc", b"de", b""]


def test_readline_returns_a_line_with_its_end_or_the_size():
    received = buffer(b"on", b"e\ntw", b"o\nrest")
    lines = [received.readline(10), received.readline(2), received.readline(10)]
    assert lines == [b"one\n", b"tw", b"o\n"]
    assert received.readline(10) == b"rest"


def test_head_is_none_until_its_empty_line_arrives():
    received = buffer()
    received.add(b"GET / HTTP/1.1\r\n")
    assert received.head() is None
    received.add(b"\r\nnext")
    assert received.head() == b"GET / HTTP/1.1"
    assert received.read(4) == b"next"


def test_incomplete_head_that_is_too_large_is_refused():
    received = buffer()
    received.add(b"x" * (MAX_LINE + 1))
    with pytest.raises(RequestRefused):
        received.head()


def test_line_end_after_a_body_is_ignored(server: Server):
    sent = get("/", "Content-Length: 2", method="POST") + b"ab\r\n" + get("/304")
    assert statuses(ask(server, sent)) == [200, 304]


def test_response_to_an_upload_arrives_though_the_application_reads_none_of_it(server: Server):
    with connect(server) as client:
        client.sendall(get("/", f"Content-Length: {len(BIG)}", method="POST"))
        client.sendall(BIG)
        received = until_closed(client)
    assert statuses(received) == [200]
    assert b"\r\nConnection: close\r\n" in received


def test_100_continue_is_not_sent_where_the_application_reads_no_body(server: Server):
    fields = ("Content-Length: 5", "Expect: 100-continue")
    with connect(server) as client:
        client.sendall(get("/", *fields, method="POST"))
        assert statuses(until_closed(client)) == [200]


@pytest.mark.parametrize(
    "fields",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Content-Length: 5", "Content-Length: 0"],
        ["Transfer-Encoding : chunked"],
        ["X: a\nTransfer-Encoding: chunked"],
    ],
)
def test_request_with_an_ambiguous_length_is_refused(server: Server, fields: list[str]):
    hidden = b"0\r\n\r\n" + get("/hidden")
    received = ask(server, get("/", *fields, method="POST") + hidden)
    assert statuses(received) == [400]
    assert b"Connection: close" in received
