"""Project pages are fetched, parsed and revalidated."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib

import pytest
from gevent.event import Event

from pytail.cache.cache import Upstream
from pytail.config.values import upstream_base_url
from pytail.errors import UpstreamGarbled, UpstreamRefused, UpstreamUnreachable
from pytail.upstream.pages import PageState
from tests.support.fakeindex import (
    HTML,
    JSON,
    FakeIndex,
    Gated,
    RawConnection,
    RawServer,
    reply,
    sdist,
)
from tests.support.upstreams import PAGE, fetched, following, html_page, json_page, redirect

# Requests


def test_a_page_is_requested_as_json_first(index: FakeIndex, upstream: Upstream):
    index.add(sdist("demo"))
    fetched(upstream)
    kinds = [kind.strip() for kind in index.seen[0].headers["ACCEPT"].split(",")]
    assert kinds[0] == JSON
    assert all(";q=0." in kind for kind in kinds[1:])


def test_file_urls_of_a_page_are_absolute(index: FakeIndex, upstream: Upstream):
    index.add(dist := sdist("demo"))
    (file,) = fetched(upstream).page.files
    assert file.filename == "demo-1.0.tar.gz"
    assert file.url == index.url + dist.path
    assert file.size == len(dist.data)


@pytest.mark.parametrize("path", ["", "/", "/simple", "/simple/", "//simple//"])
def test_the_page_url_does_not_depend_on_the_spelling_of_the_base_url(index: FakeIndex, path: str):
    index.add(sdist("demo"))
    with following(upstream_base_url(index.url + path)) as upstream:
        assert fetched(upstream).page.files
        assert upstream.pages.page_url("demo") == index.url + PAGE
    assert index.page_count("demo") == 1


def test_the_slot_lasts_as_long_as_the_block(index: FakeIndex, upstream: Upstream):
    index.add(sdist("demo"))
    slots = upstream.client.limiters["page"]
    with upstream.pages.fetch("demo"):
        assert slots.in_progress == 1
    assert slots.in_progress == 0
    with pytest.raises(KeyError), upstream.pages.fetch("demo"):
        raise KeyError
    assert slots.in_progress == 0


def test_a_failed_fetch_gives_its_slot_back(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "500 Oops")
    with pytest.raises(UpstreamRefused):
        fetched(upstream)
    assert upstream.client.limiters["page"].in_progress == 0


# Bodies


@pytest.mark.parametrize("kind", [HTML, "text/html", "text/html; charset=utf-8"])
def test_an_html_page_is_parsed(index: FakeIndex, upstream: Upstream, kind: str):
    index.answers[PAGE] = reply(html_page("../../f/demo-1.0.tar.gz"), kind)
    (file,) = fetched(upstream).page.files
    assert file.url == f"{index.url}/f/demo-1.0.tar.gz"


def test_gzip_is_asked_for(index: FakeIndex, upstream: Upstream):
    data = gzip.compress(json_page("demo-1.0.tar.gz"))
    index.answers[PAGE] = reply(data, JSON, Content_Encoding="gzip")
    assert len(fetched(upstream).page.files) == 1
    assert "gzip" in index.seen[0].headers["ACCEPT_ENCODING"]


@pytest.mark.parametrize("coding", ["gzip", "GZip", "x-gzip", "deflate", "identity", "gzip, gzip"])
@pytest.mark.parametrize("files", [1, 1000])
def test_each_content_coding_is_decoded(
    index: FakeIndex, upstream: Upstream, coding: str, files: int
):
    data = json_page(*(f"demo-{number}.tar.gz" for number in range(files)))
    packed = gzip.compress(data) if "zip" in coding.lower() else data
    if coding == "deflate":
        packed = zlib.compress(data)
    elif "," in coding:
        packed = gzip.compress(packed)
    index.answers[PAGE] = reply(packed, JSON, Content_Encoding=coding)
    assert len(fetched(upstream).page.files) == files


@pytest.mark.parametrize("coding", [None, "gzip"])
def test_a_large_page_is_read_whole(index: FakeIndex, upstream: Upstream, coding: str | None):
    data = json_page(*(f"demo-{number}.tar.gz" for number in range(20_000)))
    if coding is None:
        index.answers[PAGE] = reply(data, JSON)
    else:
        index.answers[PAGE] = reply(gzip.compress(data), JSON, Content_Encoding=coding)
    assert len(fetched(upstream).page.files) == 20_000


def test_a_chunked_page_is_read_whole(index: FakeIndex, upstream: Upstream):
    data = json_page("demo-1.0.tar.gz", "demo-2.0.tar.gz")
    gated = index.answers[PAGE] = Gated(data[:20], data[20:40], data[40:], Content_Type=JSON)
    gated.open(3)
    assert len(fetched(upstream).page.files) == 2


def test_the_serial_may_be_in_a_header(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON, X_PyPI_Last_Serial="123")
    assert fetched(upstream).page.last_serial == 123


def test_the_serial_in_the_page_is_preferred_to_the_header(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(meta={"_last-serial": 7}), JSON, X_PyPI_Last_Serial="123")
    assert fetched(upstream).page.last_serial == 7


# Validators


@pytest.mark.parametrize("etag", ['"strong"', 'W/"weak, and odd"', "unquoted", '"\xe9"'])
def test_the_etag_is_sent_back_verbatim(index: FakeIndex, upstream: Upstream, etag: str):
    index.answers[PAGE] = reply(json_page(), JSON, etag=etag)
    page = fetched(upstream)
    assert page.etag == etag
    assert fetched(upstream, page.etag) is PageState.UNCHANGED
    assert index.seen[1].headers["IF_NONE_MATCH"] == etag


def test_a_page_without_etag_has_none(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON)
    assert fetched(upstream).etag is None
    assert "IF_NONE_MATCH" not in index.seen[0].headers


def test_a_changed_page_has_its_new_etag(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON, etag='"new"')
    assert fetched(upstream, '"old"').etag == '"new"'


def test_status_304_without_an_etag_sent_is_refused(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "304 Not Modified")
    with pytest.raises(UpstreamRefused):
        fetched(upstream)


def test_the_revision_changes_with_the_content_only(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page("demo-1.0.tar.gz"), JSON, etag='"1"')
    first = fetched(upstream).revision
    index.answers[PAGE] = reply(json_page("demo-1.0.tar.gz"), JSON, etag='"2"')
    assert fetched(upstream).revision == first
    index.answers[PAGE] = reply(json_page("demo-2.0.tar.gz"), JSON, etag='"2"')
    assert fetched(upstream).revision != first


def test_one_listing_for_two_projects_has_two_revisions(index: FakeIndex, upstream: Upstream):
    index.answers["/all/"] = reply(html_page("demo-1.0.tar.gz", "other-1.0.tar.gz"), "text/html")
    for path in (PAGE, "/simple/other/"):
        index.answers[path] = redirect("/all/")
    demo, other = fetched(upstream), fetched(upstream, project="other")
    assert [file.filename for file in demo.page.files] == ["demo-1.0.tar.gz"]
    assert [file.filename for file in other.page.files] == ["other-1.0.tar.gz"]
    assert demo.revision != other.revision


# Statuses


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_project_that_upstream_does_not_have_is_missing(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers[PAGE] = reply(b"no", "text/plain", status)
    assert fetched(upstream) is PageState.MISSING
    assert fetched(upstream, '"etag"') is PageState.MISSING


@pytest.mark.parametrize("status", [204, 206, 300, 400, 401, 403, 429, 500, 502, 503, 504])
def test_any_other_status_is_refused(index: FakeIndex, upstream: Upstream, status: int):
    index.answers[PAGE] = reply(b"", None, f"{status} Whatever")
    with pytest.raises(UpstreamRefused) as caught:
        fetched(upstream)
    assert caught.value.status == status
    assert caught.value.retry_after is None


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
def test_links_are_relative_to_the_url_after_redirects(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers[PAGE] = redirect("/elsewhere/deep/demo/", status)
    index.answers["/elsewhere/deep/demo/"] = reply(json_page("../demo-1.0.tar.gz"), JSON)
    (file,) = fetched(upstream).page.files
    assert file.url == f"{index.url}/elsewhere/deep/demo-1.0.tar.gz"


def test_a_page_may_be_on_another_host(index: FakeIndex, upstream: Upstream):
    with FakeIndex() as other:
        index.answers[PAGE] = redirect(f"{other.url}/pages/demo")
        other.answers["/pages/demo"] = reply(json_page("demo-1.0.tar.gz"), JSON)
        (file,) = fetched(upstream).page.files
        assert file.url == f"{other.url}/pages/demo-1.0.tar.gz"


# Garbled pages


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
def test_only_media_types_of_the_simple_api_are_parsed(
    index: FakeIndex, upstream: Upstream, kind: str | None
):
    index.answers[PAGE] = reply(json_page(), kind)
    with pytest.raises(UpstreamGarbled, match="not of the Simple API"):
        fetched(upstream)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", JSON),
        (b"{", JSON),
        (b'{"name": "another", "files": []}', JSON),
        (b'{"meta": {"api-version": "2.0"}, "files": []}', JSON),
        (json_page("demo-1.0.tar.gz")[:-5], JSON),
        (b"<html><body><form>Log in</form></body></html>", HTML),
        (html_page("demo-1.0.tar.gz")[:-10], HTML),
    ],
)
def test_a_body_that_is_not_a_page_is_garbled(
    index: FakeIndex, upstream: Upstream, data: bytes, kind: str
):
    index.answers[PAGE] = reply(data, kind)
    with pytest.raises(UpstreamGarbled):
        fetched(upstream)


@pytest.mark.parametrize("data", [b"no gzip at all", b""])
def test_a_body_that_is_not_of_its_content_coding_is_garbled(
    index: FakeIndex, upstream: Upstream, data: bytes
):
    index.answers[PAGE] = reply(data, JSON, Content_Encoding="gzip")
    with pytest.raises(UpstreamGarbled, match="decode"):
        fetched(upstream)


# Limits


@pytest.mark.parametrize("size", [None, 70_000])
def test_a_page_beyond_the_limit_is_refused(index: FakeIndex, size: int | None):
    body = json_page()
    gated = index.answers[PAGE] = Gated(
        body + b" " * (70_000 - len(body)), size=size, Content_Type=JSON
    )
    gated.open()
    with (
        following(index.url, max_page_bytes=50_000) as upstream,
        pytest.raises(UpstreamGarbled, match="over 50000 bytes"),
    ):
        fetched(upstream)  # item 144


def test_a_page_that_inflates_beyond_the_limit_takes_no_memory(index: FakeIndex):
    bomb = gzip.compress(bytes(100_000_000), compresslevel=1)
    index.answers[PAGE] = reply(bomb, JSON, Content_Encoding="gzip")
    with following(index.url, max_page_bytes=1_000_000) as upstream:
        tracemalloc.start()
        try:
            with pytest.raises(UpstreamGarbled, match="over 1000000 bytes"):
                fetched(upstream)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_page_that_breaks_off_is_unreachable(framing: str):
    def script(connection: RawConnection) -> None:
        connection.request()
        data = json_page()
        sent = f"{len(data):x}\r\n".encode() + data + b"\r\n" if "chunked" in framing else data
        connection.send("HTTP/1.1 200 OK", f"Content-Type: {JSON}", framing, body=sent)

    with (
        RawServer(script) as server,
        following(server.url, timeout=0.2) as upstream,
        pytest.raises(UpstreamUnreachable),
    ):
        fetched(upstream)


def test_a_page_that_never_ends_is_unreachable():
    over = Event()

    def script(connection: RawConnection) -> None:
        connection.request()
        head = f"Content-Type: {JSON}", "Content-Length: 100000"
        connection.send("HTTP/1.1 200 OK", *head, body=b" ")
        over.wait()

    # Each look at this clock is ten seconds after the one before.
    clock = itertools.count(0, 10).__next__
    with RawServer(script) as server, following(server.url, timeout=2, clock=clock) as upstream:
        with pytest.raises(UpstreamUnreachable, match="not complete after 8 seconds"):
            fetched(upstream)
        over.set()


def test_a_page_that_stops_arriving_is_unreachable():
    over = Event()

    def script(connection: RawConnection) -> None:
        connection.request()
        connection.send("HTTP/1.1 200 OK", f"Content-Type: {JSON}", "Content-Length: 1000")
        over.wait()

    with RawServer(script) as server, following(server.url, timeout=0.2) as upstream:
        with pytest.raises(UpstreamUnreachable, match="timed out"):
            fetched(upstream)
        over.set()
