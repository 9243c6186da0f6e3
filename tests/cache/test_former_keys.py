"""Stored files under a key that their page gave earlier."""

import hashlib

import pytest

from pytail.cache import former_keys
from pytail.model import File, directory_of, former_directories
from pytail.storage.store import Store
from tests.support.storage import DATA, read, store_file
from tests.support.watching import open_below

URL = "https://files.example.org/demo-1.0.tar.gz?signature=1"


def listed(*names, data=DATA, size=None):
    """Return the file with `data` as a page lists it, with the digests `names`."""
    hashes = {name: hashlib.new(name, data, usedforsecurity=False).hexdigest() for name in names}
    directory = directory_of(hashes, URL, size)
    return File(filename="demo-1.0.tar.gz", url=URL, directory=directory, hashes=hashes, size=size)


def under(directory):
    return File(filename="demo-1.0.tar.gz", url="", directory=directory)


@pytest.fixture
def store(tmp_path):
    yield Store(tmp_path)
    assert open_below(tmp_path) == []


FILES = [listed("md5"), listed("sha512", "md5", size=len(DATA)), listed("sha256", "sha1")]
PAIRS = [(file, former) for file in [*FILES, listed()] for former in former_directories(file)]


@pytest.mark.parametrize(("file", "former"), PAIRS)
def test_a_file_is_moved_from_each_former_key(store, tmp_path, file, former):
    store_file(store, under(former))
    assert former_keys.is_stored(store, file)
    assert not store.has(file)
    assert former_keys.adopt(store, file)
    assert read(store, file) == DATA
    with store.open(file) as opened:
        assert store.is_verified(opened, file)
    assert not store.has(under(former))
    assert former_keys.is_stored(store, file)
    assert not former_keys.adopt(store, file)


@pytest.mark.parametrize("file", FILES)
def test_another_file_is_left_where_it_is(store, file):
    (*_, former) = former_directories(file)
    store_file(store, under(former), b"another file")
    assert not former_keys.adopt(store, file)
    assert not store.has(file)
    assert read(store, under(former)) == b"another file"


def test_an_unlisted_file_has_no_former_key(store):
    file = under(directory_of({}, URL))
    store_file(store, under(directory_of({}, "")))
    assert not former_keys.adopt(store, file)
    assert not former_keys.is_stored(store, file)


def test_a_file_that_is_replaced_meanwhile_is_not_moved(store):
    file = listed("md5")
    (*_, former) = former_directories(file)
    store_file(store, under(former))
    with store.open(under(former)) as opened:
        store_file(store, under(former), b"another file")
        assert not store.move(opened, under(former), file)
    assert not store.has(file)
