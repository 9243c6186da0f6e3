"""Files on their way in: one fetch, many readers at its tail."""

import gzip
import hashlib
import os

import gevent
import pytest

from pytail.cache import files
from pytail.cache.files import FileRange, Files
from pytail.cache.passthrough import WITHHELD
from pytail.errors import (
    DigestMismatch,
    DownloadInterrupted,
    FileGone,
    NotStored,
    PytailError,
    UpstreamRefused,
    UpstreamUnreachable,
)
from pytail.model import File, Outcome, directory_of
from pytail.storage.catalog import Catalog
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.upstream import resume
from tests.support.sending import Breaking
from tests.support.fakeindex import Gated, RawServer, reply
from tests.support.running import free_port
from tests.support.upstreams import upstream_at
from tests.support.watching import open_below, until

DATA = bytes(range(256)) * 40
PATH = "/packages/demo-1.0.tar.gz"


class Room:
    """A `Files` over a real store and a real upstream."""

    def __init__(self, directory, index):
        self.directory, self.index = directory, index
        self.store = Store(directory)
        self.upstream = upstream_at(index.url)
        self.catalog = Catalog(directory.with_name("index.sqlite3"))
        bounds = Quota(directory, self.store, self.catalog, limit=0, min_free=0)
        self.downloads = Files(self.catalog, self.store, self.upstream.files, None, bounds)

    def file(self, data=DATA, path=PATH, *, base=None, size=True, sha256=True):
        """The file with `data` as a page lists it, with its size and digest unless not."""
        url = (base or self.index.url) + path
        hashes = {"sha256": hashlib.sha256(data).hexdigest()} if sha256 else {}
        return File(
            filename=path.rpartition("/")[2],
            url=url,
            directory=directory_of(hashes, url),
            hashes=hashes,
            size=len(data) if size else None,
        )

    def serve(self, *pieces, path=PATH, **more):
        """Let upstream give `pieces` under `path`, one for each gate opened."""
        gated = self.index.answers[path] = Gated(*pieces, **more)
        return gated

    def get(self, file):
        return rest(self.downloads.open(file))

    def error(self, file):
        """What getting `file` fails with."""
        with pytest.raises(PytailError) as caught:
            self.get(file)
        return caught.value


@pytest.fixture
def room(tmp_path, index):
    made = Room(tmp_path / "cache", index)
    made.index.answers[PATH] = reply(DATA, None)
    yield made
    made.upstream.close()
    made.catalog.close()
    assert made.downloads._arrivals == {}
    assert len(made.downloads._starts) == 0
    assert open_below(made.directory) == []
    assert list((made.directory / "+partial").iterdir()) == []


def rest(opened):
    """All bytes from where `opened` stands; it is closed."""
    try:
        return b"".join(iter(lambda: opened.stream.read(100_000), b""))
    finally:
        opened.stream.close()


def cut(opened):
    """What `opened` gives before it is cut, and the error; it is closed."""
    data = b""
    try:
        while piece := opened.stream.read(1000):
            data += piece
    except DownloadInterrupted as error:
        return data, error
    finally:
        opened.stream.close()
    raise AssertionError("came to its end")


def exactly(opened, size):
    """The next `size` bytes of `opened`, as soon as they are there."""
    data = b""
    while len(data) < size:
        piece = opened.stream.read(size - len(data))
        assert piece
        data += piece
    return data


# One fetch


def test_a_cold_file_comes_from_upstream_and_is_held(room):
    assert room.get(room.file()) == DATA
    assert room.store.has(room.file())


def test_a_held_file_costs_upstream_nothing(room):
    room.get(room.file())
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 1


def test_a_file_lost_from_the_store_is_fetched_again(room):
    room.get(room.file())
    (held,) = files_in(room.directory)
    held.unlink()
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 2


