"""Core metadata that upstream lists without having it, or does not list."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event

from tests.support.fakeindex import JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Client, Clock, file_path, serving
from tests.support.sending import Sending

LARGE = os.urandom(12_000_000)


def path_of(dist: Dist) -> str:
    return f"{dist.served}.metadata"


def remove_metadata(index: FakeIndex, dist: Dist) -> None:
    index.answers[f"{dist.path}.metadata"] = reply(b"", "text/plain", "404 Not Found")


@pytest.fixture
def large(index: FakeIndex) -> Dist:
    """A large wheel; upstream supports ranges of it and lists metadata that it does not have."""
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = Sending(dist.data)
    remove_metadata(index, dist)
    return dist


def test_missing_metadata_is_read_from_a_few_ranges_of_the_wheel(
    pytail: Client, index: FakeIndex, large: Dist
):
    for _ in range(2):
        answer = pytail.get(path_of(large))
        assert (answer.status, answer.data) == (200, large.metadata)  # items 57, 61
    ranges = [seen.headers["RANGE"] for seen in index.seen if seen.path == large.path]
    assert 1 <= len(ranges) <= 3
    asked = [range(*map(int, text.removeprefix("bytes=").split("-"))) for text in ranges]
    assert sum(map(len, asked)) < 200_000


def test_missing_metadata_is_read_from_the_stored_wheel(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    remove_metadata(index, dist)
    pytail.get(dist.served)
    assert pytail.get(path_of(dist)).data == dist.metadata
    assert index.count(dist.path) == 1


def test_a_small_wheel_is_read_whole_from_an_upstream_without_ranges(
    pytail: Client, index: FakeIndex
):
    dist = wheel("demo")
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).data == dist.metadata


@pytest.mark.parametrize("status", ["200 OK", "416 No", "501 No"])
def test_a_large_wheel_is_stored_from_an_upstream_without_ranges(
    pytail: Client, index: FakeIndex, large: Dist, status: str
):
    whole, refusal = (
        reply(data, None, code) for data, code in ((large.data, "200 OK"), (b"", status))
    )

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_refused = "HTTP_RANGE" in environ and status != "200 OK"
        return (refusal if is_refused else whole)(environ, start_response)

    index.answers[large.path] = answer
    assert pytail.get(path_of(large)).data == large.metadata
    assert pytail.get(large.served).headers["X-Cache"] == "HIT"
    assert "core-metadata" in pytail.json("demo")["files"][0]


def test_metadata_that_cannot_be_read_is_no_longer_listed(
    pytail: Client, index: FakeIndex, large: Dist
):
    # Without ranges, the wheel is stored first, but these bytes are not of its digest.
    index.answers[large.path] = reply(large.data[:-9] + b"otherwise", "application/octet-stream")
    assert "core-metadata" in pytail.json("demo")["files"][0]
    answer = pytail.get(path_of(large))
    assert answer.status == 502
    assert "cannot read the core metadata of" in answer.json()["detail"]
    assert pytail.json("demo")["files"][0]["core-metadata"] is False  # item 57
    # A client with an older page may try again.
    assert pytail.get(path_of(large)).status == 502


def test_missing_metadata_of_an_sdist_is_404(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"core-metadata": True})
    index.add(dist)
    assert pytail.get(path_of(dist)).status == 404


def test_a_wrong_digest_of_metadata_is_corrected(pytail: Client, index: FakeIndex):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502  # with that digest, clients would reject it
    right = {"sha256": hashlib.sha256(dist.metadata or b"").hexdigest()}
    assert pytail.json("demo")["files"][0]["core-metadata"] == right
    assert pytail.get(path_of(dist)).data == dist.metadata


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"demo-1.0.dist-info/METADATA": b"x", "other-1.0.dist-info/METADATA": b"y"},
        {"demo-1.0.dist-info/METADATA": b"0" * 9_000_000},
    ],
    ids=["none", "two", "bomb"],
)
def test_a_wheel_without_exactly_one_usable_metadata_is_502(
    pytail: Client, index: FakeIndex, members: dict[str, bytes]
):
    dist = wheel("demo")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    dist.data = out.getvalue()
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


def test_a_wheel_that_is_not_a_zip_file_is_502(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    dist.data = os.urandom(100_000)
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502


@pytest.fixture
def promising(tmp_path: Path, clock: Clock) -> Iterator[tuple[Client, FakeIndex]]:
    """A pytail with `core_metadata_from_wheels`, and its upstream, which lists no metadata."""
    with (
        FakeIndex(html_only=True) as index,
        serving(tmp_path, index.url, clock, core_metadata_from_wheels=True) as client,
    ):
        yield client, index


def test_metadata_is_listed_and_read_from_wheels_where_upstream_lists_none(
    promising: tuple[Client, FakeIndex],
):
    pytail, index = promising
    dist, source = wheel("demo", **{"core-metadata": None}), sdist("demo")
    index.add(dist, source)
    remove_metadata(index, dist)
    first, second = pytail.json("demo")["files"]
    assert first["core-metadata"] is True
    assert "core-metadata" not in second
    assert pytail.get(file_path(first) + ".metadata").data == dist.metadata
    assert pytail.get(file_path(second) + ".metadata").status == 404
    # The digest is known once the metadata was read.
    digest = hashlib.sha256(dist.metadata or b"").hexdigest()
    assert pytail.json("demo")["files"][0]["core-metadata"] == {"sha256": digest}


# A page, or upstream's own metadata, that is wrong


def ranged(data: bytes, *, status: str = "206 Partial Content") -> Any:
    """Return a response with the range asked for, as file hosts send it."""

    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        first, _, last = environ["HTTP_RANGE"].removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last) + 1, len(data))
        if start >= len(data):
            content_range = ("Content-Range", f"bytes */{len(data)}")
            start_response("416 Range Not Satisfiable", [content_range, ("Content-Length", "0")])
            return []
        content_range = ("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        start_response(status, [content_range, ("Content-Length", str(stop - start))])
        return [data[start:stop]]

    return answer


@pytest.mark.parametrize("size", [None, 0, 1, -1, "half", "double"])
def test_a_wrong_size_of_the_wheel_on_the_page_does_not_matter(
    pytail: Client, index: FakeIndex, size: int | str | None
):
    dist = wheel("demo", payload=LARGE)
    right = len(dist.data)
    wrong = {"half": right // 2, "double": right * 2, 1: right + 1, -1: right - 1}.get(size, size)
    dist.extra["size"] = wrong
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    remove_metadata(index, dist)
    answer = pytail.get(path_of(dist))
    assert (answer.status, answer.data) == (200, dist.metadata)
    assert "core-metadata" in pytail.json("demo")["files"][0]
    assert index.count(dist.path, "HEAD") == 0


@pytest.mark.parametrize(
    "status",
    [
        "401 Unauthorized", "403 Forbidden", "404 Not Found", "410 Gone", "429 Slow", "451 Unavailable",
        "500 Oops", "502 Bad", "503 Busy", "504 Late", "204 None", "304 Same", "206 Part",
    ],
)  # fmt: skip
def test_metadata_that_upstream_refuses_is_read_from_the_wheel(
    pytail: Client, index: FakeIndex, status: str
):
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    index.answers[f"{dist.path}.metadata"] = reply(b"no", "text/plain", status)
    answer = pytail.get(path_of(dist))
    assert (answer.status, answer.data) == (200, dist.metadata)


def test_metadata_that_upstream_keeps_refusing_is_read_from_each_wheel(
    pytail: Client, index: FakeIndex
):
    dists = [wheel("demo", f"{number}.0", payload=LARGE) for number in range(6)]
    index.add(*dists)
    for dist in dists:
        index.answers[dist.path] = ranged(dist.data)
        index.answers[f"{dist.path}.metadata"] = reply(b"no", "text/plain", "500 Oops")
    for dist in dists:
        assert pytail.get(path_of(dist)).data == dist.metadata


@pytest.mark.parametrize("promised", [True, None])
@pytest.mark.parametrize(
    "page",
    [b"", b"<!DOCTYPE html><p>Log in: now</p>", b'{"detail": "no"}', b"Error: not now", b"\n\nMetadata-Version: 2", b"<form>\nName: <input>\n"],
)  # fmt: skip
def test_a_login_page_is_no_core_metadata(
    tmp_path: Path, clock: Clock, index: FakeIndex, page: bytes, promised: bool | None
):
    dist = wheel("demo", payload=LARGE, **{"core-metadata": promised})
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    index.answers[f"{dist.path}.metadata"] = reply(page, "text/html")
    with serving(tmp_path, index.url, clock, core_metadata_from_wheels=True) as pytail:
        answer = pytail.get(path_of(dist))
        assert (answer.status, answer.data) == (200, dist.metadata)


def test_core_metadata_without_a_digest_is_taken_from_upstream(pytail: Client, index: FakeIndex):
    dist = wheel("demo", **{"core-metadata": True})
    index.add(dist)
    own = b"Name: demo\r\nmetadata-version: 2.1\r\nVersion: 1.0\r\n\r\nupstream's own"
    index.answers[f"{dist.path}.metadata"] = reply(own, "text/plain")
    assert pytail.get(path_of(dist)).data == own
    assert index.count(dist.path) == 0


@pytest.mark.parametrize("sent", ["nothing", "a part", "drops"])
def test_metadata_that_hangs_is_read_from_the_wheel_while_the_client_waits(
    tmp_path: Path, clock: Clock, index: FakeIndex, sent: str
):
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    over = Event()

    def hang(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        if sent == "nothing":
            over.wait()
        start_response("200 OK", [("Content-Length", "100000")])
        yield b"M"
        while sent == "drops" and not over.wait(0.1):
            yield b"M"
        over.wait()

    index.answers[f"{dist.path}.metadata"] = hang
    with serving(tmp_path, index.url, clock, client_wait_secs=8) as pytail:
        answer = pytail.get(path_of(dist))
        over.set()
    assert (answer.status, answer.data) == (200, dist.metadata)


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "500 Oops"])
def test_refused_metadata_is_not_asked_for_again_while_the_wheel_has_it(
    pytail: Client, index: FakeIndex, tmp_path: Path, status: str
):
    dist = wheel("demo")
    index.add(dist)
    own = f"{dist.path}.metadata"
    index.answers[own] = reply(b"no", "text/plain", status)
    for _ in range(3):
        assert pytail.get(path_of(dist)).data == dist.metadata
        for stored in tmp_path.rglob("*.metadata"):
            stored.unlink()
    assert index.count(own) == 1
    # Where the wheel fails too, upstream's own is asked for again.
    index.answers[dist.path] = reply(b"no", "text/plain", "403 Forbidden")
    assert pytail.get(path_of(dist)).status in (404, 502)
    del index.answers[own]
    assert pytail.get(path_of(dist)).data == dist.metadata


@pytest.mark.parametrize("wrong", [b"", b"other bytes", b"<html>login</html>" * 100])
def test_metadata_of_another_digest_is_read_from_the_wheel(
    pytail: Client, index: FakeIndex, wrong: bytes
):
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    index.answers[dist.path] = ranged(dist.data)
    index.answers[f"{dist.path}.metadata"] = reply(wrong, "text/plain")
    answer = pytail.get(path_of(dist))
    assert (answer.status, answer.data) == (200, dist.metadata)


def test_a_wrong_digest_of_metadata_that_upstream_has_is_corrected(
    pytail: Client, index: FakeIndex
):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    assert pytail.get(path_of(dist)).status == 502
    right = {"sha256": hashlib.sha256(dist.metadata or b"").hexdigest()}
    assert pytail.json("demo")["files"][0]["core-metadata"] == right
    assert pytail.get(path_of(dist)).data == dist.metadata


def test_a_corrected_digest_of_metadata_survives_a_new_page(
    pytail: Client, index: FakeIndex, clock: Clock
):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    assert pytail.get(path_of(dist)).status == 502
    right = {"sha256": hashlib.sha256(dist.metadata or b"").hexdigest()}
    for number in range(2, 5):
        index.add(sdist("demo", f"{number}.0"))
        clock.now += 900
        files = pytail.json("demo")["files"]
        assert len(files) == number
        assert files[0]["core-metadata"] == right
        assert pytail.get(path_of(dist)).data == dist.metadata


def test_metadata_of_a_wrong_digest_is_not_listed_where_the_wheel_cannot_be_read(
    pytail: Client, index: FakeIndex
):
    dist = wheel("demo", **{"core-metadata": {"sha256": "0" * 64}})
    index.add(dist)
    index.answers[dist.path] = reply(b"", "text/plain", "403 Forbidden")
    assert pytail.get(path_of(dist)).status == 502
    assert pytail.json("demo")["files"][0]["core-metadata"] is False
    index.answers.clear()
    assert pytail.get(path_of(dist)).data == dist.metadata


def test_metadata_that_could_not_be_read_is_promised_again_by_an_unchanged_page(
    tmp_path: Path, clock: Clock, index: FakeIndex
):
    dist = wheel("demo", payload=LARGE)
    index.add(dist)
    login = reply(b"<!DOCTYPE html><p>Log in: now</p>", "text/html")
    index.answers.update({dist.path: login, f"{dist.path}.metadata": login})
    with serving(tmp_path, index.url, clock) as pytail:
        assert pytail.get(path_of(dist)).status == 502
        assert pytail.json("demo")["files"][0]["core-metadata"] is False
        index.answers[dist.path] = ranged(dist.data)
        # Without the digest of the page, upstream's own cannot be told from wrong bytes.
        longer = reply((dist.metadata or b"") + b"more", "application/octet-stream")
        index.answers[f"{dist.path}.metadata"] = longer
        assert pytail.get(path_of(dist)).data == dist.metadata
        clock.now += 900
        promised = {"sha256": hashlib.sha256(dist.metadata or b"").hexdigest()}
        assert pytail.json("demo")["files"][0]["core-metadata"] == promised


@pytest.mark.parametrize("has_length", [True, False])
def test_metadata_of_400_megabytes_costs_neither_memory_nor_the_event_loop(
    pytail: Client, index: FakeIndex, has_length: bool
):
    sent = 0

    def endless(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        nonlocal sent
        length = [("Content-Length", str(400 * 2**20))] if has_length else []
        start_response("200 OK", length)
        for _ in range(400):
            sent += 1
            yield bytes(2**20)

    dist = wheel("demo", **{"core-metadata": True})
    index.add(dist)
    index.answers[f"{dist.path}.metadata"] = endless
    answer = pytail.get(path_of(dist))
    assert (answer.status, answer.data) == (200, dist.metadata)
    assert sent < 40


def test_too_large_metadata_of_an_sdist_is_refused_with_its_limit(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"core-metadata": True})
    index.add(dist)
    index.answers[f"{dist.path}.metadata"] = reply(bytes(9 * 2**20), "text/plain")
    answer = pytail.get(path_of(dist))
    assert answer.status == 502
    assert "8388608 at most" in answer.json()["detail"]


def test_too_large_metadata_in_the_store_is_fetched_again(
    pytail: Client, index: FakeIndex, tmp_path: Path
):
    large = bytes(9 * 2**20)
    dist = wheel("demo")
    index.add(dist)
    pytail.get(path_of(dist))
    (stored,) = tmp_path.rglob("*.metadata")
    stored.unlink()
    stored.write_bytes(large)
    assert pytail.get(path_of(dist)).data == dist.metadata


def test_a_wheel_with_a_damaged_lzma_member_is_502(pytail: Client, index: FakeIndex):
    dist = wheel("demo")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("demo-1.0.dist-info/METADATA", b"Name: demo\n" * 100)
    data = bytearray(out.getvalue())
    start = data.index(b"METADATA") + 20
    data[start : start + 10] = b"\xff" * 10
    dist.data = bytes(data)
    index.add(dist)
    remove_metadata(index, dist)
    assert pytail.get(path_of(dist)).status == 502
    assert pytail.json("demo")["files"][0]["core-metadata"] is False


def test_no_metadata_is_added_without_the_option(pytail: Client, index: FakeIndex):
    index.add(wheel("demo", **{"core-metadata": None}))
    assert "core-metadata" not in pytail.json("demo")["files"][0]
    assert pytail.get(path_of(index.dists[0])).status == 404
    assert JSON in index.seen[0].headers["ACCEPT"]
