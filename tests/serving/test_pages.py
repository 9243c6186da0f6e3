"""Project pages and the project list, over a real socket."""

from __future__ import annotations

import contextlib
import gzip
import sqlite3
from pathlib import Path
from urllib.parse import urljoin

import pytest
from gevent import joinall, spawn
from gevent.event import Event
from lxml import html

from pytail.config.values import upstream_base_url
from pytail.web.rendered import zstd
from tests.support.fakeindex import HTML, JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Client, Clock, serving
from tests.support.watching import until_earlier_requests_wait

PAGES = ["/simple/demo/", "/root/pypi/+simple/demo/"]


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"), sdist("demo"))
    return index


def test_root_redirects_to_the_list(pytail: Client):
    answer = pytail.get("/")
    assert (answer.status, answer.headers["Location"]) == (302, "simple/")


@pytest.mark.parametrize("root", ["/simple/", "/root/pypi/+simple/"])
def test_the_list_has_the_projects_that_were_requested_and_found(
    pytail: Client, demo: FakeIndex, root: str
):
    demo.add(wheel("other"))
    for project in ("demo", "nope"):
        pytail.get(f"/simple/{project}/")
    assert pytail.get(root, Accept=JSON).json() == {  # items 2, 4
        "meta": {"api-version": "1.4"},
        "projects": [{"name": "demo"}],
    }
    links = html.fromstring(pytail.get(root).data).xpath("//a")
    assert [(link.text, link.get("href")) for link in links] == [("demo", "demo/")]  # items 1, 3


def test_the_list_is_served_without_upstream(pytail: Client, index: FakeIndex):
    index.stop()
    assert pytail.get("/simple/", Accept=JSON).json()["projects"] == []  # item 5


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_json_for_index_clients(pytail: Client, demo: FakeIndex, path: str):
    answer = pytail.get(path, Accept=JSON)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == JSON  # item 21
    page = answer.json()
    assert page["name"] == "demo"
    assert page["meta"] == {"api-version": "1.4"}
    assert [file["filename"] for file in page["files"]] == [d.filename for d in demo.dists]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_html_for_other_clients(pytail: Client, demo: FakeIndex, path: str):
    answer = pytail.get(path)
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"  # items 19, 38
    assert answer.data.startswith(b"<!DOCTYPE html>")  # item 7
    links = html.fromstring(answer.data).xpath("//a")
    assert [link.text for link in links] == [dist.filename for dist in demo.dists]


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
def test_links_are_relative_urls_of_the_files(
    pytail: Client, demo: FakeIndex, path: str, prefix: str
):
    for accept in (JSON, HTML):
        answer = pytail.get(path, Accept=accept)
        if accept == JSON:
            links = [file["url"] for file in answer.json()["files"]]
        else:
            links = html.fromstring(answer.data).xpath("//a/@href")
        for link, dist in zip(links, demo.dists, strict=True):
            url = urljoin(f"https://index.example.org{prefix}{path}", link).partition("#")[0]
            assert url == f"https://index.example.org{prefix}/root/pypi/+f/{dist.key}"  # 35


def test_all_fields_of_upstreams_page_are_served(pytail: Client, index: FakeIndex):
    fields = {
        "requires-python": ">=3.8,<4",
        "yanked": 'a "b" <c>',
        "gpg-sig": True,
        "provenance": "https://index.example.org/provenance/demo",
        "x-unknown": {"a": [1, None]},
    }
    index.add(wheel("demo", **fields))
    index.page_extra["demo"] = {
        "versions": ["0.9", "1.0"],
        "project-status": {"status": "archived", "reason": "done"},
    }
    page = pytail.json("demo")
    upstream = index.page("demo")
    (served,), (listed,) = page.pop("files"), upstream.pop("files")
    assert page == upstream
    listed.pop("url"), served.pop("url")
    assert served == listed


def test_json_is_requested_first_and_html_is_accepted(tmp_path: Path):
    with FakeIndex(html_only=True) as index, serving(tmp_path, index.url) as pytail:
        index.add(wheel("demo"))
        page = pytail.json("demo")
        assert index.seen[0].headers["ACCEPT"].startswith(JSON + ",")  # item 107
    assert page["meta"] == {"api-version": "1.0"}  # item 134
    (file,) = page["files"]
    assert file["hashes"] == {"sha256": index.dists[0].sha256}
    assert file["core-metadata"] == index.dists[0].entry()["core-metadata"]
    assert not {"size", "upload-time"} & file.keys()


