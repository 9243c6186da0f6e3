"""The index we follow: what is asked of it, and what is believed."""

import gzip
import itertools
import json
import tracemalloc
import zlib

import gevent
import pytest
from gevent.event import Event

from pytail.errors import (
    ProjectNotFound,
    UpstreamError,
    UpstreamGarbled,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.upstream.client import Upstream
from tests.support.fakeindex import HTML, JSON, FakeIndex, Gated, RawServer, reply, sdist
from tests.support.running import free_port

PAGE = "/simple/demo/"


def body(*urls, **more):
    files = [{"filename": url.rpartition("/")[2], "url": url, "hashes": {}} for url in urls]
    return json.dumps({"name": "demo", "files": files, **more}).encode()


def html(*urls):
    anchors = "".join(f'<a href="{url}">{url.rpartition("/")[2]}</a>' for url in urls)
    return f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode()


def redirect(location, status="302 Found"):
    return reply(b"elsewhere", "text/plain", status, Location=location)


@pytest.fixture
def upstream(index):
    made = Upstream(index.url, timeout=5)
    yield made
    made.close()


def quickly(url, **more):
    """An upstream that is not waited for."""
    return Upstream(url, timeout=0.2, **more)


# Pages


def test_a_page_is_asked_for_as_json_first(index, upstream):
    index.add(sdist("demo"))
    upstream.page("demo")
    kinds = [kind.strip() for kind in index.seen[0].headers["ACCEPT"].split(",")]
    assert kinds[0] == JSON
    assert all(";q=0." in kind for kind in kinds[1:])


def test_a_page_comes_with_its_files_their_urls_absolute(index, upstream):
    index.add(dist := sdist("demo"))
    (file,) = upstream.page("demo").page.files
    assert file.filename == "demo-1.0.tar.gz"
    assert file.url == index.url + dist.path
    assert file.size == len(dist.data)


@pytest.mark.parametrize("path", ["", "/", "/simple", "/simple/", "//simple//"])
def test_the_page_is_below_simple_however_the_url_was_spelled(index, path):
    from pytail.config.values import upstream_base_url  # noqa: PLC0415

    index.add(sdist("demo"))
    assert Upstream(upstream_base_url(index.url + path), timeout=5).page("demo") is not None
    assert index.page_count("demo") == 1


@pytest.mark.parametrize("kind", [HTML, "text/html", "text/html; charset=utf-8"])
def test_html_is_read_too(index, upstream, kind):
    index.answers[PAGE] = reply(html("../../f/demo-1.0.tar.gz"), kind)
    (file,) = upstream.page("demo").page.files
    assert file.url == f"{index.url}/f/demo-1.0.tar.gz"


def test_a_compressed_page_is_read(index, upstream):
    data = gzip.compress(body("demo-1.0.tar.gz"))
    index.answers[PAGE] = reply(data, JSON, Content_Encoding="gzip")
    assert len(upstream.page("demo").page.files) == 1
    assert "gzip" in index.seen[0].headers["ACCEPT_ENCODING"]


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", "deflate", "identity", "gzip, gzip"])
@pytest.mark.parametrize("files", [1, 1000])
def test_a_page_is_read_in_whatever_coding(index, upstream, coding, files):
    data = body(*(f"demo-{number}.tar.gz" for number in range(files)))
    packed = gzip.compress(data) if "zip" in coding.lower() else data
    if coding == "deflate":
        packed = zlib.compress(data)
    elif "," in coding:
        packed = gzip.compress(packed)
    index.answers[PAGE] = reply(packed, JSON, Content_Encoding=coding)
    assert len(upstream.page("demo").page.files) == files


@pytest.mark.parametrize("coding", [None, "gzip"])
def test_a_large_page_is_read_whole(index, upstream, coding):
    data = body(*(f"demo-{number}.tar.gz" for number in range(20_000)))
    if coding is None:
        index.answers[PAGE] = reply(data, JSON)
    else:
        index.answers[PAGE] = reply(gzip.compress(data), JSON, Content_Encoding=coding)
    assert len(upstream.page("demo").page.files) == 20_000


def test_a_page_in_chunks_is_read_whole(index, upstream):
    data = body("demo-1.0.tar.gz", "demo-2.0.tar.gz")
    gated = index.answers[PAGE] = Gated(data[:20], data[20:40], data[40:], Content_Type=JSON)
    gated.open(3)
    assert len(upstream.page("demo").page.files) == 2


def test_the_serial_may_come_as_a_header(index, upstream):
    index.answers[PAGE] = reply(body(), JSON, X_PyPI_Last_Serial="123")
    assert upstream.page("demo").page.last_serial == 123


def test_the_serial_in_the_page_goes_before_the_header(index, upstream):
    index.answers[PAGE] = reply(body(meta={"_last-serial": 7}), JSON, X_PyPI_Last_Serial="123")
    assert upstream.page("demo").page.last_serial == 7


# Validators


@pytest.mark.parametrize("etag", ['"strong"', 'W/"weak, and odd"', "unquoted", '"\xe9"'])
def test_the_validator_is_sent_back_verbatim(index, upstream, etag):
    index.answers[PAGE] = reply(body(), JSON, etag=etag)
    found = upstream.page("demo")
    assert found.etag == etag
    assert upstream.page("demo", found.etag) is None
    assert index.seen[1].headers["IF_NONE_MATCH"] == etag


def test_a_page_without_validator_has_none(index, upstream):
    index.answers[PAGE] = reply(body(), JSON)
    assert upstream.page("demo").etag is None
    assert "IF_NONE_MATCH" not in index.seen[0].headers


def test_a_new_page_comes_in_place_of_an_old_validator(index, upstream):
    index.answers[PAGE] = reply(body(), JSON, etag='"new"')
    assert upstream.page("demo", '"old"').etag == '"new"'


def test_an_unchanged_page_that_was_not_asked_about_is_an_error(index, upstream):
    index.answers[PAGE] = reply(b"", None, "304 Not Modified")
    with pytest.raises(UpstreamRefused):
        upstream.page("demo")


def test_the_revision_changes_with_the_content_only(index, upstream):
    index.answers[PAGE] = reply(body("demo-1.0.tar.gz"), JSON, etag='"1"')
    first = upstream.page("demo").revision
    index.answers[PAGE] = reply(body("demo-1.0.tar.gz"), JSON, etag='"2"')
    assert upstream.page("demo").revision == first
    index.answers[PAGE] = reply(body("demo-2.0.tar.gz"), JSON, etag='"2"')
    assert upstream.page("demo").revision != first


def test_one_listing_for_two_projects_has_two_revisions(index, upstream):
    index.answers["/all/"] = reply(html("demo-1.0.tar.gz", "other-1.0.tar.gz"), "text/html")
    for path in (PAGE, "/simple/other/"):
        index.answers[path] = redirect("/all/")
    demo, other = upstream.page("demo"), upstream.page("other")
    assert [file.filename for file in demo.page.files] == ["demo-1.0.tar.gz"]
    assert [file.filename for file in other.page.files] == ["other-1.0.tar.gz"]
    assert demo.revision != other.revision


# Redirects


@pytest.mark.parametrize(
    "status",
    [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ],
)
def test_links_are_meant_against_the_url_a_redirect_led_to(index, upstream, status):
    index.answers[PAGE] = redirect("/elsewhere/deep/demo/", status)
    index.answers["/elsewhere/deep/demo/"] = reply(body("../demo-1.0.tar.gz"), JSON)
    (file,) = upstream.page("demo").page.files
    assert file.url == f"{index.url}/elsewhere/deep/demo-1.0.tar.gz"


def test_a_redirect_may_lead_to_another_host(index, upstream):
    with FakeIndex() as other:
        index.answers[PAGE] = redirect(f"{other.url}/pages/demo")
        other.answers["/pages/demo"] = reply(body("demo-1.0.tar.gz"), JSON)
        (file,) = upstream.page("demo").page.files
        assert file.url == f"{other.url}/pages/demo-1.0.tar.gz"


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
def test_a_redirect_to_what_is_no_http_url_is_refused(index, upstream, location):
    index.answers[PAGE] = redirect(location)
    with pytest.raises(UpstreamGarbled, match="redirects to"):
        upstream.page("demo")


@pytest.mark.parametrize("location", ["http://..", f"http://{'a' * 70}/", "http://a b/"])
def test_a_redirect_to_what_is_no_host_is_an_error_of_upstream(index, upstream, location):
    index.answers[PAGE] = redirect(location)
    with pytest.raises(UpstreamError):
        upstream.page("demo")


def test_redirects_come_to_an_end(index, upstream):
    index.answers[PAGE] = redirect(PAGE)
    with pytest.raises(UpstreamGarbled, match="more than 5 times"):
        upstream.page("demo")
    assert index.page_count("demo") == 6


def test_a_redirect_without_location_is_a_refusal(index, upstream):
    index.answers[PAGE] = reply(b"", None, "302 Found")
    with pytest.raises(UpstreamRefused):
        upstream.page("demo")


# What is no page


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/octet-stream",
        "application/vnd.pypi.simple.v2+json",
        "image/png; q=1",
        ";;;",
        "\xff",
    ],
)
def test_only_the_types_of_the_simple_api_are_read(index, upstream, kind):
    index.answers[PAGE] = reply(body(), kind)
    with pytest.raises(UpstreamGarbled, match="not a page's"):
        upstream.page("demo")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b'{"name": "another", "files": []}', JSON),
        (b'{"meta": {"api-version": "2.0"}, "files": []}', JSON),
        (body("demo-1.0.tar.gz")[:-5], JSON),
        (b"<html><body><form>Log in</form></body></html>", HTML),
        (html("demo-1.0.tar.gz")[:-10], HTML),
    ],
)
def test_what_is_no_page_is_garbled(index, upstream, data, kind):
    index.answers[PAGE] = reply(data, kind)
    with pytest.raises(UpstreamGarbled):
        upstream.page("demo")


