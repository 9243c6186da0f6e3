"""One request: redirects, connections, credentials, and what counts as a failure."""

from __future__ import annotations

import contextlib
import socket
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
    UpstreamNotConnected,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.upstream.circuit_breaker import OBJECTS
from pytail.upstream.pages import PageState
from tests.support.fakeindex import (
    JSON,
    FakeIndex,
    Gated,
    RawConnection,
    RawServer,
    Seen,
    reply,
    sdist,
    wheel,
)
from tests.support.running import free_port
from tests.support.upstreams import (
    ENVIRON,
    PAGE,
    fetched,
    first_root,
    following,
    json_page,
    redirect,
)

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


def test_a_retry_after_date_stops_its_object_until_then(index: FakeIndex, upstream: Upstream):
    date = formatdate(time.time() + 60, usegmt=True)
    index.answers[PAGE] = reply(b"", None, "503 Service Unavailable", Retry_After=date)
    with pytest.raises(UpstreamRefused) as refused:
        fetched(upstream)
    assert 55 <= refused.value.retry_after <= 60
    with pytest.raises(UpstreamCircuitOpen, match="status 503") as caught:
        fetched(upstream)
    assert 55 <= caught.value.retry_after <= 60
    assert index.page_count("demo") == 1
    assert fetched(upstream, project="other") is PageState.MISSING


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("404 Not Found", {}),
        ("403 Forbidden", {}),
        ("401 Unauthorized", {}),
        ("200 OK", {}),
        ("304 Not Modified", {}),
        ("429 Too Many Requests", {}),
        ("503 Service Unavailable", {"Retry_After": "60"}),
    ],
)
def test_only_failures_of_the_host_open_its_circuit_breaker(
    index: FakeIndex, upstream: Upstream, status: str, headers: dict[str, str]
):
    for number in range(2 * OBJECTS):
        index.answers[f"/simple/p{number}/"] = reply(b"", None, status, **headers)
        with contextlib.suppress(UpstreamGarbled, UpstreamRefused):
            fetched(upstream, project=f"p{number}")
    assert not upstream.client.is_circuit_open(index.url)


def test_pages_above_the_limit_are_no_failures_of_the_host(index: FakeIndex):
    with following(index.url, max_page_bytes=10) as upstream:
        for number in range(2 * OBJECTS):
            index.add(wheel(f"p{number}"))
            with pytest.raises(UpstreamGarbled, match="--max-page-bytes"):
                fetched(upstream, project=f"p{number}")
        assert not upstream.client.is_circuit_open(index.url)


def fail_pages(upstream: Upstream, index: FakeIndex, count: int, answer: Any) -> None:
    for number in range(count):
        index.answers[f"/simple/p{number}/"] = answer
        with pytest.raises((UpstreamRefused, UpstreamUnreachable)):
            fetched(upstream, project=f"p{number}")


def cut(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "9"), ("Connection", "close")])
    return [b"{"]


@pytest.mark.parametrize("answer", [reply(b"", None, "500 Oops"), cut])
def test_ten_failing_pages_open_the_circuit_breaker_of_the_host(
    index: FakeIndex, upstream: Upstream, answer: Any
):
    fail_pages(upstream, index, OBJECTS - 1, answer)
    assert not upstream.client.is_circuit_open(index.url)
    fail_pages(upstream, index, OBJECTS, answer)
    assert upstream.client.is_circuit_open(index.url)


def test_a_page_that_always_fails_stops_no_other(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "500 Oops")
    for _ in range(3):
        with pytest.raises(UpstreamRefused):
            fetched(upstream)
    with pytest.raises(UpstreamCircuitOpen, match="3 failures in a row: answered with status 500"):
        fetched(upstream)
    assert fetched(upstream, project="other") is PageState.MISSING


def hang(*_: Any) -> Any:
    Event().wait()


def test_ten_pages_that_hang_open_the_circuit_breaker_and_one_does_not(index: FakeIndex):
    names = [f"p{number}" for number in range(OBJECTS)]
    index.answers |= {f"/simple/{name}/": hang for name in names}
    with following(index.url, timeout=0.3) as upstream:

        def ask(name: str) -> None:
            with pytest.raises(UpstreamUnreachable):
                fetched(upstream, project=name)

        for _ in range(4):
            ask("p0")
        assert fetched(upstream, project="other") is PageState.MISSING
        gevent.joinall([gevent.spawn(ask, name) for name in names[1:]], raise_error=True)
        assert not upstream.client.is_circuit_open(index.url)
        index.answers["/simple/another/"] = hang
        ask("another")
        assert upstream.client.is_circuit_open(index.url)


def test_three_refused_connections_open_the_circuit_breaker():
    url = f"http://127.0.0.1:{free_port()}"
    with following(url) as upstream:
        for _ in range(3):
            assert not upstream.client.is_circuit_open(url)
            with pytest.raises(UpstreamNotConnected):
                fetched(upstream)
        assert upstream.client.is_circuit_open(url)