@pytest.mark.parametrize(
    ("asked", "location"),
    [
        ("/simple/De_mo/", "../de-mo/"),
        ("/simple/De_mo", "de-mo/"),
        ("/simple/demo", "demo/"),
        ("/simple/demo?format=x", "demo/?format=x"),
        ("/simple", "simple/"),
        ("/root/pypi/+simple", "+simple/"),
        ("/root/pypi/%2Bsimple/De.mo/", "../de-mo/"),
    ],
)
def test_other_spellings_redirect_temporarily_and_relatively(
    pytail: Client, index: FakeIndex, asked: str, location: str
):
    answer = pytail.get(asked)
    assert (answer.status, answer.headers["Location"]) == (302, location)  # items 49 to 51
    assert answer.headers["Cache-Control"] == "no-store"  # item 101
    assert index.seen == []


@pytest.mark.parametrize("spelling", ["Demo", "demo"])
def test_links_are_right_after_a_redirect(pytail: Client, demo: FakeIndex, spelling: str):
    for mount in ("/simple", "/root/pypi/+simple"):
        asked = f"{mount}/{spelling}"
        final = urljoin(asked, pytail.get(asked).headers["Location"])
        assert final == f"{mount}/demo/"
        (first, _) = pytail.get(final, Accept=JSON).json()["files"]
        assert urljoin(final, first["url"]) == f"/root/pypi/+f/{demo.dists[0].key}"  # item 52


@pytest.mark.parametrize(
    "kind", [f"{JSON}; charset=utf-8", JSON.upper(), "application/json", f"{JSON} ;v=1"]
)
def test_json_is_recognized_under_several_content_types(
    pytail: Client, index: FakeIndex, kind: str
):
    index.answers["/simple/demo/"] = reply(b'{"files": []}', kind)
    assert pytail.json("demo")["files"] == []  # item 125


@pytest.mark.parametrize(
    "name", ["..", "%2e%2e", ".hidden", "trailing-", "n%00l", "demo%0A", "dem%C3%B6", "a%5Cb"]
)
def test_an_invalid_project_name_is_404_without_an_upstream_request(
    pytail: Client, index: FakeIndex, name: str
):
    answer = pytail.get(f"/simple/{name}/")
    assert answer.status == 404  # item 53
    assert index.seen == []


@pytest.mark.parametrize("path", ["/simple//demo/", "/pypi/demo/json", "/demo/json", "/+nothing"])
def test_other_paths_are_404(pytail: Client, path: str):
    assert pytail.get(path).status == 404  # items 55, 122


@pytest.mark.parametrize("path", ["/", "/simple/", "/simple/demo/", "/legacy/", "/root/pypi/"])
def test_uploads_are_405_with_a_reason(pytail: Client, demo: FakeIndex, path: str):
    for method in ("POST", "PUT", "DELETE"):
        answer = pytail.request(method, path, body=b"x")
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"  # item 121
        assert "uploads are not offered" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/simple/", *PAGES])
@pytest.mark.parametrize("accept", [JSON, HTML])
def test_head_is_get_without_the_body(pytail: Client, demo: FakeIndex, path: str, accept: str):
    got, headed = pytail.get(path, Accept=accept), pytail.head(path, Accept=accept)
    assert headed.data == b""
    assert headed.status == got.status
    names = {"Content-Type", "Content-Length", "ETag", "Cache-Control", "Vary"}
    assert {n: headed.headers[n] for n in names} == {n: got.headers[n] for n in names}  # item 103


def test_etags_are_strong_and_differ_by_form_and_coding(pytail: Client, demo: FakeIndex):
    etags = set()
    for accept in (JSON, HTML, "text/html"):
        for coding in ("identity", "gzip", "zstd"):
            etag = pytail.get("/simple/demo/", Accept=accept, Accept_Encoding=coding).headers[
                "ETag"
            ]
            assert etag[0] == etag[-1] == '"'  # item 93
            etags.add(etag)
    assert len(etags) == 9  # item 95


