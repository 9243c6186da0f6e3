"""What nobody will ask for goes, and nothing else."""

from __future__ import annotations

import os
import time

import gevent
import pytest

from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, Gated, wheel

pytestmark = pytest.mark.process

LONG_AGO = time.time() - 2 * 86400


def test_old_partial_files_go_and_young_ones_stay(beside: Beside):
    partials = beside.cache / "+partial"
    for name in ("old", "young"):
        (partials / name).write_bytes(b"half")
    os.utime(partials / "old", (LONG_AGO, LONG_AGO))
    assert beside.json("gc")["partials"] == 1
    assert [path.name for path in partials.iterdir()] == ["young"]


def test_a_file_that_is_arriving_stays_however_old_it_looks(beside: Beside, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(100_000))
    index.add(dist)
    half = len(dist.data) // 2
    gated = Gated(dist.data[:half], dist.data[half:], size=len(dist.data))
    index.answers[dist.path] = gated
    client = gevent.spawn(beside.hold, dist)
    gated.asked.wait(10)
    gated.open()
    partials = beside.cache / "+partial"
    with gevent.Timeout(10):
        while not any(path.stat().st_size for path in partials.iterdir()):
            gevent.sleep(0.01)
    (partial,) = partials.iterdir()
    os.utime(partial, (LONG_AGO, LONG_AGO))
    assert beside.json("gc")["partials"] == 0
    gated.open()
    client.get()
    assert beside.path(dist).read_bytes() == dist.data


def test_what_no_url_can_mean_goes(beside: Beside, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    beside.hold(dist)
    stray = beside.path(dist).parents[2] / "stray" / "file"
    stray.parent.mkdir()
    stray.write_bytes(b"x")
    assert beside.json("gc")["orphans"] == 1
    assert not stray.parent.exists()
    assert beside.path(dist).exists()


def test_the_limit_is_kept_to_by_last_use(beside: Beside):
    dists = [wheel("demo", f"{number}.0", payload=os.urandom(400_000)) for number in (1, 2, 3)]
    for dist, used in zip(dists, (2, 1, 3), strict=True):
        beside.plant(dist, LONG_AGO + used)
    told = beside.json("gc", "--cache-max-size", "1200kB")
    assert (told["evicted"], told["evicted_bytes"] >= 400_000) == (1, True)
    assert [beside.path(dist).exists() for dist in dists] == [True, False, True]


def test_gc_says_what_it_did(beside: Beside):
    out = beside.run("gc")
    assert out.stdout == (
        "0 old partial files and 0 orphans removed; 0 files removed for the limits, 0 B\n"
    )
    assert out.stderr == ""
