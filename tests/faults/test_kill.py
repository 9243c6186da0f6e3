"""``kill -9`` of the real program: nothing wrong is ever kept or sent, nothing held is lost."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex, Gated
from tests.support.running import embedded, free_port, program
from tests.support.sending import Sending, dist_of, fetched, held, partials, seeded
from tests.support.watching import until

pytestmark = pytest.mark.slow

SIZE = 400_000

#: pytail that kills itself at a point of committing a file.
DYING = """
import os, signal, sys
from fcntl import LOCK_SH
from gevent import monkey; monkey.patch_all()

point = sys.argv.pop(1)
start_thread = monkey.get_original("_thread", "start_new_thread")
sync = os.fsync

def die_at(reached):
    if reached == point:
        os.kill(os.getpid(), signal.SIGKILL)

def fsync(descriptor):
    die_at("before fsync")
    start_thread(die_at, ("during fsync",))
    sync(descriptor)
    # No later, should the thread be slow.
    die_at("during fsync")

def hear(event, arguments):
    if event == "os.rename" and "+partial" in str(arguments[0]):
        die_at("before rename")
    if event == "fcntl.flock" and arguments[1] == LOCK_SH:
        die_at("after rename")

os.fsync = fsync
sys.addaudithook(hear)
from pytail.commands.main import main
main()
"""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def test_kills_at_random_moments_leave_nothing_wrong(index: FakeIndex, cache: Path, log: Path):
    chance, kept = seeded(), set()
    dists = [dist_of(index, SIZE, str(number)) for number in range(60)]
    answers = {dist.path: Sending(dist.data, pause=0.005) for dist in dists}
    index.answers |= answers
    for _ in range(24):
        with embedded(cache, index.url, log) as running:
            wanted = [dist for dist in dists if dist.key not in kept][:4]
            clients = [gevent.spawn(fetched, running.client, dist) for dist in wanted * 2]
            gevent.sleep(chance.uniform(0, 0.3))
            running.process.kill()
            gevent.joinall(clients, raise_error=True)
        before, kept = kept, held(cache)
        # What was held is held for ever.
        assert before <= kept
    with embedded(cache, index.url, log) as running:
        assert all(fetched(running.client, dist) for dist in dists)
        assert held(cache) == {dist.key for dist in dists}
        assert partials(cache) == []
    assert any(range_ for answer in answers.values() for range_ in answer.ranges)


@pytest.mark.parametrize("sent", [100_000, SIZE - 1])
def test_a_partial_file_of_a_killed_process_is_gone_on_with(
    index: FakeIndex, cache: Path, log: Path, sent: int
):
    dist = dist_of(index, SIZE)
    answer = index.answers[dist.path] = Sending(dist.data, sent)
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(fetched, running.client, dist)
        until(lambda: (cache / "+partial").exists() and partials(cache) == [sent])
        running.process.kill()
        assert not client.get()
    answer.gate.set()
    with embedded(cache, index.url, log) as running:
        assert fetched(running.client, dist)
    assert answer.ranges == [None, f"bytes={sent}-"]
    assert held(cache) == {dist.key}
    assert partials(cache) == []


def test_a_whole_partial_file_of_a_killed_process_is_verified_and_kept(
    index: FakeIndex, cache: Path, log: Path
):
    dist = dist_of(index, SIZE)
    # In chunks, the last of which never comes.
    answer = index.answers[dist.path] = Gated(dist.data, b"")
    answer.open()
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(fetched, running.client, dist)
        until(lambda: (cache / "+partial").exists() and partials(cache) == [SIZE])
        running.process.kill()
        assert not client.get()
    assert held(cache) == set()
    with embedded(cache, index.url, log) as running:
        assert fetched(running.client, dist)
    assert index.count(dist.path) == 1
    assert held(cache) == {dist.key}


@pytest.mark.parametrize(
    ("point", "is_held"),
    [
        ("before fsync", False),
        ("during fsync", None),
        ("before rename", False),
        ("after rename", True),
    ],
)
def test_a_kill_while_a_file_is_committed_costs_nothing_but_the_answer(
    index: FakeIndex, cache: Path, log: Path, point: str, is_held: bool | None
):
    dist, port = dist_of(index, SIZE), free_port()
    command = [sys.executable, "-c", DYING, point, "--bind", f"127.0.0.1:{port}"]
    command += ["--cache-dir", str(cache), "--upstream-base-url", index.url]
    with program(command, log, f"http://127.0.0.1:{port}") as running:
        assert not fetched(running.client, dist)
        running.process.wait(10)
    if is_held is not None:
        assert held(cache) == ({dist.key} if is_held else set())
        assert partials(cache) == ([] if is_held else [SIZE])
    with embedded(cache, index.url, log) as running:
        assert fetched(running.client, dist)
    assert index.count(dist.path) == 1
    assert held(cache) == {dist.key}
    assert partials(cache) == []


def test_a_file_that_nobody_wants_again_is_left_as_it_is_for_a_day(
    index: FakeIndex, cache: Path, log: Path
):
    dist = dist_of(index, SIZE)
    index.answers[dist.path] = Sending(dist.data, 100_000)
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(fetched, running.client, dist)
        until(lambda: (cache / "+partial").exists() and partials(cache) == [100_000])
        running.process.kill()
        client.join()
    with embedded(cache, index.url, log):
        assert partials(cache) == [100_000]
    (partial,) = (cache / "+partial").iterdir()
    os.utime(partial, (0, 0))
    with embedded(cache, index.url, log) as running:
        assert running.client.head(dist.served).status == 200
        assert partials(cache) == []
