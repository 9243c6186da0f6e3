"""The quota: reservations, the limits in the background, and the space on the disk."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import peewee
import pytest
from gevent import monkey

from pytail.errors import NotStored, TooLarge
from pytail.model import File, ProjectPage
from pytail.storage import partial as partial_module
from pytail.storage import quota as quota_module
from pytail.storage.catalog import Catalog, Entry
from pytail.storage.partial import PartialFile
from pytail.storage.quota import Quota
from pytail.storage.store import Store
from pytail.storage.usage import Usage
from tests.support.storage import another_process_evicting, bytes_below, file, process, store_file
from tests.support.watching import timed, until

MB = 1_000_000


class CacheDir:
    """A cache directory with its store and its catalog."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = Store(directory)
        self.catalog = Catalog(directory / "index.sqlite3")

    def quota(self, limit: int = 0, min_free: int = 0) -> Quota:
        return Quota(self.directory, self.store, self.catalog, limit=limit, min_free=min_free)

    @property
    def names(self) -> set[str]:
        return {found.path.name for found in self.store.files()}

    def partial(self, name: str) -> PartialFile:
        return self.store.partial(named(name))

    def store_file(self, name: str, size: int = MB, used: float = 0) -> None:
        """Store a file that was last used `used` seconds after the epoch."""
        store_file(self.store, named(name), os.urandom(size))
        (path,) = (found.path for found in self.store.files() if found.path.name == name)
        os.utime(path, (used, used))

    def download(self, quota: Quota, name: str, size: int = MB) -> None:
        """Reserve, write and release a file, as a download does."""
        partial = self.partial(name)
        try:
            quota.reserve(partial, size)
            partial.write(os.urandom(size))
            partial.commit()
            quota.release(partial, is_stored=True)
        except NotStored:
            partial.discard()
            quota.release(partial, is_stored=False)
            raise
        finally:
            partial.close()


def named(name: str) -> File:
    return file(name, size=None)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheDir]:
    """A cache directory of the test."""
    made = CacheDir(tmp_path / "cache")
    yield made
    made.catalog.close()


def test_without_a_limit_no_file_is_evicted(cache: CacheDir):
    quota = cache.quota()
    for name in "abcdef":
        cache.download(quota, name)
    quota.enforce()
    assert cache.names == set("abcdef")


def test_a_download_evicts_the_least_recently_used_files(cache: CacheDir):
    for used, name in enumerate("dbac"):
        cache.store_file(name, used=used)
    cache.download(cache.quota(limit=int(4.5 * MB)), "e")
    assert cache.names == set("ace")


def test_a_use_in_this_process_counts_at_once(cache: CacheDir):
    for used, name in enumerate("abc"):
        cache.store_file(name, used=used)
    opened = cache.store.open(named("a"))
    assert opened is not None
    opened.close()
    cache.download(cache.quota(limit=int(3.9 * MB)), "d")
    assert cache.names == set("acd")


def test_files_are_evicted_before_a_download_begins(cache: CacheDir):
    quota = cache.quota(limit=int(4.5 * MB))
    for name in "abcdefgh":
        cache.download(quota, name)
        assert bytes_below(cache.directory) <= 4.5 * MB
    assert cache.names >= set("gh")
    assert len(cache.names) >= 3


def test_reserved_files_count_with_their_final_sizes(cache: CacheDir):
    quota = cache.quota(limit=int(2.5 * MB))
    first, second, third = (cache.partial(name) for name in "abc")
    quota.reserve(first, MB)
    quota.reserve(second, MB)
    with pytest.raises(NotStored, match="cache-max-size"):
        quota.reserve(third, MB)
    quota.release(third, is_stored=False)
    quota.release(second, is_stored=False)
    quota.reserve(third, MB)
    for partial in (first, second, third):
        partial.discard()
        partial.close()


def test_a_file_larger_than_the_limit_is_refused_without_an_eviction(cache: CacheDir):
    cache.store_file("a")
    quota = cache.quota(limit=2 * MB)
    with pytest.raises(TooLarge):
        cache.download(quota, "b", 3 * MB)
    assert cache.names == {"a"}


