"""A file to read: stored, downloading, or passed through."""

import gzip
import hashlib
from dataclasses import replace

import gevent
import pytest

from pytail.errors import (
    DigestMismatch,
    FileGone,
    NotStored,
    PytailError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.model import File
from pytail.storage.quota import Quota
from tests.cache.conftest import DATA, PATH, WRONG, exactly, read_all
from tests.support.fakeindex import reply
from tests.support.running import free_port
from tests.support.storage import another_process_writing, files_in
from tests.support.watching import until

# Stored or downloaded


def test_an_unknown_file_is_fetched_from_upstream_and_stored(downloads):
    assert downloads.get(downloads.file()) == DATA
    until(lambda: downloads.store.has(downloads.file()))


def test_a_stored_file_costs_no_request(downloads):
    downloads.get(downloads.file())
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 1


def test_a_file_lost_from_the_store_is_fetched_again(downloads):
    downloads.get(downloads.file())
    until(lambda: downloads.files.downloading == 0)
    (stored,) = files_in(downloads.directory)
    stored.unlink()
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 2


def test_two_files_are_downloaded_side_by_side(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    slow = gevent.spawn(downloads.get, downloads.file())
    gated.asked.wait()
    downloads.index.answers["/packages/quick-1.0.tar.gz"] = reply(b"quick", None)
    assert downloads.get(downloads.file(b"quick", "/packages/quick-1.0.tar.gz")) == b"quick"
    gated.open(2)
    assert slow.get() == DATA


def test_an_open_file_is_complete_after_its_deletion(downloads):
    downloads.get(downloads.file())
    until(lambda: downloads.files.downloading == 0)
    opened = downloads.files.open(downloads.file())
    (stored,) = files_in(downloads.directory)
    stored.unlink()
    assert read_all(opened) == DATA


def test_a_content_coding_that_was_not_requested_stays_byte_for_byte(downloads):
    data = gzip.compress(b"a source distribution", mtime=0)
    downloads.index.answers[PATH] = reply(data, "application/x-gzip", Content_Encoding="gzip")
    assert downloads.get(downloads.file(data)) == data


def test_files_are_requested_without_content_coding(downloads):
    downloads.get(downloads.file())
    assert downloads.index.seen[-1].headers["ACCEPT_ENCODING"] == "identity"


# Files that another program wrote


def write_file(downloads, file, data):
    """Write `data` into the store as another program does."""
    path = downloads.directory / "+files/root/pypi/+f" / file.key
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def unlisted():
    """Return the file that its URL means where no page lists it."""
    digest = hashlib.sha256(DATA).hexdigest()
    return File(filename="demo-1.0.tar.gz", url="", directory=f"{digest[:3]}/{digest[3:16]}")


def test_a_right_file_is_verified_once_and_served(downloads, caplog):
    caplog.set_level("INFO")
    write_file(downloads, downloads.file(), DATA)
    readers = [gevent.spawn(downloads.get, downloads.file()) for _ in range(5)]
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 0
    assert caplog.text.count("verified ") == 1


@pytest.mark.parametrize("file", ["listed", "unlisted"])
def test_a_wrong_file_is_removed(downloads, file):
    path = write_file(downloads, downloads.file(), DATA[::-1])
    if file == "listed":
        assert downloads.get(downloads.file()) == DATA
        assert downloads.index.count(PATH) == 1
    else:
        with pytest.raises(FileGone):
            downloads.get(unlisted())
        assert not path.exists()


def test_an_unlisted_file_is_served_when_its_directory_has_its_digest(downloads):
    write_file(downloads, downloads.file(), DATA)
    assert downloads.get(unlisted()) == DATA


def test_one_verification_is_enough_where_chmod_fails(downloads, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.fchmod", refuse)
    caplog.set_level("INFO")
    write_file(downloads, downloads.file(), DATA)
    assert [downloads.get(downloads.file()) for _ in range(3)] == [DATA] * 3
    assert caplog.text.count("verified ") == 1


def test_a_downloaded_file_is_not_verified_again(downloads, caplog):
    caplog.set_level("INFO")
    assert [downloads.get(downloads.file()) for _ in range(2)] == [DATA] * 2
    assert "verified " not in caplog.text


# One download for many clients


def test_fifty_readers_share_one_request(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    readers = [gevent.spawn(downloads.get, downloads.file()) for _ in range(50)]
    gated.asked.wait()
    gated.open(2)
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert downloads.index.count(PATH) == 1


def test_fifty_readers_of_a_file_of_unknown_size_share_one_request(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:])
    file = downloads.file(size=False)
    readers = [gevent.spawn(downloads.get, file) for _ in range(25)]
    gated.open()
    until(lambda: downloads.files.downloading)
    readers += [gevent.spawn(downloads.get, file) for _ in range(25)]
    gevent.idle()
    gated.open()
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert downloads.index.count(PATH) == 1


def test_a_late_reader_gets_the_file_from_the_start(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    early = downloads.files.open(downloads.file())
    exactly(early, 5000)
    late = downloads.files.open(downloads.file())
    assert exactly(late, 4000) == DATA[:4000]
    gated.open()
    assert read_all(late) == DATA[4000:]
    assert read_all(early) == DATA[5000:]
    assert downloads.index.count(PATH) == 1


def test_the_download_continues_after_its_only_reader_closed(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    exactly(opened, 10)
    opened.stream.close()
    gated.open()
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 1


def test_the_download_continues_after_the_first_client_left(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    first = gevent.spawn(downloads.files.open, downloads.file())
    gated.asked.wait()
    first.kill()
    gated.open(2)
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 1


# Upstream fails


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("404 Not Found", FileGone),
        ("410 Gone", FileGone),
        ("403 Forbidden", UpstreamRefused),
        ("500 Internal Server Error", UpstreamRefused),
        ("503 Service Unavailable", UpstreamRefused),
        ("206 Partial Content", UpstreamRefused),
    ],
)
def test_an_error_status_is_an_error_for_all_before_the_first_byte(downloads, status, kind):
    downloads.index.answers[PATH] = reply(b"no", "text/plain", status)
    openers = [gevent.spawn(downloads.files.open, downloads.file()) for _ in range(10)]
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {kind}
    assert downloads.index.count(PATH) == 1


def test_a_refused_connection_is_an_error_before_the_first_byte(downloads):
    file = downloads.file(base=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamUnreachable):
        downloads.files.open(file)


def test_the_wait_for_the_head_is_limited_and_the_download_continues(downloads):
    downloads.files = downloads.make_files(wait=0.05)
    gated = downloads.serve(DATA, size=len(DATA))
    openers = [gevent.spawn(downloads.files.open, downloads.file()) for _ in range(3)]
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {UpstreamUnreachable}
    gated.open()
    until(lambda: downloads.store.has(downloads.file()))
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 1


def test_upstream_is_asked_again_after_an_error(downloads):
    downloads.index.answers[PATH] = reply(b"no", "text/plain", "500 Internal Server Error")
    assert isinstance(downloads.error(downloads.file()), UpstreamRefused)
    downloads.index.answers[PATH] = reply(DATA, None)
    assert downloads.get(downloads.file()) == DATA


# Sizes


def test_the_size_of_a_listed_file_costs_no_request(downloads):
    assert downloads.files.size(downloads.file()) == len(DATA)
    assert downloads.index.seen == []


def test_the_size_of_a_stored_file_costs_no_request(downloads):
    downloads.get(downloads.file(size=False))
    assert downloads.files.size(downloads.file(size=False)) == len(DATA)
    assert len(downloads.index.seen) == 1


def test_the_size_of_a_file_in_a_download_costs_no_request(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file(size=False))
    assert downloads.files.size(downloads.file(size=False)) == len(DATA)
    assert len(downloads.index.seen) == 1
    gated.open()
    read_all(opened)


def test_the_size_of_another_file_comes_from_a_head_request(downloads):
    assert downloads.files.size(downloads.file(size=False)) == len(DATA)
    assert [seen.method for seen in downloads.index.seen] == ["HEAD"]
    assert files_in(downloads.directory) == []


def test_the_size_of_core_metadata_is_that_of_the_verified_file(downloads):
    path = f"{PATH}.metadata"
    downloads.index.answers[path] = reply(b"Name: demo\n", None)
    assert downloads.files.size(downloads.file(b"Name: demo\n", path, size=False)) == 11
    with pytest.raises(DigestMismatch):
        downloads.files.size(downloads.file(b"another", path, size=False))


@pytest.mark.parametrize(
    "status", ["403 Forbidden", "404 Not Found", "500 Internal Server Error", "200 OK"]
)
def test_a_head_request_without_a_usable_answer_leaves_the_size_unknown(downloads, status):
    downloads.index.answers[PATH] = reply(b"", None, status)
    assert downloads.files.size(downloads.file(size=False)) is None


@pytest.mark.parametrize("wrong", [0, len(DATA) - 1, len(DATA) + 1])
def test_a_wrong_size_on_the_page_does_not_matter_where_the_digest_is_right(downloads, wrong):
    file = replace(downloads.file(), size=wrong)
    opened = downloads.files.open(file)
    assert opened.size == len(DATA)
    assert read_all(opened) == DATA
    until(lambda: downloads.files.downloading == 0)
    assert len(files_in(downloads.directory)) == 1


# Fetch without a reader


def test_fetch_returns_when_the_file_is_stored(downloads):
    upstream, received = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA)), []
    fetching = gevent.spawn(downloads.files.fetch, downloads.file(), received.append)
    upstream.open()
    until(lambda: sum(received) == 5000)
    assert not fetching.ready()
    upstream.open()
    fetching.get()
    assert sum(received) == len(DATA)
    until(lambda: downloads.store.has(downloads.file()))
    downloads.files.fetch(downloads.file(), received.append)
    assert (sum(received), downloads.index.count(PATH)) == (len(DATA), 1)


def test_fetch_shares_the_download_of_a_reader(downloads):
    upstream = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    reading = gevent.spawn(downloads.get, downloads.file())
    fetching = [gevent.spawn(downloads.files.fetch, downloads.file(), id) for _ in range(2)]
    upstream.open(2)
    gevent.joinall(fetching, raise_error=True)
    assert reading.get() == DATA
    assert downloads.index.count(PATH) == 1


def test_fetch_waits_for_a_slow_head_without_a_limit(downloads):
    downloads.files = downloads.make_files(wait=0.01)
    upstream = downloads.serve(DATA, size=len(DATA))
    fetching = gevent.spawn(downloads.files.fetch, downloads.file(), id)
    assert downloads.error(downloads.file()).reason.endswith("the request continues")
    upstream.open()
    fetching.get()


def test_fetch_of_a_file_that_cannot_be_stored_is_an_error(downloads):
    quota = Quota(downloads.directory, downloads.store, downloads.catalog, limit=1000, min_free=0)
    files = downloads.make_files(quota=quota)
    with pytest.raises(NotStored):
        files.fetch(downloads.file(), id)
    assert downloads.index.seen == []


@pytest.mark.parametrize("wrong", [WRONG, DATA[:-1]], ids=["wrong", "short"])
def test_fetch_of_a_wrong_file_is_an_error(downloads, wrong):
    downloads.index.answers[PATH] = reply(wrong, None)
    with pytest.raises(PytailError, match=r"demo-1\.0\.tar\.gz"):
        downloads.files.fetch(downloads.file(), id)
    assert not downloads.store.has(downloads.file())


def test_fetch_waits_for_the_download_of_another_process(downloads):
    file, received = downloads.file(b"half"), []
    with another_process_writing(downloads.directory, file) as process:
        fetching = gevent.spawn(downloads.files.fetch, file, received.append)
        until(lambda: sum(received) == 4)
        assert not fetching.ready()
        process.stdin.write("commit\n")
        process.stdin.flush()
        fetching.get()
    assert downloads.index.seen == []


def test_fetch_resumes_the_download_of_a_killed_process(downloads):
    with another_process_writing(downloads.directory, downloads.file(), DATA[:5000]) as process:
        received = []
        fetching = gevent.spawn(downloads.files.fetch, downloads.file(), received.append)
        until(lambda: sum(received) == 5000)
        process.kill()
        fetching.get()
    assert sum(received) == len(DATA)
    until(lambda: downloads.store.has(downloads.file()))
