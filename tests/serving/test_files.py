"""Files, their core metadata and their signatures, over a real socket."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from gevent import joinall, spawn

from pytail.storage.store import StoredFile
from pytail.upstream import resume
from pytail.web.files import FileBody
from tests.support.fakeindex import JSON, Dist, FakeIndex, reply, sdist, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving, stored_path
from tests.support.sending import Sending
from tests.support.watching import stored_files, stored_names, until, until_earlier_requests_wait

DATA = os.urandom(300_000)
MOMENTARY = {"x-request-id", "Date", "x-cache"}


@pytest.fixture
def demo(index: FakeIndex) -> Dist:
    dist = wheel("demo", payload=DATA)
    index.add(dist)
    return dist


def headers_of(answer: Answer) -> dict[str, str]:
    """Return the headers that depend on the file alone."""
    return {name: value for name, value in answer.headers.items() if name not in MOMENTARY}


def test_file_is_served_byte_for_byte_before_and_after_it_is_stored(
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
    assert stored_path(tmp_path / "cache", demo).read_bytes() == demo.data


def test_the_urls_of_a_page_are_those_of_its_files(pytail: Client, demo: Dist):
    (entry,) = pytail.json("demo")["files"]
    assert hashlib.sha256(pytail.get(file_path(entry)).data).hexdigest() == demo.sha256


def test_an_escaped_plus_is_the_same_file(pytail: Client, index: FakeIndex):
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


def test_file_of_a_release_newer_than_the_stored_page_resolves(
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
def test_a_file_that_no_page_lists_is_404(pytail: Client, index: FakeIndex, demo: Dist, path: str):
    assert pytail.get(path).status == 404  # items 75, 138
    assert index.count(demo.path) == 0


def test_a_file_needs_its_own_name_and_digest(pytail: Client, demo: Dist):
    other = demo.served.replace("demo-1.0", "demo-1.1")
    assert pytail.get(other).status == 404


def test_metadata_is_served_without_the_file(pytail: Client, index: FakeIndex, demo: Dist):
    for _ in range(2):
        answer = pytail.get(demo.served + ".metadata")
        assert (answer.status, answer.data) == (200, demo.metadata)  # item 56
        assert answer.headers["Content-Length"] == str(len(demo.metadata or b""))  # item 59
    assert index.count(demo.path + ".metadata") == 1
    assert index.count(demo.path) == 0


def test_metadata_with_another_digest_is_never_sent_nor_stored(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    index.answers[demo.path + ".metadata"] = reply(b"Name: evil\n", "text/plain")
    # The wheel has the metadata that the page promises.
    assert pytail.get(demo.served + ".metadata").data == demo.metadata  # item 58
    index.answers[demo.path] = reply(b"no wheel", None)
    (tmp_path / "cache/+files/root/pypi/+f" / f"{demo.key}.metadata").unlink()
    assert pytail.get(demo.served + ".metadata").status == 502
    assert stored_names(tmp_path / "cache") == set()


def test_metadata_and_signatures_that_no_page_lists_are_404(pytail: Client, index: FakeIndex):
    dist = sdist("demo")
    index.add(dist)
    for suffix in (".metadata", ".asc"):
        assert pytail.get(dist.served + suffix).status == 404  # item 75
        assert index.count(dist.path + suffix) == 0


def test_a_listed_signature_is_served(pytail: Client, index: FakeIndex):
    dist = sdist("demo", **{"gpg-sig": True})
    index.add(dist)
    index.answers[dist.path + ".asc"] = reply(b"-----BEGIN PGP SIGNATURE-----", "text/plain")
    assert pytail.get(dist.served + ".asc").data.startswith(b"-----BEGIN")  # item 62


def test_files_without_sha256_have_urls_of_their_own(pytail: Client, index: FakeIndex):
    one, two = sdist("demo", "1.0"), sdist("demo", "2.0")
    md5 = hashlib.md5(one.data).hexdigest()
    one.extra["hashes"], two.extra["hashes"] = {"md5": md5}, {}
    index.add(one, two)
    by_url = hashlib.sha256(f"{index.url}{two.path}".encode()).hexdigest()
    directories = [f"_md5/{md5}-{len(one.data)}", f"_url/{by_url}"]
    entries = pytail.json("demo")["files"]
    for entry, dist, directory in zip(entries, (one, two), directories, strict=True):
        assert file_path(entry) == f"/root/pypi/+f/{directory}/{dist.filename}"  # item 74
        for _ in range(2):
            assert pytail.get(file_path(entry)).data == dist.data
        assert index.count(dist.path) == 1


@pytest.mark.parametrize("algorithm", ["md5", "sha512", "sha1"])
def test_file_without_sha256_is_verified_by_another_digest(
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


def test_bytes_are_sent_before_upstream_has_sent_the_rest(
    pytail: Client, index: FakeIndex, demo: Dist
):
    sending = index.answers[demo.path] = Sending(demo.data, 100_000)
    connection = pytail.open("GET", demo.served)
    response = connection.getresponse()
    assert response.headers["Content-Length"] == str(len(demo.data))
    assert response.read(100_000) == demo.data[:100_000]  # item 65
    sending.gate.set()
    assert response.read() == demo.data[100_000:]
    connection.close()


def test_fifty_clients_of_a_cold_file_cost_one_upstream_request(
    pytail: Client, index: FakeIndex, demo: Dist
):
    sending = index.answers[demo.path] = Sending(demo.data, 1000)
    clients = [spawn(pytail.get, demo.served) for _ in range(50)]
    until_earlier_requests_wait(pytail)
    sending.gate.set()
    joinall(clients, raise_error=True)
    assert all(client.value.data == demo.data for client in clients)  # item 71
    assert index.count(demo.path) == 1


def test_a_wrong_file_is_never_a_complete_response_and_never_stored(
    pytail: Client, index: FakeIndex, demo: Dist, tmp_path: Path
):
    wrong = demo.data[:-1] + bytes([demo.data[-1] ^ 1])
    index.answers[demo.path] = reply(wrong, "application/octet-stream")
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)  # item 69
    assert not stored_path(tmp_path / "cache", demo).exists()
    del index.answers[demo.path]
    assert pytail.get(demo.served).data == demo.data


@pytest.mark.parametrize("limit", [0, 100_000])
def test_an_empty_response_is_no_complete_file(
    index: FakeIndex, demo: Dist, tmp_path: Path, limit: int
):
    index.add(demo)
    index.answers[demo.path] = reply(b"", "application/octet-stream")
    with serving(tmp_path, index.url, cache_max_size=limit) as pytail:
        answer = pytail.get(demo.served)
        assert (answer.status, answer.headers["Cache-Control"]) == (502, "no-store")
        del index.answers[demo.path]
        assert pytail.get(demo.served).data == demo.data


def test_an_interrupted_download_interrupts_the_response(
    pytail: Client,
    index: FakeIndex,
    demo: Dist,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    def short(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", str(len(demo.data))), ("Connection", "close")])
        yield demo.data[:200_000]

    monkeypatch.setattr(resume, "PAUSES", (0.01,) * len(resume.PAUSES))
    index.answers[demo.path] = short
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)  # item 70
    assert not stored_path(tmp_path / "cache", demo).exists()


def test_file_that_upstream_does_not_have_is_404(pytail: Client, index: FakeIndex, demo: Dist):
    index.answers[demo.path] = reply(b"", "text/plain", "404 Not Found")
    assert pytail.get(demo.served).status == 404


def test_without_upstream_stored_files_are_served_and_others_are_503(
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
    path = stored_path(tmp_path / "cache", demo)
    harm = [path.unlink, lambda: os.truncate(path, 100), lambda: path.write_bytes(DATA * 2)]
    pytail.get(demo.served)
    for count, damage in enumerate(harm, start=2):
        damage()
        assert pytail.get(demo.served).data == demo.data
        assert index.count(demo.path) == count


@pytest.mark.parametrize("is_iterated", [False, True], ids=["copied", "iterated"])
def test_a_file_that_the_disk_cannot_read_is_fetched_again(
    pytail: Client,
    index: FakeIndex,
    demo: Dist,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_iterated: bool,
):
    pytail.get(demo.served)
    bad, middle = stored_path(tmp_path / "cache", demo).stat().st_ino, len(demo.data) // 2

    def check(descriptor: int, offset: int) -> None:
        if os.fstat(descriptor).st_ino == bad and offset >= middle:
            raise OSError(errno.EIO, "Input/output error")

    class Failing(StoredFile):
        def read(self, size: int = -1, /) -> bytes:
            check(self.fileno(), self.tell())
            return super().read(min(size, middle))

    def failing(name: str) -> Callable[..., Any]:
        whole = getattr(os, name)

        def call(descriptor: int, wanted: Any, offset: int) -> Any:
            check(descriptor, offset)
            some = [wanted[0][:middle]] if name == "preadv" else min(wanted, middle)
            return whole(descriptor, some, offset)

        return call

    monkeypatch.setattr("pytail.storage.store.StoredFile", Failing)
    for name in ("pread", "preadv"):
        monkeypatch.setattr(os, name, failing(name))
    if is_iterated:
        monkeypatch.delattr(FileBody, "sendable")
        monkeypatch.setattr(FileBody, "start", lambda body: None)
    with pytest.raises(IncompleteRead):
        pytail.get(demo.served)
    assert pytail.get(demo.served).data == demo.data
    until(lambda: pytail.get(demo.served).headers["X-Cache"] == "HIT")
    assert index.count(demo.path) == 2


def test_head_causes_no_download(pytail: Client, index: FakeIndex, demo: Dist):
    cold = pytail.head(demo.served)
    assert (cold.status, cold.data) == (200, b"")
    assert cold.headers["Content-Length"] == str(len(demo.data))  # item 79
    assert cold.headers["Accept-Ranges"] == "bytes"
    assert index.count(demo.path) == 0
    got = headers_of(pytail.get(demo.served))
    assert headers_of(cold) == headers_of(pytail.head(demo.served)) == got


def test_head_asks_upstream_where_the_page_gives_no_size(pytail: Client, index: FakeIndex):
    dist = sdist("demo", size=None)
    index.add(dist)
    answer = pytail.head(dist.served)
    assert answer.headers["Content-Length"] == str(len(dist.data))
    assert (index.count(dist.path), index.count(dist.path, "HEAD")) == (0, 1)


def test_head_of_metadata_is_its_get_without_the_body(pytail: Client, demo: Dist):
    headed = pytail.head(demo.served + ".metadata")
    got = pytail.get(demo.served + ".metadata")
    assert headers_of(headed) == headers_of(got)  # item 103
    assert headed.data == b""


SIZE = len(wheel("demo", payload=DATA).data)


@pytest.mark.parametrize("is_stored", [False, True])
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
def test_a_range_gets_206(
    pytail: Client, demo: Dist, is_stored: bool, sent: str, start: int, stop: int
):
    if is_stored:
        pytail.get(demo.served)
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.data) == (206, demo.data[start:stop])  # items 81, 88
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["Content-Length"] == str(stop - start)
    whole = pytail.get(demo.served)
    assert answer.headers["ETag"] == whole.headers["ETag"]  # item 90


@pytest.mark.parametrize("sent", ["lines=0-1", "bytes=5-2", "bytes=x", "bytes=0-0,-1", "x", ""])
def test_an_unsupported_range_is_ignored(pytail: Client, demo: Dist, sent: str):
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.data) == (200, demo.data)  # items 85, 86


@pytest.mark.parametrize("sent", [f"bytes={SIZE}-", "bytes=-0", "bytes=999999999-"])
def test_a_range_beyond_the_end_is_416(pytail: Client, demo: Dist, sent: str):
    answer = pytail.get(demo.served, Range=sent)
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")  # item 84
    assert answer.headers["Cache-Control"] == "no-store"


def test_if_range_decides_between_the_range_and_the_whole_file(pytail: Client, demo: Dist):
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


def test_a_stored_file_is_served_after_upstream_removed_it(
    pytail: Client, index: FakeIndex, demo: Dist, clock: Clock
):
    pytail.get(demo.served)
    index.dists.clear()
    clock.now += 901
    assert pytail.get("/simple/demo/").status == 404
    assert pytail.get(demo.served).data == demo.data


def test_files_of_a_quarantined_project_are_404_even_when_stored(
    pytail: Client, index: FakeIndex, demo: Dist, clock: Clock
):
    pytail.get(demo.served)
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 901
    page = pytail.json("demo")
    assert (page["files"], page["project-status"]) == ([], {"status": "quarantined"})  # item 16
    assert pytail.get(demo.served).status == 404  # item 77


def test_stored_files_are_served_after_the_catalog_is_lost(
    tmp_path: Path, index: FakeIndex, demo: Dist
):
    with serving(tmp_path, index.url) as pytail:
        pytail.get(demo.served)
    (tmp_path / "index.sqlite3").write_bytes(b"not a database, not even nearly" * 100)
    index.stop()
    with serving(tmp_path, index.url) as pytail:
        assert pytail.get(demo.served).data == demo.data
    assert len(list(tmp_path.glob("index.sqlite3.set-aside-*"))) == 1


def test_redirects_of_upstream_are_followed_not_sent_to_clients(
    pytail: Client, index: FakeIndex, demo: Dist
):
    index.answers[demo.path] = reply(b"", None, "302 Found", Location=f"{index.url}/elsewhere")
    index.answers["/elsewhere"] = reply(demo.data, "application/octet-stream")
    assert pytail.get(demo.served).data == demo.data  # item 66


def test_query_string_is_ignored(pytail: Client, demo: Dist):
    assert pytail.get(f"{demo.served}?x=1").data == demo.data  # item 55


def test_a_file_on_another_host_is_served_by_pytail(pytail: Client, index: FakeIndex):
    with FakeIndex() as files:
        dist = wheel("demo")
        files.add(dist)
        dist.extra["url"] = f"{files.url}{dist.path}"
        index.add(dist)
        assert pytail.get(dist.served).data == dist.data
        assert "Authorization" not in files.seen[0].headers


@pytest.mark.parametrize("is_redirect", [True, False])
def test_a_private_address_that_upstream_names_is_502_with_the_remedy(
    pytail: Client, index: FakeIndex, *, is_redirect: bool
):
    # An index on loopback leads to loopback, but not to the services of a cloud.
    target = "http://169.254.169.254/latest/S3cr3t/demo-1.0.tar.gz?token=S3cr3t"
    dist = sdist("demo", url=f"../..{sdist('demo').path}" if is_redirect else target)
    index.add(dist)
    index.answers[dist.path] = reply(b"", None, "302 Found", Location=target)
    index.answers["/simple/moved/"] = reply(b"", None, "302 Found", Location=target)
    for path in (dist.served, "/simple/moved/"):
        answer = pytail.get(path)
        assert answer.status == 502
        assert "169.254.169.254" in answer.json()["detail"]
        assert "--allow-private-redirects" in answer.json()["detail"]
        # The operator can mend that, time cannot.
        assert "try again later" not in answer.json()["detail"]
        assert b"S3cr3t" not in answer.data
    assert pytail.get("/simple/demo/").status == 200


def test_with_the_option_upstream_may_name_any_address(index: FakeIndex, tmp_path: Path):
    # No connection to a multicast address is possible, which ends the test at once.
    index.answers["/simple/moved/"] = reply(b"", None, "302 Found", Location="http://224.0.0.1/")
    for is_allowed, status in ((False, 502), (True, 503)):
        cache = tmp_path / str(is_allowed)
        with serving(cache, index.url, allow_private_redirects=is_allowed) as pytail:
            assert pytail.get("/simple/moved/").status == status


def test_an_unrequested_content_coding_leaves_the_bytes_as_they_are(
    pytail: Client, index: FakeIndex
):
    dist = sdist("demo")
    index.add(dist)
    index.answers[dist.path] = reply(dist.data, "application/x-tar", Content_Encoding="gzip")
    answer = pytail.get(dist.served, Accept_Encoding="gzip")
    assert answer.data == dist.data  # item 136
    assert "Content-Encoding" not in answer.headers
    assert index.seen[-1].headers["ACCEPT_ENCODING"] == "identity"


def test_a_page_omits_files_with_unsafe_names(pytail: Client, index: FakeIndex):
    entry = {"url": "/x/a-1.0.zip", "hashes": {"sha256": "../../../../etc/passwd"}}
    names = ["../a-1.0.zip", "a/b-1.0.zip", "..", "", "a\\b.zip", "a\0.zip", "a-1.0.zip"]
    body = {"files": [{**entry, "filename": name} for name in names]}
    index.answers["/simple/a/"] = reply(json.dumps(body).encode(), JSON)
    (file,) = pytail.json("a")["files"]
    assert (file["filename"], file["hashes"]) == ("a-1.0.zip", {})
    assert file["url"].startswith("../../root/pypi/+f/_url/")


@pytest.mark.parametrize("change", [lambda data: data[:-7], lambda data: data + b"!"])
@pytest.mark.parametrize("hashes", [{}, None])
def test_a_changed_file_of_unknown_size_is_fetched_again(
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
    (found,) = stored_files(cache)
    found.write_bytes(change(dist.data))
    with serving(cache, index.url) as pytail:
        for _ in range(2):
            assert pytail.get(path).data == dist.data
    assert index.count(dist.path) == 2