def test_a_file_that_is_read_stays(cache: CacheDir):
    cache.store_file("a")
    opened = cache.store.open(named("a"))
    assert opened is not None
    os.utime(opened.fileno(), (0, 0))
    cache.store_file("b", used=5)
    with opened:
        cache.download(cache.quota(limit=int(2.9 * MB)), "c")
        assert cache.names == set("ac")


def test_the_background_evicts_down_to_the_low_watermark(cache: CacheDir):
    for used, name in enumerate("abcdefghij"):
        cache.store_file(name, used=used)
    quota = cache.quota(limit=10_200_000)
    quota.enforce()
    assert cache.names == set("cdefghij")
    assert (quota.evicted, quota.evicted_bytes >= 2 * MB) == (2, True)
    quota.enforce()
    assert cache.names == set("cdefghij")


def test_the_background_evicts_no_file_below_the_high_watermark(cache: CacheDir):
    for used, name in enumerate("abcdefghi"):
        cache.store_file(name, used=used)
    cache.quota(limit=10 * MB).enforce()
    assert len(cache.names) == 9


def test_the_background_never_evicts_the_file_used_last(cache: CacheDir):
    cache.store_file("a", used=1)
    cache.store_file("b", used=2)
    cache.quota(limit=MB).enforce()
    assert cache.names == {"b"}


def test_a_partial_file_of_a_dead_process_counts_and_is_evicted(cache: CacheDir):
    orphan = cache.partial("orphan")
    orphan.write(bytes(2 * MB))
    orphan.close()
    os.utime(orphan.path, (0, 0))
    cache.download(cache.quota(limit=int(2.9 * MB)), "a")
    assert cache.names == {"a"}


def test_files_of_other_processes_are_counted(cache: CacheDir):
    quota = cache.quota(limit=int(3.9 * MB))
    cache.download(quota, "a")
    # Without `quota`, as in another process.
    for used, name in enumerate("bc"):
        cache.store_file(name, used=used)
    cache.download(quota, "d")
    assert bytes_below(cache.directory) <= 3.9 * MB
    assert cache.names >= {"d"}


def test_the_disk_shows_what_is_reserved(cache: CacheDir):
    partial = cache.partial("a")
    quota, other = cache.quota(limit=4 * MB), cache.quota(limit=4 * MB)
    quota.reserve(partial, 3 * MB)
    assert partial.size == 0
    assert 3 * MB <= partial.path.stat().st_blocks * 512 < 3.1 * MB
    # Another process reads the reservation from the disk.
    with pytest.raises(NotStored, match="cache-max-size"):
        cache.download(other, "b", 2 * MB)
    partial.write(b"x" * 100)
    quota.release(partial, is_stored=False)
    assert partial.path.stat().st_blocks * 512 < 0.1 * MB
    cache.download(other, "b", 2 * MB)
    partial.close()


def test_a_reservation_counts_once(cache: CacheDir):
    quota, partial = cache.quota(limit=10 * MB), cache.partial("a")
    before = quota.size
    for reserved in (MB, 3 * MB, 2 * MB):
        quota.reserve(partial, reserved)
    partial.write(bytes(MB))
    quota.enforce()
    assert 3 * MB <= quota.size - before < 3.2 * MB
    partial.write(bytes(2 * MB))
    partial.commit()
    quota.release(partial, is_stored=True)
    assert 3 * MB <= quota.size - before < 3.2 * MB
    quota.enforce()
    assert 3 * MB <= quota.size - before < 3.2 * MB
    partial.close()