def assert_not_connected(url: str, timeout: float = 5, **environ: str) -> None:
    with (
        following(url, timeout, environ=ENVIRON | environ) as upstream,
        pytest.raises(UpstreamNotConnected),
    ):
        fetched(upstream)


def test_a_host_without_tls_is_not_connected():
    def script(connection: RawConnection) -> None:
        connection.send("220 mail.example.org ESMTP")

    with RawServer(script) as server:
        assert_not_connected(server.url.replace("http:", "https:"))


def test_a_proxy_that_refuses_the_host_is_not_connected():
    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 503 Service Unavailable", "Content-Length: 0")

    with RawServer(script) as proxy:
        assert_not_connected("https://index.example.org", HTTPS_PROXY=proxy.url)


def test_a_proxy_that_is_down_is_not_connected():
    proxy = f"http://127.0.0.1:{free_port()}"
    assert_not_connected("http://index.example.org", HTTP_PROXY=proxy)


def test_a_connection_that_hangs_is_not_connected():
    # The kernel accepts so many connections for the listener, and lets further ones wait.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        assert_not_connected(f"http://127.0.0.1:{address[1]}", timeout=0.3)


def test_a_redirect_to_a_host_that_is_down_is_charged_to_that_host(
    index: FakeIndex, upstream: Upstream
):
    away = f"http://127.0.0.1:{free_port()}"
    for number in range(3):
        index.answers[f"/simple/p{number}/"] = redirect(f"{away}/simple/")
        with pytest.raises(UpstreamNotConnected):
            fetched(upstream, project=f"p{number}")
    assert upstream.client.is_circuit_open(away)
    assert not upstream.client.is_circuit_open(index.url)
    with pytest.raises(UpstreamCircuitOpen):
        fetched(upstream, project="p0")
    assert fetched(upstream, project="other") is PageState.MISSING


def test_a_file_whose_head_requests_fail_can_be_read(index: FakeIndex, upstream: Upstream):
    def only_get(environ: dict[str, Any], start_response: Any) -> Any:
        is_get = environ["REQUEST_METHOD"] == "GET"
        answer = reply(b"data", None) if is_get else reply(b"", None, "500 Oops")
        return answer(environ, start_response)

    index.answers["/file"] = only_get
    for _ in range(4):
        with pytest.raises((UpstreamRefused, UpstreamCircuitOpen)):
            upstream.files.size(f"{index.url}/file")
    with contextlib.closing(upstream.files.open(f"{index.url}/file")) as file:
        assert file.read() == b"data"


def test_a_file_whose_ranges_fail_is_read_whole(index: FakeIndex, upstream: Upstream):
    def no_ranges(environ: dict[str, Any], start_response: Any) -> Any:
        is_range = "HTTP_RANGE" in environ
        answer = reply(b"", None, "500 Oops") if is_range else reply(b"data", None)
        return answer(environ, start_response)

    index.answers["/file"] = no_ranges
    for _ in range(4):
        with contextlib.closing(upstream.files.open(f"{index.url}/file", 2)) as file:
            assert (file.start, file.read()) == (0, b"data")


def test_a_cancelled_request_is_no_failure(index: FakeIndex, upstream: Upstream):
    gated = index.answers[PAGE] = Gated(json_page(), Content_Type=JSON)
    for _ in range(4):
        request = gevent.spawn(fetched, upstream)
        gated.asked.wait()
        request.kill()
        gated.asked.clear()
    gated.open()
    assert fetched(upstream).page.files == ()


def test_a_request_that_outlasts_the_patience_of_its_client_is_a_failure(
    index: FakeIndex, upstream: Upstream
):
    index.answers["/file"] = hang
    for _ in range(3):
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.2):
            upstream.files.size(f"{index.url}/file")
    with pytest.raises(UpstreamCircuitOpen, match=r"no response within 0\.2 seconds"):
        upstream.files.size(f"{index.url}/file")


def test_a_refused_connection_is_unreachable():
    with (
        following(f"http://127.0.0.1:{free_port()}", timeout=0.2) as upstream,
        pytest.raises(UpstreamNotConnected),
    ):
        fetched(upstream)


def test_an_unknown_host_name_is_unreachable():
    with (
        following("http://index.invalid", timeout=5) as upstream,
        pytest.raises(UpstreamNotConnected),
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

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
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

    with RawServer(script) as server, following(server.url, recall=first_root) as upstream:
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
        following(server.url, recall=first_root) as upstream,
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
        assert (
            "secret"
            not in f"{caplog.text}{upstream.pages.root.key}{upstream.pages.page_url('demo')}"
        )


def test_no_error_about_an_unreachable_upstream_shows_credentials(caplog: pytest.LogCaptureFixture):
    caplog.set_level("DEBUG")
    with (
        following(f"http://user:secret@127.0.0.1:{free_port()}", timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable) as caught,
    ):
        fetched(upstream)
    assert "secret" not in f"{caught.value!s}{caught.value!r}{caplog.text}{upstream.pages.root.key}"


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
