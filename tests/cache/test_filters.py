"""What the filters change on a page."""

import pytest

from pytail.cache.filters import PromisedCoreMetadata, StoredFilesOnly
from pytail.model import File, ProjectPage
from pytail.storage.store import Store
from tests.support.fakeindex import sdist, wheel
from tests.support.storage import store_file

DIRECTORY = "abc/0123456789abc"


def page(*files):
    return ProjectPage(name="demo", files=files, versions=("1.0",))


def listed(filename, **more):
    return File(
        filename=filename, url=f"https://files.example.org/{filename}", directory=DIRECTORY, **more
    )


def test_only_stored_files_remain(tmp_path):
    store = Store(tmp_path)
    stored, other = listed("demo-1.0.tar.gz"), listed("demo-2.0.tar.gz")
    store_file(store, stored, b"data")
    assert StoredFilesOnly(store).apply(page(other, stored)) == page(stored)


def test_core_metadata_is_promised_for_wheels_only():
    filtered = PromisedCoreMetadata().apply(page(listed("demo-1.0.whl"), listed("demo-1.0.tar.gz")))
    assert [file.core_metadata for file in filtered.files] == [True, None]


@pytest.mark.parametrize("known", [False, True, {"sha256": "0" * 64}])
def test_a_wheel_of_which_the_metadata_is_known_stays_as_it_is(known):
    file = listed("demo-1.0.whl", core_metadata=known)
    assert PromisedCoreMetadata().promise(file) is file


def test_a_promise_applied_twice_is_the_same():
    once = PromisedCoreMetadata().apply(page(listed("demo-1.0.whl")))
    assert PromisedCoreMetadata().apply(once) == once


def test_offline_the_revision_follows_the_stored_files(make_cache, index):
    index.add(dist := sdist("demo"), sdist("demo", "2.0"))
    online = make_cache()
    online.files()
    offline = make_cache(offline=True)
    before = offline.index.page("demo")
    store_file(online.store, online.find(dist.key), dist.data)
    after = offline.index.page("demo")
    assert offline.files() == ["demo-1.0.tar.gz"]
    assert before.entry.revision != after.entry.revision


def test_offline_no_result_stays_valid(make_cache, index):
    index.add(sdist("demo"))
    make_cache().files()
    offline = make_cache(offline=True)
    assert offline.index.still_valid(offline.index.page("demo")) is None


def test_the_lookup_promises_core_metadata_too(make_cache, index):
    index.add(dist := wheel("demo", **{"core-metadata": None, "dist-info-metadata": None}))
    cache = make_cache(promises=True)
    cache.files()
    assert cache.find(f"{dist.key}.metadata").wheel.filename == dist.filename