def test_a_body_that_is_not_compressed_as_it_says_is_garbled(index, upstream):
    index.answers[PAGE] = reply(b"no gzip at all", JSON, Content_Encoding="gzip")
    with pytest.raises(UpstreamGarbled, match="decode"):
        upstream.page("demo")


@pytest.mark.parametrize("size", [None, 70_000])
def test_a_page_beyond_the_limit_is_refused(index, size):
    upstream = Upstream(index.url, 5, max_page_bytes=50_000)
    gated = index.answers[PAGE] = Gated(
        body() + b" " * (70_000 - len(body())), size=size, Content_Type=JSON
    )
    gated.open()
    with pytest.raises(UpstreamGarbled, match="over 50000 bytes"):
        upstream.page("demo")  # item 144
    upstream.close()


def test_a_page_that_inflates_beyond_the_limit_takes_no_memory(index):
    upstream = Upstream(index.url, 5, max_page_bytes=1_000_000)
    bomb = gzip.compress(bytes(100_000_000), compresslevel=1)
    index.answers[PAGE] = reply(bomb, JSON, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        with pytest.raises(UpstreamGarbled, match="over 1000000 bytes"):
            upstream.page("demo")
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
        upstream.close()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_page_that_breaks_off_is_no_page(framing):
    def script(connection):
        connection.request()
        data = body()
        sent = f"{len(data):x}\r\n".encode() + data + b"\r\n" if "chunked" in framing else data
        connection.send("HTTP/1.1 200 OK", f"Content-Type: {JSON}", framing, body=sent)

    with RawServer(script) as server, pytest.raises(UpstreamUnreachable):
        quickly(server.url).page("demo")


def test_a_page_that_never_ends_is_given_up_in_time():
    over = Event()

    def script(connection):
        connection.request()
        head = f"Content-Type: {JSON}", "Content-Length: 100000"
        connection.send("HTTP/1.1 200 OK", *head, body=b" ")
        over.wait()

    with RawServer(script) as server:
        # Ten seconds pass between one look at the clock and the next.
        upstream = Upstream(server.url, timeout=2, clock=itertools.count(0, 10).__next__)
        with pytest.raises(UpstreamUnreachable, match="does not come to an end"):
            upstream.page("demo")
        over.set()


def test_a_page_that_falls_silent_is_given_up():
    over = Event()

    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK", f"Content-Type: {JSON}", "Content-Length: 1000")
        over.wait()

    with RawServer(script) as server:
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            quickly(server.url).page("demo")
        over.set()


def test_the_rest_of_an_answer_that_is_not_wanted_is_not_waited_for():
    sent, over = [], Event()

    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 404 Not Found", "Content-Length: 1000")
        for _ in range(1000):
            connection.send(body=b" ")
            sent.append(1)
            gevent.sleep(0.001)
        over.set()

    with RawServer(script) as server:
        with pytest.raises(ProjectNotFound):
            Upstream(server.url, timeout=5).page("demo")
        assert len(sent) < 100


# Statuses


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_project_that_upstream_does_not_have_is_not_found(index, upstream, status):
    index.answers[PAGE] = reply(b"no", "text/plain", status)
    with pytest.raises(ProjectNotFound, match="demo"):
        upstream.page("demo")


@pytest.mark.parametrize("status", [204, 206, 300, 400, 401, 403, 429, 500, 502, 503, 504])
def test_any_other_status_is_a_refusal(index, upstream, status):
    index.answers[PAGE] = reply(b"", None, f"{status} Whatever")
    with pytest.raises(UpstreamRefused) as caught:
        upstream.page("demo")
    assert caught.value.status == status
    assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (" 120 ", 120),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_a_refusal_says_when_to_come_again(index, upstream, header, seconds):
    index.answers[PAGE] = reply(b"", None, "429 Too Many Requests", Retry_After=header)
    with pytest.raises(UpstreamRefused) as caught:
        upstream.page("demo")
    assert caught.value.retry_after == seconds


def test_an_upstream_that_is_not_there_is_unreachable():
    with pytest.raises(UpstreamUnreachable):
        quickly(f"http://127.0.0.1:{free_port()}").page("demo")


def test_a_host_that_has_no_name_is_unreachable():
    with pytest.raises(UpstreamUnreachable):
        quickly("http://index.invalid").page("demo")


def test_an_upstream_that_says_nothing_is_unreachable():
    over = Event()

    def script(connection):
        over.wait()

    with RawServer(script) as server:
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            quickly(server.url).page("demo")
        over.set()


def test_an_upstream_that_does_not_speak_http_is_unreachable():
    def script(connection):
        connection.request()
        connection.send("220 mail.example.org ESMTP")

    with RawServer(script) as server, pytest.raises(UpstreamUnreachable):
        quickly(server.url).page("demo")


# Connections


def answer(connection):
    data = body()
    connection.send(
        "HTTP/1.1 200 OK", f"Content-Type: {JSON}", f"Content-Length: {len(data)}", body=data
    )


def test_a_connection_serves_again():
    def script(connection):
        while connection.request():
            answer(connection)

    with RawServer(script) as server:
        upstream = Upstream(server.url, timeout=5)
        for _ in range(3):
            upstream.page("demo")
        assert server.connections == 1
        upstream.close()


def test_a_connection_serves_again_after_a_file():
    def script(connection):
        while connection.request():
            connection.send("HTTP/1.1 200 OK", "Content-Length: 4", body=b"data")

    with RawServer(script) as server:
        upstream = Upstream(server.url, timeout=5)
        for _ in range(3):
            transfer = upstream.file(f"{server.url}/file")
            assert (transfer.read(), transfer.read()) == (b"data", b"")
            transfer.close()
        assert server.connections == 1
        upstream.close()


@pytest.mark.parametrize("status", ["404 Not Found", "302 Found", "500 Oops", "304 Not Modified"])
def test_a_connection_serves_again_after_a_short_answer(status):
    def script(connection):
        while connection.request():
            length = 0 if status.startswith("304") else 5
            connection.send(
                f"HTTP/1.1 {status}", f"Content-Length: {length}", body=b"never"[:length]
            )

    with RawServer(script) as server:
        upstream = Upstream(server.url, timeout=5)
        for _ in range(3):
            with pytest.raises((ProjectNotFound, UpstreamError)):
                upstream.page("demo")
        assert server.connections == 1
        upstream.close()


def test_a_connection_that_upstream_closed_meanwhile_is_replaced_in_silence():
    def script(connection):
        # One answer a connection; the next request on it gets none.
        connection.request()
        answer(connection)
        connection.request()

    with RawServer(script) as server:
        upstream = Upstream(server.url, timeout=5)
        for _ in range(3):
            assert upstream.page("demo") is not None
        assert server.connections == 3
        upstream.close()


def test_all_connections_that_upstream_closed_meanwhile_are_replaced_in_silence():
    together, asked = Event(), []

    def script(connection):
        asked.append(connection.request())
        if len(asked) == 5:
            together.set()
        together.wait()
        # As often as there are connections at first: then each is closed when it is used again.
        answer(connection)
        connection.request()

    with RawServer(script) as server:
        upstream = Upstream(server.url, timeout=5)
        first = [gevent.spawn(upstream.page, "demo") for _ in range(5)]
        gevent.joinall(first, raise_error=True)
        assert upstream.page("demo") is not None
        assert server.connections == 6
        upstream.close()


def test_an_answer_whose_head_never_ends_is_given_up():
    def script(connection):
        connection.request()
        connection.send(body=b"HTTP/1.1 200 OK\r\nX-Drip: ")
        while True:
            connection.send(body=b"x")
            gevent.sleep(0.05)

    with (
        RawServer(script) as server,
        pytest.raises(UpstreamUnreachable, match="within 0"),
    ):
        quickly(server.url).page("demo")


def test_an_upstream_that_never_answers_is_asked_twice_and_no_more():
    asked = []

    def script(connection):
        asked.append(connection.request())

    with RawServer(script) as server, pytest.raises(UpstreamUnreachable):
        Upstream(server.url, timeout=5).page("demo")
    assert len(asked) == 2


# Credentials


def with_credentials(index, pair="user:p%40ss"):
    return Upstream(index.url.replace("//", f"//{pair}@"), timeout=5)


def authorization(seen):
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
def test_credentials_go_to_upstream(index, pair, header):
    index.add(sdist("demo"))
    with_credentials(index, pair).page("demo")
    assert authorization(index.seen[0]) == header


def test_credentials_go_with_files_on_the_same_origin(index):
    index.answers["/file"] = reply(b"data", None)
    upstream = with_credentials(index)
    upstream.file(f"{index.url}/file").close()
    upstream.file_size(f"{index.url}/file")
    assert [authorization(seen) for seen in index.seen] == ["Basic dXNlcjpwQHNz"] * 2


def test_credentials_go_to_no_other_origin(index):
    with FakeIndex() as other:
        other.answers["/page"] = reply(body(), JSON)
        other.answers["/file"] = reply(b"data", None)
        index.answers[PAGE] = redirect(f"{other.url}/page")
        upstream = with_credentials(index)
        upstream.page("demo")
        upstream.file(f"{other.url}/file").close()
        assert authorization(index.seen[0]) is not None
        assert [authorization(seen) for seen in other.seen] == [None, None]


def test_credentials_come_back_to_upstream_with_a_redirect(index):
    with FakeIndex() as other:
        index.answers[PAGE] = redirect(f"{other.url}/away")
        other.answers["/away"] = redirect(f"{index.url}/back")
        index.answers["/back"] = reply(body(), JSON)
        with_credentials(index).page("demo")
        assert authorization(other.seen[0]) is None
        assert authorization(index.seen[1]) is not None


@pytest.mark.parametrize(
    "trouble",
    [
        reply(b"", None, "404 Not Found"),
        reply(b"", None, "500 Oops"),
        reply(b"", "text/plain"),
        reply(b"{", JSON),
        redirect("ftp://index.example.org/"),
        redirect(PAGE),
    ],
)
def test_credentials_stand_in_no_message(index, trouble, caplog):
    caplog.set_level("DEBUG")
    index.answers[PAGE] = trouble
    with pytest.raises((ProjectNotFound, UpstreamError)) as caught:
        with_credentials(index, "user:secret").page("demo")
    assert "secret" not in f"{caught.value!s}{caught.value!r}{caplog.text}"


def test_credentials_stand_in_no_message_about_an_upstream_that_is_not_there(caplog):
    caplog.set_level("DEBUG")
    upstream = Upstream(f"http://user:secret@127.0.0.1:{free_port()}", timeout=0.2)
    with pytest.raises(UpstreamUnreachable) as caught:
        upstream.page("demo")
    assert "secret" not in f"{caught.value!s}{caught.value!r}{caplog.text}{upstream.url}"


def test_credentials_in_a_redirect_stand_in_no_url(index, upstream, caplog):
    caplog.set_level("DEBUG")
    index.answers[PAGE] = redirect(index.url.replace("//", "//user:secret@") + "/there/")
    index.answers["/there/"] = reply(body("demo-1.0.tar.gz"), JSON)
    (file,) = upstream.page("demo").page.files
    assert file.url == f"{index.url}/there/demo-1.0.tar.gz"
    assert authorization(index.seen[1]) is None
    assert "secret" not in caplog.text


def test_credentials_in_a_redirect_that_is_refused_stand_in_no_message(index, upstream):
    index.answers[PAGE] = redirect("ftp://user:secret@index.example.org/")
    with pytest.raises(UpstreamGarbled) as caught:
        upstream.page("demo")
    assert "secret" not in f"{caught.value!s}{caught.value!r}"


# Files


def test_a_file_comes_byte_for_byte(index, upstream):
    data = gzip.compress(b"x" * 200_000)
    index.answers["/file"] = reply(data, None, Content_Encoding="gzip")
    transfer = upstream.file(f"{index.url}/file")
    assert transfer.size == len(data)
    assert b"".join(iter(transfer.read, b"")) == data
    transfer.close()
    assert index.seen[0].headers["ACCEPT_ENCODING"] == "identity"


def test_the_bytes_of_a_file_are_read_as_they_arrive(index, upstream):
    gated = index.answers["/file"] = Gated(b"first", b"second")
    gated.open()
    transfer = upstream.file(f"{index.url}/file")
    assert transfer.size is None
    assert transfer.read() == b"first"
    gated.open()
    assert (transfer.read(), transfer.read()) == (b"second", b"")
    transfer.close()


def test_a_file_may_be_redirected_to(index, upstream):
    with FakeIndex() as other:
        index.answers["/file"] = redirect(f"{other.url}/stored?signature=1")
        other.answers["/stored"] = reply(b"data", None)
        transfer = upstream.file(f"{index.url}/file")
        assert transfer.read() == b"data"
        transfer.close()


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_file_that_breaks_off_is_an_error_after_what_came(framing):
    def script(connection):
        connection.request()
        sent = b"a\r\nfive!" if "chunked" in framing else b"five!"
        connection.send("HTTP/1.1 200 OK", framing, body=sent)

    with RawServer(script) as server:
        transfer = quickly(server.url).file(f"{server.url}/file")
        assert transfer.read() == b"five!"
        with pytest.raises(UpstreamUnreachable):
            transfer.read()
        transfer.close()


def test_a_file_that_falls_silent_is_given_up():
    over = Event()

    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK", "Content-Length: 10", body=b"five!")
        over.wait()

    with RawServer(script) as server:
        transfer = quickly(server.url).file(f"{server.url}/file")
        assert transfer.read() == b"five!"
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            transfer.read()
        transfer.close()
        over.set()


# Sizes


def test_the_size_of_a_file_is_asked_for_without_its_body(index, upstream):
    index.answers["/file"] = reply(b"x" * 1000, None)
    assert upstream.file_size(f"{index.url}/file") == 1000
    assert [seen.method for seen in index.seen] == ["HEAD"]


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "501 Not Implemented"])
def test_an_upstream_without_head_is_asked_for_the_head_of_a_get(index, upstream, status):
    gated = Gated(b"x", b"y" * 999, size=1000)
    gated.open()

    def file(environ, start_response):
        if environ["REQUEST_METHOD"] == "HEAD":
            return reply(b"no", "text/plain", status)(environ, start_response)
        return gated(environ, start_response)

    index.answers["/file"] = file
    assert upstream.file_size(f"{index.url}/file") == 1000
    assert not gated.gates[1].is_set()


def test_a_size_that_upstream_does_not_tell_is_not_known():
    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK", "Transfer-Encoding: chunked")

    with RawServer(script) as server:
        assert quickly(server.url).file_size(f"{server.url}/file") is None


@pytest.mark.parametrize("length", ["-1", "ten", "1, 1", "0x10", "\u0661"])
def test_a_length_that_is_none_is_not_known(length):
    def script(connection):
        connection.request()
        connection.send("HTTP/1.1 200 OK", f"Content-Length: {length}")

    with RawServer(script) as server:
        assert quickly(server.url).file_size(f"{server.url}/file") is None


def test_a_file_that_upstream_refuses_has_no_size(index, upstream):
    with pytest.raises(UpstreamRefused) as caught:
        upstream.file_size(f"{index.url}/nothing")
    assert caught.value.status == 404
