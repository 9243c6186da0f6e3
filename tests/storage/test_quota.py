"""How much the cache directory may hold: least recently used first, never what is in use."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.errors import NotStored, TooLarge
from pytail.model import File, ProjectPage
from pytail.storage.catalog import Catalog, Entry
from pytail.storage.quota import Quota
from pytail.storage.store import PartialFile, Store
from tests.support.fakeindex import Dist, FakeIndex, Gated, wheel
from tests.support.running import Client, serving, under_gunicorn
from tests.support.watching import held, until

MB = 1_000_000


class Room:
    """Bounds of a real directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store(directory)
        self.catalog = Catalog(directory / "index.sqlite3")

    def bounds(self, limit: int = 0, min_free: int = 0) -> Quota:
        return Quota(self.directory, self.store, self.catalog, limit=limit, min_free=min_free)

    @property
    def held(self) -> set[str]:
        return {kept.path.name for kept in self.store.files()}

    def partial(self, name: str) -> PartialFile:
        return self.store.partial(file(name))

    def keep(self, name: str, size: int = MB, used: float = 0) -> None:
        """Hold a file that was last used `used` seconds after the epoch."""
        partial = self.partial(name)
        partial.write(os.urandom(size))
        partial.commit()
        partial.close()
        (path,) = (kept.path for kept in self.store.files() if kept.path.name == name)
        os.utime(path, (used, used))

    def bring(self, bounds: Quota, name: str, size: int = MB) -> None:
        """What an arrival does."""
        partial = self.partial(name)
        try:
            bounds.reserve(partial, size)
            partial.write(os.urandom(size))
            partial.commit()
            bounds.release(partial, is_kept=True)
        except NotStored:
            partial.discard()
            bounds.release(partial, is_kept=False)
            raise
        finally:
            partial.close()


def file(name: str) -> File:
    return File(filename=name, url="", directory="abc/0123456789abc")


def taken(directory: Path) -> int:
    """The bytes of all files below `directory`."""
    size = 0
    for root, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += Path(root, name).stat().st_size
    return size


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "cache")
    yield made
    made.catalog.close()


def test_without_a_limit_nothing_is_removed(room: Room):
    bounds = room.bounds()
    for name in "abcdef":
        room.bring(bounds, name)
    bounds.enforce()
    assert room.held == set("abcdef")


def test_what_was_used_least_recently_goes_first(room: Room):
    for used, name in enumerate("dbac"):
        room.keep(name, used=used)
    room.bring(room.bounds(limit=int(4.5 * MB)), "e")
    assert room.held == set("ace")


def test_a_use_in_this_process_counts_at_once(room: Room):
    for used, name in enumerate("abc"):
        room.keep(name, used=used)
    opened = room.store.open(file("a"))
    assert opened is not None
    opened.close()
    room.bring(room.bounds(limit=int(3.9 * MB)), "d")
    assert room.held == set("acd")


def test_room_is_made_before_a_file_comes(room: Room):
    bounds = room.bounds(limit=int(4.5 * MB))
    for name in "abcdefgh":
        room.bring(bounds, name)
        assert taken(room.directory) <= 4.5 * MB
    assert room.held >= set("gh")
    assert len(room.held) >= 3


def test_files_that_are_still_coming_are_counted_whole(room: Room):
    bounds = room.bounds(limit=int(2.5 * MB))
    first, second, third = (room.partial(name) for name in "abc")
    bounds.reserve(first, MB)
    bounds.reserve(second, MB)
    with pytest.raises(NotStored, match="cache-max-size"):
        bounds.reserve(third, MB)
    bounds.release(third, is_kept=False)
    bounds.release(second, is_kept=False)
    bounds.reserve(third, MB)
    for partial in (first, second, third):
        partial.discard()
        partial.close()


def test_a_file_larger_than_the_limit_is_refused_and_costs_no_other(room: Room):
    room.keep("a")
    bounds = room.bounds(limit=2 * MB)
    with pytest.raises(TooLarge):
        room.bring(bounds, "b", 3 * MB)
    assert room.held == {"a"}


def test_a_file_that_is_read_stays(room: Room):
    room.keep("a")
    opened = room.store.open(file("a"))
    assert opened is not None
    os.utime(opened.fileno(), (0, 0))
    room.keep("b", used=5)
    with opened:
        room.bring(room.bounds(limit=int(2.9 * MB)), "c")
        assert room.held == set("ac")


