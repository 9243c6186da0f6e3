"""Files, their metadata and their signatures, over a real socket."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from gevent import joinall, spawn
from gevent.event import Event

from tests.support.fakeindex import JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving

DATA = os.urandom(300_000)
MOMENTARY = {"x-request-id", "Date", "x-cache"}


@pytest.fixture
def demo(index: FakeIndex) -> Dist:
    dist = wheel("demo", payload=DATA)
    index.add(dist)
    return dist


def held(cache_dir: Path, dist: Dist) -> Path:
    return cache_dir / "+files" / "root" / "pypi" / "+f" / dist.key


def said(answer: Answer) -> dict[str, str]:
    """The headers that are of the file, not of the moment."""
    return {name: value for name, value in answer.headers.items() if name not in MOMENTARY}


def dripping(data: bytes, gate: Event, at: int) -> Any:
    """An answer that stops after `at` bytes until `gate` is set."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(len(data)))])
        yield data[:at]
        gate.wait()
        yield data[at:]

    return application


def test_file_is_served_byte_for_byte_cold_and_held(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    pytail.get("/simple/demo/")
    for _ in range(2):
        answer = pytail.get(demo.served)
        assert (answer.status, answer.data) == (200, demo.data)
        assert answer.headers["Content-Length"] == str(len(demo.data))  # items 63, 64
        assert answer.headers["Accept-Ranges"] == "bytes"  # item 80
        assert answer.headers["Content-Type"] == "application/octet-stream"  # item 68
        assert answer.headers["Cache-Control"] == "max-age=365000000, immutable, public"
        assert answer.headers["ETag"][0] == '"'
        assert "Content-Encoding" not in answer.headers  # item 67
    assert index.count(demo.path) == 1
    assert held(tmp_path / "cache", demo).read_bytes() == demo.data


def test_links_of_a_page_lead_to_files(pytail: Client, demo: Dist):
    (entry,) = pytail.json("demo")["files"]
    assert hashlib.sha256(pytail.get(file_path(entry)).data).hexdigest() == demo.sha256


def test_escaped_plus_is_the_same_file(pytail: Client, index: FakeIndex):
    dist = wheel("demo", "1.0+cu121")
    index.add(dist)
    for escaped in (dist.served, dist.served.replace("+", "%2B")):
        assert pytail.get(escaped).data == dist.data  # item 54


def test_file_url_resolves_on_an_empty_cache(pytail: Client, index: FakeIndex, demo: Dist):
    assert pytail.get(demo.served).data == demo.data  # item 72
    assert index.page_count("demo") == 1


@pytest.mark.parametrize(
    ("project", "version"), [("python-dateutil", "2.8.2"), ("foo", "1.0-2"), ("a-1-b", "3")]
)
def test_dashed_sdist_resolves_on_an_empty_cache(
    pytail: Client, index: FakeIndex, project: str, version: str
):
    dist = sdist(project, version)
    index.add(dist)
    assert pytail.get(dist.served).data == dist.data


def test_file_of_a_release_newer_than_our_page_resolves(
    pytail: Client, index: FakeIndex, demo: Dist, clock: Clock
):
    pytail.get("/simple/demo/")
    newer = wheel("demo", "2.0")
    index.add(newer)
    clock.now += 11
    assert pytail.get(newer.served).data == newer.data


@pytest.mark.parametrize(
    "path",
    [
        "/root/pypi/+f/000/0000000000000/demo-1.0-py3-none-any.whl",
        "/root/pypi/+f/zzz/0000000000000/demo-1.0-py3-none-any.whl",
        "/root/pypi/+f/_url/{}/demo-1.0-py3-none-any.whl".format("0" * 64),
        "/root/pypi/+f/000/0000000000000/nope-1.0.tar.gz",
        "/root/pypi/+f/000/0000000000000/..",
        "/root/pypi/+f/000/0000000000000/%2e%2e",
        "/root/pypi/+f/000/0000000000000/..%2f..%2findex.sqlite3",
        "/root/pypi/+f/000/0000000000000/%00",
        "/root/pypi/+f/../../index.sqlite3",
        "/root/pypi/+f/%2e%2e/%2e%2e/index.sqlite3",
        "/root/pypi/+f/000/0000000000000/",
        "/root/pypi/+f/000/0000000000000/d%C3%A4mo-1.0.zip",
    ],
)
def test_what_no_page_lists_is_404(pytail: Client, index: FakeIndex, demo: Dist, path: str):
    assert pytail.get(path).status == 404  # items 75, 138
    assert index.count(demo.path) == 0


def test_name_and_digest_must_both_agree(pytail: Client, demo: Dist):
    other = demo.served.replace("demo-1.0", "demo-1.1")
    assert pytail.get(other).status == 404


def test_metadata_is_served_without_the_file(pytail: Client, index: FakeIndex, demo: Dist):
    for _ in range(2):
        answer = pytail.get(demo.served + ".metadata")
        assert (answer.status, answer.data) == (200, demo.metadata)  # item 56
        assert answer.headers["Content-Length"] == str(len(demo.metadata or b""))  # item 59
    assert index.count(demo.path + ".metadata") == 1
    assert index.count(demo.path) == 0


def test_metadata_of_another_hash_is_502_and_not_kept(pytail: Client, index: FakeIndex, demo: Dist):
    index.answers[demo.path + ".metadata"] = reply(b"Name: evil\n", "text/plain")
    for count in (1, 2):
        assert pytail.get(demo.served + ".metadata").status == 502  # item 58
        assert index.count(demo.path + ".metadata") == count
    del index.answers[demo.path + ".metadata"]
    assert pytail.get(demo.served + ".metadata").data == demo.metadata


def test_metadata_and_signatures_that_no_page_advertises_are_404(pytail: Client, index: FakeIndex):
    dist = sdist("demo")
    index.add(dist)
    for suffix in (".metadata", ".asc"):
        assert pytail.get(dist.served + suffix).status == 404  # item 75
        assert index.count(dist.path + suffix) == 0


def test_signature_is_served_where_advertised(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"gpg-sig": True})
    index.add(dist)
    index.answers[dist.path + ".asc"] = reply(b"-----BEGIN PGP SIGNATURE-----", "text/plain")
    assert pytail.get(dist.served + ".asc").data.startswith(b"-----BEGIN")  # item 62


