"""Project pages are fetched, parsed and revalidated."""

from __future__ import annotations

import gzip
import itertools
import tracemalloc
import zlib
from typing import Any

import pytest
from gevent.event import Event

from pytail.cache.cache import Upstream
from pytail.config.values import upstream_base_url
from pytail.errors import UpstreamGarbled, UpstreamRefused, UpstreamUnreachable
from pytail.model import PageVersion
from pytail.simple import json as json_module
from pytail.upstream.pages import PageState, UnchangedPage
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
    version = fetched(upstream).version
    assert version.etag == etag
    assert fetched(upstream, version) == UnchangedPage(version)
    assert index.seen[1].headers["IF_NONE_MATCH"] == etag


def test_a_page_without_etag_has_none(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON)
    assert fetched(upstream).version.etag is None
    assert "IF_NONE_MATCH" not in index.seen[0].headers


def test_a_changed_page_has_its_new_etag(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON, etag='"new"')
    assert fetched(upstream, PageVersion("", '"old"')).version.etag == '"new"'


OLD, NEW = "Mon, 06 May 2024 07:08:09 GMT", "Tue, 07 May 2024 07:08:09 GMT"


def test_without_an_etag_last_modified_is_sent_back_verbatim(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON, Last_Modified=OLD)
    version = fetched(upstream).version
    assert (version.etag, version.last_modified) == (None, OLD)
    index.answers[PAGE] = reply(b"", None, "304 Not Modified")
    assert fetched(upstream, version) == UnchangedPage(version)
    assert index.seen[1].headers["IF_MODIFIED_SINCE"] == OLD
    assert "IF_NONE_MATCH" not in index.seen[1].headers


def test_with_an_etag_last_modified_is_not_sent_back(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page(), JSON, etag='"1"', Last_Modified=OLD)
    fetched(upstream, fetched(upstream).version)
    assert index.seen[1].headers["IF_NONE_MATCH"] == '"1"'
    assert "IF_MODIFIED_SINCE" not in index.seen[1].headers


@pytest.mark.parametrize("modified", ["", "yesterday", NEW, "Wed, 08 May 2024 07:08:09 GMT"])
def test_last_modified_that_does_not_tell_versions_apart_does_not_count(modified: str):
    def script(connection: RawConnection) -> None:
        connection.request()
        body = json_page()
        head = f"Content-Type: {JSON}", f"Content-Length: {len(body)}", f"Date: {NEW}"
        connection.send("HTTP/1.1 200 OK", *head, f"Last-Modified: {modified}", body=body)

    with RawServer(script) as server, following(server.url) as upstream:
        assert fetched(upstream).version.last_modified is None


def test_last_modified_of_a_page_that_a_redirect_led_to_does_not_count(
    index: FakeIndex, upstream: Upstream
):
    index.answers[PAGE] = redirect("/elsewhere/")
    index.answers["/elsewhere/"] = reply(json_page(), JSON, Last_Modified=OLD)
    assert fetched(upstream).version.last_modified is None


ABOUT_ANOTHER = [
    (PageVersion("0", '"1"'), {"ETag": '"2"'}),
    (PageVersion("0", 'W/"1"'), {"ETag": '"2"', "Last-Modified": OLD}),
    (PageVersion("0", None, OLD), {"Last-Modified": NEW}),
]


@pytest.mark.parametrize(("known", "headers"), ABOUT_ANOTHER)
def test_a_304_about_another_page_is_no_304(
    index: FakeIndex, upstream: Upstream, known: PageVersion, headers: dict[str, str]
):
    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if "HTTP_IF_NONE_MATCH" in environ or "HTTP_IF_MODIFIED_SINCE" in environ:
            start_response("304 Not Modified", list(headers.items()))
            return []
        return list(reply(json_page("demo-1.0.zip"), JSON)(environ, start_response))

    index.answers[PAGE] = answer
    assert len(fetched(upstream, known).page.files) == 1
    assert index.page_count("demo") == 2


def test_a_304_by_date_of_a_page_that_a_redirect_leads_to_is_no_304(
    index: FakeIndex, upstream: Upstream
):
    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if "HTTP_IF_MODIFIED_SINCE" in environ:
            start_response("304 Not Modified", [])
            return []
        return list(reply(json_page("demo-1.0.zip"), JSON)(environ, start_response))

    index.answers[PAGE] = redirect("/elsewhere/")
    index.answers["/elsewhere/"] = answer
    assert len(fetched(upstream, PageVersion("0", None, OLD)).page.files) == 1


