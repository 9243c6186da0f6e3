"""Files are fetched byte for byte, whole or in ranges."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from gevent.event import Event

from pytail.cache.cache import Upstream
from pytail.errors import (
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamUnreachable,
    UpstreamWithoutRanges,
)
from pytail.upstream.files import Piece
from tests.support.fakeindex import FakeIndex, Gated, RawConnection, RawServer, reply
from tests.support.sending import Breaking
from tests.support.upstreams import following, redirect

DATA = bytes(range(256)) * 4

# Whole files


def test_a_file_is_not_decoded(index: FakeIndex, upstream: Upstream):
    data = gzip.compress(b"x" * 200_000)
    index.answers["/file"] = reply(data, None, Content_Encoding="gzip")
    file = upstream.files.open(f"{index.url}/file")
    assert file.size == len(data)
    assert b"".join(iter(file.read, b"")) == data
    file.close()
    assert index.seen[0].headers["ACCEPT_ENCODING"] == "identity"


def test_bytes_are_read_as_they_arrive(index: FakeIndex, upstream: Upstream):
    gated = index.answers["/file"] = Gated(b"first", b"second")
    gated.open()
    file = upstream.files.open(f"{index.url}/file")
    assert file.size is None
    assert file.read() == b"first"
    gated.open()
    assert (file.read(), file.read()) == (b"second", b"")
    file.close()


def test_a_file_may_be_on_another_host(index: FakeIndex, upstream: Upstream):
    with FakeIndex() as other:
        index.answers["/file"] = redirect(f"{other.url}/stored?signature=1")
        other.answers["/stored"] = reply(b"data", None)
        file = upstream.files.open(f"{index.url}/file")
        assert file.read() == b"data"
        file.close()


def test_closing_a_file_gives_its_slot_back(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = reply(b"data", None)
    file = upstream.files.open(f"{index.url}/file")
    assert upstream.client.limiters["file"].in_progress == 1
    file.close()
    assert upstream.client.limiters["file"].in_progress == 0


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_file_that_breaks_off_is_an_error_after_its_last_byte(framing: str):
    def script(connection: RawConnection) -> None:
        connection.request()
        sent = b"a\r\nfive!" if "chunked" in framing else b"five!"
        connection.send("HTTP/1.1 200 OK", framing, body=sent)

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        file = upstream.files.open(f"{server.url}/file")
        assert file.read() == b"five!"
        with pytest.raises(UpstreamUnreachable):
            file.read()
        file.close()


def test_a_file_that_stops_arriving_is_an_error():
    over = Event()

    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 200 OK", "Content-Length: 10", body=b"five!")
        over.wait()

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        file = upstream.files.open(f"{server.url}/file")
        assert file.read() == b"five!"
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            file.read()
        file.close()
        over.set()


# The rest of a file


def read_rest(upstream: Upstream, url: str, start: int, **known: Any) -> tuple[int, bytes]:
    """Where the rest from `start` on begins, and its bytes."""
    file = upstream.files.open(url, start, **known)
    try:
        return file.start, b"".join(iter(file.read, b""))
    finally:
        file.close()


def test_the_rest_of_a_file_begins_at_the_offset(index: FakeIndex, upstream: Upstream):
    answer = index.answers["/file"] = Breaking(DATA, lengths=(), etag='"one"')
    known = {"etag": '"one"', "size": len(DATA)}
    assert read_rest(upstream, f"{index.url}/file", 1000, **known) == (1000, DATA[1000:])
    assert answer.asked == ["bytes=1000-"]
    assert index.seen[0].headers["IF_RANGE"] == '"one"'


@pytest.mark.parametrize("known", [{"etag": '"two"'}, {"size": 2000}])
def test_the_rest_of_another_file_begins_at_0(
    index: FakeIndex, upstream: Upstream, known: dict[str, Any]
):
    answer = index.answers["/file"] = Breaking(DATA, lengths=(), etag='"one"')
    assert read_rest(upstream, f"{index.url}/file", 1000, **known) == (0, DATA)
    assert answer.asked == ["bytes=1000-", None]
    assert upstream.client.limiters["file"].in_progress == 0


def test_the_rest_begins_at_0_where_upstream_sends_no_ranges(index: FakeIndex, upstream: Upstream):
    answer = index.answers["/file"] = Breaking(DATA, lengths=(), ranges=False)
    assert read_rest(upstream, f"{index.url}/file", 1000) == (0, DATA)
    assert answer.asked == ["bytes=1000-"]


def ranged(status: str, content_range: str | None, body: bytes = DATA) -> Any:
    """A response to requests with a Range; others get `DATA`."""
    headers = {} if content_range is None else {"Content_Range": content_range}

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if "HTTP_RANGE" in environ:
            return reply(body, None, status, **headers)(environ, start_response)
        return reply(DATA, None)(environ, start_response)

    return application


@pytest.mark.parametrize(
    ("status", "content_range"),
    [
        ("416 Range Not Satisfiable", "bytes */10"),
        ("206 Partial Content", None),
        ("206 Partial Content", "bytes 900-1023/1024"),
        ("206 Partial Content", "bytes 1000-1009/1024"),
    ],
)
def test_the_rest_begins_at_0_where_upstream_sends_another_range(
    index: FakeIndex, upstream: Upstream, status: str, content_range: str | None
):
    index.answers["/file"] = ranged(status, content_range)
    assert read_rest(upstream, f"{index.url}/file", 1000) == (0, DATA)


# Ranges


def test_an_opened_range_has_its_bytes(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = Breaking(DATA, lengths=())
    file = upstream.files.open_range(f"{index.url}/file", 10, 20, len(DATA))
    assert upstream.client.limiters["part"].in_progress == 1
    assert (file.start, file.stop, file.size) == (10, 20, len(DATA))
    assert (file.read(), file.read()) == (DATA[10:20], b"")
    file.close()
    assert upstream.client.limiters["part"].in_progress == 0


@pytest.mark.parametrize("status", ["200 OK", "416 Range Not Satisfiable", "501 Not Implemented"])
def test_a_range_is_not_opened_where_upstream_sends_no_ranges(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers["/file"] = ranged(status, None)
    for _ in range(4):
        with pytest.raises(UpstreamWithoutRanges):
            upstream.files.open_range(f"{index.url}/file", 10, 20, len(DATA))
    assert upstream.client.limiters["part"].in_progress == 0
    assert not upstream.client.is_circuit_open(index.url)


@pytest.mark.parametrize("status", [204, 403, 404, 500])
def test_a_range_is_refused_with_any_other_status(
    index: FakeIndex, upstream: Upstream, status: int
):
    index.answers["/file"] = reply(b"", None, f"{status} Whatever")
    url = f"{index.url}/file"
    with pytest.raises(UpstreamRefused) as caught:
        upstream.files.open_range(url, 10, 20, len(DATA))
    assert caught.value.status == status
    with pytest.raises(UpstreamRefused) as caught:
        upstream.files.read_range(url, 10, 20)
    assert caught.value.status == status


@pytest.mark.parametrize("content_range", [None, "bytes 11-20/1024", "bytes 10-19/1000"])
def test_another_range_is_garbled(index: FakeIndex, upstream: Upstream, content_range: str | None):
    index.answers["/file"] = ranged("206 Partial Content", content_range)
    with pytest.raises(UpstreamGarbled, match="another range"):
        upstream.files.open_range(f"{index.url}/file", 10, 20, len(DATA))


@pytest.mark.parametrize(
    "content_range", [None, "bytes 11-20/1024", "bytes 10-18/1024", "bytes 10-19/*", "10-19/1024"]
)
def test_another_range_is_not_read(index: FakeIndex, upstream: Upstream, content_range: str | None):
    index.answers["/file"] = ranged("206 Partial Content", content_range)
    with pytest.raises(UpstreamGarbled, match="another range"):
        upstream.files.read_range(f"{index.url}/file", 10, 20)


def test_a_range_beyond_the_end_is_read_up_to_the_end(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = Breaking(DATA, lengths=())
    read = upstream.files.read_range(f"{index.url}/file", 1000, 5000)
    assert read == Piece(1000, DATA[1000:], len(DATA))


def test_a_piece_has_only_its_own_bytes():
    piece = Piece(10, b"abcdef", 100)
    assert piece.bytes_of(11, 14) == b"bcd"
    assert piece.bytes_of(10, 16) == b"abcdef"
    assert [piece.bytes_of(*ends) for ends in ((9, 12), (12, 17), (20, 20))] == [None] * 3


def test_a_range_is_read_with_its_offset(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = Breaking(DATA, lengths=())
    url = f"{index.url}/file"
    assert upstream.files.read_range(url, 10, 20) == Piece(10, DATA[10:20], len(DATA))


def test_a_small_file_is_read_whole_where_upstream_sends_no_ranges(
    index: FakeIndex, upstream: Upstream
):
    index.answers["/file"] = Breaking(DATA, lengths=(), ranges=False)
    assert upstream.files.read_range(f"{index.url}/file", 10, 20) == Piece(0, DATA, len(DATA))


def test_a_large_file_is_not_read_whole(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = Breaking(bytes(9 * 1024 * 1024), lengths=(), ranges=False)
    with pytest.raises(UpstreamWithoutRanges):
        upstream.files.read_range(f"{index.url}/file", 10, 20)


@pytest.mark.parametrize("status", ["416 Range Not Satisfiable", "501 Not Implemented"])
def test_reading_a_range_is_refused_where_opening_it_raises_that_there_are_none(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers["/file"] = ranged(status, None)
    with pytest.raises(UpstreamRefused):
        upstream.files.read_range(f"{index.url}/file", 10, 20)


def test_a_range_of_another_length_than_its_content_range_is_garbled(
    index: FakeIndex, upstream: Upstream
):
    index.answers["/file"] = ranged("206 Partial Content", "bytes 10-19/1024", DATA[10:15])
    with pytest.raises(UpstreamGarbled, match="sent 5 bytes, not 10"):
        upstream.files.read_range(f"{index.url}/file", 10, 20)


def test_reading_a_range_is_bounded(index: FakeIndex):
    index.answers["/file"] = ranged("206 Partial Content", "bytes 10-19/1024", DATA)
    with (
        following(index.url, max_page_bytes=100) as upstream,
        pytest.raises(UpstreamGarbled, match="over 100 bytes"),
    ):
        upstream.files.read_range(f"{index.url}/file", 10, 20)


# Sizes


def test_the_size_of_a_file_is_requested_without_its_body(index: FakeIndex, upstream: Upstream):
    index.answers["/file"] = reply(b"x" * 1000, None)
    assert upstream.files.size(f"{index.url}/file") == 1000
    assert [seen.method for seen in index.seen] == ["HEAD"]


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "501 Not Implemented"])
def test_the_size_is_in_the_headers_of_get_where_head_is_not_allowed(
    index: FakeIndex, upstream: Upstream, status: str
):
    gated = Gated(b"x", b"y" * 999, size=1000)
    gated.open()

    def file(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["REQUEST_METHOD"] == "HEAD":
            return reply(b"no", "text/plain", status)(environ, start_response)
        return gated(environ, start_response)

    index.answers["/file"] = file
    assert upstream.files.size(f"{index.url}/file") == 1000
    assert not gated.gates[1].is_set()


def test_the_size_of_a_chunked_response_is_unknown():
    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        assert upstream.files.size(f"{server.url}/file") is None


@pytest.mark.parametrize("length", ["-1", "ten", "1, 1", "0x10", "\u0661"])
def test_a_malformed_content_length_is_unknown(length: str):
    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 200 OK", f"Content-Length: {length}")

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        assert upstream.files.size(f"{server.url}/file") is None


def test_the_size_of_a_missing_file_is_refused(index: FakeIndex, upstream: Upstream):
    with pytest.raises(UpstreamRefused) as caught:
        upstream.files.size(f"{index.url}/nothing")
    assert caught.value.status == 404