@pytest.mark.parametrize("path", ["/simple/", *PAGES])
def test_a_known_etag_gets_304_with_the_same_headers(pytail: Client, demo: FakeIndex, path: str):
    first = pytail.get(path, Accept=JSON)
    sent = f'"other", W/{first.headers["ETag"]}'
    answer = pytail.get(path, Accept=JSON, If_None_Match=sent)  # item 96
    assert (answer.status, answer.data) == (304, b"")
    for name in ("ETag", "Cache-Control", "Vary", "Content-Type"):
        assert answer.headers[name] == first.headers[name]  # items 91, 92
    assert "Date" in answer.headers


def test_gzip_is_sent_where_accepted(pytail: Client, demo: FakeIndex):
    plain = pytail.get("/simple/demo/", Accept=JSON)
    packed = pytail.get("/simple/demo/", Accept=JSON, Accept_Encoding="gzip, deflate")
    assert packed.headers["Content-Encoding"] == "gzip"  # item 102
    assert gzip.decompress(packed.data) == plain.data
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept, Accept-Encoding"  # item 47
    assert "Content-Encoding" not in plain.headers


def test_zstd_is_sent_where_accepted_and_preferred(pytail: Client, demo: FakeIndex):
    plain = pytail.get("/simple/demo/", Accept=JSON)
    packed = pytail.get("/simple/demo/", Accept=JSON, Accept_Encoding="gzip, deflate, zstd")
    assert packed.headers["Content-Encoding"] == "zstd"  # item 102
    assert zstd.decompress(packed.data) == plain.data
    preferred = pytail.get("/simple/demo/", Accept=JSON, Accept_Encoding="gzip, zstd;q=0.5")
    assert preferred.headers["Content-Encoding"] == "gzip"


def test_max_age_is_the_rest_of_the_ttl(pytail: Client, demo: FakeIndex, clock: Clock):
    def cache_control() -> str:
        return pytail.get("/simple/demo/").headers["Cache-Control"]

    assert cache_control() == "max-age=600, public"  # item 97
    clock.now += 850
    assert cache_control() == "max-age=50, public"


def test_upstreams_serial_is_served(pytail: Client, demo: FakeIndex):
    body = b'{"meta": {"api-version": "1.4", "_last-serial": 77}, "files": []}'
    demo.answers["/simple/demo/"] = reply(body, JSON, X_PyPI_Last_Serial="77")
    answer = pytail.get("/simple/demo/", Accept=JSON)
    assert answer.headers["X-PyPI-Last-Serial"] == "77"  # item 6
    assert answer.json()["meta"]["_last-serial"] == 77
    assert pytail.get("/simple/").headers["X-PyPI-Last-Serial"] == "77"


def test_an_unacceptable_form_is_406_with_the_available_ones(pytail: Client, demo: FakeIndex):
    answer = pytail.get("/simple/demo/", Accept="application/xml")
    assert answer.status == 406  # item 44
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert JSON in answer.json()["detail"]


def test_the_format_parameter_overrides_accept(pytail: Client, demo: FakeIndex):
    answer = pytail.get("/simple/demo/?format=application/vnd.pypi.simple.v1+json", Accept=HTML)
    assert answer.headers["Content-Type"] == JSON  # item 46


def test_a_page_is_requested_once_within_its_ttl(pytail: Client, demo: FakeIndex, clock: Clock):
    for _ in range(3):
        pytail.get("/simple/demo/")
        clock.now += 400
    assert demo.page_count("demo") == 1  # at 0, 400 and 800 seconds, item 105