@pytest.mark.parametrize(
    ("known", "headers"),
    [
        (PageVersion("0", '"1"'), {}),
        (PageVersion("0", '"1"', OLD), {"Last-Modified": NEW}),
        (PageVersion("0", 'W/"1"'), {"ETag": '"1"'}),
        (PageVersion("0", '"1"'), {"ETag": 'W/"1"'}),
        (PageVersion("0", None, OLD), {}),
        (PageVersion("0", None, OLD), {"Last-Modified": OLD, "ETag": '"new"'}),
    ],
)
def test_a_304_about_the_known_page_leaves_it_unchanged(
    index: FakeIndex, upstream: Upstream, known: PageVersion, headers: dict[str, str]
):
    sent = {name.replace("-", "_"): value for name, value in headers.items()}
    index.answers[PAGE] = reply(b"", None, "304 Not Modified", **sent)
    assert fetched(upstream, known) == UnchangedPage(known)
    assert index.page_count("demo") == 1


@pytest.mark.parametrize("etag", ["", " ", '"' + "x" * 2000 + '"'])
def test_an_etag_that_is_empty_or_endless_does_not_count(
    index: FakeIndex, upstream: Upstream, etag: str
):
    index.answers[PAGE] = reply(json_page(), JSON, ETag=etag)
    assert fetched(upstream).version.etag is None


LINKS = '<!DOCTYPE html><html><body><a href="demo-1.0.zip">demo-1.0.zip</a></body></html>'


@pytest.mark.parametrize("files", [0, 5000])
def test_a_page_that_is_sent_again_is_unchanged_and_not_parsed(
    index: FakeIndex, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, files: int
):
    body = json_page(*(f"demo-{number}.zip" for number in range(files)))
    index.answers[PAGE] = reply(body, JSON, etag='"1"')
    version = fetched(upstream).version
    monkeypatch.setattr(json_module, "parse", lambda *_: pytest.fail("parsed again"))
    index.answers[PAGE] = reply(body, JSON, etag='"2"')
    found = fetched(upstream, version)
    assert found == UnchangedPage(PageVersion(version.fingerprint, '"2"'))
    index.answers[PAGE] = reply(gzip.compress(body, 1), JSON, Content_Encoding="gzip")
    assert fetched(upstream, version) == UnchangedPage(PageVersion(version.fingerprint))
    index.answers[PAGE] = reply(gzip.compress(body, 9), JSON, Content_Encoding="x-gzip")
    assert fetched(upstream, version) == UnchangedPage(PageVersion(version.fingerprint))


@pytest.mark.parametrize(
    "end",
    [
        "", "\n", " \r\n\t", "<!--TIMESTAMP 1764230414-->", "\n<!-- a -->\n<!-- b -->\n", "<!---->",
        "<!-- request id: 0123-4567 -- served by node-7 -->",
    ],
)  # fmt: skip
def test_comments_and_spaces_at_the_end_are_no_part_of_a_page(
    index: FakeIndex, upstream: Upstream, end: str
):
    index.answers[PAGE] = reply(f"{LINKS}\n<!--TIMESTAMP 1-->".encode(), "text/html")
    version = fetched(upstream).version
    index.answers[PAGE] = reply(f"{LINKS}{end}".encode(), "text/html")
    assert fetched(upstream, version) == UnchangedPage(version)


@pytest.mark.parametrize(
    "changed",
    [
        LINKS.replace("1.0", "1.1"),
        f"{LINKS}<a href=demo-2.0.zip>x</a>",
        f"{LINKS}<!--><a href=demo-2.0.zip>x</a>-->",
        f"{LINKS}<!-- x --><a href=demo-2.0.zip>x</a><!-- x -->",
        LINKS.replace('zip"', 'zip" data-yanked="<!-- 2 -->"'),
    ],
)
def test_any_other_change_is_a_new_page(index: FakeIndex, upstream: Upstream, changed: str):
    index.answers[PAGE] = reply(LINKS.encode(), "text/html")
    version = fetched(upstream).version
    index.answers[PAGE] = reply(changed.encode(), "text/html")
    page = fetched(upstream, version).page
    assert page.files != ()


@pytest.mark.parametrize(
    "headers",
    [
        {"kind": "text/html"},
        {"kind": "text/html; charset=iso-8859-1"},
        {"kind": HTML, "X_PyPI_Last_Serial": "7"},
    ],
)
def test_a_header_that_changes_the_page_is_a_new_page(
    index: FakeIndex, upstream: Upstream, headers: dict[str, str]
):
    index.answers[PAGE] = reply(LINKS.encode(), HTML)
    version = fetched(upstream).version
    index.answers[PAGE] = reply(LINKS.encode(), **headers)
    assert fetched(upstream, version).page.files


