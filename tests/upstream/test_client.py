"""One request: redirects, connections, credentials, and what counts as a failure."""

from __future__ import annotations

import contextlib
import time
from email.utils import formatdate
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.cache.cache import Upstream
from pytail.errors import (
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.upstream.pages import PageState
from tests.support.fakeindex import JSON, FakeIndex, RawConnection, RawServer, Seen, reply, sdist
from tests.support.running import free_port
from tests.support.upstreams import PAGE, fetched, following, json_page, redirect

# Redirects


@pytest.mark.parametrize(
    "location",
    [
        "ftp://index.example.org/",
        "file:///etc/passwd",
        "data:text/html,x",
        "javascript:alert(1)",
        "//[",
        "http://[::1",
        "http://h:99999/",
        "http://h:port/",
        "http://index.example.org/\\x",
    ],
)
def test_a_redirect_to_another_scheme_or_a_malformed_url_is_garbled(
    index: FakeIndex, upstream: Upstream, location: str
):
    index.answers[PAGE] = redirect(location)
    with pytest.raises(UpstreamGarbled, match="redirects to"):
        fetched(upstream)


@pytest.mark.parametrize("location", ["http://..", f"http://{'a' * 70}/", "http://a b/"])
def test_a_redirect_to_a_malformed_host_is_an_upstream_error(
    index: FakeIndex, upstream: Upstream, location: str
):
    index.answers[PAGE] = redirect(location)
    with pytest.raises(UpstreamError):
        fetched(upstream)


def test_the_sixth_redirect_is_not_followed(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = redirect(PAGE)
    with pytest.raises(UpstreamGarbled, match="more than 5 times"):
        fetched(upstream)
    assert index.page_count("demo") == 6


def test_a_redirect_without_location_is_refused(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "302 Found")
    with pytest.raises(UpstreamRefused):
        fetched(upstream)


@pytest.mark.parametrize(
    ("location", "path"),
    [
        ("/d\u00e9mo/", "/d\u00e9mo/"),
        ("caf\u00e9 1/?q=\u20ac|x", "/simple/demo/caf\u00e9 1/"),
        ("../there/#part", "/simple/there/"),
        ("?moved", PAGE),
        ("/d%C3%A9mo/", "/d\u00e9mo/"),
    ],
)
def test_a_redirect_is_followed_whatever_its_location_is_made_of(
    index: FakeIndex, upstream: Upstream, location: str, path: str
):
    def moved(environ: dict[str, Any], start_response: Any) -> Any:
        answer = reply(json_page(), JSON) if environ["QUERY_STRING"] else elsewhere
        return answer(environ, start_response)

    # WSGI has each byte of path and headers as one character.
    as_bytes = lambda text: text.encode().decode("latin-1")  # noqa: E731
    elsewhere = redirect(as_bytes(location))
    index.answers[as_bytes(path)] = reply(json_page(), JSON)
    index.answers[PAGE] = moved
    assert fetched(upstream).page.name == "demo"
    assert index.seen[-1].path == as_bytes(path)


@pytest.mark.parametrize("scheme", ["", "http:"])
def test_a_redirect_may_name_another_host(index: FakeIndex, upstream: Upstream, scheme: str):
    with FakeIndex() as other:
        other.answers["/page/"] = reply(json_page(), JSON)
        index.answers[PAGE] = redirect(f"{scheme}{other.url.removeprefix('http:')}/page/#x")
        assert fetched(upstream).page.name == "demo"


# Failures


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7), (" 120 ", 120), ("-1", None), ("soon", None)]
)
def test_an_error_status_comes_with_its_retry_after(
    index: FakeIndex, upstream: Upstream, header: str, seconds: int | None
):
    index.answers[PAGE] = reply(b"", None, "429 Too Many Requests", Retry_After=header)
    with pytest.raises(UpstreamRefused) as caught:
        fetched(upstream)
    assert caught.value.retry_after == seconds


def test_a_retry_after_date_opens_the_circuit_breaker_until_then(
    index: FakeIndex, upstream: Upstream
):
    date = formatdate(time.time() + 60, usegmt=True)
    index.answers[PAGE] = reply(b"", None, "503 Service Unavailable", Retry_After=date)
    with pytest.raises(UpstreamRefused) as refused:
        fetched(upstream)
    assert 55 <= refused.value.retry_after <= 60
    assert upstream.client.is_circuit_open(index.url)
    with pytest.raises(UpstreamCircuitOpen) as caught:
        fetched(upstream)
    assert 55 <= caught.value.retry_after <= 60
    assert index.page_count("demo") == 1


