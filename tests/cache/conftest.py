"""Pages and files over a real catalog, store and upstream."""

import contextlib
import hashlib
import sqlite3

import pytest

from pytail.cache.cache import policy_of
from pytail.cache.core_metadata import CoreMetadata
from pytail.cache.file_freshness import FileFreshness
from pytail.cache.files import Files
from pytail.cache.filters import PromisedCoreMetadata, StoredFilesOnly
from pytail.cache.freshness import PAGE_WAIT
from pytail.cache.index import Index
from pytail.cache.lookup import FileLookup
from pytail.cache.revalidate import Revalidator
from pytail.config.settings import Settings
from pytail.errors import DownloadInterrupted, PytailError
from pytail.model import File, directory_of
from pytail.storage.catalog import Catalog
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from tests.support.fakeindex import Gated, reply
from tests.support.upstreams import upstream_at
from tests.support.watching import open_below, until

TTL = 900.0
DAY = 24 * 3600.0
PAGE = "/simple/demo/"
PATH = "/packages/demo-1.0.tar.gz"
DATA = bytes(range(256)) * 40
WRONG = b"!" + DATA[1:]
#: What may be a gzip file, for files without a digest.
PACKED = b"\x1f\x8b\x08" + DATA[3:]


class PageCache:
    """The parts of the cache that find pages and files."""

    def __init__(
        self,
        directory,
        url,
        clock,
        ttl=TTL,
        wait=PAGE_WAIT,
        *,
        offline=False,
        promises=False,
        **more,
    ):
        self.store = Store(directory)
        self.catalog = Catalog(directory / "index.sqlite3")
        self.upstream = upstream_at(url, recall=self.catalog.first_known)
        root = self.upstream.pages.root
        policy = policy_of(Settings(project_cache_ttl_secs=ttl, **more), wait)
        self.revalidator = Revalidator(self.catalog, self.upstream.pages, policy, clock)
        promised = PromisedCoreMetadata() if promises else None
        filters = [promised] if promises else []
        filters += [StoredFilesOnly(self.store)] if offline else []
        self.index = Index(self.catalog, self.revalidator, root, policy, clock, filters)
        self.freshness = FileFreshness(
            self.catalog, self.upstream.files, clock, ttl=policy.ttl, wait=policy.revalidate_wait
        )
        self.lookup = FileLookup(
            self.index, self.catalog, self.store, root, clock, promised, freshness=self.freshness
        )

    def close(self):
        self.upstream.close()
        self.catalog.close()

    def files(self, project="demo"):
        """Return the filenames on the page of `project`."""
        page = self.index.content(self.index.page(project))
        return [file.filename for file in page.files]

    def find(self, key):
        """Return the file with that `key`."""
        directory, _, filename = key.rpartition("/")
        return self.lookup.file(directory, filename)


@pytest.fixture(autouse=True)
def _nothing_left(nothing_left):
    """Assert in the end that no descriptor, lock, slot or greenlet is left."""


@pytest.fixture
def make_cache(tmp_path, index, clock):
    """Return a function that makes a `PageCache` in the one cache directory."""
    with contextlib.ExitStack() as made:

        def make(url=index.url, ttl=TTL, **more):
            cache = PageCache(tmp_path, url, clock, ttl, **more)
            return made.enter_context(contextlib.closing(cache))

        yield make


@pytest.fixture
def cache(make_cache):
    """Return a `PageCache` that follows `index`."""
    made = make_cache()
    yield made
    assert made.revalidator.in_progress == 0


def delete_rows(directory, table):
    """Empty a `table` of the catalog behind the back of pytail."""
    with contextlib.closing(sqlite3.connect(directory / "index.sqlite3")) as catalog:
        catalog.execute(f"DELETE FROM {table}")
        catalog.commit()


class Downloads:
    """A `Files` over a real store and a real upstream."""

    def __init__(self, directory, index):
        self.directory, self.index = directory, index
        self.store = Store(directory)
        self.upstream = upstream_at(index.url)
        self.catalog = Catalog(directory.with_name("index.sqlite3"))
        quota = Quota(directory, self.store, self.catalog, limit=0, min_free=0)
        self.quota = quota
        self.metadata = CoreMetadata(self.catalog, self.store, self.upstream.files)
        self.files = self.make_files()

    def make_files(self, **more):
        """Return another `Files` over the same store."""
        quota = more.pop("quota", self.quota)
        freshness = FileFreshness(self.catalog, self.upstream.files, ttl=TTL, wait=2.0)
        return Files(
            self.catalog,
            self.store,
            self.upstream.files,
            self.metadata,
            quota,
            freshness=freshness,
            **more,
        )

    def file(self, data=DATA, path=PATH, *, base=None, size=True, sha256=True):
        """Return the file with `data` as a page lists it, without size or digest if False."""
        url = (base or self.index.url) + path
        hashes = {"sha256": hashlib.sha256(data).hexdigest()} if sha256 else {}
        return File(
            filename=path.rpartition("/")[2],
            url=url,
            directory=directory_of(hashes, url),
            hashes=hashes,
            size=len(data) if size else None,
        )

    def serve(self, *chunks, path=PATH, **more):
        """Let upstream send `chunks` at `path`, one for each gate that the test opens."""
        gated = self.index.answers[path] = Gated(*chunks, **more)
        return gated

    def get(self, file):
        """Return the content of `file`."""
        return read_all(self.files.open(file))

    def error(self, file):
        """Return the error of `get`."""
        with pytest.raises(PytailError) as caught:
            self.get(file)
        return caught.value


@pytest.fixture
def downloads(tmp_path, index):
    """Return a `Downloads` of an upstream that has `PATH`."""
    made = Downloads(tmp_path / "cache", index)
    made.index.answers[PATH] = reply(DATA, None)
    yield made
    until(lambda: made.files.downloading == 0)
    made.files.close()
    made.upstream.close()
    made.catalog.close()
    assert open_below(made.directory) == []


def read_all(opened):
    """Return the bytes of `opened` from its position on, and close it."""
    try:
        return b"".join(iter(lambda: opened.stream.read(100_000), b""))
    finally:
        opened.stream.close()


def exactly(opened, size):
    """Return the next `size` bytes of `opened`."""
    data = b""
    while len(data) < size:
        chunk = opened.stream.read(size - len(data))
        assert chunk
        data += chunk
    return data


def until_interrupted(opened):
    """Return the bytes of `opened` before its interruption, and the error; close it."""
    data = b""
    try:
        while chunk := opened.stream.read(1000):
            data += chunk
    except DownloadInterrupted as error:
        return data, error
    finally:
        opened.stream.close()
    raise AssertionError("the download was not interrupted")
