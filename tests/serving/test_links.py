"""Links that move: a cached page never hides that upstream has the file elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import spawn

from pytail.upstream import resume
from tests.support.fakeindex import (
    JSON,
    WSGI,
    Dist,
    FakeIndex,
    reply,
    sdist,
    wheel,
)
from tests.support.moving import Moving
from tests.support.running import (
    Client,
    Clock,
    file_path,
    free_port,
    serving,
    under_gunicorn,
)

PAYLOAD = os.urandom(3_000_000)
STATUSES = [
    "302 Found", "400 Bad Request", "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone",
    "451 Unavailable For Legal Reasons", "500 Internal Server Error", "503 Service Unavailable",
]  # fmt: skip


@pytest.fixture
def demo() -> Dist:
    return wheel("demo", payload=PAYLOAD)


@pytest.fixture(params=["path", "signature"])
def moving(request: pytest.FixtureRequest, index: FakeIndex, demo: Dist) -> Moving:
    """The upstream of `pytail`, which moves its links by their path or by their signature."""
    return Moving(index, demo, is_signed=request.param == "signature")


def refused_by(status: str) -> WSGI:
    return reply(b"<Error><Code>AccessDenied</Code></Error>", "application/xml", status)


@pytest.mark.parametrize("status", STATUSES)
def test_a_file_whose_link_moved_is_fetched_by_its_new_link(
    pytail: Client, moving: Moving, demo: Dist, status: str
):
    moving.refusal = refused_by(status)
    assert pytail.json("demo")["files"]
    moving.move()
    answer = pytail.get(demo.served)
    assert (answer.status, answer.data) == (200, demo.data)
    assert moving.index.page_count("demo") == 2


def test_an_unchanged_validator_does_not_hide_that_a_link_moved(
    pytail: Client, index: FakeIndex, moving: Moving, demo: Dist
):
    def page(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = json.dumps(index.page("demo")).encode()
        return reply(body, JSON, etag='"always"')(environ, start_response)

    index.answers["/simple/demo/"] = page
    pytail.json("demo")
    moving.move()
    assert pytail.get(demo.served).data == demo.data
    assert "IF_NONE_MATCH" not in index.seen[-2].headers


def test_core_metadata_whose_link_moved_is_fetched_by_its_new_link(
    pytail: Client, moving: Moving, demo: Dist
):
    pytail.json("demo")
    moving.move()
    assert pytail.get(f"{demo.served}.metadata").data == demo.metadata


def test_a_signature_whose_link_moved_is_fetched_by_its_new_link(
    pytail: Client, index: FakeIndex, demo: Dist
):
    demo.extra["gpg-sig"] = True
    moving = Moving(index, demo)
    pytail.json("demo")
    moving.move()
    index.answers[f"{moving.link(demo)}.asc"] = reply(b"-----BEGIN PGP", "text/plain")
    assert pytail.get(f"{demo.served}.asc").data == b"-----BEGIN PGP"


def test_core_metadata_in_a_wheel_whose_link_moved_is_read_by_its_new_link(
    tmp_path: Path, moving: Moving, demo: Dist
):
    demo.extra["core-metadata"] = False
    demo.metadata, metadata = None, demo.metadata
    with serving(tmp_path, moving.index.url, core_metadata_from_wheels=True) as pytail:
        del demo.extra["core-metadata"]
        pytail.json("demo")
        moving.move()
        assert pytail.get(f"{demo.served}.metadata").data == metadata


@pytest.mark.parametrize(("first", "last"), [(0, 99), (2_500_000, 2_500_099)])
def test_a_range_of_a_file_whose_link_moved_comes_from_its_new_link(
    pytail: Client, moving: Moving, demo: Dist, first: int, last: int
):
    pytail.json("demo")
    moving.move()
    answer = pytail.get(demo.served, Range=f"bytes={first}-{last}")
    assert (answer.status, answer.data) == (206, demo.data[first : last + 1])


def test_head_of_a_file_whose_link_moved_has_its_length(pytail: Client, moving: Moving, demo: Dist):
    demo.extra["size"] = None
    pytail.json("demo")
    moving.move()
    assert pytail.head(demo.served).headers["Content-Length"] == str(len(demo.data))


def test_a_file_that_cannot_be_stored_is_passed_through_from_its_new_link(
    tmp_path: Path, moving: Moving, demo: Dist
):
    with serving(tmp_path, moving.index.url, cache_max_size=100_000) as pytail:
        pytail.json("demo")
        moving.move()
        answer = pytail.get(demo.served)
    assert (answer.headers["X-Cache"], answer.data) == ("PASS", demo.data)


def test_a_link_that_expires_in_the_middle_is_replaced_and_the_file_continues(
    pytail: Client, index: FakeIndex, moving: Moving, demo: Dist, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(resume, "PAUSES", (0.01, 0.02))
    path = moving.link(demo).partition("?")[0]

    def breaks_off(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(len(demo.data))), ("Connection", "close")])
        yield demo.data[:1_000_000]
        index.answers[path] = moving.refusal
        moving.move()

    index.answers[path] = breaks_off
    assert pytail.get(demo.served).data == demo.data
    assert index.seen[-1].headers["RANGE"] == "bytes=1000000-"


def test_a_stored_file_without_a_digest_is_revalidated_by_its_new_link(
    pytail: Client, index: FakeIndex, clock: Clock
):
    demo = sdist("demo", hashes={})
    moving = Moving(index, demo, is_signed=True)
    path = file_path(pytail.json("demo")["files"][0])
    assert pytail.get(path).data == demo.data
    clock.now += 1000
    moving.move()
    answer = pytail.get(path)
    assert (answer.headers["X-Cache"], answer.data) == ("HIT", demo.data)
    assert index.page_count("demo") == 2


def test_a_file_without_a_digest_is_found_by_its_filename(pytail: Client, index: FakeIndex):
    demo = sdist("demo", hashes={})
    moving = Moving(index, demo)
    path = file_path(pytail.json("demo")["files"][0])
    moving.move()
    assert pytail.head(path).status == 200
    assert pytail.get(path, Range="bytes=5-9").data == demo.data[5:10]
    assert pytail.get(path).data == demo.data


def test_a_file_of_another_digest_is_not_taken_for_the_one_that_moved(
    pytail: Client, moving: Moving, demo: Dist
):
    pytail.json("demo")
    old, demo.data = demo.served, demo.data + b"!"
    moving.move()
    assert pytail.get(old).status == 404


def test_a_page_is_asked_once_for_many_files_and_clients(pytail: Client, index: FakeIndex):
    dists = [sdist("demo", f"1.{number}") for number in range(8)]
    moving = Moving(index, *dists)
    pytail.json("demo")
    moving.move()
    readings = [spawn(pytail.get, dist.served) for dist in dists * 3]
    gevent.joinall(readings)
    assert [reading.value.data for reading in readings] == [dist.data for dist in dists * 3]
    assert index.page_count("demo") == 2


def test_the_page_of_a_file_that_is_gone_is_asked_every_ten_seconds_at_most(
    pytail: Client, index: FakeIndex, moving: Moving, demo: Dist, clock: Clock
):
    pytail.json("demo")
    moving.gone(demo)
    for _ in range(3):
        assert pytail.get(demo.served).status == 404
    assert index.page_count("demo") == 2
    clock.now += 9
    assert pytail.get(demo.served).status == 404
    assert index.page_count("demo") == 2
    clock.now += 1
    assert pytail.get(demo.served).status == 404
    assert index.page_count("demo") == 3


def test_a_file_that_the_page_lists_no_longer_is_404(
    pytail: Client, index: FakeIndex, moving: Moving, demo: Dist
):
    moving.refusal = refused_by("403 Forbidden")
    index.add(sdist("demo", "2.0"))
    pytail.json("demo")
    index.dists.remove(demo)
    moving.gone(demo)
    assert pytail.get(demo.served).status == 404


def test_a_page_that_fails_does_not_make_a_moved_file_missing_and_is_asked_again(
    pytail: Client, index: FakeIndex, moving: Moving, demo: Dist
):
    pytail.json("demo")
    moving.move()
    index.answers["/simple/demo/"] = reply(b"", None, "500 Internal Server Error")
    assert pytail.get(demo.served).status == 502
    del index.answers["/simple/demo/"]
    assert pytail.get(demo.served).data == demo.data


def test_a_link_whose_host_is_gone_is_replaced(pytail: Client, moving: Moving, demo: Dist):
    moving.move(f"http://127.0.0.1:{free_port()}")
    pytail.json("demo")
    moving.move()
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("location", ["ftp://files.example.org/", "http://169.254.169.254/", "."])
def test_a_link_whose_redirect_is_not_followed_is_replaced(
    pytail: Client, moving: Moving, demo: Dist, location: str
):
    moving.refusal = reply(b"", None, "302 Found", Location=location)
    pytail.json("demo")
    moving.move()
    assert pytail.get(demo.served).data == demo.data


def test_a_new_link_to_a_private_address_is_refused_with_the_remedy(
    pytail: Client, moving: Moving, demo: Dist
):
    pytail.json("demo")
    moving.move("http://169.254.169.254")
    for _ in range(2):
        answer = pytail.get(demo.served)
        assert answer.status == 502
        assert "--allow-private-redirects" in answer.json()["detail"]


def test_core_metadata_comes_from_the_wheel_while_the_host_of_the_page_is_down(
    pytail: Client, index: FakeIndex, demo: Dist
):
    with FakeIndex() as files:
        moving = Moving(index, demo)
        files.answers = index.answers
        moving.move(files.url)
        index.answers[f"{moving.link(demo)}.metadata"] = refused_by("403 Forbidden")
        pytail.json("demo")
        index.stop()
        assert pytail.get(f"{demo.served}.metadata").data == demo.metadata


@pytest.mark.parametrize("body", [b"<html>Log in</html>" * 200, b"short", b""])
def test_a_link_that_gave_wrong_bytes_is_asked_for_before_its_next_use(
    pytail: Client, moving: Moving, demo: Dist, body: bytes
):
    moving.refusal = reply(body, "text/html")
    pytail.json("demo")
    moving.move()
    with contextlib.suppress(HTTPException):
        assert pytail.get(demo.served).status == 502
    assert pytail.get(demo.served).data == demo.data


def test_a_signature_is_not_in_the_catalog_and_is_asked_for_after_a_restart(
    tmp_path: Path, index: FakeIndex, demo: Dist
):
    moving = Moving(index, demo, is_signed=True)
    for _ in range(2):
        with serving(tmp_path, index.url) as pytail:
            pytail.json("demo")
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).data == demo.data
    assert moving.index.page_count("demo") == 2
    assert b"sig=" not in b"".join(path.read_bytes() for path in tmp_path.glob("index.sqlite3*"))


def test_a_query_that_is_no_signature_is_not_needed_while_the_page_fails(
    tmp_path: Path, index: FakeIndex, demo: Dist
):
    demo.extra["url"] = f"../..{demo.path}?download=1"
    index.add(demo)
    with serving(tmp_path, index.url) as pytail:
        pytail.json("demo")
    index.answers["/simple/demo/"] = reply(b"", None, "503 Service Unavailable")
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).data == demo.data


def test_a_signature_that_is_not_known_is_503_while_the_page_fails(
    tmp_path: Path, index: FakeIndex, demo: Dist
):
    moving = Moving(index, demo, is_signed=True)
    with serving(tmp_path, index.url) as pytail:
        pytail.json("demo")
    index.answers["/simple/demo/"] = reply(b"", None, "429 Too Many Requests")
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).status == 503
        del index.answers["/simple/demo/"]
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).data == demo.data
    assert moving.number == 1


def test_each_worker_finds_the_new_link(tmp_path: Path, moving: Moving, demo: Dist):
    with under_gunicorn(
        tmp_path / "cache", moving.index.url, tmp_path / "log", "-w", "2"
    ) as running:
        running.client.json("demo")
        moving.move()
        readings = [spawn(running.client.get, demo.served) for _ in range(8)]
        assert all(reading.get(timeout=30).data == demo.data for reading in readings)
    assert moving.index.page_count("demo") <= 4
