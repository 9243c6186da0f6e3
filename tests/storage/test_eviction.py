"""Eviction: the least recently used files first, never one in use, one process at a time."""

from __future__ import annotations

import errno
import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.runtime.locks import LockTimeout
from pytail.runtime.threads import off_loop
from pytail.storage import eviction
from pytail.storage.eviction import Evictor
from pytail.storage.store import DiskFile, Store
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
    low: float,
    shortfall: int = 0,
    *,
    limit: float | None = None,
    spare_last: bool = False,
) -> int:
    """Evict in a thread, as the quota does. The limit is `low` where none is given."""
    must = low if limit is None else limit
    return off_loop(lambda: evictor.evict(low, must, shortfall, spare_last=spare_last))


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


def test_a_limit_that_all_files_cannot_free_evicts_none(
    evictor: Evictor, store: Store, names: Callable[[], str]
):
    opened = store.open(file("d", size=SIZE))
    assert opened is not None
    with opened:
        evict(evictor, SIZE // 2)
        assert names() == "abcd"
        evict(evictor, 0, limit=1.5 * SIZE)
        assert names() == "d"


def test_a_file_that_is_read_is_not_evicted(
    evictor: Evictor, store: Store, names: Callable[[], str]
):
    opened = store.open(file("b", size=SIZE))
    assert opened is not None
    with opened:
        evict(evictor, 0, limit=SIZE * 2)
    assert names() == "b"


def test_a_file_that_is_used_after_the_look_stays(
    tmp_path: Path, store: Store, names: Callable[[], str]
):
    class Used(Store):
        """A store whose file `b` is used by another process after the walk."""

        def files(self) -> Iterator[DiskFile]:
            found = list(super().files())
            for each in found:
                if each.path.name == "b":
                    os.utime(each.path, (100, 1))
            return iter(found)

    evict(Evictor(tmp_path, Used(tmp_path)), 2.5 * SIZE)
    assert names() == "bd"


def test_a_time_of_the_future_is_not_believed(
    evictor: Evictor, store: Store, names: Callable[[], str]
):
    for found in store.files():
        # Years 2106 and 1902, and a time that 32 bits do not hold.
        times = {"a": 2**32, "b": -(2**31), "c": 2**33}
        if found.path.name in times:
            used = times[found.path.name]
            os.utime(found.path, (used, used))
    evict(evictor, 2.5 * SIZE)
    assert "b" not in names()
    assert "d" not in names()
    evict(evictor, 0)
    assert names() == ""


class Million(Store):
    """A store whose walk yields a million files, used in no order; `removed` are the evicted ones."""

    def __init__(self, directory: Path, number: int = 1_000_000) -> None:
        super().__init__(directory)
        self.number, self.removed = number, set[int]()

    def files(self) -> Iterator[DiskFile]:
        for index in range(self.number):
            place = index * 7_919 % self.number
            if place not in self.removed:
                path = Path(f"/cache/+files/root/pypi/+f/{'0' * 17}/some-distribution-1.0-{place}")
                yield DiskFile(path, 1000, 1_700_000_000 + place)

    def is_removable(self, path: Path) -> bool:
        return True

    def remove(self, path: Path, **conditions: Any) -> bool:
        self.removed.add(int(path.name.rpartition("-")[2]))
        return True


MEASURED = """
import os, sys
from pathlib import Path
from pytail.storage.eviction import Evictor
from tests.storage.test_eviction import Million
from tests.support.watching import memory

store = Million(Path(sys.argv[1]))
before = memory(os.getpid())
stays = Evictor(Path(sys.argv[1]), store).evict(940_000_000, 940_000_000, 0, spare_last=False)
assert stays == 940_000_000
assert store.removed == set(range(60_000))
print(memory(os.getpid(), "VmHWM") - before)
"""


@pytest.mark.process
@pytest.mark.slow
def test_eviction_among_a_million_files_takes_little_memory(tmp_path: Path):
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(ran.stdout) < 80_000_000


def test_eviction_looks_again_after_each_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eviction, "_BATCH", 10)
    store = Million(tmp_path, 101)
    evict(Evictor(tmp_path, store), 50_000, spare_last=True)
    assert store.removed == set(range(51))
    evict(Evictor(tmp_path, store), 0, spare_last=True)
    assert store.removed == set(range(100))


@pytest.mark.slow
def test_eviction_leaves_the_event_loop_its_turns(tmp_path: Path):
    store = Store(tmp_path)
    for number in range(3_000):
        directory = tmp_path / f"+files/root/pypi/+f/{number % 256:03x}/{number:013x}"
        directory.mkdir(parents=True)
        (directory / f"demo-{number}.zip").write_bytes(b"x")
    delays, evicting = [], gevent.spawn(evict, Evictor(tmp_path, store), 0, spare_last=True)
    while not evicting.ready():
        started = time.monotonic()
        gevent.sleep(0.001)
        delays.append(time.monotonic() - started)
    assert len([*store.files()]) == 1
    assert sorted(delays)[len(delays) * 99 // 100] < 0.05


def test_one_process_evicts_at_a_time(evictor: Evictor, tmp_path: Path, names: Callable[[], str]):
    with another_process_evicting(tmp_path) as other:
        evicting = gevent.spawn(evict, evictor, 0, spare_last=True)
        evicting.join(0.2)
        assert not evicting.ready()
        assert names() == "abcd"
        other.communicate("\n")
        evicting.get(timeout=5)
    assert names() == "d"


def test_a_process_that_is_stopped_while_it_evicts_is_not_waited_for(
    evictor: Evictor, tmp_path: Path, names: Callable[[], str]
):
    with another_process_evicting(tmp_path) as other:
        os.kill(other.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(LockTimeout):
            evict(evictor, 0)
        assert time.monotonic() - started < 2
    assert names() == "abcd"


def test_a_foreign_lock_on_the_cache_directory_does_not_matter(
    evictor: Evictor, tmp_path: Path, names: Callable[[], str]
):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        evict(evictor, 0)
    finally:
        os.close(descriptor)
    assert names() == ""


def test_a_file_system_without_locks_does_not_stop_eviction(
    evictor: Evictor, names: Callable[[], str], monkeypatch: pytest.MonkeyPatch
):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    evict(evictor, 0)
    assert names() == ""
