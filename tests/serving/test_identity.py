"""Files without sha256: one copy for one content, and never an old one for a new one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakeindex import JSON, Dist, FakeIndex, Gated, reply, sdist, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving
from tests.support.watching import stored_files, until

TTL = 900
OLD, NEW = sdist("demo", "1.0"), sdist("demo", "1.0", requires_python=">=3")
NEW.data = OLD.data + b"!"
BINARY = "application/octet-stream"


def listed(index: FakeIndex, dist: Dist, hashes: dict[str, str], query: str = "") -> Dist:
    """List `dist` alone, with these `hashes` and a URL that ends in `query`."""
    dist.extra |= {"hashes": hashes, "url": f"../..{PATH}{query}"}
    index.dists[:] = [dist]
    return dist


PATH = f"/packages/{OLD.filename}"


def digest(name: str, data: bytes) -> dict[str, str]:
    return {name: hashlib.new(name, data, usedforsecurity=False).hexdigest()}


def upstream_has(index: FakeIndex, data: bytes, **more: Any) -> None:
    index.answers[PATH] = reply(data, BINARY, **more)


def url_of(pytail: Client) -> str:
    (entry,) = pytail.json("demo")["files"]
    return file_path(entry)


def stored(pytail: Client, path: str) -> Answer:
    """Return the response once the file is stored, which is a moment after its first response."""
    found: list[Answer] = []

    def is_stored() -> bool:
        found.append(pytail.get(path))
        return found[-1].headers["X-Cache"] not in ("MISS", "COALESCED")

    until(is_stored)
    return found[-1]


@pytest.fixture(params=["etag", "last-modified", "size"])
def put(request: pytest.FixtureRequest, index: FakeIndex) -> Callable[[bytes], None]:
    """Put a file without a digest at upstream, with one kind of validator."""

    def put(data: bytes) -> None:
        validators: dict[str, Any] = {
            "etag": {"etag": f'"{hashlib.md5(data).hexdigest()}"'},
            "last-modified": {"Last_Modified": f"Wed, 01 Jan 2025 00:00:{len(data) % 60:02} GMT"},
            "size": {},
        }[request.param]
        index.answers[PATH] = reply(data, BINARY, **validators)

    return put


# Digests


@pytest.mark.parametrize("name", ["sha512", "sha384", "sha1", "md5", "blake2b"])
def test_a_file_has_one_url_and_one_copy_whatever_its_upstream_url(
    pytail: Client, index: FakeIndex, clock: Clock, name: str
):
    upstream_has(index, OLD.data)
    urls = set()
    for signature in range(3):
        listed(index, OLD, digest(name, OLD.data), f"?signature={signature}")
        clock.now += TTL
        urls.add(url_of(pytail))
        answer = pytail.get(url_of(pytail))
        assert answer.data == OLD.data
        assert "immutable" in answer.headers["Cache-Control"]
    assert len(urls) == 1
    assert index.count(PATH) == 1


@pytest.mark.parametrize("name", ["sha512", "sha1", "md5"])
def test_a_file_replaced_under_its_name_has_another_url_and_etag(
    pytail: Client, index: FakeIndex, clock: Clock, name: str
):
    found = []
    for dist in (OLD, NEW):
        listed(index, dist, digest(name, dist.data))
        upstream_has(index, dist.data)
        clock.now += TTL
        answer = stored(pytail, url_of(pytail))
        assert answer.data == dist.data
        found.append((url_of(pytail), answer.headers["ETag"]))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]
    # The old one is still what its URL says.
    assert pytail.get(found[0][0]).data == OLD.data


def test_a_wrong_file_is_not_served_under_its_digest(pytail: Client, index: FakeIndex):
    listed(index, OLD, digest("sha512", OLD.data))
    upstream_has(index, b"!" + OLD.data[1:])
    with pytest.raises((AssertionError, IncompleteRead)):
        assert pytail.get(url_of(pytail)).status == 200
    upstream_has(index, OLD.data)
    assert pytail.get(url_of(pytail)).data == OLD.data


# URLs and files of earlier versions


def old_url(index: FakeIndex, query: str = "") -> str:
    """Return the URL that schema 4 gave: by the whole upstream URL."""
    whole = hashlib.sha256(f"{index.url}{PATH}{query}".encode()).hexdigest()
    return f"/root/pypi/+f/_url/{whole}/{OLD.filename}"


def put_old(cache: Path, index: FakeIndex, data: bytes, query: str = "") -> Path:
    """Store `data` where an earlier version stored it."""
    path = cache / "+files" / old_url(index, query)[1:]
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.chmod(0o444)
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


HASHES = [{}, digest("md5", OLD.data), digest("sha512", OLD.data), digest("sha256", OLD.data)]


@pytest.mark.parametrize("hashes", HASHES, ids=lambda hashes: next(iter(hashes), "none"))
@pytest.mark.parametrize("is_known", [False, True])
def test_an_old_url_of_a_lock_file_finds_the_file(
    pytail: Client, index: FakeIndex, hashes: dict[str, str], is_known: bool
):
    listed(index, OLD, hashes, "?signature=1")
    upstream_has(index, OLD.data)
    if is_known:
        pytail.json("demo")
    for query in ("", "?signature=1"):
        assert pytail.get(old_url(index, query)).data == OLD.data
    assert index.count(PATH) == 1


@pytest.mark.parametrize("name", ["md5", "sha512", "sha256"])
def test_a_file_stored_by_its_url_is_used_under_its_digest(
    pytail: Client, index: FakeIndex, cache: Path, name: str
):
    old = put_old(cache, index, OLD.data, "?x=1")
    listed(index, OLD, digest(name, OLD.data), "?x=1")
    for _ in range(2):
        answer = pytail.get(url_of(pytail))
        assert (answer.data, answer.headers["X-Cache"]) == (OLD.data, "HIT")
    assert pytail.get(old_url(index, "?x=1")).data == OLD.data
    assert index.count(PATH) == 0
    assert not old.exists()
    assert len(stored_files(cache)) == 1


@pytest.mark.parametrize("name", ["md5", "sha512", "sha256"])
def test_a_file_stored_by_its_url_with_another_digest_is_a_miss(
    pytail: Client, index: FakeIndex, cache: Path, name: str
):
    put_old(cache, index, NEW.data)
    listed(index, OLD, digest(name, OLD.data))
    upstream_has(index, OLD.data)
    for path in (old_url(index), url_of(pytail)):
        assert pytail.get(path).data == OLD.data
    assert index.count(PATH) == 1


def test_a_file_stored_by_its_url_is_listed_and_served_offline(
    tmp_path: Path, index: FakeIndex, cache: Path, clock: Clock
):
    listed(index, OLD, digest("md5", OLD.data))
    with serving(cache, index.url, clock) as pytail:
        pytail.json("demo")
    put_old(cache, index, OLD.data)
    with serving(cache, index.url, clock, offline=True) as pytail:
        assert pytail.get(url_of(pytail)).data == OLD.data
    assert index.count(PATH) == 0


def test_an_unlisted_file_stored_by_its_url_is_served_and_not_immutable(
    pytail: Client, index: FakeIndex, cache: Path
):
    put_old(cache, index, OLD.data)
    answer = pytail.get(old_url(index))
    assert (answer.status, answer.data) == (200, OLD.data)
    assert answer.headers["Cache-Control"] == "no-cache, public"
    index.stop()
    assert pytail.get(old_url(index)).data == OLD.data


@pytest.mark.parametrize("hashes", HASHES[1:], ids=lambda hashes: next(iter(hashes)))
def test_a_digest_that_a_page_begins_to_give_is_compared_with_the_stored_file(
    pytail: Client, index: FakeIndex, clock: Clock, hashes: dict[str, str]
):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    first = url_of(pytail)
    stored(pytail, first)
    listed(index, OLD, hashes)
    clock.now += TTL
    for path in (url_of(pytail), first):
        assert pytail.get(path).data == OLD.data
    assert index.count(PATH) == 1
    listed(index, NEW, digest("sha512", NEW.data))
    upstream_has(index, NEW.data)
    clock.now += TTL
    assert pytail.get(url_of(pytail)).data == NEW.data


# No digest


def max_age(answer: Answer) -> int:
    assert "immutable" not in answer.headers["Cache-Control"]
    if answer.headers["Cache-Control"] == "no-cache, public":
        return 0
    age, _, public = answer.headers["Cache-Control"].removeprefix("max-age=").partition(", ")
    assert public == "public"
    return int(age)


def test_a_file_without_a_digest_is_revalidated_once_per_ttl(
    pytail: Client, index: FakeIndex, clock: Clock, put: Callable[[bytes], None]
):
    listed(index, OLD, {})
    put(OLD.data)
    path = url_of(pytail)
    first = pytail.get(path)
    assert (first.data, first.headers["ETag"], max_age(first)) == (OLD.data, None, 0)
    stored(pytail, path)
    answers = []
    for requests in (1, 2, 3):
        for _ in range(3):
            answers.append(answer := pytail.get(path))
            assert answer.data == OLD.data
            assert 0 < max_age(answer) <= TTL
            assert answer.headers["X-Cache"] == "HIT"
        assert index.count(PATH) == requests
        clock.now += TTL + 1
    assert len({answer.headers["ETag"] for answer in answers}) == 1


def test_the_max_age_is_the_rest_of_the_ttl(pytail: Client, index: FakeIndex, clock: Clock):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    path = url_of(pytail)
    stored(pytail, path)
    clock.now += 400
    answer = pytail.get(path)
    assert (max_age(answer), answer.headers["Age"]) == (500, "400")


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_file_replaced_without_a_digest_is_fetched_again_after_the_ttl(
    pytail: Client, index: FakeIndex, clock: Clock, put: Callable[[bytes], None], is_quiet: bool
):
    listed(index, OLD, {}, "?signature=1")
    put(OLD.data)
    path = url_of(pytail)
    old = stored(pytail, path)
    # The page lists the old size for some time.
    listed(index, OLD if is_quiet else NEW, {}, "?signature=2")
    put(NEW.data)
    assert pytail.get(path).data == OLD.data
    clock.now += TTL + 1
    assert pytail.get(path).data == NEW.data
    new = stored(pytail, path)
    assert (new.data, new.headers["X-Cache"]) == (NEW.data, "HIT")
    assert url_of(pytail) == path
    assert new.headers["ETag"] not in (None, old.headers["ETag"])
    for name, value in (("If-None-Match", 200), ("If-Range", 200)):
        known = {name: old.headers["ETag"], "Range": "bytes=0-1"}
        answer = pytail.request("GET", path, known if name == "If-Range" else {name: known[name]})
        assert (answer.status, answer.data) == (value, NEW.data)
    known = {"If-Range": new.headers["ETag"], "Range": "bytes=0-1"}
    assert pytail.request("GET", path, known).status == 206
    assert pytail.get(path, If_None_Match=new.headers["ETag"]).status == 304


@pytest.mark.parametrize("answer", ["500 Oops", "404 Not Found", "403 Forbidden", "down"])
def test_the_stored_file_is_served_when_upstream_is_in_trouble(
    pytail: Client, index: FakeIndex, clock: Clock, answer: str
):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    path = url_of(pytail)
    stored(pytail, path)
    clock.now += TTL + 1
    if answer == "down":
        index.stop()
    else:
        index.answers[PATH] = reply(b"no", "text/plain", answer)
    for _ in range(3):
        stale = pytail.get(path)
        assert (stale.data, stale.headers["X-Cache"]) == (OLD.data, "STALE")
        assert max_age(stale) == 0
        assert stale.headers["ETag"]
    assert index.count(PATH) <= 2


def test_a_login_page_does_not_replace_a_stored_file(
    pytail: Client, index: FakeIndex, clock: Clock, cache: Path
):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    path = url_of(pytail)
    stored(pytail, path)
    clock.now += TTL + 1
    index.answers[PATH] = reply(b"<!DOCTYPE html><form>log in</form>", "text/html", etag='"1"')
    assert pytail.get(path).data == OLD.data
    assert [found.read_bytes() for found in stored_files(cache)] == [OLD.data]


def test_a_new_file_that_cannot_be_downloaded_leaves_the_old_one(
    pytail: Client, index: FakeIndex, clock: Clock, cache: Path
):
    listed(index, OLD, {})
    upstream_has(index, OLD.data, etag='"old"')
    path = url_of(pytail)
    stored(pytail, path)
    clock.now += TTL + 1
    answers = iter([reply(NEW.data, BINARY, etag='"new"')])
    failure = reply(b"no", "text/plain", "403 Forbidden")

    def once(environ: dict[str, Any], start_response: Any) -> Any:
        return next(answers, failure)(environ, start_response)

    index.answers[PATH] = once
    for _ in range(2):
        assert pytail.get(path).data == OLD.data
    upstream_has(index, NEW.data, etag='"new"')
    assert pytail.get(path).data == NEW.data
    assert stored(pytail, path).data == NEW.data
    assert [found.read_bytes() for found in stored_files(cache)] == [NEW.data]


def test_a_hanging_upstream_delays_a_stored_file_by_the_wait_for_pages(
    tmp_path: Path, index: FakeIndex, clock: Clock, cache: Path
):
    with serving(cache, index.url, clock, revalidate_wait_secs=0.1) as pytail:
        listed(index, OLD, {})
        upstream_has(index, OLD.data)
        path = url_of(pytail)
        stored(pytail, path)
        clock.now += TTL + 1
        gated = index.answers[PATH] = Gated(OLD.data, size=len(OLD.data))
        assert pytail.get(path).data == OLD.data
        gated.open()


def test_checks_survive_a_restart(index: FakeIndex, clock: Clock, cache: Path):
    listed(index, OLD, {})
    upstream_has(index, OLD.data, etag='"1"')
    etags = set()
    for _ in range(3):
        with serving(cache, index.url, clock) as pytail:
            path = url_of(pytail)
            answer = stored(pytail, path)
            etags.add(answer.headers["ETag"])
            assert answer.data == OLD.data
    assert (len(etags), index.count(PATH)) == (1, 1)
    upstream_has(index, NEW.data, etag='"2"')
    clock.now += TTL + 1
    with serving(cache, index.url, clock) as pytail:
        assert pytail.get(path).data == NEW.data


@pytest.mark.parametrize("is_same", [False, True])
def test_a_stored_file_of_which_the_catalog_knows_nothing_is_compared_with_upstream(
    index: FakeIndex, clock: Clock, cache: Path, is_same: bool
):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    with serving(cache, index.url, clock) as pytail:
        path = url_of(pytail)
        stored(pytail, path)
    with sqlite3.connect(cache / "index.sqlite3") as catalog:
        catalog.execute("DELETE FROM checked")
    catalog.close()
    (found,) = stored_files(cache)
    os.utime(found, (1_600_000_000, 1_600_000_000))
    dist = OLD if is_same else NEW
    upstream_has(index, dist.data)
    with serving(cache, index.url, clock) as pytail:
        for _ in range(2):
            assert pytail.get(path).data == dist.data
    assert index.count(PATH) == (2 if is_same else 3)


def test_two_processes_see_the_new_file(index: FakeIndex, clock: Clock, cache: Path):
    listed(index, OLD, {})
    upstream_has(index, OLD.data, etag='"1"')
    with serving(cache, index.url, clock) as one, serving(cache, index.url, clock) as other:
        path = url_of(one)
        stored(one, path)
        for client in (one, other, one, other):
            assert client.get(path).data == OLD.data
        upstream_has(index, NEW.data, etag='"2"')
        clock.now += TTL + 1
        assert {client.get(path).data for client in (one, other, one, other)} == {NEW.data}
        assert len({stored(client, path).headers["ETag"] for client in (one, other)}) == 1


def test_the_response_of_a_download_has_no_etag(pytail: Client, index: FakeIndex):
    listed(index, OLD, {})
    upstream_has(index, OLD.data)
    path = url_of(pytail)
    headed = pytail.head(path)
    assert (headed.status, headed.headers["ETag"], max_age(headed)) == (200, None, 0)
    got = pytail.get(path, If_None_Match="*")
    assert (got.status, got.headers["ETag"], got.data) == (200, None, OLD.data)
    got, headed = stored(pytail, path), pytail.head(path)
    for name in ("ETag", "Content-Length", "Cache-Control", "X-Cache"):
        assert headed.headers[name] == got.headers[name] is not None


# Core metadata and signatures


def test_core_metadata_and_signatures_without_a_digest_are_revalidated(
    pytail: Client, index: FakeIndex, clock: Clock
):
    dist = wheel("demo", **{"core-metadata": True, "gpg-sig": True})
    index.add(dist)
    for suffix in (".metadata", ".asc"):
        path = dist.served + suffix
        for text in (b"Name: demo\n", b"Name: demo\nVersion: 1\n"):
            index.answers[dist.path + suffix] = reply(text, "text/plain")
            clock.now += TTL + 1
            for answer in (pytail.get(path), stored(pytail, path)):
                assert (answer.status, answer.data) == (200, text)
                assert "immutable" not in answer.headers["Cache-Control"]


def test_core_metadata_with_another_digest_has_another_etag(
    pytail: Client, index: FakeIndex, clock: Clock
):
    dist = wheel("demo")
    index.add(dist)
    first = pytail.get(f"{dist.served}.metadata")
    dist.metadata = (dist.metadata or b"") + b"\n"
    clock.now += TTL
    pytail.json("demo")
    second = pytail.get(f"{dist.served}.metadata", If_None_Match=first.headers["ETag"])
    assert (second.status, second.data) == (200, dist.metadata)
    assert second.headers["ETag"] != first.headers["ETag"]


def test_core_metadata_beside_a_file_without_a_digest_is_not_immutable(
    pytail: Client, index: FakeIndex
):
    dist = wheel("demo", hashes={})
    index.add(dist)
    path = url_of(pytail) + ".metadata"
    for _ in range(2):
        answer = pytail.get(path)
        assert answer.data == dist.metadata
        assert max_age(answer) == 0
    assert pytail.get(path, If_None_Match=answer.headers["ETag"]).status == 304


# Sizes are hints


@pytest.fixture(params=["403 Forbidden", "404 Not Found", "500 Oops", "0", "5", "99999"])
def bad_head(request: pytest.FixtureRequest) -> Callable[[bytes], Any]:
    """Return a function that makes a response to GET right and to HEAD wrong."""

    def make(data: bytes) -> Any:
        right, given = reply(data, BINARY), request.param

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            if environ["REQUEST_METHOD"] == "GET":
                return right(environ, start_response)
            status, length = ("200 OK", given) if given.isdigit() else (given, "2")
            start_response(status, [("Content-Length", length)])
            return []

        return application

    return make


@pytest.mark.parametrize("has_digest", [False, True])
@pytest.mark.parametrize("sent", ["bytes=0-3", "bytes=-4", "bytes=7-", "bytes=4-99998"])
def test_a_wrong_length_from_head_spoils_no_range(
    pytail: Client, index: FakeIndex, bad_head: Any, has_digest: bool, sent: str
):
    dist = sdist("demo", size=None, **({} if has_digest else {"hashes": {}}))
    index.add(dist)
    index.answers[dist.path] = bad_head(dist.data)
    path = url_of(pytail)
    assert pytail.head(path).status == 200
    for _ in range(2):
        check_range(pytail.get(path, Range=sent), dist.data, sent)
    assert pytail.get(path).data == dist.data
    assert pytail.head(path).headers["Content-Length"] == str(len(dist.data))


@pytest.mark.parametrize("size", [0, 1, -1, 10_000])
@pytest.mark.parametrize("sent", ["bytes=0-3", "bytes=-4", "bytes=7-", "bytes=4-99998"])
def test_a_wrong_size_on_the_page_spoils_no_range(
    pytail: Client, index: FakeIndex, size: int, sent: str
):
    dist = sdist("demo")
    dist.extra["size"] = len(dist.data) + size if abs(size) == 1 else size
    index.add(dist)
    for _ in range(2):
        check_range(pytail.get(dist.served, Range=sent), dist.data, sent)
        assert pytail.get(dist.served).data == dist.data


def check_range(answer: Answer, data: bytes, sent: str) -> None:
    """Assert that the response is the range, or the whole file."""
    if answer.status == 200:
        assert answer.data == data
        return
    assert answer.status == 206
    first, _, last = sent.removeprefix("bytes=").partition("-")
    start = int(first) if first else len(data) - int(last)
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    assert answer.data == data[start:stop]
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(data)}"


@pytest.mark.parametrize("size", [10_000, None], ids=["wrong", "unknown"])
def test_a_range_beyond_the_end_is_416_once_the_size_is_certain(
    pytail: Client, index: FakeIndex, size: int | None
):
    dist = sdist("demo", size=None)
    dist.extra |= {} if size is None else {"size": size}
    index.add(dist)
    answer = pytail.get(dist.served, Range="bytes=9999-")
    assert (answer.status, answer.data) == (200, dist.data)
    stored(pytail, dist.served)
    answer = pytail.get(dist.served, Range="bytes=9999-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{len(dist.data)}"


@pytest.mark.parametrize("sent", ["bytes=0-3", "bytes=4-", "bytes=1500-1600", "bytes=99999-"])
@pytest.mark.parametrize("listed_size", [True, False])
@pytest.mark.parametrize("change", ["login page", "longer", "shorter"])
def test_a_body_of_another_size_spoils_no_range(
    pytail: Client, index: FakeIndex, sent: str, listed_size: bool, change: str
):
    dist = sdist("demo", **({} if listed_size else {"size": None}))
    dist.data += os.urandom(3000)
    dist.extra |= {"hashes": digest("sha256", dist.data)}
    index.dists[:] = [dist]
    bodies = {"login page": b"<html>login</html>", "longer": dist.data + b"!"}
    index.answers[dist.path] = reply(bodies.get(change, dist.data[:-1]), BINARY)
    # Without a size on the page, a range is checked by nothing: it is not the whole file.
    may_be_partial = not listed_size and change != "login page"
    for _ in range(3):
        try:
            answer = pytail.get(dist.served, Range=sent)
        except IncompleteRead:
            continue
        assert answer.status == 502 or (answer.status == 206 and may_be_partial), answer
    del index.answers[dist.path]
    stored(pytail, dist.served)
    assert pytail.get(dist.served).data == dist.data


def test_head_and_range_of_unknown_length_are_the_whole_file(pytail: Client, index: FakeIndex):
    dist = sdist("demo", hashes={}, size=None)
    index.add(dist)

    def chunked(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", BINARY)])
        yield b"" if environ["REQUEST_METHOD"] == "HEAD" else dist.data

    index.answers[dist.path] = chunked
    path = url_of(pytail)
    headed = pytail.head(path)
    assert (headed.status, headed.headers["Content-Length"]) == (200, None)
    answer = pytail.get(path, Range="bytes=0-3")
    assert (answer.status, answer.data) == (200, dist.data)


# Pages


def test_pages_give_the_digest_of_upstream(pytail: Client, index: FakeIndex):
    hashes = digest("sha512", OLD.data) | digest("md5", OLD.data)
    listed(index, OLD, hashes)
    (entry,) = pytail.json("demo")["files"]
    assert entry["hashes"] == hashes
    html = pytail.get("/simple/demo/", Accept="text/html").data.decode()
    assert f'{entry["url"]}#sha512={hashes["sha512"]}"' in html
    assert pytail.get("/simple/demo/", Accept=JSON).status == 200


# One filename with two digests


def page_of_two(*pairs: tuple[Dist, str], html: bool) -> tuple[bytes, str]:
    """Return the body of a page that lists each file at its path, and its media type."""
    if html:
        links = (
            f'<a href="{path}#sha256={dist.sha256}" data-core-metadata="true">{dist.filename}</a>'
            for dist, path in pairs
        )
        return "".join(links).encode(), "text/html"
    entries = [dist.entry() | {"url": path, "core-metadata": True} for dist, path in pairs]
    return json.dumps({"name": "demo", "files": entries}).encode(), JSON


@pytest.mark.parametrize("html", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_filename_with_two_digests_gives_each_url_its_own_bytes(
    pytail: Client, index: FakeIndex, tmp_path: Path, html: bool, known: bool
):
    one, other = wheel("demo"), wheel("demo", requires=["six"])
    pairs = (one, "/a/demo.whl"), (other, "/b/demo.whl")
    pairs = tuple((dist, path.replace("demo.whl", dist.filename)) for dist, path in pairs)
    index.answers["/simple/demo/"] = reply(*page_of_two(*pairs, html=html))
    for dist, path in pairs:
        index.answers[path] = reply(dist.data, BINARY)
        index.answers[f"{path}.metadata"] = reply(dist.metadata or b"", BINARY)
    if known:
        assert [file_path(entry) for entry in pytail.json("demo")["files"]] == [
            one.served,
            other.served,
        ]  # item 135
        links = re.findall(rb'href="(?:\.\./)*([^"#]+)#', pytail.get("/simple/demo/").data)
        assert [f"/{link.decode()}" for link in links] == [one.served, other.served]
    for _ in range(2):
        for dist in (other, one):
            assert pytail.get(dist.served).data == dist.data
            assert pytail.get(f"{dist.served}.metadata").data == dist.metadata
    assert {path.read_bytes() for path in stored_files(tmp_path / "cache")} == {
        data for dist in (one, other) for data in (dist.data, dist.metadata)
    }


def test_offline_one_of_two_files_with_one_filename_is_listed_where_it_alone_is_stored(
    tmp_path: Path, index: FakeIndex, clock: Clock
):
    one, other = wheel("demo"), wheel("demo", requires=["six"])
    pairs = (one, f"/a/{one.filename}"), (other, f"/b/{other.filename}")
    index.answers["/simple/demo/"] = reply(*page_of_two(*pairs, html=False))
    index.answers[pairs[1][1]] = reply(other.data, BINARY)
    with serving(tmp_path, index.url, clock) as pytail:
        assert len(pytail.json("demo")["files"]) == 2
        assert stored(pytail, other.served).data == other.data
    with serving(tmp_path, index.url, clock, offline=True) as pytail:
        (entry,) = pytail.json("demo")["files"]
        assert file_path(entry) == other.served  # item 135