def test_files_without_sha256_have_urls_of_their_own(pytail: Client, index: FakeIndex):
    one, two = sdist("demo", "1.0"), sdist("demo", "2.0")
    md5 = hashlib.md5(one.data).hexdigest()
    one.extra["hashes"], two.extra["hashes"] = {"md5": md5}, {}
    index.add(one, two)
    entries = pytail.json("demo")["files"]
    for entry, dist in zip(entries, (one, two), strict=True):
        digest = hashlib.sha256(f"{index.url}{dist.path}".encode()).hexdigest()
        assert file_path(entry) == f"/root/pypi/+f/_url/{digest}/{dist.filename}"  # item 74
        for _ in range(2):
            assert pytail.get(file_path(entry)).data == dist.data
        assert index.count(dist.path) == 1


@pytest.mark.parametrize("algorithm", ["md5", "sha512", "sha1"])
def test_file_without_sha256_is_verified_by_what_there_is(
    pytail: Client, index: FakeIndex, algorithm: str
):
    dist = sdist("demo")
    dist.extra["hashes"] = {algorithm: hashlib.new(algorithm, b"other").hexdigest()}
    index.add(dist)
    (entry,) = pytail.json("demo")["files"]
    with pytest.raises(Exception, match=r"IncompleteRead|502"):
        complete(pytail, file_path(entry), len(dist.data))


def complete(pytail: Client, path: str, size: int) -> bytes:
    answer = pytail.get(path)
    assert answer.status == 200, f"{answer.status}"
    assert len(answer.data) == size
    return answer.data


def test_bytes_arrive_before_upstream_has_sent_the_rest(
    pytail: Client, index: FakeIndex, demo: Dist
):
    gate = Event()
    index.answers[demo.path] = dripping(demo.data, gate, 100_000)
    connection = pytail.open("GET", demo.served)
    response = connection.getresponse()
    assert response.headers["Content-Length"] == str(len(demo.data))
    assert response.read(100_000) == demo.data[:100_000]  # item 65
    gate.set()
    assert response.read() == demo.data[100_000:]
    connection.close()


def test_fifty_clients_of_a_cold_file_cost_one_upstream_request(
    pytail: Client, index: FakeIndex, demo: Dist
):
    gate = Event()
    index.answers[demo.path] = dripping(demo.data, gate, 1000)
    clients = [spawn(pytail.get, demo.served) for _ in range(50)]
    while index.count(demo.path) == 0:
        clients[0].join(0.01)
    gate.set()
    joinall(clients, raise_error=True)
    assert all(client.value.data == demo.data for client in clients)  # item 71
    assert index.count(demo.path) == 1


