"""Freshness of stored files without a digest."""

import contextlib
import os

import gevent
import pytest

from pytail.cache.file_freshness import FileFreshness
from pytail.model import File, Validators, directory_of
from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from tests.cache.conftest import DATA, PATH, TTL
from tests.support.fakeindex import Gated, reply
from tests.support.storage import store_file
from tests.support.upstreams import upstream_at
from tests.support.watching import open_below, until

STORED_AT = 1_600_000_000.0
BEFORE, AFTER = "Sun, 13 Sep 2020 12:26:39 GMT", "Sun, 13 Sep 2020 12:26:41 GMT"


class Checks:
    """A `FileFreshness` with one stored file that upstream has at `PATH`."""

    def __init__(self, directory, index, clock, wait=2.0):
        self.store = Store(directory)
        self.catalog = Catalog(directory / "index.sqlite3")
        self.upstream = upstream_at(index.url)
        self.index, self.clock, self.wait = index, clock, wait
        url = index.url + PATH
        self.file = File(filename="demo-1.0.tar.gz", url=url, directory=directory_of({}, url))
        self.put(DATA)
        self.restart()

    def restart(self):
        """Forget what is only in memory."""
        files = self.upstream.files
        self.freshness = FileFreshness(self.catalog, files, self.clock, ttl=TTL, wait=self.wait)

    def put(self, data, stored_at=STORED_AT):
        """Store `data`."""
        store_file(self.store, self.file, data)
        with self.store.open(self.file) as opened:
            os.utime(opened.fileno(), (stored_at, stored_at))

    def downloaded(self, **validators):
        """Record that the stored file was downloaded with these validators."""
        self.freshness.note_download(self.file, Validators(**validators))
        self.freshness.note_end(self.file, STORED_AT, len(DATA))

    def is_current(self):
        with self.store.open(self.file) as opened:
            return self.freshness.is_current(self.file, opened)

    def upstream_has(self, data=DATA, **more):
        self.index.answers[PATH] = reply(data, None, **more)

    @property
    def requests(self):
        return self.index.count(PATH)

    def close(self):
        self.upstream.close()
        self.catalog.close()


@pytest.fixture
def checks(tmp_path, index, clock):
    with contextlib.closing(Checks(tmp_path, index, clock)) as made:
        yield made
    assert open_below(tmp_path) == []


def test_a_downloaded_file_is_fresh_for_the_ttl(checks, clock):
    checks.downloaded(etag='"1"')
    assert checks.freshness.of(checks.file, STORED_AT).fresh_for == TTL
    clock.now += TTL - 1
    assert checks.freshness.of(checks.file, STORED_AT).fresh_for == 1
    assert checks.is_current()
    assert checks.requests == 0


def test_another_file_of_the_same_key_is_not_fresh(checks):
    checks.downloaded(etag='"1"')
    assert checks.freshness.of(checks.file, STORED_AT + 1).fresh_for == 0


def test_a_clock_that_was_set_back_makes_files_stale(checks, clock):
    checks.downloaded(etag='"1"')
    clock.now -= 1
    assert checks.freshness.of(checks.file, STORED_AT).fresh_for == 0


@pytest.mark.parametrize(
    ("known", "found", "is_same"),
    [
        ({"etag": '"1"'}, {"etag": '"1"'}, True),
        ({"etag": 'W/"1"'}, {"ETag": '"1"'}, True),
        ({"etag": '"1"'}, {"ETag": '"2"'}, False),
        ({"etag": '"1"', "last_modified": BEFORE}, {"ETag": '"2"', "Last_Modified": BEFORE}, False),
        ({"last_modified": BEFORE}, {"Last_Modified": BEFORE}, True),
        ({"last_modified": BEFORE}, {"Last_Modified": AFTER}, False),
        ({"last_modified": BEFORE}, {"Last_Modified": BEFORE, "data": DATA + b"!"}, False),
        ({}, {}, True),
        ({}, {"data": DATA + b"!"}, False),
        ({"etag": '"1"'}, {}, True),
    ],
)
@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_stale_file_is_compared_with_upstream(checks, clock, known, found, is_same, is_restarted):
    checks.downloaded(**known)
    checks.upstream_has(**found)
    if is_restarted:
        checks.restart()
    clock.now += TTL
    for _ in range(3):
        assert checks.is_current() == is_same
    assert checks.requests == 1


