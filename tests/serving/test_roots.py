"""The root of upstream is found once for all processes of a cache directory, and after restarts."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from pytail.config.values import upstream_base_url
from tests.support.fakeindex import JSON, FakeIndex, reply, wheel
from tests.support.running import (
    Client,
    Clock,
    clean_environ,
    embedded,
    file_path,
    serving,
    under_gunicorn,
)

TTL = 900


@pytest.fixture
def flat() -> Iterator[FakeIndex]:
    """An index with its pages right below its URL."""
    with FakeIndex(root="/whl/cu128/") as running:
        running.add(wheel("demo"), wheel("other"))
        yield running


def hang_for_ever(*_: object) -> object:
    Event().wait()


def following(tmp_path: Path, index: FakeIndex, path: str, clock: Clock, **more: object) -> object:
    url = upstream_base_url(index.url + path)
    return serving(tmp_path / "cache", url, clock, **more)


def paths(index: FakeIndex) -> list[str]:
    return [seen.path for seen in index.seen]


def wrong_paths(index: FakeIndex) -> list[str]:
    return [path for path in paths(index) if "/whl/cu128/" in path and "simple" in path]


def test_the_root_is_remembered_over_a_restart(tmp_path: Path, flat: FakeIndex, clock: Clock):
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200
    flat.seen.clear()
    with following(tmp_path, flat, "/whl/cu128/", clock) as pytail:
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "HIT"
        assert paths(flat) == []
        assert pytail.get("/simple/nope/").status == 404
        assert pytail.get("/simple/other/").status == 200
    assert paths(flat) == ["/whl/cu128/nope/", "/whl/cu128/other/"]


def test_a_root_without_a_page_is_remembered_over_a_restart(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    for _ in range(2):
        with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
            assert pytail.get("/simple/nope/").status == 404
    assert paths(flat).count("/whl/cu128/nope/") == 1
    flat.seen.clear()
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200
    assert paths(flat) == ["/whl/cu128/demo/"]


def test_two_processes_ask_for_the_root_once(tmp_path: Path, flat: FakeIndex, clock: Clock):
    with (
        following(tmp_path, flat, "/whl/cu128", clock) as one,
        following(tmp_path, flat, "/whl/cu128", clock) as two,
    ):
        assert one.get("/simple/demo/").headers["X-Cache"] == "MISS"
        flat.seen.clear()
        assert two.get("/simple/demo/").headers["X-Cache"] == "HIT"
        assert two.get("/simple/nope/").status == 404
    assert paths(flat) == ["/whl/cu128/nope/"]


def test_no_404_is_given_or_remembered_while_no_root_is_found(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    with following(tmp_path, flat, "/elsewhere", clock) as pytail:
        for _ in range(2):
            answer = pytail.get("/simple/demo/", Accept=JSON)
            assert answer.status == 502
            assert "is no index: asked .../simple/ (no such project)" in answer.json()["detail"]
        flat.root = "/elsewhere/"
        assert pytail.get("/simple/demo/").status == 200
        assert pytail.get("/simple/nope/").status == 404


@pytest.mark.parametrize("status", ["500 Oops", "403 Forbidden", "404 Not Found"])
def test_a_root_is_found_as_soon_as_upstream_answers(
    tmp_path: Path, flat: FakeIndex, clock: Clock, status: str
):
    answers = {f"/whl/cu128{path}": reply(b"", None, status) for path in ("/demo/", "/")}
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        flat.answers |= answers
        assert pytail.get("/simple/demo/").status in (502, 503)
        flat.answers.clear()
        assert pytail.get("/simple/demo/").status == 200


def test_paths_that_hang_beside_the_root_need_no_further_slot(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    names = [f"p{number}" for number in range(5)]
    flat.add(*map(wheel, names))
    flat.answers |= {f"/whl/cu128/simple/{name}/": hang_for_ever for name in names}
    with following(tmp_path, flat, "/whl/cu128", clock, max_page_fetches=1) as pytail:
        asked = [gevent.spawn(pytail.get, f"/simple/{name}/") for name in names]
        assert [each.get(timeout=20).status for each in asked] == [200] * 5
        flat.stop()


def test_an_upstream_that_is_down_at_the_start_is_followed_later(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        flat.stop()
        assert pytail.get("/simple/demo/").status == 503
        flat.start()
        assert pytail.get("/simple/demo/").status == 200


def test_another_url_of_upstream_forgets_the_root(tmp_path: Path, flat: FakeIndex, clock: Clock):
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200
    with FakeIndex() as other:
        other.add(wheel("demo", "2.0"))
        with following(tmp_path, other, "", clock) as pytail:
            (file,) = pytail.json("demo")["files"]
            assert file["filename"] == "demo-2.0-py3-none-any.whl"
        assert paths(other) == ["/simple/demo/"]


@pytest.mark.parametrize("spellings", [("", "/simple"), ("/simple/", "/"), ("/simple", "/simple/")])
def test_one_index_by_two_spellings_has_one_cache(
    tmp_path: Path, index: FakeIndex, clock: Clock, spellings: tuple[str, str]
):
    index.add(wheel("demo"))
    first, then = spellings
    with following(tmp_path, index, first, clock) as pytail:
        data = pytail.get("/simple/demo/").data
    index.stop()
    for offline in (False, True):
        with following(tmp_path, index, then, clock, offline=offline) as pytail:
            assert pytail.get("/simple/demo/").data == data or offline
            assert pytail.get("/simple/demo/").headers["X-Cache"] == "HIT"


@pytest.mark.parametrize("path", ["", "/simple"])
def test_a_catalog_of_before_is_used_as_it_is(
    tmp_path: Path, index: FakeIndex, clock: Clock, path: str
):
    index.add(wheel("demo"))
    with following(tmp_path, index, "", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "index.sqlite3")) as catalog:
        # The key of all versions.
        assert catalog.execute("SELECT upstream FROM project").fetchall() == [(index.url,)]
    index.seen.clear()
    with following(tmp_path, index, path, clock) as pytail:
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "HIT"
        assert pytail.get("/simple/nope/").status == 404
    assert paths(index) == ["/simple/nope/"]


def test_a_missing_project_of_a_wrong_root_is_no_evidence(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    with following(tmp_path, flat, "/whl/cu128", clock):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "index.sqlite3")) as catalog:
        # As written by a pytail that knew no other root than /simple/.
        row = "demo", f"{flat.url}/whl/cu128", 0, clock.now, clock.now, "", b"{}"
        columns = "name, upstream, found, fetched_at, checked_at, revision, other"
        catalog.execute(f"INSERT INTO project ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        catalog.commit()
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200


def test_offline_serves_an_index_of_any_root(tmp_path: Path, flat: FakeIndex, clock: Clock):
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        path = file_path(pytail.json("demo")["files"][0])
        assert pytail.get(path).status == 200
    flat.seen.clear()
    with following(tmp_path, flat, "/whl/cu128", clock, offline=True) as pytail:
        assert len(pytail.json("demo")["files"]) == 1
        assert pytail.get("/simple/", Accept=JSON).json()["projects"] == [{"name": "demo"}]
        assert pytail.get("/simple/other/").status == 404
    assert flat.seen == []


def test_offline_without_a_catalog_asks_for_nothing(tmp_path: Path, flat: FakeIndex, clock: Clock):
    with following(tmp_path, flat, "/whl/cu128", clock, offline=True) as pytail:
        assert pytail.get("/simple/demo/").status == 404
        assert pytail.get("/+status").status == 200
    assert flat.seen == []


def test_a_stale_page_is_served_while_upstream_is_down_after_a_restart(
    tmp_path: Path, flat: FakeIndex, clock: Clock
):
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        data = pytail.get("/simple/demo/").data
    flat.stop()
    clock.now += TTL + 1
    with following(tmp_path, flat, "/whl/cu128", clock) as pytail:
        answer = pytail.get("/simple/demo/")
        assert (answer.headers["X-Cache"], answer.data) == ("STALE", data)


def test_a_declared_status_is_a_missing_project_or_file(
    tmp_path: Path, index: FakeIndex, clock: Clock
):
    gone = wheel("demo")
    index.add(gone)
    for path in ("/simple/nope/", gone.path, f"{gone.path}.metadata"):
        index.answers[path] = reply(b"", None, "403 Forbidden")
    served = ["/simple/nope/", gone.served, f"{gone.served}.metadata"]
    with following(tmp_path, index, "", clock) as pytail:
        pytail.get("/simple/demo/")
        assert [pytail.get(path).status for path in served] == [502, 502, 502]
    with following(tmp_path, index, "", clock, missing_statuses=(403, 404)) as pytail:
        assert [pytail.get(path).status for path in served] == [404, 404, 404]
        asked = len(index.seen)
        assert pytail.get("/simple/nope/").headers["X-Cache"] == "HIT"
        assert len(index.seen) == asked


LISTINGS = [
    b'<a href="1.0/">1.0/</a><a href="2.0/">2.0/</a>',
    b'<a href="/simple/a/">a</a><a href="/simple/b/">b</a>',
    b'<meta name="pypi:repository-version" content="1.0"><a href="../a/">A</a>',
    b'<title>Index of /simple/demo/</title><a href="../">../</a><a href="x/">x..&gt;</a>',
    b'<h1>Index of /simple/demo</h1><a href="?C=N;O=D">Name</a> <a href="old/">old/</a>',
    b'<h1>Index of /simple/demo</h1><a href="/simple/">Parent</a> <a href="old/">old/</a>',
]


@pytest.mark.parametrize("listing", LISTINGS)
def test_a_listing_of_directories_is_no_project(
    tmp_path: Path, index: FakeIndex, clock: Clock, listing: bytes
):
    index.add(wheel("demo"))
    index.answers["/simple/listed/"] = reply(listing.replace(b"demo", b"listed"), "text/html")
    with following(tmp_path, index, "", clock) as pytail:
        assert pytail.get("/simple/demo/").status == 200
        assert pytail.get("/simple/listed/").status == 404
        # A page that became such a listing.
        index.answers["/simple/demo/"] = reply(listing, "text/html")
        clock.now += TTL + 1
        assert pytail.get("/simple/demo/").status == 404


def test_a_list_of_projects_in_json_is_no_project(pytail: Client, index: FakeIndex):
    index.add(wheel("demo"))
    body = b'{"meta": {"api-version": "1.0"}, "projects": [{"name": "x"}]}'
    index.answers["/simple/cpu/"] = reply(body, JSON)
    assert pytail.get("/simple/demo/").status == 200
    assert pytail.get("/simple/cpu/").status == 404


@pytest.mark.parametrize("portal", [
    b'<a href="/login/">Log in</a>',
    b'<a href="https://portal.example.org/login/">login</a>',
    b'<a href="/login/">login</a><form action="/login/"></form>',
])  # fmt: skip
def test_a_login_page_is_no_listing(tmp_path: Path, index: FakeIndex, clock: Clock, portal: bytes):
    index.add(wheel("demo"))
    with following(tmp_path, index, "", clock) as pytail:
        data = pytail.get("/simple/demo/").data
        index.answers["/simple/demo/"] = reply(b"<html>" + portal + b"</html>", "text/html")
        clock.now += TTL + 1
        answer = pytail.get("/simple/demo/")
        assert (answer.headers["X-Cache"], answer.data) == ("STALE", data)


@pytest.mark.process
def test_workers_commands_and_servers_share_one_root(tmp_path: Path, flat: FakeIndex):
    cache, log = tmp_path / "cache", tmp_path / "log"
    url = f"{flat.url}/whl/cu128"
    with under_gunicorn(cache, url, log, "--workers", "2") as running:
        assert running.client.get("/simple/demo/").status == 200
        flat.seen.clear()
        for _ in range(20):
            assert running.client.get("/simple/nope/").status == 404
        assert wrong_paths(flat) == []

    def run(*arguments: str) -> str:
        options = ["--cache-dir", str(cache), "--upstream-base-url", f"{url}/"]
        command = [sys.executable, "-m", "pytail", *options, *arguments]
        environ = clean_environ()
        done = subprocess.run(
            command, capture_output=True, text=True, env=environ, timeout=60, check=True
        )
        return done.stdout

    assert json.loads(run("status", "--json"))["projects"] == 1
    assert json.loads(run("refresh", "--json", "demo"))["demo"]["is_fresh"] is True
    assert json.loads(run("warm", "--json", "other==1.0"))["fetched"]["files"] == 2
    assert wrong_paths(flat) == []
    with embedded(cache, url, log) as running:
        assert running.client.get("/simple/other/").headers["X-Cache"] == "HIT"
    assert wrong_paths(flat) == []
