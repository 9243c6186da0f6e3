"""Metrics shared between workers, dead ones included."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytail.telemetry import multiprocess
from tests.support.running import clean_environ

pytestmark = pytest.mark.process

#: A worker like gunicorn's: counts as many responses as each line says, and prints the sums of all.
WORKER = """
import sys
from pathlib import Path
from gevent import monkey; monkey.patch_all()
from pytail.telemetry import multiprocess
multiprocess.share(Path(sys.argv[1]))
from pytail.telemetry.access import AccessRecord
from pytail.telemetry.metrics import Metrics
metrics = Metrics()
record = AccessRecord("GET", "/simple/demo/", "the-id")
record.outcome, record.status = "HIT", "200"
print("ready", flush=True)
for line in sys.stdin:
    number = int(line)
    for _ in range(number):
        metrics.count_response(record)
        metrics.observe_upstream(0.1)
    metrics.set_downloading(number)
    names = ("requests_total", "upstream_seconds_count", "arriving_files")
    read = metrics.snapshot()
    print(*(int(read.total(f"pytail_{name}")) for name in names), flush=True)
"""


class Worker:
    """A worker in a process of its own."""

    def __init__(self, cache_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(cache_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ(),
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def count(self, number: int) -> tuple[int, ...]:
        """Count `number` more; return the requests, upstream responses and downloads of all workers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        return tuple(map(int, self.process.stdout.readline().split()))

    def end(self, *, suddenly: bool = False) -> str:
        """End the worker, by SIGKILL where `suddenly`. Return its standard error."""
        if suddenly:
            self.process.kill()
        return self.process.communicate()[1]


@contextlib.contextmanager
def worker(cache_dir: Path) -> Iterator[Worker]:
    started = Worker(cache_dir)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.end()


def files(cache_dir: Path) -> set[str]:
    return {path.name for path in (cache_dir / "+metrics").glob("*/*")}


def test_each_worker_shows_the_sum_of_all(tmp_path: Path):
    with worker(tmp_path) as one, worker(tmp_path) as other:
        assert one.count(3) == (3, 3, 3)
        assert other.count(4) == (7, 7, 7)
        assert one.count(1) == (8, 8, 5)


@pytest.mark.parametrize("suddenly", [False, True])
def test_counters_of_a_dead_worker_stay_and_its_files_are_removed(tmp_path: Path, suddenly: bool):
    for total in (5, 10, 15):
        with worker(tmp_path) as one:
            assert one.count(5) == (total, total, 5)
            files_before = files(tmp_path)
            one.end(suddenly=suddenly)
        assert files(tmp_path) == files_before
    with worker(tmp_path) as last:
        assert last.count(0) == (15, 15, 0)
        pids = {name.partition(".")[0].rpartition("_")[2] for name in files(tmp_path)}
        assert pids == {"dead", str(last.process.pid)}


def test_dead_worker_is_merged_at_the_next_read(tmp_path: Path):
    with worker(tmp_path) as one, worker(tmp_path) as other:
        assert one.count(5) == (5, 5, 5)
        one.end(suddenly=True)
        assert other.count(0) == (5, 5, 0)
        assert not any(str(one.process.pid) in name for name in files(tmp_path))


def test_live_worker_is_not_merged(tmp_path: Path):
    with worker(tmp_path) as one:
        one.count(2)
        with worker(tmp_path) as other:
            assert other.count(1) == (3, 3, 3)
            assert one.count(1) == (4, 4, 2)