@pytest.mark.parametrize(
    ("found", "is_current"),
    [
        ({"Last_Modified": BEFORE}, True),
        ({"Last_Modified": BEFORE, "etag": '"1"'}, True),
        ({"Last_Modified": BEFORE, "data": DATA + b"!"}, False),
        ({"Last_Modified": AFTER}, False),
        ({"etag": '"1"'}, False),
        ({}, True),
        ({"data": DATA + b"!"}, False),
    ],
)
def test_a_file_without_a_check_is_compared_by_size_and_time(checks, found, is_current):
    checks.upstream_has(**found)
    assert checks.is_current() == is_current
    assert checks.is_current() == is_current
    assert checks.requests == 1


def test_the_validators_are_sent_and_kept(checks, clock):
    checks.downloaded(etag='"1"', last_modified=BEFORE)
    checks.upstream_has(etag='"1"')
    for _ in range(2):
        clock.now += TTL
        checks.restart()
        assert checks.is_current()
        headers = checks.index.seen[-1].headers
        assert headers["IF_NONE_MATCH"] == '"1"'
        assert headers["IF_MODIFIED_SINCE"] == BEFORE


def test_clients_share_one_request(checks, clock):
    checks.downloaded()
    clock.now += TTL
    gated = checks.index.answers[PATH] = Gated(DATA, size=len(DATA))
    clients = [gevent.spawn(checks.is_current) for _ in range(9)]
    gated.asked.wait()
    gated.open()
    gevent.joinall(clients, raise_error=True)
    assert checks.requests == 1


def test_a_client_gets_the_stored_file_where_upstream_is_slow(tmp_path, index, clock):
    with contextlib.closing(Checks(tmp_path, index, clock, wait=0.05)) as checks:
        checks.downloaded(etag='"1"')
        clock.now += TTL
        gated = index.answers[PATH] = Gated(DATA, size=len(DATA), ETag='"2"')
        assert checks.is_current()
        gated.open()
        until(lambda: not checks.is_current())


def test_upstream_in_trouble_is_asked_again_after_ten_seconds(checks, clock):
    checks.downloaded()
    clock.now += TTL
    checks.index.answers[PATH] = reply(b"no", None, "500 Oops")
    for requests in (1, 2):
        for _ in range(3):
            assert checks.is_current()
        assert checks.requests == requests
        clock.now += 10
    checks.upstream_has(DATA + b"!")
    assert not checks.is_current()


@pytest.mark.parametrize("data", [b"<html>", b'{"error": 1}', b""])
def test_a_response_that_is_no_distribution_is_trouble(checks, clock, data):
    checks.downloaded(etag='"1"')
    clock.now += TTL
    checks.upstream_has(data, etag='"2"')
    assert checks.is_current()


def test_a_failed_download_leaves_no_validators(checks):
    checks.freshness.note_download(checks.file, Validators(etag='"2"'))
    checks.freshness.note_end(checks.file, None, 0)
    checks.freshness.note_end(checks.file, STORED_AT, len(DATA))
    assert checks.freshness.last_check(checks.file.key) is None


def test_the_last_check_of_all_processes_counts(checks, clock):
    other = FileFreshness(checks.catalog, checks.upstream.files, clock, ttl=TTL, wait=2.0)
    checks.downloaded(etag='"1"')
    clock.now += TTL
    checks.upstream_has(etag='"1"')
    with checks.store.open(checks.file) as opened:
        assert other.is_current(checks.file, opened)
    assert checks.is_current()
    assert checks.requests == 1


def test_a_file_with_a_digest_is_never_checked(checks):
    for hashes in ({"sha256": "0" * 64}, {"md5": "0" * 32}):
        directory = directory_of(hashes, "")
        file = File(
            filename="demo-1.0.tar.gz", url=checks.file.url, directory=directory, hashes=hashes
        )
        store_file(checks.store, file)
        with checks.store.open(file) as opened:
            assert checks.freshness.is_current(file, opened)
    assert checks.requests == 0