@pytest.mark.parametrize("status", ["404 Not Found", "403 Forbidden", "200 OK", "304 Not Modified"])
def test_only_failures_of_the_host_open_its_circuit_breaker(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers[PAGE] = reply(b"", None, status)
    for _ in range(4):
        with contextlib.suppress(UpstreamGarbled, UpstreamRefused):
            fetched(upstream)
    assert not upstream.client.is_circuit_open(index.url)


def test_three_failures_open_the_circuit_breaker(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "500 Oops")
    for _ in range(3):
        assert not upstream.client.is_circuit_open(index.url)
        with pytest.raises(UpstreamRefused):
            fetched(upstream)
    assert upstream.client.is_circuit_open(index.url)


def test_a_refused_connection_is_unreachable():
    with (
        following(f"http://127.0.0.1:{free_port()}", timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)


def test_an_unknown_host_name_is_unreachable():
    with (
        following("http://index.invalid", timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)


def test_an_upstream_that_sends_nothing_is_unreachable():
    over = Event()

    def script(connection: RawConnection) -> None:
        over.wait()

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            fetched(upstream)
        over.set()


def test_an_upstream_that_does_not_speak_http_is_unreachable():
    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("220 mail.example.org ESMTP")

    with (
        RawServer(script) as server,
        following(server.url, timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)


def test_response_headers_that_never_end_are_unreachable():
    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send(body=b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while True:
            connection.send(body=b"x")
            gevent.sleep(0.05)

    with (
        RawServer(script) as server,
        following(server.url, timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable, match="within 0"),
    ):
        fetched(upstream)


# Connections


def send_page(connection: RawConnection) -> None:
    data = json_page()
    connection.send(
        "HTTP/1.1 200 OK", f"Content-Type: {JSON}", f"Content-Length: {len(data)}", body=data
    )


def test_a_connection_is_reused_after_a_page():
    def script(connection: RawConnection) -> None:
        while connection.request():
            send_page(connection)

    with RawServer(script) as server, following(server.url) as upstream:
        for _ in range(3):
            fetched(upstream)
        assert server.connections == 1


def test_a_connection_is_reused_after_a_file():
    def script(connection: RawConnection) -> None:
        while connection.request():
            connection.send("HTTP/1.1 200 OK", "Content-Length: 4", body=b"data")

    with RawServer(script) as server, following(server.url) as upstream:
        for _ in range(3):
            file = upstream.files.open(f"{server.url}/file")
            assert (file.read(), file.read()) == (b"data", b"")
            file.close()
        assert server.connections == 1


@pytest.mark.parametrize("status", ["404 Not Found", "302 Found", "500 Oops", "304 Not Modified"])
def test_a_connection_is_reused_after_a_short_error(status: str):
    def script(connection: RawConnection) -> None:
        while connection.request():
            length = 0 if status.startswith("304") else 5
            connection.send(
                f"HTTP/1.1 {status}", f"Content-Length: {length}", body=b"never"[:length]
            )

    with RawServer(script) as server, following(server.url) as upstream:
        for _ in range(3):
            if status.startswith("404"):
                assert fetched(upstream) is PageState.MISSING
            else:
                with pytest.raises(UpstreamError):
                    fetched(upstream)
        assert server.connections == 1


def test_the_body_of_an_error_is_not_waited_for():
    sent = []

    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 404 Not Found", "Content-Length: 1000")
        for _ in range(1000):
            connection.send(body=b" ")
            sent.append(1)
            gevent.sleep(0.001)

    with RawServer(script) as server, following(server.url) as upstream:
        assert fetched(upstream) is PageState.MISSING
        assert len(sent) < 100


def test_a_connection_that_upstream_closed_is_replaced_without_an_error():
    def script(connection: RawConnection) -> None:
        # One response for each connection; the next request on it gets none.
        connection.request()
        send_page(connection)
        connection.request()

    with RawServer(script) as server, following(server.url) as upstream:
        for _ in range(3):
            assert fetched(upstream).page.files == ()
        assert server.connections == 3


def test_all_connections_that_upstream_closed_are_replaced_without_an_error():
    together, asked = Event(), []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())
        if len(asked) == 5:
            together.set()
        together.wait()
        # The five connections of the beginning are closed when they are used again.
        send_page(connection)
        connection.request()

    with RawServer(script) as server, following(server.url) as upstream:
        first = [gevent.spawn(fetched, upstream) for _ in range(5)]
        gevent.joinall(first, raise_error=True)
        assert fetched(upstream).page.files == ()
        assert server.connections == 6


def test_an_upstream_that_never_responds_gets_two_requests():
    asked = []

    def script(connection: RawConnection) -> None:
        asked.append(connection.request())

    with (
        RawServer(script) as server,
        following(server.url) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)
    assert len(asked) == 2


# Credentials


def with_credentials(index: FakeIndex, pair: str = "user:p%40ss") -> Any:
    return following(index.url.replace("//", f"//{pair}@"))


def authorization(seen: Seen) -> str | None:
    return seen.headers.get("AUTHORIZATION")


@pytest.mark.parametrize(
    ("pair", "header"),
    [
        ("user:p%40ss", "Basic dXNlcjpwQHNz"),
        ("user:", "Basic dXNlcjo="),
        ("token", "Basic dG9rZW46"),
        ("us%C3%A9r:%E2%82%AC", "Basic dXPDqXI64oKs"),
    ],
)
def test_credentials_are_sent_to_upstream(index: FakeIndex, pair: str, header: str):
    index.add(sdist("demo"))
    with with_credentials(index, pair) as upstream:
        fetched(upstream)
    assert authorization(index.seen[0]) == header


def test_credentials_are_sent_with_files_of_the_same_origin(index: FakeIndex):
    index.answers["/file"] = reply(b"data", None)
    with with_credentials(index) as upstream:
        upstream.files.open(f"{index.url}/file").close()
        upstream.files.size(f"{index.url}/file")
    assert [authorization(seen) for seen in index.seen] == ["Basic dXNlcjpwQHNz"] * 2


def test_credentials_are_sent_to_no_other_origin(index: FakeIndex):
    with FakeIndex() as other, with_credentials(index) as upstream:
        other.answers["/page"] = reply(json_page(), JSON)
        other.answers["/file"] = reply(b"data", None)
        index.answers[PAGE] = redirect(f"{other.url}/page")
        fetched(upstream)
        upstream.files.open(f"{other.url}/file").close()
        assert authorization(index.seen[0]) is not None
        assert [authorization(seen) for seen in other.seen] == [None, None]


def test_credentials_are_sent_again_after_a_redirect_back_to_upstream(index: FakeIndex):
    with FakeIndex() as other, with_credentials(index) as upstream:
        index.answers[PAGE] = redirect(f"{other.url}/away")
        other.answers["/away"] = redirect(f"{index.url}/back")
        index.answers["/back"] = reply(json_page(), JSON)
        fetched(upstream)
        assert authorization(other.seen[0]) is None
        assert authorization(index.seen[1]) is not None


@pytest.mark.parametrize(
    "response",
    [
        reply(b"", None, "500 Oops"),
        reply(b"", "text/plain"),
        reply(b"{", JSON),
        redirect("ftp://index.example.org/"),
        redirect(PAGE),
    ],
)
def test_no_error_shows_credentials(
    index: FakeIndex, response: Any, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    index.answers[PAGE] = response
    with (
        with_credentials(index, "user:secret") as upstream,
        pytest.raises(UpstreamError) as caught,
    ):
        fetched(upstream)
    assert "secret" not in f"{caught.value!s}{caught.value!r}{caplog.text}"


def test_no_log_line_about_a_missing_project_shows_credentials(
    index: FakeIndex, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    with with_credentials(index, "user:secret") as upstream:
        assert fetched(upstream) is PageState.MISSING
        assert "secret" not in f"{caplog.text}{upstream.pages.url}{upstream.pages.page_url('demo')}"


def test_no_error_about_an_unreachable_upstream_shows_credentials(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    with (
        following(f"http://user:secret@127.0.0.1:{free_port()}", timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable) as caught,
    ):
        fetched(upstream)
    assert "secret" not in f"{caught.value!s}{caught.value!r}{caplog.text}{upstream.pages.url}"


def test_credentials_in_a_redirect_are_not_used(
    index: FakeIndex, upstream: Upstream, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("DEBUG")
    index.answers[PAGE] = redirect(index.url.replace("//", "//user:secret@") + "/there/")
    index.answers["/there/"] = reply(json_page("demo-1.0.tar.gz"), JSON)
    (file,) = fetched(upstream).page.files
    assert file.url == f"{index.url}/there/demo-1.0.tar.gz"
    assert authorization(index.seen[1]) is None
    assert "secret" not in caplog.text


def test_no_error_about_a_redirect_shows_its_credentials(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = redirect("ftp://user:secret@index.example.org/")
    with pytest.raises(UpstreamGarbled) as caught:
        fetched(upstream)
    assert "secret" not in f"{caught.value!s}{caught.value!r}"
