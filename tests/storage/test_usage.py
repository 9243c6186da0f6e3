"""The usage: counts the bytes below the cache directory in constant memory."""

from __future__ import annotations

import contextlib
import tracemalloc
from pathlib import Path

from pytail.storage.catalog import Catalog
from pytail.storage.store import Store
from pytail.storage.usage import Usage


def make_files(cache: Path, number: int) -> None:
    """Make files of one byte each, all in one directory of the store."""
    directory = cache / "+files/root/pypi/+f/_url/x"
    directory.mkdir(parents=True)
    for index in range(number):
        (directory / f"demo-{index}.zip").write_bytes(b"x")


def peak_of_count(cache: Path, number: int) -> int:
    """Return the bytes of memory that a count of `number` files takes."""
    make_files(cache, number)
    store = Store(cache)
    with contextlib.closing(Catalog(cache / "index.sqlite3")) as catalog:
        usage = Usage(cache, store, catalog, 0)
        tracemalloc.start()
        try:
            usage.update()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            assert usage.files == number


def test_a_count_takes_the_same_memory_for_any_number_of_files(tmp_path: Path):
    few, many = peak_of_count(tmp_path / "few", 100), peak_of_count(tmp_path / "many", 4000)
    assert many < few + 200_000