def test_a_reservation_counts_where_the_disk_cannot_show_it(
    cache: CacheDir, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(partial_module, "_allocate", lambda descriptor, size: None)
    quota, first, second = cache.quota(limit=4 * MB), cache.partial("a"), cache.partial("b")
    quota.reserve(first, 3 * MB)
    assert first.allocated == 0
    assert quota.size >= 3 * MB
    with pytest.raises(NotStored, match="cache-max-size"):
        quota.reserve(second, 3 * MB)
    for partial in (first, second):
        quota.release(partial, is_stored=False)
        partial.discard()
        partial.close()


def test_directories_and_other_files_count(cache: CacheDir):
    before = cache.quota(limit=9 * MB)
    before.enforce()
    for number in range(100):
        (cache.directory / f"+files/root/pypi/+f/{number:03x}").mkdir()
    (cache.directory / "+metrics/x").mkdir(parents=True)
    (cache.directory / "+metrics/x/counters").write_bytes(bytes(MB))
    (cache.directory / "index.sqlite3.set-aside-1").write_bytes(bytes(MB))
    blocks = sum(
        path.stat().st_blocks * 512 for path in cache.directory.rglob("*") if path.is_dir()
    )
    after = cache.quota(limit=9 * MB)
    after.enforce()
    assert after.size - before.size >= 2 * MB
    assert after.size >= 2 * MB + blocks


def test_a_file_that_does_not_fit_evicts_none(cache: CacheDir):
    for used, name in enumerate("abc"):
        cache.store_file(name, used=used)
    quota = cache.quota(limit=4 * MB)
    opened = cache.store.open(named("c"))
    assert opened is not None
    with opened, pytest.raises(NotStored, match="cache-max-size"):
        cache.download(quota, "d", int(3.2 * MB))
    assert cache.names == set("abc")


def test_a_reservation_that_is_not_released_by_a_killed_process_is_evicted(cache: CacheDir):
    with process(RESERVING, str(cache.directory), "4000000") as other:
        quota = cache.quota(limit=6 * MB)
        with pytest.raises(NotStored, match="cache-max-size"):
            cache.download(quota, "a", 3 * MB)
        other.kill()
        other.wait()
        cache.download(quota, "a", 3 * MB)
    assert cache.names == {"a"}


RESERVING = """
import sys
from pathlib import Path
from pytail.model import File
from pytail.storage.catalog import Catalog
from pytail.storage.quota import Quota
from pytail.storage.store import Store

directory = Path(sys.argv[1])
store = Store(directory)
quota = Quota(directory, store, Catalog(directory / "index.sqlite3"), limit=6_000_000, min_free=0)
file = File(filename="other", url="", directory="_url/" + "1" * 64)
partial = store.partial(file)
quota.reserve(partial, int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.mark.process
def test_processes_that_reserve_at_the_same_time_exceed_the_limit_by_one_file_at_most(
    cache: CacheDir,
):
    limit, quota = 6 * MB, cache.quota(limit=6 * MB)
    with process(RACING, str(cache.directory), str(limit)) as other:
        assert other.stdin is not None
        other.stdin.write("\n")
        other.stdin.flush()
        for number in range(100):
            with contextlib.suppress(NotStored):
                cache.download(quota, f"mine-{number}")
            # Where a count takes long, the directories made since the last one are not counted yet.
            assert allocated_below(cache.directory, files_only=True) <= limit + MB
        assert other.communicate()[0] == "done\n"
    quota.enforce()
    assert allocated_below(cache.directory) <= limit


RACING = """
import contextlib, os, sys
from pathlib import Path
from pytail.errors import NotStored
from tests.storage.test_quota import CacheDir

cache = CacheDir(Path(sys.argv[1]))
quota = cache.quota(limit=int(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(100):
    with contextlib.suppress(NotStored):
        cache.download(quota, f"theirs-{number}")
print("done", flush=True)
"""


def allocated_below(directory: Path, *, files_only: bool = False) -> int:
    """Return the bytes of the disk blocks of all that is below `directory`."""
    size = 0
    for path in directory.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if not files_only or path.is_file():
                size += path.stat().st_blocks * 512
    return size


# Locks and waits


def test_a_process_that_is_stopped_while_it_evicts_delays_downloads_for_two_seconds_at_most(
    cache: CacheDir,
):
    for used, name in enumerate("abc"):
        cache.store_file(name, used=used)
    quota = cache.quota(limit=int(3.9 * MB))
    with another_process_evicting(cache.directory) as other:
        os.kill(other.pid, signal.SIGSTOP)
        started = time.monotonic()
        downloads = [gevent.spawn(refused, cache, quota, name) for name in "defghijkl"]
        assert all(download.get() for download in gevent.joinall(downloads))
        assert time.monotonic() - started < 2.1
        with pytest.raises(OSError, match="locked by another process"):
            cache.quota(limit=3 * MB).enforce()
    assert cache.names == set("abc")
    cache.download(quota, "d")


def refused(cache: CacheDir, quota: Quota, name: str) -> bool:
    """Return whether a download is not stored."""
    try:
        cache.download(quota, name)
    except NotStored:
        return True
    return False


def test_a_download_that_needs_no_eviction_waits_for_none(cache: CacheDir):
    cache.store_file("a")
    quota = cache.quota(limit=5 * MB)
    with another_process_evicting(cache.directory):
        _, seconds = timed(lambda: cache.download(quota, "b"))
    assert seconds < 1
    assert cache.names == set("ab")


def test_a_count_that_takes_long_delays_no_download(
    cache: CacheDir, monkeypatch: pytest.MonkeyPatch
):
    # The lock of gevent would need an event loop in the thread.
    gate = monkey.get_original("_thread", "allocate_lock")()
    gate.acquire()

    def wait(usage: Usage) -> tuple[int, int, int]:
        with gate:
            return 0, 0, 0

    monkeypatch.setattr(Usage, "_count_stored", wait)
    quota = cache.quota(limit=5 * MB)
    try:
        with pytest.raises(NotStored, match="longer than a client waits"):
            cache.download(quota, "a")
    finally:
        gate.release()
    cache.download(quota, "a")
    assert cache.names == {"a"}


# The background


class Failing(Store):
    """A store that fails to write the last uses with `error`."""

    error: BaseException | None = None
    rounds = 0

    def write_last_uses(self) -> None:
        self.rounds += 1
        if self.error is not None:
            raise self.error


class Trimmed(Catalog):
    """A large catalog that fails to shrink with `error`."""

    error: BaseException | None = None

    def trim(self, size: int) -> None:
        if self.error is not None:
            raise self.error

    def size(self) -> int:
        return super().size() + 3 * MB


@pytest.fixture
def round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the background make a round each millisecond."""
    monkeypatch.setattr(quota_module, "_INTERVAL", 0.001)


ERRORS = [
    OSError(errno.EIO, "Input/output error"),
    sqlite3.DatabaseError("database disk image is malformed"),
    peewee.OperationalError("database is locked"),
    MemoryError(),
    RecursionError("maximum recursion depth exceeded"),
    RuntimeError("dictionary changed size during iteration"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    gevent.Timeout(1),
]


@pytest.mark.usefixtures("round_trip")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("task", ["last_uses", "catalog"])
def test_an_error_of_one_task_is_logged_once_and_stops_no_other(
    cache: CacheDir, error: BaseException, task: str, caplog: pytest.LogCaptureFixture
):
    for used, name in enumerate("abcdefgh"):
        cache.store_file(name, used=used)
    cache.catalog.close()
    store, errors = Failing(cache.directory), list[str]()
    cache.catalog = catalog = Trimmed(cache.directory / "index.sqlite3")
    (store if task == "last_uses" else catalog).error = error
    quota = Quota(
        cache.directory, store, catalog, limit=5 * MB, min_free=0, count_error=errors.append
    )
    running = gevent.spawn(quota.run)
    try:
        until(lambda: len(errors) > 10)
        assert set(errors) == {task}
        assert caplog.text.count("cannot enforce the limits") == 1
        until(lambda: len(cache.names) < 8)
        store.error = catalog.error = None
        rounds = store.rounds
        until(lambda: store.rounds > rounds + 5)
        (store if task == "last_uses" else catalog).error = error
        until(lambda: caplog.text.count("cannot enforce the limits") == 2)
        assert not running.ready()
    finally:
        running.kill()


@pytest.mark.usefixtures("round_trip")
def test_the_background_can_be_stopped(cache: CacheDir):
    running = gevent.spawn(cache.quota(limit=MB).run)
    gevent.sleep(0.01)
    running.kill(timeout=5)
    assert running.ready()


def test_the_background_waits_while_another_process_evicts(cache: CacheDir):
    for used, name in enumerate("ab"):
        cache.store_file(name, used=used)
    with another_process_evicting(cache.directory) as other:
        enforcing = gevent.spawn(cache.quota(limit=MB).enforce)
        enforcing.join(0.2)
        assert not enforcing.ready()
        assert cache.names == set("ab")
        other.communicate("\n")
        enforcing.get(timeout=5)
    assert cache.names == {"b"}


def free(directory: Path) -> int:
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def test_the_minimum_of_the_disk_stays_free(small_disk: Path):
    cache = CacheDir(small_disk / "cache")
    quota = cache.quota(min_free=8 * MB)
    for name in "abcdefghijkl":
        cache.download(quota, name)
        assert free(small_disk) >= 8 * MB
    assert "l" in cache.names
    with pytest.raises(NotStored, match="lacks"):
        cache.download(quota, "m", 14 * MB)
    cache.catalog.close()


def test_a_full_disk_evicts_no_file_without_limits(small_disk: Path):
    cache = CacheDir(small_disk / "cache")
    cache.store_file("a", 10 * MB)
    with pytest.raises(NotStored, match="lacks"):
        cache.download(cache.quota(), "b", 11 * MB)
    assert cache.names == {"a"}
    cache.catalog.close()


def test_the_background_evicts_no_file_for_reserved_ones_without_limits(
    small_disk: Path,
):
    cache = CacheDir(small_disk / "cache")
    for used, name in enumerate("ab"):
        cache.store_file(name, 5 * MB, used=used)
    quota, partial = cache.quota(), cache.partial("c")
    quota.reserve(partial, 9 * MB)
    # Another program takes the free space.
    with contextlib.suppress(OSError):
        (small_disk / "other").write_bytes(bytes(6 * MB))
    quota.enforce()
    assert cache.names >= set("ab")
    partial.discard()
    quota.release(partial, is_stored=False)
    partial.close()
    cache.catalog.close()


def test_a_minimum_that_no_eviction_reaches_evicts_no_file(small_disk: Path):
    cache = CacheDir(small_disk / "cache")
    for used, name in enumerate("ab"):
        cache.store_file(name, used=used)
    (small_disk / "other").write_bytes(bytes(12 * MB))
    with pytest.raises(NotStored, match="lacks"):
        cache.download(cache.quota(min_free=15 * MB), "c")
    assert cache.names == set("ab")
    cache.catalog.close()


def test_an_emptied_directory_is_counted_again(cache: CacheDir):
    cache.store_file("a")
    for directory in ("+files", "+partial"):
        shutil.rmtree(cache.directory / directory)
    quota = cache.quota(limit=5 * MB)
    quota.enforce()
    cache.download(quota, "b")
    assert cache.names == {"b"}


def test_the_catalog_takes_at_most_half_of_the_limit(cache: CacheDir):
    for number in range(60):
        entry = Entry(
            name=f"p{number}", upstream="u", found=True, fetched_at=number, checked_at=number
        )
        files = tuple(
            File(filename=f"p-{each}.zip", url=f"http://x.example.org/{'a' * 500}", directory="x")
            for each in range(75)
        )
        cache.catalog.remember(entry, ProjectPage(name=entry.name, files=files))
    assert cache.catalog.size() > 4 * MB
    cache.quota(limit=4 * MB).enforce()
    assert cache.catalog.size() <= 2.5 * MB
    assert cache.catalog.page("p59") is not None
    assert cache.catalog.page("p0") is None


def test_without_limits_there_is_room_for_any_size(cache: CacheDir):
    assert cache.quota().room() == math.inf


def test_the_room_of_a_limit_is_what_the_background_leaves(cache: CacheDir):
    for name in ("a", "b", "c", "d"):
        cache.store_file(name)
    quota = cache.quota(limit=4 * MB)
    stays = quota.room()
    assert 2 * MB < stays < 3.4 * MB
    quota.enforce()
    assert sum(found.size for found in cache.store.files()) <= stays


def test_the_minimum_of_free_space_leaves_less_room(cache: CacheDir):
    cache.store_file("a")
    free = shutil.disk_usage(cache.directory).free
    assert cache.quota(min_free=free + 100 * MB).room() == 0
    assert 0 < cache.quota(min_free=free // 2).room() < free