def test_a_stale_page_is_revalidated_and_304_restarts_the_ttl(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    first = pytail.get("/simple/demo/", Accept=JSON)
    clock.now += 901
    again = pytail.get("/simple/demo/", Accept=JSON)
    assert again.data == first.data
    assert demo.page_count("demo") == 2
    assert demo.seen[-1].headers["IF_NONE_MATCH"].startswith('"')
    clock.now += 899
    pytail.get("/simple/demo/")
    assert demo.page_count("demo") == 2


def test_a_new_release_is_served_after_the_ttl(pytail: Client, demo: FakeIndex, clock: Clock):
    assert pytail.json("demo")["versions"] == ["1.0"]
    demo.add(wheel("demo", "2.0"))
    clock.now += 901
    assert pytail.json("demo")["versions"] == ["1.0", "2.0"]


def test_fifty_clients_of_a_new_page_cause_one_upstream_request(pytail: Client, demo: FakeIndex):
    gate = Event()
    answer = reply(b'{"files": [], "name": "demo"}', JSON)
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and answer(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(50)]
    until_earlier_requests_wait(pytail)
    gate.set()
    joinall(clients, raise_error=True)
    assert {client.value.status for client in clients} == {200}
    assert demo.page_count("demo") == 1  # item 114


def test_an_unknown_project_is_404_for_a_minute(pytail: Client, index: FakeIndex, clock: Clock):
    answer = pytail.get("/simple/nope/")
    assert answer.status == 404  # item 116
    assert "'nope'" in answer.json()["detail"]
    pytail.get("/simple/nope/")
    assert index.page_count("nope") == 1
    index.add(wheel("nope"))
    clock.now += 61
    assert pytail.get("/simple/nope/").status == 200  # item 112


def test_a_project_removed_upstream_is_404(pytail: Client, demo: FakeIndex, clock: Clock):
    pytail.get("/simple/demo/")
    demo.dists.clear()
    clock.now += 901
    assert pytail.get("/simple/demo/").status == 404  # item 110
    assert pytail.get("/simple/", Accept=JSON).json()["projects"] == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, 502), (403, 502), (407, 502), (410, 404), (429, 503), (500, 502), (503, 502)],
)
def test_each_error_status_of_upstream_becomes_one_for_clients(
    pytail: Client, index: FakeIndex, status: int, expected: int
):
    index.answers["/simple/demo/"] = reply(b"no", "text/plain", f"{status} No")
    answer = pytail.get("/simple/demo/")
    assert answer.status == expected  # items 116 to 119
    assert answer.headers["Cache-Control"] == "no-store"
    if status == 429:
        assert answer.headers["Retry-After"].isdigit()


def test_retry_after_is_sent_in_seconds(pytail: Client, index: FakeIndex):
    index.answers["/simple/a/"] = reply(b"", "text/plain", "429 Slow", Retry_After="42")
    index.answers["/simple/b/"] = reply(
        b"", "text/plain", "429 Slow", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"
    )
    assert pytail.get("/simple/a/").headers["Retry-After"] == "42"
    assert pytail.get("/simple/b/").headers["Retry-After"].isdigit()  # item 120


def test_without_upstream_a_stored_page_is_served_and_another_is_503(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    known = pytail.get("/simple/demo/", Accept=JSON)
    demo.stop()
    clock.now += 10_000
    stale = pytail.get("/simple/demo/", Accept=JSON)
    assert (stale.status, stale.data) == (200, known.data)  # item 109
    assert int(stale.headers["Cache-Control"].split("=")[1].split(",")[0]) <= 60  # item 97
    unknown = pytail.get("/simple/unknown/")
    assert unknown.status == 503  # item 118
    assert unknown.headers["Retry-After"].isdigit()
    assert demo.url in unknown.json()["detail"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html><body>Log in <a href='/login'>here</a></body></html>", "text/html"),
        (b'{"meta": {"api-version": "1.0"}, "files": [{"filename"', JSON),
        (b'{"message": "hello"}', JSON),
        (b'{"meta": {"api-version": "2.0"}, "files": []}', JSON),
        (b'{"name": "another", "files": []}', JSON),
        (b'{"files": []}', "text/plain"),
        (b"", JSON),
    ],
)
def test_a_garbled_page_is_502_and_never_replaces_a_stored_one(
    pytail: Client, demo: FakeIndex, clock: Clock, body: bytes, kind: str
):
    good = pytail.json("demo")
    demo.answers["/simple/demo/"] = demo.answers["/simple/new/"] = reply(body, kind)
    assert pytail.get("/simple/new/").status == 502  # item 124
    clock.now += 901
    assert pytail.json("demo") == good
    del demo.answers["/simple/demo/"]
    demo.add(wheel("demo", "3.0"))
    assert len(pytail.json("demo")["files"]) == 3