def test_in_the_background_files_go_until_the_low_watermark(room: Room):
    for used, name in enumerate("abcdefghij"):
        room.keep(name, used=used)
    bounds = room.bounds(limit=10_200_000)
    bounds.enforce()
    assert room.held == set("cdefghij")
    assert (bounds.evicted, bounds.evicted_bytes >= 2 * MB) == (2, True)
    bounds.enforce()
    assert room.held == set("cdefghij")


def test_below_the_high_watermark_the_background_leaves_all(room: Room):
    for used, name in enumerate("abcdefghi"):
        room.keep(name, used=used)
    room.bounds(limit=10 * MB).enforce()
    assert len(room.held) == 9


def test_the_file_used_last_is_never_removed_in_the_background(room: Room):
    room.keep("a", used=1)
    room.keep("b", used=2)
    room.bounds(limit=MB).enforce()
    assert room.held == {"b"}


def test_what_a_dead_process_left_of_a_file_counts_and_goes(room: Room):
    orphan = room.partial("orphan")
    orphan.write(bytes(2 * MB))
    orphan.close()
    os.utime(orphan.path, (0, 0))
    room.bring(room.bounds(limit=int(2.9 * MB)), "a")
    assert room.held == {"a"}


def test_files_of_other_processes_are_counted(room: Room):
    bounds = room.bounds(limit=int(3.9 * MB))
    room.bring(bounds, "a")
    # As another process does.
    for used, name in enumerate("bc"):
        room.keep(name, used=used)
    room.bring(bounds, "d")
    assert taken(room.directory) <= 3.9 * MB
    assert room.held >= {"d"}


