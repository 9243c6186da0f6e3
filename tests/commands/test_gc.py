"""``pytail gc`` removes old partial files and orphans, evicts down to the limits, and nothing else."""

from __future__ import annotations

import os
import signal
import time

import gevent
import pytest

from tests.commands.conftest import Installation
from tests.support.fakeindex import FakeIndex, Gated, wheel
from tests.support.storage import another_process_evicting
from tests.support.watching import until

pytestmark = pytest.mark.process

TWO_DAYS_AGO = time.time() - 2 * 86400


def test_old_partial_files_are_removed_and_young_ones_stay(installation: Installation):
    partials = installation.cache / "+partial"
    for name in ("old", "young"):
        (partials / name).write_bytes(b"half")
    os.utime(partials / "old", (TWO_DAYS_AGO, TWO_DAYS_AGO))
    assert installation.json("gc")["partials"] == 1
    assert [path.name for path in partials.iterdir()] == ["young"]


def test_a_downloading_file_stays_however_old_its_partial_file_is(
    installation: Installation, index: FakeIndex
):
    dist = wheel("demo", payload=os.urandom(100_000))
    index.add(dist)
    half = len(dist.data) // 2
    gated = Gated(dist.data[:half], dist.data[half:], size=len(dist.data))
    index.answers[dist.path] = gated
    client = gevent.spawn(installation.store, dist)
    gated.asked.wait(10)
    gated.open()
    until(lambda: any(installation.partial_sizes()), seconds=10)
    (partial,) = (installation.cache / "+partial").iterdir()
    os.utime(partial, (TWO_DAYS_AGO, TWO_DAYS_AGO))
    assert installation.run_json("gc")["partials"] == 0
    gated.open()
    client.get()
    assert installation.path(dist).read_bytes() == dist.data


def test_a_file_whose_path_is_not_a_key_is_removed(installation: Installation, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    installation.store(dist)
    orphan = installation.path(dist).parents[2] / "orphan" / "file"
    orphan.parent.mkdir()
    orphan.write_bytes(b"x")
    assert installation.json("gc")["orphans"] == 1
    assert not orphan.parent.exists()
    assert installation.path(dist).exists()


def test_the_least_recently_used_file_is_evicted(installation: Installation):
    dists = [wheel("demo", f"{number}.0", payload=os.urandom(400_000)) for number in (1, 2, 3)]
    for dist, used in zip(dists, (2, 1, 3), strict=True):
        installation.write_file(dist, TWO_DAYS_AGO + used)
    counts = installation.json("gc", "--cache-max-size", "1200kB")
    assert (counts["evicted"], counts["evicted_bytes"] >= 400_000) == (1, True)
    assert [installation.path(dist).exists() for dist in dists] == [True, False, True]


def test_gc_prints_what_it_removed(installation: Installation):
    out = installation.run("gc")
    assert out.stdout == "0 old partial files and 0 orphans removed; 0 files evicted, 0 B\n"
    assert out.stderr == ""


def test_a_stopped_process_that_evicts_does_not_hang_the_command(installation: Installation):
    store_dir = installation.cache / "+files/root/pypi/+f/abc/0123456789abc"
    store_dir.mkdir(parents=True)
    for name in ("a-1.0.zip", "b-1.0.zip"):
        (store_dir / name).write_bytes(bytes(1_000_000))
    with another_process_evicting(installation.cache) as other:
        os.kill(other.pid, signal.SIGSTOP)
        ran = installation.run("gc", "--cache-max-size", "1MB")
    assert ran.returncode == 2
    assert "cannot evict files" in ran.stderr