def test_fifty_readers_of_a_cold_file_cost_one_request_and_all_get_it(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    readers = [gevent.spawn(room.get, room.file()) for _ in range(50)]
    gated.asked.wait()
    gated.open(2)
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert room.index.count(PATH) == 1


def test_fifty_readers_of_a_file_of_unknown_size_cost_one_request_too(room):
    gated = room.serve(DATA[:5000], DATA[5000:])
    file = room.file(size=False)
    readers = [gevent.spawn(room.get, file) for _ in range(25)]
    gated.open()
    until(lambda: room.downloads._arrivals)
    readers += [gevent.spawn(room.get, file) for _ in range(25)]
    gevent.idle()
    gated.open()
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert room.index.count(PATH) == 1


def test_bytes_reach_the_reader_before_upstream_has_sent_the_rest(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    assert opened.size == len(DATA)
    assert exactly(opened, 5000) == DATA[:5000]
    gated.open()
    assert rest(opened) == DATA[5000:]


def test_one_who_comes_late_gets_it_from_the_start(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    early = room.downloads.open(room.file())
    exactly(early, 5000)
    late = room.downloads.open(room.file())
    assert exactly(late, 4000) == DATA[:4000]
    gated.open()
    assert rest(late) == DATA[4000:]
    assert rest(early) == DATA[5000:]
    assert room.index.count(PATH) == 1


def test_the_end_is_held_back_until_the_whole_is_verified(room):
    gated = room.serve(DATA[:-1], DATA[-1:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    assert exactly(opened, len(DATA) - WITHHELD) == DATA[:-WITHHELD]
    more = gevent.spawn(opened.stream.read, WITHHELD)
    gevent.idle()
    assert not more.ready()
    gated.open()
    assert more.get() + rest(opened) == DATA[-WITHHELD:]


def test_two_files_arrive_side_by_side(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    slow = gevent.spawn(room.get, room.file())
    gated.asked.wait()
    room.index.answers["/packages/quick-1.0.tar.gz"] = reply(b"quick", None)
    assert room.get(room.file(b"quick", "/packages/quick-1.0.tar.gz")) == b"quick"
    gated.open(2)
    assert slow.get() == DATA


def test_a_large_file_comes_through_unharmed(room):
    data = os.urandom(1 << 20) * 3
    room.index.answers[PATH] = reply(data, None)
    readers = [gevent.spawn(room.get, room.file(data)) for _ in range(4)]
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {data}


# Files that someone else put there


def planted(room, file, data):
    path = room.directory / "+files/root/pypi/+f" / file.key
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def unlisted():
    """The file as its URL means it where no page lists it."""
    digest = hashlib.sha256(DATA).hexdigest()
    return File(filename="demo-1.0.tar.gz", url="", directory=f"{digest[:3]}/{digest[3:16]}")


def test_a_right_file_that_was_there_is_verified_once_and_used(room, caplog):
    caplog.set_level("INFO")
    planted(room, room.file(), DATA)
    readers = [gevent.spawn(room.get, room.file()) for _ in range(5)]
    gevent.joinall(readers, raise_error=True)
    assert {reader.value for reader in readers} == {DATA}
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 0
    assert caplog.text.count("was there already and is right") == 1


@pytest.mark.parametrize("file", ["listed", "unlisted"])
def test_a_wrong_file_that_was_there_is_removed(room, file):
    path = planted(room, room.file(), DATA[::-1])
    if file == "listed":
        assert room.get(room.file()) == DATA
        assert room.index.count(PATH) == 1
    else:
        with pytest.raises(FileGone):
            room.get(unlisted())
        assert not path.exists()


def test_a_file_that_was_there_and_no_page_lists_is_used_when_it_is_of_its_shelf(room):
    planted(room, room.file(), DATA)
    assert room.get(unlisted()) == DATA


def test_where_no_mode_can_be_changed_one_verification_is_enough_too(room, monkeypatch, caplog):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr("os.fchmod", refuse)
    caplog.set_level("INFO")
    planted(room, room.file(), DATA)
    assert [room.get(room.file()) for _ in range(3)] == [DATA] * 3
    assert caplog.text.count("was there already and is right") == 1


def test_what_is_fetched_needs_no_verification_afterwards(room, caplog):
    caplog.set_level("INFO")
    assert [room.get(room.file()) for _ in range(2)] == [DATA] * 2
    assert "was there already" not in caplog.text


# Readers


def test_a_reader_may_begin_anywhere(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    assert opened.stream.seek(3000) == 3000
    assert exactly(opened, 100) == DATA[3000:3100]
    opened.stream.seek(len(DATA) - 10)
    gated.open()
    assert rest(opened) == DATA[-10:]


def test_reading_no_byte_waits_for_none(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    assert opened.stream.read(0) == b""
    exactly(opened, 5000)
    assert opened.stream.read(0) == b""
    gated.open()
    rest(opened)


def test_what_has_come_can_be_read_from_the_partial_file_itself(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened, data = room.downloads.open(room.file()), b""
    while (span := opened.stream.sendable(3000)) is not None:
        descriptor, offset, length = span
        assert offset == len(data)
        data += os.pread(descriptor, length, offset)
        opened.stream.advance(length)
        if len(data) == 5000:
            gated.open()
    opened.stream.close()
    assert data == DATA


def test_a_wrong_end_is_not_to_be_read_from_the_partial_file(room):
    room.index.answers[PATH] = reply(DATA[:-1] + b"?", None)
    opened = room.downloads.open(room.file())
    until(lambda: not room.downloads.downloading)
    assert opened.stream.sendable(len(DATA))[1:] == (0, len(DATA) - WITHHELD)
    opened.stream.advance(len(DATA) - WITHHELD)
    with pytest.raises(DownloadInterrupted):
        opened.stream.sendable(len(DATA))
    opened.stream.close()


def test_a_closed_reader_cannot_be_read(room):
    gated = room.serve(DATA, size=len(DATA))
    opened = gevent.spawn(room.downloads.open, room.file())
    gated.open()
    opened.join()
    opened.value.stream.close()
    opened.value.stream.close()
    with pytest.raises(ValueError, match="closed"):
        opened.value.stream.read(1)
    assert room.get(room.file()) == DATA


def test_the_fetch_goes_on_when_its_only_reader_closes(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    exactly(opened, 10)
    opened.stream.close()
    gated.open()
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 1


def test_the_fetch_goes_on_when_the_one_who_asked_is_gone(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    first = gevent.spawn(room.downloads.open, room.file())
    gated.asked.wait()
    first.kill()
    gated.open(2)
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 1


def test_an_open_file_is_whole_though_it_is_deleted(room):
    room.get(room.file())
    opened = room.downloads.open(room.file())
    (held,) = files_in(room.directory)
    held.unlink()
    assert rest(opened) == DATA


# A file that is not what it should be

WRONG = b"!" + DATA[1:]


@pytest.mark.parametrize(
    "sent",
    [WRONG, DATA[:-1] + b"!", DATA[:-1], DATA + b"!", b"", DATA * 3],
    ids=["first byte", "last byte", "short", "long", "empty", "very long"],
)
@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_wrong_file_is_an_error_for_all_and_is_not_held(room, sent, is_chunked):
    gated = room.serve(sent, size=None if is_chunked else len(sent))
    readers = [gevent.spawn(room.error, room.file()) for _ in range(5)]
    gated.asked.wait()
    gated.open()
    gevent.joinall(readers, raise_error=True)
    assert {type(reader.value) for reader in readers} <= {DownloadInterrupted, DigestMismatch}
    assert room.index.count(PATH) == 1
    assert files_in(room.directory) == []


def test_the_end_of_a_wrong_file_is_never_let_out(room):
    gated = room.serve(WRONG[:-1], WRONG[-1:], size=len(WRONG))
    gated.open(2)
    got, error = cut(room.downloads.open(room.file()))
    assert "sha256" in str(error)
    assert len(got) <= len(DATA) - WITHHELD


def test_after_a_wrong_file_upstream_is_asked_again_at_once(room):
    room.index.answers[PATH] = reply(WRONG, None)
    assert isinstance(room.error(room.file()), DownloadInterrupted)
    room.index.answers[PATH] = reply(DATA, None)
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 2


@pytest.mark.parametrize("name", ["sha256", "sha512", "blake2b", "md5", "sha1"])
def test_any_digest_is_verified(room, name):
    wrong = File(
        filename="demo-1.0.tar.gz",
        url=room.index.url + PATH,
        directory="_url/" + "0" * 64,
        hashes={name: hashlib.new(name, b"another", usedforsecurity=False).hexdigest()},
        size=len(DATA),
    )
    assert name in str(room.error(wrong))
    assert not room.store.has(wrong)


@pytest.mark.parametrize("size", [9, len(DATA) + 1])
def test_a_length_other_than_the_pages_is_an_error_before_any_byte(room, size):
    room.index.answers[PATH] = reply(b"x" * size, None)
    with pytest.raises(DigestMismatch, match=f"bytes {size}, not {len(DATA)}"):
        room.downloads.open(room.file())


def test_a_file_without_a_digest_is_held_when_its_size_is_right(room):
    assert room.get(room.file(sha256=False)) == DATA
    assert room.store.has(room.file(sha256=False))


@pytest.mark.parametrize("path", [PATH, f"{PATH}.metadata"])
@pytest.mark.parametrize("is_chunked", [False, True])
def test_nothing_is_no_file_where_the_page_does_not_say_so(room, path, is_chunked):
    gated = room.serve(b"", path=path, size=None if is_chunked else 0)
    gated.open()
    assert isinstance(
        room.error(room.file(b"", path, size=False, sha256=False)), DownloadInterrupted
    )
    assert room.index.count(path) == 1


def test_nothing_is_a_file_where_the_page_says_so(room):
    room.index.answers[PATH] = reply(b"", None)
    assert room.get(room.file(b"")) == b""
    assert room.get(room.file(b"")) == b""
    assert room.index.count(PATH) == 1


# Unknown sizes


def test_a_file_of_unknown_size_has_that_of_upstreams_head(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file(size=False))
    assert opened.size == len(DATA)
    assert exactly(opened, 5000) == DATA[:5000]
    gated.open()
    assert rest(opened) == DATA[5000:]


def test_a_file_whose_size_nobody_tells_has_one_all_the_same(room):
    gated = room.serve(DATA[:5000], DATA[5000:])
    gated.open(2)
    opened = room.downloads.open(room.file(size=False, sha256=False))
    assert opened.size == len(DATA)
    assert rest(opened) == DATA


def test_a_wrong_file_whose_size_nobody_tells_is_an_error_before_any_byte(room):
    gated = room.serve(WRONG[:5000], WRONG[5000:])
    gated.open(2)
    with pytest.raises(DigestMismatch):
        room.downloads.open(room.file(size=False))


# Files beside others


def test_core_metadata_is_held_like_any_file(room):
    path = f"{PATH}.metadata"
    room.index.answers[path] = reply(b"Name: demo\n", None)
    file = room.file(b"Name: demo\n", path, size=False)
    assert room.get(file) == b"Name: demo\n"
    assert room.get(file) == b"Name: demo\n"
    assert room.index.count(path) == 1


def test_wrong_core_metadata_is_an_error_before_any_byte_for_all(room):
    path = f"{PATH}.metadata"
    gated = room.serve(b"Name: ", b"other\n", path=path, size=12)
    file = room.file(b"Name: demo\n", path, size=False)
    openers = [gevent.spawn(room.downloads.open, file)]
    gated.open()
    until(lambda: room.downloads._arrivals)
    openers += [gevent.spawn(room.downloads.open, file) for _ in range(3)]
    gevent.idle()
    gated.open()
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {DigestMismatch}
    assert room.index.count(path) == 1
    assert not room.store.has(file)


# An upstream in trouble


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
def test_a_refusal_is_an_error_before_any_byte_shared_by_all(room, status, kind):
    room.index.answers[PATH] = reply(b"no", "text/plain", status)
    openers = [gevent.spawn(room.downloads.open, room.file()) for _ in range(10)]
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {kind}
    assert room.index.count(PATH) == 1


def test_an_upstream_that_is_not_there_is_an_error_before_any_byte(room):
    file = room.file(base=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UpstreamUnreachable):
        room.downloads.open(file)


def test_nobody_waits_long_for_the_first_word_and_it_is_heard_all_the_same(room, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    gated = room.serve(DATA, size=len(DATA))
    openers = [gevent.spawn(room.downloads.open, room.file()) for _ in range(3)]
    gevent.joinall(openers)
    assert {type(opener.exception) for opener in openers} == {UpstreamUnreachable}
    gated.open()
    until(lambda: room.store.has(room.file()))
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 1


def test_after_an_error_upstream_is_asked_again(room):
    room.index.answers[PATH] = reply(b"no", "text/plain", "500 Internal Server Error")
    assert isinstance(room.error(room.file()), UpstreamRefused)
    room.index.answers[PATH] = reply(DATA, None)
    assert room.get(room.file()) == DATA


@pytest.mark.parametrize("framing", ["Content-Length: 10240", "Transfer-Encoding: chunked"])
def test_a_transfer_that_breaks_off_is_cut_for_its_readers_too(room, framing):
    def script(connection):
        connection.request()
        body = b"1388\r\n" + DATA[:5000] if "chunked" in framing else DATA[:5000]
        connection.send("HTTP/1.1 200 OK", framing, body=body)

    with RawServer(script) as server:
        got, _ = cut(room.downloads.open(room.file(base=server.url)))
    assert DATA.startswith(got)
    assert len(got) <= 5000
    assert not room.store.has(room.file())


def test_a_chunked_file_that_breaks_off_is_not_held_though_nothing_tells_its_size(room):
    def script(connection):
        connection.request()
        connection.send(
            "HTTP/1.1 200 OK", "Transfer-Encoding: chunked", body=b"5\r\nhello\r\n5\r\nwo"
        )

    with RawServer(script) as server:
        file = room.file(base=server.url, size=False, sha256=False)
        with pytest.raises(UpstreamUnreachable):
            room.downloads.open(file)
    assert not room.store.has(file)


def full(*_):
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("read_before", [0, 3000, 5000])
def test_a_disk_that_takes_no_more_lets_each_reader_go_on_alone(room, monkeypatch, read_before):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    readers = [room.downloads.open(room.file()) for _ in range(3)]
    for reader in readers:
        assert exactly(reader, read_before) == DATA[:read_before]
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        room.index.answers[PATH] = reply(DATA, None)
        gated.open()
        assert [rest(reader) for reader in readers] == [DATA[read_before:]] * 3
    assert files_in(room.directory) == []
    assert room.get(room.file()) == DATA
    assert room.store.has(room.file())


def test_a_disk_that_takes_nothing_passes_a_file_of_unknown_size_on(room, monkeypatch):
    gated = room.serve(DATA)
    opening = gevent.spawn(room.get, room.file(size=False))
    gated.asked.wait()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        room.index.answers[PATH] = reply(DATA, None)
        gated.open()
        assert opening.get() == DATA
    assert files_in(room.directory) == []


def test_a_wrong_file_that_is_passed_on_is_cut_before_its_end(room, monkeypatch):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file())
    exactly(opened, 5000)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        room.index.answers[PATH] = reply(DATA[:-1] + b"!", None)
        gated.open()
        got, error = cut(opened)
    assert "sha256" in str(error)
    assert len(got) + 5000 <= len(DATA) - WITHHELD


def test_trouble_with_the_disk_is_one_line_until_it_is_over(room, monkeypatch, caplog):
    caplog.set_level("INFO")
    other = room.file(WRONG, "/packages/other-1.0.tar.gz")
    room.index.answers["/packages/other-1.0.tar.gz"] = reply(WRONG, None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for _ in range(3):
            assert room.get(room.file()) == DATA
            assert room.get(other) == WRONG
    assert caplog.text.count("cannot store files, serving them without caching") == 1
    assert room.get(other) == WRONG
    assert caplog.text.count("files are stored again") == 1


# Byte for byte


def test_a_content_coding_nobody_asked_for_is_kept_byte_for_byte(room):
    data = gzip.compress(b"a source distribution", mtime=0)
    room.index.answers[PATH] = reply(data, "application/x-gzip", Content_Encoding="gzip")
    assert room.get(room.file(data)) == data


def test_files_are_asked_for_as_they_are(room):
    room.get(room.file())
    assert room.index.seen[-1].headers["ACCEPT_ENCODING"] == "identity"


# Sizes


def test_the_size_of_a_listed_file_costs_nothing(room):
    assert room.downloads.size(room.file()) == len(DATA)
    assert room.index.seen == []


def test_the_size_of_a_held_file_is_known(room):
    room.get(room.file(size=False))
    assert room.downloads.size(room.file(size=False)) == len(DATA)
    assert len(room.index.seen) == 1


def test_the_size_of_an_arriving_file_is_known(room):
    gated = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    gated.open()
    opened = room.downloads.open(room.file(size=False))
    assert room.downloads.size(room.file(size=False)) == len(DATA)
    assert len(room.index.seen) == 1
    gated.open()
    rest(opened)


def test_the_size_of_another_file_is_upstreams_word_without_its_body(room):
    assert room.downloads.size(room.file(size=False)) == len(DATA)
    assert [seen.method for seen in room.index.seen] == ["HEAD"]
    assert files_in(room.directory) == []


def test_the_size_of_core_metadata_is_that_of_the_right_one(room):
    path = f"{PATH}.metadata"
    room.index.answers[path] = reply(b"Name: demo\n", None)
    assert room.downloads.size(room.file(b"Name: demo\n", path, size=False)) == 11
    with pytest.raises(DigestMismatch):
        room.downloads.size(room.file(b"another", path, size=False))


def test_a_file_that_is_gone_has_no_size(room):
    del room.index.answers[PATH]
    with pytest.raises(FileGone):
        room.downloads.size(room.file(size=False))


# Another process


def test_a_file_that_another_process_is_writing_is_waited_for(room):
    file = room.file(b"half")
    with another_process_writing(room.directory, file) as process:
        opening = gevent.spawn(room.get, file)
        gevent.idle()
        assert not opening.ready()
        process.stdin.write("commit\n")
        process.stdin.flush()
        assert opening.get() == b"half"
    assert room.index.seen == []


def test_a_file_that_another_process_is_writing_is_read_while_it_grows(room):
    with another_process_writing(room.directory, room.file(), DATA[:5000]) as process:
        opened = room.downloads.open(room.file())
        assert opened.size == len(DATA)
        assert exactly(opened, 5000) == DATA[:5000]
        late = room.downloads.open(room.file())
        assert exactly(late, 10) == DATA[:10]
        assert room.index.seen == []
        process.kill()
        assert rest(opened) == DATA[5000:]
        assert rest(late) == DATA[10:]
    assert room.store.has(room.file())
    assert room.index.count(PATH) == 1


def test_what_a_process_that_died_left_is_not_asked_for_again(room):
    answer = room.index.answers[PATH] = Breaking(DATA, lengths=())
    with another_process_writing(room.directory, room.file(), DATA[:5000]) as process:
        process.kill()
    assert room.get(room.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_what_a_process_that_died_left_outlasts_an_upstream_in_trouble(room):
    with another_process_writing(room.directory, room.file(), DATA[:5000]) as process:
        process.kill()
    room.index.answers[PATH] = reply(b"no", "text/plain", "500 Internal Server Error")
    assert isinstance(room.error(room.file()), UpstreamRefused)
    answer = room.index.answers[PATH] = Breaking(DATA, lengths=())
    assert room.get(room.file()) == DATA
    assert answer.asked == ["bytes=5000-"]


def test_a_whole_file_that_a_process_left_that_died_is_verified_and_held(room):
    with another_process_writing(room.directory, room.file(), DATA) as process:
        process.kill()
    assert room.get(room.file()) == DATA
    assert room.store.has(room.file())
    assert room.index.seen == []


@pytest.mark.parametrize("left", [WRONG, DATA + b"!", DATA * 2], ids=["wrong", "long", "very long"])
def test_what_is_wrong_of_a_process_that_died_is_fetched_anew(room, left):
    with another_process_writing(room.directory, room.file(), left) as process:
        process.kill()
    assert room.get(room.file()) == DATA
    assert room.index.count(PATH) == 1


def test_a_wrong_start_that_a_process_left_that_died_is_an_error_once(room):
    with another_process_writing(room.directory, room.file(), WRONG[:5000]) as process:
        process.kill()
    assert isinstance(room.error(room.file()), DownloadInterrupted)
    assert files_in(room.directory) == []
    assert room.get(room.file()) == DATA


def test_what_is_left_of_a_file_without_digest_is_not_gone_on_with(room):
    file = room.file(sha256=False)
    with another_process_writing(room.directory, file, WRONG[:5000]) as process:
        process.kill()
    assert room.get(file) == DATA


def test_the_reader_of_a_file_without_digest_whose_process_died_is_cut(room):
    file = room.file(sha256=False)
    with another_process_writing(room.directory, file, DATA[:5000]) as process:
        opened = room.downloads.open(file)
        exactly(opened, 3000)
        process.kill()
        assert cut(opened)[0] in (b"", DATA[3000:5000])
    assert room.get(file) == DATA


def test_a_file_that_another_process_gives_up_is_gone_on_with_alone(room):
    writer = room.store.partial(room.file())
    writer.write(DATA[:5000])
    opened = room.downloads.open(room.file())
    exactly(opened, 3000)
    writer.discard()
    writer.close()
    assert rest(opened) == DATA[3000:]
    assert room.index.count(PATH) == 1


def test_a_file_that_another_process_gives_up_before_its_first_byte_is_fetched(room):
    writer = room.store.partial(room.file())
    opening = gevent.spawn(room.get, room.file())
    until(lambda: room.downloads.downloading)
    writer.discard()
    writer.close()
    assert opening.get() == DATA
    assert room.store.has(room.file())


def test_the_size_of_what_another_process_fetches_is_upstreams_word(room):
    file = room.file(size=False)
    writer = room.store.partial(file)
    writer.write(DATA[:5000])
    opened = room.downloads.open(file)
    assert opened.size == len(DATA)
    assert exactly(opened, 4000) == DATA[:4000]
    writer.write(DATA[5000:])
    writer.commit()
    writer.close()
    assert rest(opened) == DATA[4000:]
    assert [seen.method for seen in room.index.seen] == ["HEAD"]


# Parts

LARGE = os.urandom(1 << 20) * 3


def part(start, stop):
    return FileRange(start, stop, len(LARGE))


def stretch(opened, part):
    try:
        data = b""
        while len(data) < part.stop - part.start:
            piece = opened.stream.read(part.stop - part.start - len(data))
            assert piece
            data += piece
        return data
    finally:
        opened.stream.close()


def test_a_far_part_is_asked_for_apart_and_nothing_else(room):
    answer = room.index.answers[PATH] = Breaking(LARGE, lengths=())
    wanted = part(2_000_000, 2_000_100)
    opened = room.downloads.open(room.file(LARGE), wanted)
    assert (opened.size, opened.outcome) == (len(LARGE), Outcome.PASS)
    assert stretch(opened, wanted) == LARGE[2_000_000:2_000_100]
    assert answer.asked == ["bytes=2000000-2000099"]
    assert files_in(room.directory) == []


def test_a_far_part_that_breaks_off_is_taken_up_again(room, monkeypatch):
    monkeypatch.setattr(resume, "PAUSES", (0.01,))
    answer = room.index.answers[PATH] = Breaking(LARGE, lengths=(2_000_040,))
    wanted = part(2_000_000, 2_000_100)
    assert (
        stretch(room.downloads.open(room.file(LARGE), wanted), wanted) == LARGE[2_000_000:2_000_100]
    )
    assert answer.asked == ["bytes=2000000-2000099", "bytes=2000040-2000099"]


def test_a_far_part_of_an_arriving_file_is_asked_for_apart(room):
    gated = room.serve(LARGE[:5000], LARGE[5000:], size=len(LARGE))
    gated.open()
    whole = room.downloads.open(room.file(LARGE))
    room.index.answers[PATH] = Breaking(LARGE, lengths=())
    wanted = part(2_900_000, 3_000_000)
    assert (
        stretch(room.downloads.open(room.file(LARGE), wanted), wanted) == LARGE[2_900_000:3_000_000]
    )
    gated.open()
    assert rest(whole) == LARGE


def test_a_near_part_comes_with_the_file(room):
    gated = room.serve(LARGE[:1_000_000], LARGE[1_000_000:], size=len(LARGE))
    gated.open()
    wanted = part(500_000, 600_000)
    assert stretch(room.downloads.open(room.file(LARGE), wanted), wanted) == LARGE[500_000:600_000]
    gated.open()
    assert room.get(room.file(LARGE)) == LARGE
    assert room.index.count(PATH) == 1


def test_a_far_part_comes_with_the_file_where_upstream_sends_only_the_whole(room):
    room.index.answers[PATH] = reply(LARGE, None)
    wanted = part(2_900_000, 3_000_000)
    assert (
        stretch(room.downloads.open(room.file(LARGE), wanted), wanted) == LARGE[2_900_000:3_000_000]
    )
    until(lambda: room.store.has(room.file(LARGE)))


def test_a_far_part_of_what_is_gone_is_gone(room):
    del room.index.answers[PATH]
    with pytest.raises(FileGone):
        room.downloads.open(room.file(LARGE), part(2_000_000, 2_000_100))


def test_a_part_is_passed_on_apart_where_nothing_can_be_kept(room, monkeypatch):
    answer = room.index.answers[PATH] = Breaking(LARGE, LARGE, lengths=())
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        wanted = part(10, 500_000)
        opened = room.downloads.open(room.file(LARGE), wanted)
        assert stretch(opened, wanted) == LARGE[10:500_000]
    assert answer.asked[0] is None


# To be held, with nobody who reads


def test_a_file_is_held_once_it_is_whole_and_right(room):
    upstream, came = room.serve(DATA[:5000], DATA[5000:], size=len(DATA)), []
    holding = gevent.spawn(room.downloads.fetch, room.file(), came.append)
    upstream.open()
    until(lambda: sum(came) == 5000)
    assert not holding.ready()
    upstream.open()
    holding.get()
    assert sum(came) == len(DATA)
    assert room.store.has(room.file())
    room.downloads.fetch(room.file(), came.append)
    assert (sum(came), room.index.count(PATH)) == (len(DATA), 1)


def test_who_holds_and_who_reads_share_one_fetch(room):
    upstream = room.serve(DATA[:5000], DATA[5000:], size=len(DATA))
    reading = gevent.spawn(room.get, room.file())
    holding = [gevent.spawn(room.downloads.fetch, room.file(), id) for _ in range(2)]
    upstream.open(2)
    gevent.joinall(holding, raise_error=True)
    assert reading.get() == DATA
    assert room.index.count(PATH) == 1


def test_a_slow_first_word_is_waited_for_by_who_holds(room, monkeypatch):
    monkeypatch.setattr(files, "PATIENCE", 0.01)
    upstream = room.serve(DATA, size=len(DATA))
    holding = gevent.spawn(room.downloads.fetch, room.file(), id)
    assert room.error(room.file()).reason.endswith("still waited for")
    upstream.open()
    holding.get()


def test_what_cannot_be_held_is_an_error_and_not_passed_on(room):
    bounds = Quota(room.directory, room.store, room.catalog, limit=1000, min_free=0)
    ours = Files(room.catalog, room.store, room.upstream.files, None, bounds)
    with pytest.raises(NotStored):
        ours.fetch(room.file(), id)
    assert room.index.seen == []


@pytest.mark.parametrize("wrong", [WRONG, DATA[:-1]], ids=["wrong", "short"])
def test_a_wrong_file_is_an_error_for_who_holds(room, wrong):
    room.index.answers[PATH] = reply(wrong, None)
    with pytest.raises(PytailError, match=r"demo-1\.0\.tar\.gz"):
        room.downloads.fetch(room.file(), id)
    assert not room.store.has(room.file())


def test_what_another_process_is_writing_is_waited_for_by_who_holds(room):
    file, came = room.file(b"half"), []
    with another_process_writing(room.directory, file) as process:
        holding = gevent.spawn(room.downloads.fetch, file, came.append)
        until(lambda: sum(came) == 4)
        assert not holding.ready()
        process.stdin.write("commit\n")
        process.stdin.flush()
        holding.get()
    assert room.index.seen == []


def test_what_a_process_that_dies_leaves_is_brought_to_its_end_by_who_holds(room):
    with another_process_writing(room.directory, room.file(), DATA[:5000]) as process:
        came = []
        holding = gevent.spawn(room.downloads.fetch, room.file(), came.append)
        until(lambda: sum(came) == 5000)
        process.kill()
        holding.get()
    assert sum(came) == len(DATA)
    assert room.store.has(room.file())