def test_one_process_removes_at_a_time(room: Room):
    script = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX);"
        "print('locked', flush=True); input()"
    )
    for used, name in enumerate("ab"):
        room.keep(name, used=used)
    command = [sys.executable, "-c", script, str(room.directory)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        looking = gevent.spawn(room.bounds(limit=MB).enforce)
        looking.join(0.2)
        assert not looking.ready()
        assert room.held == set("ab")
        process.communicate("\n")
        looking.get(timeout=5)
    assert room.held == {"b"}


def free(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def test_so_much_of_the_disk_stays_free(small_disk: Path):
    room = Room(small_disk / "cache")
    bounds = room.bounds(min_free=8 * MB)
    for name in "abcdefghijkl":
        room.bring(bounds, name)
        assert free(small_disk) >= 8 * MB
    assert "l" in room.held
    with pytest.raises(NotStored, match="too few free"):
        room.bring(bounds, "m", 14 * MB)
    room.catalog.close()


def test_a_disk_that_is_full_removes_nothing_without_being_told_to(small_disk: Path):
    room = Room(small_disk / "cache")
    room.keep("a", 10 * MB)
    with pytest.raises(NotStored, match="too few free"):
        room.bring(room.bounds(), "b", 11 * MB)
    assert room.held == {"a"}
    room.catalog.close()


def test_files_under_way_that_the_disk_cannot_take_cost_no_held_one_in_the_background(
    small_disk: Path,
):
    room = Room(small_disk / "cache")
    for used, name in enumerate("ab"):
        room.keep(name, 5 * MB, used=used)
    bounds, partial = room.bounds(), room.partial("c")
    bounds.reserve(partial, 9 * MB)
    # Somebody else takes what was free.
    (small_disk / "other").write_bytes(bytes(6 * MB))
    bounds.enforce()
    assert room.held >= set("ab")
    partial.discard()
    bounds.release(partial, is_kept=False)
    partial.close()
    room.catalog.close()


def test_a_floor_that_no_removal_reaches_costs_no_held_file(small_disk: Path):
    room = Room(small_disk / "cache")
    for used, name in enumerate("ab"):
        room.keep(name, used=used)
    (small_disk / "other").write_bytes(bytes(12 * MB))
    with pytest.raises(NotStored, match="too few free"):
        room.bring(room.bounds(min_free=15 * MB), "c")
    assert room.held == set("ab")
    room.catalog.close()


def test_a_directory_that_was_emptied_is_looked_after(room: Room):
    room.keep("a")
    for directory in ("+files", "+partial"):
        shutil.rmtree(room.directory / directory)
    bounds = room.bounds(limit=5 * MB)
    bounds.enforce()
    room.bring(bounds, "b")
    assert room.held == {"b"}


def test_what_is_known_of_upstream_takes_half_of_the_limit_at_most(room: Room):
    for number in range(60):
        entry = Entry(
            name=f"p{number}", upstream="u", found=True, fetched_at=number, checked_at=number
        )
        files = tuple(
            File(filename=f"p-{each}.zip", url=f"http://x.example.org/{'a' * 500}", directory="x")
            for each in range(100)
        )
        room.catalog.remember(entry, ProjectPage(name=entry.name, files=files))
    assert room.catalog.size() > 4 * MB
    room.bounds(limit=4 * MB).enforce()
    assert room.catalog.size() <= 2.5 * MB
    assert room.catalog.page("p59") is not None
    assert room.catalog.page("p0") is None


# The whole


@pytest.fixture
def dists(index: FakeIndex) -> list[Dist]:
    made = [wheel("demo", f"{number}.0", payload=os.urandom(MB)) for number in range(8)]
    index.add(*made)
    return made


def fetch(pytail: Client, dist: Dist) -> None:
    assert pytail.get(dist.served).data == dist.data


def test_a_cache_stays_within_its_limit_and_right(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=5 * MB) as pytail:
        for dist in dists * 2:
            fetch(pytail, dist)
            assert taken(cache) <= 5 * MB
            fetch(pytail, dists[0])
        assert index.count(dists[0].path) == 1
        assert dists[-1].filename in held(cache)


def test_a_file_larger_than_the_limit_is_delivered_and_not_kept(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    large, cache = wheel("large", payload=os.urandom(6 * MB)), tmp_path / "cache"
    index.add(large)
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        fetch(pytail, dists[0])
        for _ in range(2):
            answer = pytail.get(large.served)
            assert answer.data == large.data
            assert answer.headers["Content-Length"] == str(len(large.data))
            assert answer.headers["X-Cache"] == "PASS"
        assert held(cache) == {dists[0].filename}
    assert index.count(large.path) == 2


def test_a_file_of_unknown_size_larger_than_the_limit_is_delivered_and_not_kept(
    tmp_path: Path, index: FakeIndex
):
    large, cache = wheel("large", payload=os.urandom(6 * MB), size=None), tmp_path / "cache"
    index.add(large)

    def chunked(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from (large.data[at : at + 100_000] for at in range(0, len(large.data), 100_000))

    index.answers[large.path] = chunked
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        assert pytail.get(large.served).data == large.data
    assert held(cache) == set()
    assert not any((cache / "+partial").iterdir())


def test_a_reader_keeps_its_file_while_room_is_made(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    first, second, cache = dists[0], dists[1], tmp_path / "cache"
    gated = index.answers[first.path] = Gated(
        first.data[:500_000], first.data[500_000:], size=len(first.data)
    )
    with serving(cache, index.url, cache_max_size=int(2.6 * MB)) as pytail:
        reading = gevent.spawn(pytail.get, first.served)
        gated.asked.wait()
        gated.open()
        for dist in dists[1:4]:
            fetch(pytail, dist)
        gated.open()
        assert reading.get().data == first.data
        assert second.filename not in held(cache)
        assert first.filename in held(cache)


def test_files_over_a_new_limit_go_at_the_next_start(
    tmp_path: Path, index: FakeIndex, dists: list[Dist]
):
    cache = tmp_path / "cache"
    with serving(cache, index.url) as pytail:
        for dist in dists:
            fetch(pytail, dist)
    assert len(held(cache)) == 8
    with serving(cache, index.url, cache_max_size=4 * MB) as pytail:
        until(lambda: taken(cache) <= 4 * MB)
        fetch(pytail, dists[-1])
    assert index.count(dists[-1].path) == 1


@pytest.mark.process
def test_workers_stay_within_one_limit(tmp_path: Path, index: FakeIndex, dists: list[Dist]):
    cache = tmp_path / "cache"
    limit = {"PYTAIL_CACHE_MAX_SIZE": "6MB"}
    with under_gunicorn(cache, index.url, tmp_path / "log", "-w", "2", **limit) as running:
        for dist in dists * 2:
            fetch(running.client, dist)
        deadline = time.monotonic() + 10
        while taken(cache) > 6 * MB and time.monotonic() < deadline:
            time.sleep(0.05)
        assert taken(cache) <= 6 * MB
        assert held(cache)


def test_without_limits_there_is_room_for_anything(room: Room):
    assert room.bounds().room() == math.inf


def test_with_a_limit_there_is_room_for_what_stays_when_it_is_kept_to(room: Room):
    for name in ("a", "b", "c", "d"):
        room.keep(name)
    bounds = room.bounds(limit=4 * MB)
    stays = bounds.room()
    assert 2 * MB < stays < 3.4 * MB
    bounds.enforce()
    assert sum(kept.size for kept in room.store.files()) <= stays


def test_what_is_to_stay_free_of_the_disk_leaves_room_for_less(room: Room):
    room.keep("a")
    free = shutil.disk_usage(room.directory).free
    assert room.bounds(min_free=free + 100 * MB).room() == 0
    assert 0 < room.bounds(min_free=free // 2).room() < free