def test_a_signature_in_the_url_of_a_page_does_not_count(index: FakeIndex, upstream: Upstream):
    index.answers["/signed"] = reply(LINKS.encode(), HTML)
    index.answers[PAGE] = redirect("/signed?signature=1")
    version = fetched(upstream).version
    index.answers[PAGE] = redirect("/signed?signature=2")
    assert fetched(upstream, version) == UnchangedPage(version)


def test_status_304_without_a_condition_is_refused(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(b"", None, "304 Not Modified")
    with pytest.raises(UpstreamRefused):
        fetched(upstream)


def test_the_fingerprint_changes_with_the_content_only(index: FakeIndex, upstream: Upstream):
    index.answers[PAGE] = reply(json_page("demo-1.0.tar.gz"), JSON, etag='"1"')
    first = fetched(upstream).version.fingerprint
    index.answers[PAGE] = reply(json_page("demo-1.0.tar.gz"), JSON, etag='"2"')
    assert fetched(upstream).version.fingerprint == first
    index.answers[PAGE] = reply(json_page("demo-2.0.tar.gz"), JSON, etag='"2"')
    assert fetched(upstream).version.fingerprint != first


def test_one_listing_for_two_projects_has_two_fingerprints(index: FakeIndex, upstream: Upstream):
    index.answers["/all/"] = reply(html_page("demo-1.0.tar.gz", "other-1.0.tar.gz"), "text/html")
    for path in (PAGE, "/simple/other/"):
        index.answers[path] = redirect("/all/")
    demo, other = fetched(upstream), fetched(upstream, project="other")
    assert [file.filename for file in demo.page.files] == ["demo-1.0.tar.gz"]
    assert [file.filename for file in other.page.files] == ["other-1.0.tar.gz"]
    assert demo.version.fingerprint != other.version.fingerprint


# Statuses


@pytest.mark.parametrize("status", ["404 Not Found", "410 Gone"])
def test_a_project_that_upstream_does_not_have_is_missing(
    index: FakeIndex, upstream: Upstream, status: str
):
    index.answers[PAGE] = reply(b"no", "text/plain", status)
    assert fetched(upstream) is PageState.MISSING
    assert fetched(upstream, PageVersion("", '"etag"')) is PageState.MISSING


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


# The end of a page


@pytest.mark.parametrize("framing", ["length", "chunked", "gzip"])
@pytest.mark.parametrize("cut", [1, 8, 20, 30])
def test_markup_does_not_matter_where_the_end_of_the_body_is_marked(framing: str, cut: int):
    body = LINKS.encode()[:-cut]

    def script(connection: RawConnection) -> None:
        connection.request()
        head = ["HTTP/1.1 200 OK", "Content-Type: text/html"]
        if framing == "length":
            connection.send(*head, f"Content-Length: {len(body)}", body=body)
        elif framing == "chunked":
            chunk = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            connection.send(*head, "Transfer-Encoding: chunked", body=chunk)
        else:
            connection.send(*head, "Content-Encoding: gzip", body=gzip.compress(body))

    with RawServer(script) as server, following(server.url) as upstream:
        assert len(fetched(upstream).page.files) == 1


@pytest.mark.parametrize("cut", [0, 1, 8, 20, 30])
def test_markup_tells_the_end_of_a_body_that_ends_with_the_connection(cut: int):
    def script(connection: RawConnection) -> None:
        connection.request()
        body = LINKS.encode()[: len(LINKS) - cut]
        connection.send("HTTP/1.1 200 OK", "Content-Type: text/html", body=body)

    with RawServer(script) as server, following(server.url) as upstream:
        if cut == 0:
            assert len(fetched(upstream).page.files) == 1
        else:
            with pytest.raises(UpstreamGarbled, match="truncated"):
                fetched(upstream)  # item 124


def test_a_body_in_gzip_that_breaks_off_with_the_connection_is_garbled():
    def script(connection: RawConnection) -> None:
        connection.request()
        head = "Content-Type: text/html", "Content-Encoding: gzip"
        connection.send("HTTP/1.1 200 OK", *head, body=gzip.compress(LINKS.encode())[:-1])

    with (
        RawServer(script) as server,
        following(server.url) as upstream,
        pytest.raises(UpstreamGarbled, match="ends too early"),
    ):
        fetched(upstream)


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