def test_directory_of_a_gunicorn_without_live_workers_is_removed(tmp_path: Path):
    abandoned, living = tmp_path / "+metrics" / "host-1", tmp_path / "+metrics" / "host-2"
    for directory in (abandoned, living):
        directory.mkdir(parents=True)
        (directory / "5.lock").touch()
    with (living / "5.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with worker(tmp_path):
            assert not abandoned.exists()
            assert living.exists()


def test_files_have_their_full_size_from_the_start(tmp_path: Path):
    with worker(tmp_path):
        mapped = list((tmp_path / "+metrics").glob("*/*.db"))
        assert len(mapped) == 8
        for path in mapped:
            assert path.stat().st_blocks * 512 >= path.stat().st_size == 128 * 1024


def test_worker_shows_its_own_metrics_where_the_directory_was_removed(tmp_path: Path):
    with worker(tmp_path) as one, worker(tmp_path) as other:
        assert other.count(4) == (4, 4, 4)
        shutil.rmtree(tmp_path / "+metrics")
        assert one.count(3) == (3, 3, 3)
        assert "of this worker alone" in one.end()


def test_worker_counts_alone_and_logs_it_where_it_cannot_make_the_directory(tmp_path: Path):
    (tmp_path / "+metrics").write_text("a file in place of the directory")
    with worker(tmp_path) as one, worker(tmp_path) as other:
        assert one.count(3) == (3, 3, 3)
        assert other.count(4) == (4, 4, 4)
        assert "/+metrics shows each worker alone" in one.end()
    assert multiprocess.VARIABLE not in os.environ


# Damage and locks


def worker_files(cache_dir: Path, pid: int | str) -> list[Path]:
    return sorted((cache_dir / "+metrics").glob(f"*/*_{pid}.db"))


def nan_in(data: bytes) -> bytes:
    """Return `data` with the first value not a number."""
    (length,) = struct.unpack_from("i", data, 8)
    value = 12 + length + (8 - (length + 4) % 8)
    return data[:value] + struct.pack("d", float("nan")) + data[value + 8 :]


DAMAGE = {
    "noise": lambda data: os.urandom(len(data)),
    "ones": lambda data: b"\xff" * len(data),
    "negative": lambda data: struct.pack("i", -5) + data[4:],
    "too long": lambda data: struct.pack("i", 2**30) + data[4:],
    "short": lambda data: data[:200],
    "three bytes": lambda data: data[:3],
    "empty": lambda data: b"",
    "no JSON": lambda data: data.replace(b'["pytail', b'{"pytail'),
    "other names": lambda data: data.replace(b'["pytail_', b'["{}"\n\n\n_'),
    "not a number": nan_in,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_of_a_dead_worker_are_set_aside(tmp_path: Path, damage: Any):
    with worker(tmp_path) as other:
        with worker(tmp_path) as one:
            assert one.count(5) == (5, 5, 5)
            paths = worker_files(tmp_path, one.process.pid)
            one.end(suddenly=True)
        for path in paths:
            path.write_bytes(damage(path.read_bytes()))
        requests, _, _ = other.count(3)
        assert requests == 3
        assert other.count(1)[0] == 4
        assert "cannot use the metrics file" in other.end()


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_worker_starts_where_files_are_damaged(tmp_path: Path, damage: Any):
    with worker(tmp_path) as one:
        one.count(5)
        one.end(suddenly=True)
    for path in (tmp_path / "+metrics").glob("*/*.db"):
        path.write_bytes(damage(path.read_bytes()))
    with worker(tmp_path) as again:
        assert again.count(3)[0] == 3
        assert again.count(1)[0] == 4


def test_files_of_others_are_left_out_and_logged_once(tmp_path: Path):
    with worker(tmp_path) as one:
        (directory,) = (tmp_path / "+metrics").glob("*-*")
        (directory / "foreign.db").write_bytes(b"x" * 100)
        (directory / "gauge.db").mkdir()
        os.mkfifo(directory / "counter_7.db")
        assert [one.count(1)[0] for _ in range(3)] == [1, 2, 3]
        log = one.end()
    assert [log.count(name) for name in ("foreign.db", "gauge.db", "counter_7.db")] == [1, 1, 1]


def test_a_worker_shows_its_own_metrics_while_the_lock_is_held(tmp_path: Path):
    with worker(tmp_path) as one, worker(tmp_path) as other:
        assert other.count(4) == (4, 4, 4)
        with (tmp_path / "+metrics" / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            started = time.monotonic()
            assert one.count(3) == (3, 3, 3)
            assert time.monotonic() - started < 2
            assert one.count(1) == (4, 4, 1)
        assert one.count(0) == (8, 8, 4)
        assert one.end().count("of this worker alone") == 1


def test_a_worker_starts_while_the_lock_is_held(tmp_path: Path):
    (tmp_path / "+metrics").mkdir()
    with (tmp_path / "+metrics" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with worker(tmp_path) as one:
            assert one.count(3) == (3, 3, 3)
            assert "cannot share metrics" in one.end()
