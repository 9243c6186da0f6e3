"""One download: its readers, its verification, and other processes."""

import hashlib
import os
import signal

import gevent
import pytest
from gevent import monkey

from pytail.cache import fetch
from pytail.cache.passthrough import WITHHELD
from pytail.errors import (
    DigestMismatch,
    DownloadInterrupted,
    UpstreamRefused,
)
from pytail.model import File
from pytail.upstream import resume
from tests.cache.conftest import (
    DATA,
    PACKED,
    PATH,
    WRONG,
    exactly,
    read_all,
    until_interrupted,
)
from tests.support.fakeindex import RawServer, reply
from tests.support.sending import Breaking
from tests.support.storage import another_process_writing, files_in
from tests.support.watching import until

# Readers


def test_bytes_reach_the_reader_before_upstream_has_sent_the_rest(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    assert opened.size == len(DATA)
    assert exactly(opened, 5000) == DATA[:5000]
    gated.open()
    assert read_all(opened) == DATA[5000:]


def test_the_last_bytes_are_withheld_until_the_file_is_verified(downloads):
    gated = downloads.serve(DATA[:-1], DATA[-1:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    assert exactly(opened, len(DATA) - WITHHELD) == DATA[:-WITHHELD]
    more = gevent.spawn(opened.stream.read, WITHHELD)
    gevent.idle()
    assert not more.ready()
    gated.open()
    assert more.get() + read_all(opened) == DATA[-WITHHELD:]


def test_a_large_file_arrives_byte_for_byte(downloads):
    data = os.urandom(1 << 20) * 3
    downloads.index.answers[PATH] = reply(data, None)
    readers = [gevent.spawn(downloads.get, downloads.file(data)) for _ in range(4)]
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {data}


def test_a_reader_can_seek(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    assert opened.stream.seek(3000) == 3000
    assert exactly(opened, 100) == DATA[3000:3100]
    opened.stream.seek(len(DATA) - 10)
    gated.open()
    assert read_all(opened) == DATA[-10:]


def test_a_read_of_no_byte_does_not_wait(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    assert opened.stream.read(0) == b""
    exactly(opened, 5000)
    assert opened.stream.read(0) == b""
    gated.open()
    read_all(opened)


def test_a_span_is_read_from_the_partial_file(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened, data = downloads.files.open(downloads.file()), b""
    while (span := opened.stream.sendable(3000)) is not None:
        descriptor, offset, length = span
        assert offset == len(data)
        data += os.pread(descriptor, length, offset)
        opened.stream.advance(length)
        if len(data) == 5000:
            gated.open()
    opened.stream.close()
    assert data == DATA


def test_a_span_never_includes_the_end_of_a_wrong_file(downloads):
    downloads.index.answers[PATH] = reply(DATA[:-1] + b"?", None)
    opened = downloads.files.open(downloads.file())
    until(lambda: not downloads.files.downloading)
    assert opened.stream.sendable(len(DATA))[1:] == (0, len(DATA) - WITHHELD)
    opened.stream.advance(len(DATA) - WITHHELD)
    with pytest.raises(DownloadInterrupted):
        opened.stream.sendable(len(DATA))
    opened.stream.close()


def test_a_closed_reader_cannot_be_read(downloads):
    gated = downloads.serve(DATA, size=len(DATA))
    opened = gevent.spawn(downloads.files.open, downloads.file())
    gated.open()
    opened.join()
    opened.value.stream.close()
    opened.value.stream.close()
    with pytest.raises(ValueError, match="closed"):
        opened.value.stream.read(1)
    assert downloads.get(downloads.file()) == DATA


# Wrong files


@pytest.mark.parametrize(
    "sent",
    [WRONG, DATA[:-1] + b"!", DATA[:-1], DATA + b"!", b"", DATA * 3],
    ids=["first byte", "last byte", "short", "long", "empty", "very long"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_wrong_file_is_an_error_for_all_and_is_not_stored(downloads, sent, is_chunked):
    gated = downloads.serve(sent, size=None if is_chunked else len(sent))
    readers = [gevent.spawn(downloads.error, downloads.file()) for _ in range(5)]
    gated.asked.wait()
    gated.open()
    gevent.joinall(readers, raise_error=True)
    assert {type(reader.value) for reader in readers} <= {DownloadInterrupted, DigestMismatch}
    assert downloads.index.count(PATH) == 1
    assert files_in(downloads.directory) == []


def test_the_end_of_a_wrong_file_is_never_sent(downloads):
    gated = downloads.serve(WRONG[:-1], WRONG[-1:], size=len(WRONG))
    gated.open(2)
    got, error = until_interrupted(downloads.files.open(downloads.file()))
    assert "sha256" in str(error)
    assert len(got) <= len(DATA) - WITHHELD


def test_upstream_is_asked_again_after_a_wrong_file(downloads):
    downloads.index.answers[PATH] = reply(WRONG, None)
    assert isinstance(downloads.error(downloads.file()), DownloadInterrupted)
    downloads.index.answers[PATH] = reply(DATA, None)
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 2


@pytest.mark.parametrize("name", ["sha256", "sha512", "blake2b", "md5", "sha1"])
def test_each_kind_of_digest_is_verified(downloads, name):
    wrong = File(
        filename="demo-1.0.tar.gz",
        url=downloads.index.url + PATH,
        directory="_url/" + "0" * 64,
        hashes={name: hashlib.new(name, b"another", usedforsecurity=False).hexdigest()},
        size=len(DATA),
    )
    assert name in str(downloads.error(wrong))
    assert not downloads.store.has(wrong)


def test_a_file_without_a_digest_is_stored_when_its_type_is_right(downloads):
    downloads.index.answers[PATH] = reply(PACKED, None)
    assert downloads.get(downloads.file(PACKED, sha256=False)) == PACKED
    until(lambda: downloads.store.has(downloads.file(PACKED, sha256=False)))


@pytest.mark.parametrize("sent", [b"<html>log in</html>" * 200, b'{"error": "busy"}' * 200])
def test_a_file_without_a_digest_and_of_another_type_is_not_stored(downloads, sent):
    downloads.index.answers[PATH] = reply(sent, None)
    file = downloads.file(sent, sha256=False, size=False)
    assert isinstance(downloads.error(file), DownloadInterrupted)
    assert not downloads.store.has(file)


@pytest.mark.parametrize("path", [PATH, f"{PATH}.metadata"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_an_empty_body_is_an_error(downloads, path, is_chunked):
    gated = downloads.serve(b"", path=path, size=None if is_chunked else 0)
    gated.open()
    assert isinstance(
        downloads.error(downloads.file(b"", path, size=False, sha256=False)), DownloadInterrupted
    )
    assert downloads.index.count(path) == 1


def test_an_empty_body_is_right_where_the_page_says_size_0(downloads):
    downloads.index.answers[PATH] = reply(b"", None)
    assert downloads.get(downloads.file(b"")) == b""
    assert downloads.get(downloads.file(b"")) == b""
    assert downloads.index.count(PATH) == 1


def test_core_metadata_is_stored(downloads):
    path = f"{PATH}.metadata"
    downloads.index.answers[path] = reply(b"Name: demo\n", None)
    file = downloads.file(b"Name: demo\n", path, size=False)
    assert downloads.get(file) == b"Name: demo\n"
    assert downloads.get(file) == b"Name: demo\n"
    assert downloads.index.count(path) == 1


def test_wrong_core_metadata_is_an_error_for_all_before_the_first_byte(downloads):
    path = f"{PATH}.metadata"
    gated = downloads.serve(b"Name: ", b"other\n", path=path, size=12)
    file = downloads.file(b"Name: demo\n", path, size=False)
    openers = [gevent.spawn(downloads.files.open, file)]
    gated.open()
    until(lambda: downloads.index.count(path))
    openers += [gevent.spawn(downloads.files.open, file) for _ in range(3)]
    gevent.idle()
    gated.open()
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {DigestMismatch}
    assert downloads.index.count(path) == 1
    assert not downloads.store.has(file)


@pytest.mark.parametrize("framing", ["Content-Length: 10240", "Transfer-Encoding: chunked"])
def test_an_interrupted_body_interrupts_the_readers(downloads, framing):
    def script(connection):
        connection.request()
        body = b"1388\r\n" + DATA[:5000] if "chunked" in framing else DATA[:5000]
        connection.send("HTTP/1.1 200 OK", framing, body=body)

    with RawServer(script) as server:
        got, _ = until_interrupted(downloads.files.open(downloads.file(base=server.url)))
    assert DATA.startswith(got)
    assert len(got) <= 5000
    assert not downloads.store.has(downloads.file())


# Unknown sizes


def test_the_size_comes_from_the_head_where_the_page_has_none(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file(size=False))
    assert opened.size == len(DATA)
    assert exactly(opened, 5000) == DATA[:5000]
    gated.open()
    assert read_all(opened) == DATA[5000:]


def test_a_file_without_any_size_is_sent_while_it_downloads(downloads):
    gated = downloads.serve(PACKED[:5000], PACKED[5000:])
    gated.open()
    opened = downloads.files.open(downloads.file(size=False, sha256=False))
    assert opened.size is None
    assert exactly(opened, 5000 - WITHHELD) == PACKED[: 5000 - WITHHELD]
    gated.open()
    assert read_all(opened) == PACKED[5000 - WITHHELD :]


def test_the_end_of_a_wrong_file_without_any_size_is_never_sent(downloads):
    gated = downloads.serve(WRONG[:5000], WRONG[5000:])
    gated.open(2)
    got, _ = until_interrupted(downloads.files.open(downloads.file(size=False)))
    assert len(got) <= len(WRONG) - WITHHELD


def test_an_interrupted_chunked_body_without_any_size_is_not_stored(downloads):
    def script(connection):
        connection.request()
        connection.send(
            "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n5\r\nwo"
        )

    with RawServer(script) as server:
        file = downloads.file(base=server.url, size=False, sha256=False)
        assert isinstance(downloads.error(file), DownloadInterrupted)
    assert not downloads.store.has(file)


# Other processes


def test_a_reader_waits_for_the_download_of_another_process(downloads):
    file = downloads.file(b"half")
    with another_process_writing(downloads.directory, file) as process:
        opening = gevent.spawn(downloads.get, file)
        gevent.idle()
        assert not opening.ready()
        process.stdin.write("commit\n")
        process.stdin.flush()
        assert opening.get() == b"half"
    assert downloads.index.seen == []


def test_a_reader_follows_another_process_and_survives_its_end(downloads):
    with another_process_writing(downloads.directory, downloads.file(), DATA[:5000]) as process:
        opened = downloads.files.open(downloads.file())
        assert exactly(opened, 5000 - WITHHELD) == DATA[: 5000 - WITHHELD]
        late = downloads.files.open(downloads.file())
        assert exactly(late, 10) == DATA[:10]
        assert downloads.index.seen == []
        process.kill()
        assert read_all(opened) == DATA[5000 - WITHHELD :]
        assert read_all(late) == DATA[10:]
    until(lambda: downloads.store.has(downloads.file()))
    assert downloads.index.count(PATH) == 1


def test_a_partial_file_of_a_killed_process_is_resumed(downloads):
    answer = downloads.index.answers[PATH] = Breaking(DATA, lengths=())
    with another_process_writing(downloads.directory, downloads.file(), DATA[:5000]) as process:
        process.kill()
    assert downloads.get(downloads.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_a_partial_file_is_still_resumed_after_an_error_of_upstream(downloads):
    with another_process_writing(downloads.directory, downloads.file(), DATA[:5000]) as process:
        process.kill()
    downloads.index.answers[PATH] = reply(b"no", "text/plain", "500 Internal Server Error")
    assert isinstance(downloads.error(downloads.file()), UpstreamRefused)
    answer = downloads.index.answers[PATH] = Breaking(DATA, lengths=())
    assert downloads.get(downloads.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_a_complete_partial_file_is_stored_without_a_request(downloads):
    with another_process_writing(downloads.directory, downloads.file(), DATA) as process:
        process.kill()
    assert downloads.get(downloads.file()) == DATA
    until(lambda: downloads.store.has(downloads.file()))
    assert downloads.index.seen == []


@pytest.mark.parametrize("left", [WRONG, DATA + b"!", DATA * 2], ids=["wrong", "long", "very long"])
def test_a_wrong_partial_file_is_fetched_again(downloads, left):
    with another_process_writing(downloads.directory, downloads.file(), left) as process:
        process.kill()
    assert downloads.get(downloads.file()) == DATA
    assert downloads.index.count(PATH) == 1


def test_a_partial_file_with_a_wrong_start_is_an_error_once(downloads):
    with another_process_writing(downloads.directory, downloads.file(), WRONG[:5000]) as process:
        process.kill()
    assert isinstance(downloads.error(downloads.file()), DownloadInterrupted)
    assert files_in(downloads.directory) == []
    assert downloads.get(downloads.file()) == DATA


def test_a_partial_file_without_a_digest_is_not_resumed(downloads):
    downloads.index.answers[PATH] = reply(PACKED, None)
    file = downloads.file(PACKED, sha256=False)
    with another_process_writing(downloads.directory, file, WRONG[:5000]) as process:
        process.kill()
    assert downloads.get(file) == PACKED


def test_a_reader_without_a_digest_is_interrupted_when_the_process_is_killed(downloads):
    downloads.index.answers[PATH] = reply(PACKED, None)
    file = downloads.file(PACKED, sha256=False)
    with another_process_writing(downloads.directory, file, PACKED[:5000]) as process:
        opened = downloads.files.open(file)
        exactly(opened, 3000)
        process.kill()
        assert PACKED[3000:5000].startswith(until_interrupted(opened)[0])
    assert downloads.get(file) == PACKED


def test_a_download_abandoned_before_the_first_byte_is_started_again(downloads):
    writer = downloads.store.partial(downloads.file())
    opening = gevent.spawn(downloads.get, downloads.file())
    until(lambda: downloads.files.downloading)
    writer.discard()
    writer.close()
    assert opening.get() == DATA
    until(lambda: downloads.store.has(downloads.file()))


def test_a_follower_learns_the_size_of_the_whole_file_from_the_writer(downloads):
    file = downloads.file(size=False)
    writer = downloads.store.partial(file)
    writer.announce(len(DATA))
    writer.write(DATA[:5000])
    opened = downloads.files.open(file)
    assert opened.size == len(DATA)
    assert exactly(opened, 5000) == DATA[:5000]
    writer.write(DATA[5000:])
    writer.commit()
    writer.close()
    assert read_all(opened) == DATA[5000:]
    assert downloads.index.seen == []


def test_a_follower_has_all_bytes_before_the_writer_has_synced_them(downloads):
    file = downloads.file(size=False)
    writer = downloads.store.partial(file)
    writer.write(DATA)
    opened = downloads.files.open(file)
    exactly(opened, 10)
    writer.mark_verified()
    assert read_all(opened) == DATA[10:]
    writer.commit()
    writer.close()


def test_a_writer_that_has_stopped_does_not_stop_its_followers(downloads, monkeypatch):
    monkeypatch.setattr(fetch, "_DEAD_AFTER", 0.2)
    with another_process_writing(downloads.directory, downloads.file(), DATA[:5000]) as process:
        os.kill(process.pid, signal.SIGSTOP)
        try:
            assert downloads.get(downloads.file()) == DATA
        finally:
            os.kill(process.pid, signal.SIGCONT)


def test_no_reader_waits_for_the_disk(downloads, monkeypatch):
    is_slow = monkey.get_original("threading", "Event")()

    def fsync(_):
        is_slow.wait()

    monkeypatch.setattr(os, "fsync", fsync)
    assert downloads.get(downloads.file()) == DATA
    assert downloads.get(downloads.file()) == DATA
    assert not downloads.store.has(downloads.file())
    is_slow.set()
    until(lambda: downloads.store.has(downloads.file()))
    assert downloads.index.count(PATH) == 1


def test_a_failed_sync_interrupts_no_reader(downloads, monkeypatch):
    def fsync(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    assert downloads.get(downloads.file()) == DATA
    until(lambda: downloads.files.downloading == 0)
    assert files_in(downloads.directory) == []


def test_bytes_that_came_before_upstream_failed_are_not_fetched_again(downloads, monkeypatch):
    monkeypatch.setattr(resume, "PAUSES", ())
    downloads.index.answers[PATH] = Breaking(DATA, lengths=(5000,))
    assert isinstance(downloads.error(downloads.file()), DownloadInterrupted)
    until(lambda: downloads.files.downloading == 0)
    answer = downloads.index.answers[PATH] = Breaking(DATA, lengths=())
    assert downloads.get(downloads.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_a_fetch_without_progress_and_readers_ends(downloads, monkeypatch):
    monkeypatch.setattr(fetch, "_ABANDON_AFTER", 0.5)
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    exactly(opened, 5000)
    opened.stream.close()
    until(lambda: downloads.files.downloading == 0)
    gated.open()
    answer = downloads.index.answers[PATH] = Breaking(DATA, lengths=())
    assert downloads.get(downloads.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_a_partial_file_that_was_replaced_is_never_committed(downloads):
    gated = downloads.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = downloads.files.open(downloads.file())
    (partial,) = (downloads.directory / "+partial").iterdir()
    partial.unlink()
    partial.write_bytes(b"half of another file")
    gated.open()
    assert read_all(opened) == DATA
    until(lambda: downloads.files.downloading == 0)
    assert partial.read_bytes() == b"half of another file"
    assert not downloads.store.has(downloads.file())
    partial.unlink()
