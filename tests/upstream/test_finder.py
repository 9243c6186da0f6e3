"""The root of the upstream index is found by asking."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event

from pytail.cache.cache import Upstream
from pytail.config.values import upstream_base_url
from pytail.errors import (
    UpstreamError,
    UpstreamGarbled,
    UpstreamNotIndex,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.upstream.pages import FetchedPage, PageState
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
from tests.support.running import free_port
from tests.support.upstreams import fetched, following, html_page, json_page, redirect
from tests.support.watching import until


def hang_for_ever(*_: object) -> object:
    Event().wait()


LOGIN = b"<!DOCTYPE html><html><body><form><input name='user'></form></body></html>"
PORTAL = b'<!DOCTYPE html><html><body><a href="/login/">Log in</a></body></html>'
#: Each root, with the URLs by which operators name it.
SPELLINGS = [
    (root, f"{above}{slash}")
    for root, *names in (
        ("/simple/", "", "/simple", "//simple"),
        ("/root/pypi/+simple/", "/root/pypi", "/root/pypi/+simple", "/root/pypi/%2Bsimple"),
        ("/index/", "/index"),
        ("/whl/cu128/", "/whl/cu128"),
        ("/", ""),
        ("/simple/simple/", "/simple", "/simple/simple"),
        ("/team/simple/", "/team", "/team/simple"),
    )
    for above in names
    for slash in ("", "/", "//")
]


def paths(index: FakeIndex) -> list[str]:
    return [seen.path for seen in index.seen]


def at(index: FakeIndex, url: str = "", **more: object) -> object:
    return following(upstream_base_url(index.url + url), **more)


@pytest.fixture
def flat() -> Iterator[FakeIndex]:
    """An index with its pages right below its URL."""
    with FakeIndex(root="/whl/cu128/") as running:
        running.add(sdist("demo"))
        yield running


@pytest.mark.parametrize("html_only", [False, True])
@pytest.mark.parametrize(("root", "url"), SPELLINGS)
def test_a_page_is_found_by_each_spelling_of_the_root(root: str, url: str, html_only: bool):
    with FakeIndex(root=root, html_only=html_only) as index, at(index, url) as upstream:
        index.add(dist := sdist("demo"))
        (file,) = fetched(upstream).page.files
        assert file.filename == dist.filename
        assert fetched(upstream, project="nope") is PageState.MISSING
        index.seen.clear()
        fetched(upstream)
        assert paths(index) == [f"{root}demo/"]


@pytest.mark.parametrize("html_only", [False, True])
@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize(("root", "url"), SPELLINGS)
def test_a_missing_project_is_missing_by_each_spelling(
    root: str, url: str, is_empty: bool, html_only: bool
):
    with FakeIndex(root=root, html_only=html_only) as index, at(index, url) as upstream:
        index.add(*([] if is_empty else [sdist("demo")]))
        assert fetched(upstream, project="nope") is PageState.MISSING
        index.add(sdist("later"))
        assert isinstance(fetched(upstream, project="later"), FetchedPage)
        index.seen.clear()
        assert fetched(upstream, project="other") is PageState.MISSING
        assert paths(index) == [f"{root}other/"]


def test_the_first_page_below_simple_costs_one_request(index: FakeIndex, upstream: Upstream):
    index.add(sdist("demo"))
    fetched(upstream)
    assert paths(index) == ["/simple/demo/"]


def test_the_root_is_said_once(flat: FakeIndex, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    with at(flat, "/whl/cu128") as upstream:
        for _ in range(3):
            fetched(upstream)
    (line,) = (record.getMessage() for record in caplog.records)
    url = f"{flat.url}/whl/cu128"
    assert line == f"found the index {url}: its pages are below {url}/"


def test_the_remembered_root_is_not_asked_for(flat: FakeIndex):
    def recall(keys: object) -> str:
        assert keys == [f"{flat.url}/whl/cu128", *more]
        return more[-1]

    more = [f"{flat.url}/whl/cu128/+simple/", f"{flat.url}/whl/cu128/"]
    with at(flat, "/whl/cu128", recall=recall) as upstream:
        assert fetched(upstream, project="nope") is PageState.MISSING
    assert paths(flat) == ["/whl/cu128/nope/"]


# No index


@pytest.mark.parametrize("answer", [
    reply(b"", None, "404 Not Found"),
    reply(b"no", "text/plain", "403 Forbidden"),
    reply(LOGIN, "text/html"),
    reply(PORTAL, "text/html"),
    reply(b"<html><body>It works!</body></html>", "text/html"),
    reply(b"{}", "application/json"),
    reply(b"ok", "text/plain"),
    reply(b"", None),
])  # fmt: skip
def test_what_is_no_index_is_named_and_heals(flat: FakeIndex, answer: object):
    down = dict.fromkeys(("/whl/cu128/", "/whl/cu128/nope/", "/whl/cu128/demo/", *(f"/whl/cu128/{name}/{rest}" for name in ("simple", "+simple") for rest in ("", "nope/", "demo/"))), answer)  # fmt: skip
    with at(flat, "/whl/cu128") as upstream:
        flat.answers |= down
        for project in ("nope", "demo"):
            with pytest.raises(UpstreamNotIndex) as caught:
                fetched(upstream, project=project)
            text = str(caught.value)
            assert text.startswith(
                f"upstream {flat.url}/whl/cu128: is no index: asked .../simple/ ("
            )
            assert ", .../+simple/ (" in text
            assert " and .../ (" in text
        flat.answers.clear()
        assert fetched(upstream, project="nope") is PageState.MISSING
        assert isinstance(fetched(upstream), FetchedPage)


@pytest.mark.parametrize("status", ["500 Oops", "503 Busy", "429 Slow down"])
def test_a_host_in_trouble_is_no_verdict(flat: FakeIndex, status: str):
    with at(flat, "/whl/cu128") as upstream:
        for path in ("/whl/cu128/simple/nope/", "/whl/cu128/nope/", "/whl/cu128/+simple/nope/"):
            flat.answers[path] = reply(b"", None, status)
        with pytest.raises(UpstreamRefused, match=f"status {status[:3]}"):
            fetched(upstream, project="nope")
        assert upstream.pages.root.known is None
        flat.answers.clear()
        assert fetched(upstream, project="nope") is PageState.MISSING


@pytest.mark.parametrize("path", ["/simple/", "/+simple/"])
def test_a_list_in_trouble_is_no_verdict(index: FakeIndex, upstream: Upstream, path: str):
    index.answers["/simple/"] = reply(b"", None, "404 Not Found")
    index.answers["/"] = reply(b'{"projects": [{"name": "demo"}]}', JSON)
    index.answers[path] = reply(b"", None, "503 Busy")
    with pytest.raises(UpstreamRefused, match="503"):
        fetched(upstream)
    assert upstream.pages.root.known is None


def test_an_upstream_that_is_down_is_no_verdict():
    with following(f"http://127.0.0.1:{free_port()}", timeout=1) as upstream:
        with pytest.raises(UpstreamUnreachable):
            fetched(upstream)
        assert upstream.pages.root.known is None


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_refused_project_does_not_hide_the_root(flat: FakeIndex, status: str):
    flat.answers["/whl/cu128/secret/"] = reply(b"", None, status)
    with at(flat, "/whl/cu128") as upstream:
        with pytest.raises(UpstreamRefused, match=status[:3]):
            fetched(upstream, project="secret")
        assert upstream.pages.root.key == f"{flat.url}/whl/cu128/"


def test_a_broken_page_does_not_hide_the_root(index: FakeIndex, upstream: Upstream):
    index.add(sdist("other"))
    index.answers["/simple/demo/"] = reply(b"{", JSON)
    with pytest.raises(UpstreamGarbled, match="JSON is broken"):
        fetched(upstream)
    index.seen.clear()
    assert isinstance(fetched(upstream, project="other"), FetchedPage)
    assert paths(index) == ["/simple/other/"]


# Servers that mislead


@pytest.mark.parametrize("status", ["403 Forbidden", "500 Oops", "400 Bad Request"])
def test_paths_beside_the_root_may_answer_anything(flat: FakeIndex, status: str):
    for name in ("simple", "+simple"):
        flat.answers[f"/whl/cu128/{name}/demo/"] = reply(b"", None, status)
    with at(flat, "/whl/cu128") as upstream:
        assert isinstance(fetched(upstream), FetchedPage)


@pytest.mark.parametrize("hanging", [["simple"], ["+simple"], ["simple", "+simple"]])
def test_paths_beside_the_root_that_hang_delay_a_page_by_seconds_once(
    flat: FakeIndex, hanging: list[str]
):
    flat.add(sdist("other"))
    for name in hanging:
        flat.answers |= dict.fromkeys(
            (f"/whl/cu128/{name}/{rest}" for rest in ("", "demo/", "other/")), hang_for_ever
        )
    with at(flat, "/whl/cu128", timeout=60) as upstream:
        # A client waits for 9 seconds.
        with gevent.Timeout(8):
            assert isinstance(fetched(upstream), FetchedPage)
        flat.seen.clear()
        fetched(upstream, project="other")
        assert paths(flat) == ["/whl/cu128/other/"]
        (limiter,) = (each for kind, each in upstream.client.limiters.items() if kind == "page")
        assert limiter.in_progress == 0
        # This ends the requests that hang.
        flat.stop()


def test_a_slow_root_is_found(index: FakeIndex, upstream: Upstream):
    slow = index.answers["/simple/demo/"] = Gated(json_page("demo-1.0.tar.gz"), Content_Type=JSON)
    asked = gevent.spawn(fetched, upstream)
    until(lambda: index.count("/demo/") == 1, 10)
    slow.open()
    assert len(asked.get(timeout=10).page.files) == 1
    assert upstream.pages.root.known.suffix == "/simple/"


def test_a_path_that_leads_to_a_host_that_is_down_hides_no_page(flat: FakeIndex):
    for name in ("simple", "+simple"):
        away = redirect(f"http://127.0.0.1:{free_port()}/login")
        flat.answers[f"/whl/cu128/{name}/demo/"] = away
    with at(flat, "/whl/cu128") as upstream:
        assert isinstance(fetched(upstream), FetchedPage)


def test_paths_beside_the_root_that_fail_hide_no_missing_project_and_are_not_charged(
    flat: FakeIndex,
):
    names = [f"nope{number}" for number in range(20)]
    for name in names:
        for above in ("simple", "+simple"):
            flat.answers[f"/whl/cu128/{above}/{name}/"] = reply(b"", None, "500 Oops")
    with at(flat, "/whl/cu128") as upstream:
        for name in names:
            # As the first project of each process.
            upstream.pages.root.found = None
            assert fetched(upstream, project=name) is PageState.MISSING
        assert not upstream.client.is_circuit_open(flat.url)


@pytest.mark.parametrize("body", [LOGIN, PORTAL, b"<html><body>Welcome</body></html>"])
def test_a_page_for_all_paths_beside_the_root_hides_no_page(flat: FakeIndex, body: bytes):
    for name in ("simple", "+simple"):
        for rest in ("", "demo/"):
            flat.answers[f"/whl/cu128/{name}/{rest}"] = reply(body, "text/html")
    with at(flat, "/whl/cu128") as upstream:
        assert isinstance(fetched(upstream), FetchedPage)


def test_a_list_above_the_pages_is_no_root():
    # devpi lists the projects at the URL of the index too.
    with FakeIndex(root="/root/dev/+simple/") as index, at(index, "/root/dev") as upstream:
        index.add(sdist("demo"))
        index.answers["/root/dev/"] = reply(b'{"projects": [{"name": "demo"}]}', JSON)
        assert fetched(upstream, project="nope") is PageState.MISSING
        assert upstream.pages.root.known.url == f"{index.url}/root/dev/+simple/"


def test_a_directory_that_holds_the_index_is_no_root(index: FakeIndex, upstream: Upstream):
    listing = b'<title>Directory listing for /</title><a href="simple/">simple/</a>'
    index.answers["/"] = reply(listing, "text/html")
    index.answers["/simple/"] = reply(b"", None, "404 Not Found")
    with pytest.raises(UpstreamNotIndex):
        fetched(upstream)


def test_a_root_that_lists_channels_has_the_projects_of_its_pages():
    with FakeIndex(root="/whl/") as index, at(index, "/whl") as upstream:
        index.add(sdist("demo"))
        channels = b'<a href="cpu/">cpu</a><a href="cu128/">cu128</a>'
        index.answers["/whl/"] = reply(channels, "text/html")
        index.answers["/whl/cpu/"] = reply(b'<a href="torch/">torch</a>', "text/html")
        with pytest.raises(UpstreamNotIndex):
            fetched(upstream, project="nope")
        assert isinstance(fetched(upstream), FetchedPage)
        assert fetched(upstream, project="nope") is PageState.MISSING
        # A channel is no project.
        assert fetched(upstream, project="cpu") is PageState.MISSING


def test_a_page_for_people_is_no_proof(index: FakeIndex, upstream: Upstream):
    links = [*(f"/help/{number}" for number in range(9)), "/files/demo-1.0.tar.gz"]
    index.answers["/demo/"] = reply(html_page(*links), "text/html")
    assert fetched(upstream) is PageState.MISSING
    assert upstream.pages.root.known.suffix == "/simple/"


@pytest.mark.parametrize("url", ["", "/simple", "/root/pypi"])
def test_a_page_with_a_menu_is_proof_below_a_name_that_only_roots_have(url: str):
    root = "/root/pypi/+simple/" if "pypi" in url else "/simple/"
    menu = [f"/help/{number}" for number in range(9)]
    with FakeIndex(root=root) as index, at(index, url) as upstream:
        body = html_page(*menu, "/files/demo-1.0.tar.gz")
        index.answers[f"{root}demo/"] = reply(body, "text/html")
        index.answers[root] = reply(html_page(*menu, "demo/"), "text/html")
        assert len(fetched(upstream).page.files) == 1
        assert upstream.pages.root.known.url == index.url + root


@pytest.mark.parametrize("has_list", [True, False])
def test_pages_with_a_menu_are_followed_where_nothing_speaks_for_another_root(
    flat: FakeIndex, has_list: bool
):
    menu = [f"/help/{number}" for number in range(9)]
    body = html_page(*menu, "/files/demo-1.0.tar.gz")
    flat.answers["/whl/cu128/demo/"] = reply(body, "text/html")
    index = html_page(*menu, "demo/") if has_list else b"<html><body>Welcome</body></html>"
    flat.answers["/whl/cu128/"] = reply(index, "text/html")
    projects = ["nope", "demo"] if has_list else ["demo", "nope"]
    with at(flat, "/whl/cu128") as upstream:
        found = {project: fetched(upstream, project=project) for project in projects}
        assert len(found["demo"].page.files) == 1
        assert found["nope"] is PageState.MISSING


def test_a_page_for_people_is_no_root_while_the_list_of_the_index_fails(index: FakeIndex):
    menu = [f"/help/{number}" for number in range(9)]
    index.answers["/"] = reply(html_page(*menu, "demo/"), "text/html")
    index.answers["/demo/"] = reply(html_page(*menu, "/files/demo-1.0.tar.gz"), "text/html")
    index.answers["/simple/"] = reply(b"", None, "503 Busy")
    with at(index) as upstream:
        with pytest.raises(UpstreamRefused):
            fetched(upstream)
        assert upstream.pages.root.known is None


def test_a_page_may_link_sidecars_too(flat: FakeIndex):
    name = "demo-1.0.tar.gz"
    body = html_page(*(name + suffix for suffix in ("", ".asc", ".sha256", ".md5")))
    flat.answers["/whl/cu128/demo/"] = reply(body, "text/html")
    with at(flat, "/whl/cu128") as upstream:
        assert isinstance(fetched(upstream), FetchedPage)


def test_a_page_may_be_behind_a_redirect(index: FakeIndex):
    index.add(sdist("demo"))
    index.answers["/old/demo/"] = redirect("/simple/demo/")
    with at(index, "/old") as upstream:
        assert isinstance(fetched(upstream), FetchedPage)


def test_a_list_may_be_behind_a_redirect(index: FakeIndex):
    index.add(sdist("demo"))
    index.answers["/old/simple/"] = redirect("/simple/")
    index.answers["/old/simple/demo/"] = redirect("/simple/demo/")
    with at(index, "/old") as upstream:
        assert fetched(upstream, project="nope") is PageState.MISSING


@pytest.mark.parametrize("kind", [JSON, HTML])
def test_a_huge_list_is_not_read_whole(index: FakeIndex, upstream: Upstream, kind: str):
    start = b'{"projects": [{"name": "demo"},' if kind == JSON else b'<a href="demo/">demo</a>'
    gated = Gated(start + b" " * 20_000, b"never", Content_Type=kind)
    index.answers["/simple/"] = gated
    gated.open()
    with gevent.Timeout(10):
        assert fetched(upstream) is PageState.MISSING
    gated.open()


def test_missing_projects_share_one_search(index: FakeIndex, upstream: Upstream):
    gated = index.answers["/simple/"] = Gated(b'{"projects": []}', Content_Type=JSON)
    names = [f"p{number}" for number in range(9)]
    asked = [gevent.spawn(fetched, upstream, project=name) for name in names]
    gated.asked.wait()
    gated.open()
    gevent.joinall(asked, timeout=10, raise_error=True)
    assert [each.value for each in asked] == [PageState.MISSING] * 9
    assert index.count("/simple/") == 1


def test_a_root_that_is_found_meanwhile_is_searched_by_no_list(
    index: FakeIndex, upstream: Upstream
):
    index.add(sdist("demo"))
    last = index.answers["/nope/"] = Gated(b"", Content_Type="text/plain")
    missing = gevent.spawn(fetched, upstream, project="nope")
    last.asked.wait()
    fetched(upstream)
    last.open()
    assert missing.get(timeout=10) is PageState.MISSING
    assert index.count("/simple/") == 0


def test_a_project_that_hangs_delays_no_other(index: FakeIndex, upstream: Upstream):
    index.add(sdist("demo"), sdist("other"))
    hanging = index.answers["/simple/demo/"] = Gated(json_page(), Content_Type=JSON)
    waiting = gevent.spawn(fetched, upstream)
    hanging.asked.wait()
    with gevent.Timeout(4):
        assert fetched(upstream, project="nope") is PageState.MISSING
        assert isinstance(fetched(upstream, project="other"), FetchedPage)
    hanging.open()
    waiting.get(timeout=10)


# Missing statuses


def test_a_declared_status_means_missing(index: FakeIndex):
    index.add(sdist("demo"))
    index.answers["/simple/nope/"] = reply(b"", None, "403 Forbidden")
    with at(index) as upstream, pytest.raises(UpstreamError):
        fetched(upstream, project="nope")
    with at(index, missing_statuses=(403, 404)) as upstream:
        assert fetched(upstream, project="nope") is PageState.MISSING
        assert fetched(upstream, project="unknown") is PageState.MISSING


def test_a_static_index_without_a_list_has_missing_projects_once_a_page_was_found(flat: FakeIndex):
    def refuse(environ: object, start_response: object) -> object:
        return reply(b"", "application/xml", "403 Forbidden")(environ, start_response)

    forbidden = ["/whl/cu128/nope/", "/whl/cu128/"]
    forbidden += [
        f"/whl/cu128/{name}/{rest}"
        for name in ("simple", "+simple")
        for rest in ("", "nope/", "demo/")
    ]
    flat.answers |= dict.fromkeys(forbidden, refuse)
    with at(flat, "/whl/cu128", missing_statuses=(403, 404, 410)) as upstream:
        with pytest.raises(UpstreamNotIndex):
            fetched(upstream, project="nope")
        assert isinstance(fetched(upstream), FetchedPage)
        assert fetched(upstream, project="nope") is PageState.MISSING


def test_a_page_that_arrives_meanwhile_ends_the_search(flat: FakeIndex):
    gated = flat.answers["/whl/cu128/"] = Gated(b"", Content_Type="text/plain")
    with at(flat, "/whl/cu128") as upstream:
        missing = gevent.spawn(fetched, upstream, project="nope")
        gated.asked.wait()
        fetched(upstream)
        gated.open()
        assert missing.get(timeout=10) is PageState.MISSING


@pytest.mark.parametrize("project", ["demo", "nope"])
def test_a_path_that_breaks_off_does_not_hide_the_root(project: str):
    def script(connection: RawConnection) -> None:
        while path := connection.request().partition(b"HTTP")[0]:
            # As a firewall that refuses the plus sign.
            if b"+simple" in path:
                return
            status, body = "404 Not Found", b""
            if b"/index/demo/ " in path:
                status, body = "200 OK", json_page("demo-1.0.tar.gz")
            elif b"/index/ " in path:
                status, body = "200 OK", b'{"projects": [{"name": "demo"}]}'
            head = f"Content-Type: {JSON}", f"Content-Length: {len(body)}"
            connection.send(f"HTTP/1.1 {status}", *head, body=body)

    with RawServer(script) as server, following(f"{server.url}/index") as upstream:
        fetched(upstream, project=project)
        assert upstream.pages.root.known.url == f"{server.url}/index/"
