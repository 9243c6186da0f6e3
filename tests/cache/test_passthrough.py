"""Files and ranges that are sent without being stored."""

import errno
import fcntl
import os

import gevent
import pytest

from pytail.cache.passthrough import WITHHELD
from pytail.errors import FileGone
from pytail.model import ByteRange, Outcome
from pytail.upstream import resume
from tests.cache.conftest import DATA, PATH, WRONG, exactly, read_all, until_interrupted
from tests.support.fakeindex import reply
from tests.support.sending import Breaking
from tests.support.storage import files_in
from tests.support.watching import until

# Files that cannot be stored


def disk_full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("read_before", [0, 3000, 5000])
def test_each_reader_passes_the_rest_through_when_the_disk_is_full(
    downloads, monkeypatch, read_before
):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    readers = [downloads.files.open(downloads.file()) for _ in range(3)]
    for reader in readers:
        assert exactly(reader, read_before) == DATA[:read_before]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        downloads.index.answers[PATH] = reply(DATA, None)
        gated.open()
        assert [read_all(reader) for reader in readers] == [DATA[read_before:]] * 3
    assert files_in(downloads.directory) == []
    assert downloads.get(downloads.file()) == DATA
    until(lambda: downloads.store.has(downloads.file()))


def test_a_file_of_unknown_size_is_passed_through_when_the_disk_is_full(downloads, monkeypatch):
    gated = downloads.serve(DATA)
    opening = gevent.spawn(downloads.get, downloads.file(size=False))
    gated.asked.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        downloads.index.answers[PATH] = reply(DATA, None)
        gated.open()
        assert opening.get() == DATA
    assert files_in(downloads.directory) == []


def test_a_wrong_file_that_is_passed_through_is_interrupted_before_its_end(downloads, monkeypatch):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    exactly(opened, 5000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        downloads.index.answers[PATH] = reply(DATA[:-1] + b"!", None)
        gated.open()
        got, error = until_interrupted(opened)
    assert "sha256" in str(error)
    assert len(got) + 5000 <= len(DATA) - WITHHELD


def test_the_rest_of_an_abandoned_download_is_passed_through(downloads):
    writer = downloads.store.partial(downloads.file())
    writer.write(DATA[:5000])
    opened = downloads.files.open(downloads.file())
    exactly(opened, 3000)
    writer.discard()
    writer.close()
    assert read_all(opened) == DATA[3000:]
    assert downloads.index.count(PATH) == 1


def test_without_locks_files_pass_through(downloads, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    opened = downloads.files.open(downloads.file())
    assert opened.outcome is Outcome.PASS
    assert read_all(opened) == DATA
    assert downloads.files.downloading == 0


def test_a_full_disk_is_logged_once_until_files_are_stored_again(downloads, monkeypatch, caplog):
    caplog.set_level("INFO")
    other = downloads.file(WRONG, "/packages/other-1.0.tar.gz")
    downloads.index.answers["/packages/other-1.0.tar.gz"] = reply(WRONG, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        for _ in range(3):
            assert downloads.get(downloads.file()) == DATA
            assert downloads.get(other) == WRONG
    assert caplog.text.count("cannot store files, serving them without caching") == 1
    assert downloads.get(other) == WRONG
    until(lambda: caplog.text.count("files are stored again") == 1)


# Ranges

LARGE = os.urandom(1 << 20) * 3


def byte_range(start, stop):
    return ByteRange(start, stop, len(LARGE))


def read_range(opened, wanted):
    """Return the bytes of the range that `opened` starts at, and close it."""
    try:
        return exactly(opened, wanted.stop - wanted.start)
    finally:
        opened.stream.close()


def test_a_range_far_ahead_gets_its_own_request(downloads):
    answer = downloads.index.answers[PATH] = Breaking(LARGE, lengths=())
    wanted = byte_range(2_000_000, 2_000_100)
    opened = downloads.files.open(downloads.file(LARGE), wanted)
    assert (opened.size, opened.outcome) == (len(LARGE), Outcome.PASS)
    assert read_range(opened, wanted) == LARGE[2_000_000:2_000_100]
    assert answer.asked == ["bytes=2000000-2000099"]
    assert files_in(downloads.directory) == []


def test_an_interrupted_range_is_resumed(downloads, monkeypatch):
    monkeypatch.setattr(resume, "PAUSES", (0.01,))
    answer = downloads.index.answers[PATH] = Breaking(LARGE, lengths=(2_000_040,))
    wanted = byte_range(2_000_000, 2_000_100)
    assert (
        read_range(downloads.files.open(downloads.file(LARGE), wanted), wanted)
        == LARGE[2_000_000:2_000_100]
    )
    assert answer.asked == ["bytes=2000000-2000099", "bytes=2000040-2000099"]


def test_a_range_far_ahead_of_a_download_gets_its_own_request(downloads):
    gated = downloads.serve(LARGE[:5000], LARGE[5000:], size=len(LARGE))
    gated.open()
    whole = downloads.files.open(downloads.file(LARGE))
    downloads.index.answers[PATH] = Breaking(LARGE, lengths=())
    wanted = byte_range(2_900_000, 3_000_000)
    assert (
        read_range(downloads.files.open(downloads.file(LARGE), wanted), wanted)
        == LARGE[2_900_000:3_000_000]
    )
    gated.open()
    assert read_all(whole) == LARGE


def test_a_near_range_waits_for_the_download(downloads):
    gated = downloads.serve(LARGE[:1_000_000], LARGE[1_000_000:], size=len(LARGE))
    gated.open()
    wanted = byte_range(500_000, 600_000)
    assert (
        read_range(downloads.files.open(downloads.file(LARGE), wanted), wanted)
        == LARGE[500_000:600_000]
    )
    gated.open()
    assert downloads.get(downloads.file(LARGE)) == LARGE
    assert downloads.index.count(PATH) == 1


def test_a_range_far_ahead_waits_for_the_download_where_upstream_has_no_ranges(downloads):
    downloads.index.answers[PATH] = reply(LARGE, None)
    wanted = byte_range(2_900_000, 3_000_000)
    assert (
        read_range(downloads.files.open(downloads.file(LARGE), wanted), wanted)
        == LARGE[2_900_000:3_000_000]
    )
    until(lambda: downloads.store.has(downloads.file(LARGE)))


def test_a_range_of_a_file_that_is_gone_is_an_error(downloads):
    del downloads.index.answers[PATH]
    with pytest.raises(FileGone):
        downloads.files.open(downloads.file(LARGE), byte_range(2_000_000, 2_000_100))


def test_a_range_is_passed_through_when_the_disk_is_full(downloads, monkeypatch):
    answer = downloads.index.answers[PATH] = Breaking(LARGE, LARGE, lengths=())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk_full)
        wanted = byte_range(10, 500_000)
        opened = downloads.files.open(downloads.file(LARGE), wanted)
        assert read_range(opened, wanted) == LARGE[10:500_000]
    assert answer.asked[0] is None