def test_a_wrong_file_is_never_a_complete_response_and_never_kept(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    wrong = demo.data[:-1] + bytes([demo.data[-1] ^ 1])
    index.answers[demo.path] = reply(wrong, "application/octet-stream")
    connection = pytail.open("GET", demo.served)
    response = connection.getresponse()
    with pytest.raises(Exception, match="IncompleteRead"):
        response.read()  # item 69
    connection.close()
    assert not held(tmp_path / "cache", demo).exists()
    del index.answers[demo.path]
    assert pytail.get(demo.served).data == demo.data


def test_upstream_that_breaks_off_breaks_off_the_response(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    def short(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(len(demo.data))), ("Connection", "close")])
        yield demo.data[:200_000]

    index.answers[demo.path] = short
    connection = pytail.open("GET", demo.served)
    response = connection.getresponse()
    with pytest.raises(Exception, match="IncompleteRead"):
        response.read()  # item 70
    connection.close()
    assert not held(tmp_path / "cache", demo).exists()


def test_file_that_upstream_does_not_have_is_404(pytail: Client, index: FakeIndex, demo: Dist):
    index.answers[demo.path] = reply(b"", "text/plain", "404 Not Found")
    assert pytail.get(demo.served).status == 404


def test_upstream_down_serves_held_files_and_503_for_others(
    pytail: Client, index: FakeIndex, demo: Dist
):
    other = wheel("demo", "2.0")
    index.add(other)
    pytail.get("/simple/demo/")
    pytail.get(demo.served)
    index.stop()
    assert pytail.get(demo.served).data == demo.data
    assert pytail.get(other.served).status == 503


def test_deleted_or_damaged_file_is_fetched_again(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    path = held(tmp_path / "cache", demo)
    harm = [path.unlink, lambda: os.truncate(path, 100), lambda: path.write_bytes(DATA * 2)]
    pytail.get(demo.served)
    for count, damage in enumerate(harm, start=2):
        damage()
        assert pytail.get(demo.served).data == demo.data
        assert index.count(demo.path) == count


def test_head_costs_no_download(pytail: Client, index: FakeIndex, demo: Dist):
    cold = pytail.head(demo.served)
    assert (cold.status, cold.data) == (200, b"")
    assert cold.headers["Content-Length"] == str(len(demo.data))  # item 79
    assert cold.headers["Accept-Ranges"] == "bytes"
    assert index.count(demo.path) == 0
    got = said(pytail.get(demo.served))
    assert said(cold) == said(pytail.head(demo.served)) == got


def test_head_asks_upstream_where_the_page_gives_no_size(pytail: Client, index: FakeIndex):
    dist = sdist("demo", size=None)
    index.add(dist)
    answer = pytail.head(dist.served)
    assert answer.headers["Content-Length"] == str(len(dist.data))
    assert (index.count(dist.path), index.count(dist.path, "HEAD")) == (0, 1)


def test_head_of_metadata_is_its_get_without_the_body(pytail: Client, demo: Dist):
    headed = pytail.head(demo.served + ".metadata")
    got = pytail.get(demo.served + ".metadata")
    assert said(headed) == said(got)  # item 103
    assert headed.data == b""


SIZE = len(wheel("demo", payload=DATA).data)


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize(
    ("sent", "start", "stop"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=100000-200000", 100_000, 200_001),
        (f"bytes={SIZE - 5}-{SIZE + 5}", SIZE - 5, SIZE),  # item 82
        ("bytes=299000-", 299_000, SIZE),
        ("bytes=-10000", SIZE - 10_000, SIZE),  # item 83
        (f"bytes=-{SIZE + 1}", 0, SIZE),
    ],
)
def test_range_is_answered_in_part(
    pytail: Client, demo: Dist, is_held: bool, sent: str, start: int, stop: int
):
    if is_held:
        pytail.get(demo.served)
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.data) == (206, demo.data[start:stop])  # items 81, 88
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    whole = pytail.get(demo.served)
    assert answer.headers["ETag"] == whole.headers["ETag"]  # item 90


@pytest.mark.parametrize("sent", ["lines=0-1", "bytes=5-2", "bytes=x", "bytes=0-0,-1", "x", ""])
def test_other_ranges_are_ignored(pytail: Client, demo: Dist, sent: str):
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.data) == (200, demo.data)  # items 85, 86


@pytest.mark.parametrize("sent", [f"bytes={SIZE}-", "bytes=-0", "bytes=999999999-"])
def test_range_behind_the_end_is_416(pytail: Client, demo: Dist, sent: str):
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")  # item 84
    assert answer.headers["Cache-Control"] == "no-store"


def test_if_range_decides_between_part_and_whole(pytail: Client, demo: Dist):
    etag = pytail.head(demo.served).headers["ETag"]
    for condition, status in ((etag, 206), (f"W/{etag}", 200), ('"other"', 200)):
        answer = pytail.get(demo.served, Range="bytes=0-9", If_Range=condition)
        assert answer.status == status  # item 87


