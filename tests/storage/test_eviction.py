"""Eviction: the least recently used files first, never one in use, one process at a time."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import gevent
import pytest

from pytail.runtime.threads import off_loop
from pytail.storage.eviction import Evictor
from pytail.storage.store import Store
from tests.support.storage import another_process_evicting, file, store_file

SIZE = 100_000


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store of the files a, b, c and d, used in this order."""
    made = Store(tmp_path)
    for used, name in enumerate("abcd"):
        store_file(made, file(name, size=SIZE), os.urandom(SIZE))
        (path,) = (found.path for found in made.files() if found.path.name == name)
        os.utime(path, (used, used))
    return made


@pytest.fixture
def evictor(tmp_path: Path, store: Store) -> Evictor:
    return Evictor(tmp_path, store)


@pytest.fixture
def names(store: Store) -> Callable[[], str]:
    """A function that returns the names of all files, sorted."""
    return lambda: "".join(sorted(found.path.name for found in store.files()))


def evict(
    evictor: Evictor,
    limit: float,
    shortfall: int = 0,
    excluded: Iterable[Path] = (),
    *,
    spare_last: bool = False,
) -> int:
    """Evict in a thread, as the quota does."""
    return off_loop(lambda: evictor.evict(limit, shortfall, {*excluded}, spare_last=spare_last))


def test_the_least_recently_used_files_are_evicted_down_to_the_limit(
    evictor: Evictor, names: Callable[[], str]
):
    stays = evict(evictor, 2.5 * SIZE)
    assert names() == "cd"
    assert 2 * SIZE <= stays <= 2.5 * SIZE
    assert (evictor.files, evictor.bytes >= 2 * SIZE) == (2, True)


def test_files_are_evicted_until_the_shortfall_is_freed(evictor: Evictor, names: Callable[[], str]):
    evict(evictor, math.inf, SIZE // 2)
    assert names() == "bcd"


def test_a_shortfall_that_all_files_cannot_free_evicts_none(
    evictor: Evictor, names: Callable[[], str]
):
    evict(evictor, math.inf, 10 * SIZE)
    assert names() == "abcd"


def test_the_file_used_last_can_be_spared(evictor: Evictor, names: Callable[[], str]):
    evict(evictor, 0, spare_last=True)
    assert names() == "d"
    evict(evictor, 0)
    assert names() == ""


def test_an_excluded_file_is_neither_counted_nor_evicted(
    evictor: Evictor, store: Store, names: Callable[[], str]
):
    excluded = {found.path for found in store.files() if found.path.name == "a"}
    evict(evictor, 2.5 * SIZE, excluded=excluded)
    assert names() == "acd"


def test_a_file_that_is_read_is_not_evicted(
    evictor: Evictor, store: Store, names: Callable[[], str]
):
    opened = store.open(file("b", size=SIZE))
    assert opened is not None
    with opened:
        evict(evictor, 0)
    assert names() == "b"


def test_one_process_evicts_at_a_time(evictor: Evictor, tmp_path: Path, names: Callable[[], str]):
    with another_process_evicting(tmp_path) as other:
        evicting = gevent.spawn(evict, evictor, 0, spare_last=True)
        evicting.join(0.2)
        assert not evicting.ready()
        assert names() == "abcd"
        other.communicate("\n")
        evicting.get(timeout=5)
    assert names() == "d"