def test_tools_get_errors_as_problem_details(pytail: Client, index: FakeIndex):
    for accept in (JSON, "*/*", f"{JSON}, {HTML}; q=0.1, text/html; q=0.01"):
        answer = pytail.get("/simple/nope/", Accept=accept)
        assert answer.headers["Content-Type"] == "application/problem+json"  # item 123
        problem = answer.json()
        assert (problem["title"], problem["status"]) == ("Not Found", 404)
        assert index.url in problem["detail"]


def test_browsers_get_errors_as_html(pytail: Client, index: FakeIndex):
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    answer = pytail.get("/simple/nope/", Accept=browser)
    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert b"has no project" in answer.data


@pytest.mark.parametrize("suffix", ["", "/", "/simple", "/simple/", "//simple//"])
@pytest.mark.parametrize("prefix", ["", "/some/prefix"])
def test_several_spellings_of_the_upstream_url_are_accepted(
    tmp_path: Path, index: FakeIndex, prefix: str, suffix: str
):
    index.answers[f"{prefix}/simple/demo/"] = reply(b'{"files": []}', JSON)
    with serving(tmp_path, upstream_base_url(index.url + prefix + suffix)) as pytail:
        assert pytail.get("/simple/demo/").status == 200  # item 115


def test_pages_survive_a_restart(tmp_path: Path, demo: FakeIndex, clock: Clock):
    with serving(tmp_path, demo.url, clock) as pytail:
        first = pytail.get("/simple/demo/", Accept=JSON)
    demo.stop()
    with serving(tmp_path, demo.url, clock) as pytail:
        again = pytail.get("/simple/demo/", Accept=JSON)
    assert again.data == first.data
    assert again.headers["ETag"] == first.headers["ETag"]


@pytest.fixture
def large(index: FakeIndex) -> list[Dist]:
    """The files of a project whose page is large enough for pytail to store it rendered."""
    dists = [
        Dist("large", f"large-{number}.0-py3-none-any.whl", b"%d" % number) for number in range(200)
    ]
    index.add(*dists)
    return dists


def lose_files(cache: Path) -> None:
    """Delete the files of all pages from the catalog, so that pytail cannot render them again."""
    with contextlib.closing(sqlite3.connect(cache / "index.sqlite3")) as catalog, catalog:
        assert catalog.execute("DELETE FROM part").rowcount


@pytest.mark.parametrize("path", [page.replace("demo", "large") for page in PAGES])
def test_a_large_page_is_not_rendered_again_after_a_restart(
    tmp_path: Path, index: FakeIndex, large: list[Dist], clock: Clock, path: str
):
    with serving(tmp_path, index.url, clock) as first:
        before = first.get(path, Accept=JSON, Accept_Encoding="zstd")
    lose_files(tmp_path)
    with serving(tmp_path, index.url, clock) as second:
        after = second.get(path, Accept=JSON, Accept_Encoding="zstd")
        assert (after.data, after.headers["ETag"]) == (before.data, before.headers["ETag"])
        # This form was not requested before, so pytail renders it.
        assert second.get(path, Accept=JSON).json()["files"] == []


def test_a_changed_page_is_rendered_again(
    tmp_path: Path, index: FakeIndex, large: list[Dist], clock: Clock
):
    with serving(tmp_path, index.url, clock) as first:
        assert len(first.json("large")["files"]) == len(large)
    index.dists.pop()
    clock.now += 1000
    for _ in range(2):
        with serving(tmp_path, index.url, clock) as later:
            assert len(later.json("large")["files"]) == len(large) - 1


def test_a_rendered_page_is_not_served_under_other_settings(
    tmp_path: Path, index: FakeIndex, large: list[Dist], clock: Clock
):
    for _ in range(2):
        with serving(tmp_path, index.url, clock) as plain:
            assert not any(file.get("core-metadata") for file in plain.json("large")["files"])
        with serving(tmp_path, index.url, clock, core_metadata_from_wheels=True) as listing:
            assert all(file["core-metadata"] for file in listing.json("large")["files"])
        with serving(tmp_path, index.url, clock, offline=True) as offline:
            assert offline.json("large")["files"] == []