def test_known_etag_is_304(pytail: Client, index: FakeIndex, demo: Dist):
    etag = pytail.head(demo.served).headers["ETag"]
    answer = pytail.get(demo.served, If_None_Match=etag)
    assert (answer.status, answer.data) == (304, b"")
    assert answer.headers["ETag"] == etag  # item 104
    assert "immutable" in answer.headers["Cache-Control"]
    assert index.count(demo.path) == 0


def test_held_file_stays_fetchable_when_upstream_drops_it(
    pytail: Client, index: FakeIndex, demo: Dist, clock: Clock
):
    pytail.get(demo.served)
    index.dists.clear()
    clock.now += 901
    assert pytail.get("/simple/demo/").status == 404
    assert pytail.get(demo.served).data == demo.data


def test_files_of_a_quarantined_project_are_404_even_when_held(
    pytail: Client, index: FakeIndex, demo: Dist, clock: Clock
):
    pytail.get(demo.served)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 901
    page = pytail.json("demo")
    assert (page["files"], page["project-status"]) == ([], {"status": "quarantined"})  # item 16
    assert pytail.get(demo.served).status == 404  # item 77


def test_held_files_are_used_when_the_catalog_is_lost(tmp_path: Path, index: FakeIndex, demo: Dist):
    with serving(tmp_path, index.url) as pytail:
        pytail.get(demo.served)
    (tmp_path / "index.sqlite3").write_bytes(b"not a database, not even nearly" * 100)
    index.stop()
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).data == demo.data
    assert len(list(tmp_path.glob("index.sqlite3.set-aside-*"))) == 1


def test_redirects_of_upstream_are_followed_not_passed_on(
    pytail: Client, index: FakeIndex, demo: Dist
):
    index.answers[demo.path] = reply(b"", None, "302 Found", Location=f"{index.url}/elsewhere")
    index.answers["/elsewhere"] = reply(demo.data, "application/octet-stream")
    assert pytail.get(demo.served).data == demo.data  # item 66


def test_query_string_is_ignored(pytail: Client, demo: Dist):
    assert pytail.get(f"{demo.served}?x=1").data == demo.data  # item 55


def test_file_listed_under_another_host_comes_through_pytail(pytail: Client, index: FakeIndex):
    with FakeIndex() as files:
        dist = wheel("demo")
        files.add(dist)
        dist.extra["url"] = f"{files.url}{dist.path}"
        index.add(dist)
        assert pytail.get(dist.served).data == dist.data
        assert "Authorization" not in files.seen[0].headers


def test_unsolicited_coding_keeps_the_bytes(pytail: Client, index: FakeIndex):
    dist = sdist("demo")
    index.add(dist)
    index.answers[dist.path] = reply(dist.data, "application/x-tar", Content_Encoding="gzip")
    answer = pytail.get(dist.served, Accept_Encoding="gzip")
    assert answer.data == dist.data  # item 136
    assert "Content-Encoding" not in answer.headers
    assert index.seen[-1].headers["ACCEPT_ENCODING"] == "identity"


def test_page_names_no_file_under_an_unsafe_name(pytail: Client, index: FakeIndex):
    entry = {"url": "/x/a-1.0.zip", "hashes": {"sha256": "../../../../etc/passwd"}}
    names = ["../a-1.0.zip", "a/b-1.0.zip", "..", "", "a\\b.zip", "a\0.zip", "a-1.0.zip"]
    body = {"files": [{**entry, "filename": name} for name in names]}
    index.answers["/simple/a/"] = reply(json.dumps(body).encode(), JSON)
    (kept,) = pytail.json("a")["files"]
    assert (kept["filename"], kept["hashes"]) == ("a-1.0.zip", {})
    assert kept["url"].startswith("../../root/pypi/+f/_url/")


@pytest.mark.parametrize("change", [lambda data: data[:-7], lambda data: data + b"!"])
@pytest.mark.parametrize("hashes", [{}, None])
def test_file_of_unknown_size_that_was_changed_is_fetched_again(
    tmp_path: Path, index: FakeIndex, change: Any, hashes: Any
):
    more = {"size": None} | ({} if hashes is None else {"hashes": hashes})
    dist = sdist("demo", **more)
    index.add(dist)
    cache = tmp_path / "cache"
    with serving(cache, index.url) as pytail:
        path = file_path(pytail.json("demo")["files"][0])
        assert pytail.json("demo")["files"][0].get("size") is None
        assert pytail.get(path).data == dist.data
    (found,) = [path for path in (cache / "+files").rglob("*") if path.is_file()]
    found.write_bytes(change(dist.data))
    with serving(cache, index.url) as pytail:
        for _ in range(2):
            assert pytail.get(path).data == dist.data
    assert index.count(dist.path) == 2
