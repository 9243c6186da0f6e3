"""``kill -9`` of the real program: stored files stay, wrong bytes are never stored or sent."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex, Gated
from tests.support.running import embedded, free_port, program
from tests.support.sending import Sending, is_fetched, new_file, seeded
from tests.support.watching import partial_sizes, stored_keys, until

pytestmark = pytest.mark.slow

SIZE = 400_000

#: A pytail that kills itself at a point of storing a file.
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
    # The thread may be late.
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


@pytest.mark.usefixtures("owner")
def test_kills_at_random_moments_leave_nothing_wrong(index: FakeIndex, cache: Path, log: Path):
    chance, stored = seeded(), set()
    dists = [new_file(index, SIZE, str(number)) for number in range(60)]
    answers = {dist.path: Sending(dist.data, pause=0.005) for dist in dists}
    index.answers |= answers
    for _ in range(24):
        with embedded(cache, index.url, log) as running:
            wanted = [dist for dist in dists if dist.key not in stored][:4]
            clients = [gevent.spawn(is_fetched, running.client, dist) for dist in wanted * 2]
            gevent.sleep(chance.uniform(0, 0.3))
            running.process.kill()
            gevent.joinall(clients, raise_error=True)
        before, stored = stored, stored_keys(cache)
        assert before <= stored
    with embedded(cache, index.url, log) as running:
        assert all(is_fetched(running.client, dist) for dist in dists)
        assert stored_keys(cache) == {dist.key for dist in dists}
        assert partial_sizes(cache) == []
    assert any(range_ for answer in answers.values() for range_ in answer.ranges)


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize("sent", [100_000, SIZE - 1])
def test_the_partial_file_of_a_killed_process_is_resumed(
    index: FakeIndex, cache: Path, log: Path, sent: int
):
    dist = new_file(index, SIZE)
    answer = index.answers[dist.path] = Sending(dist.data, sent)
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(is_fetched, running.client, dist)
        until(lambda: partial_sizes(cache) == [sent])
        running.process.kill()
        assert not client.get()
    answer.gate.set()
    with embedded(cache, index.url, log) as running:
        assert is_fetched(running.client, dist)
    assert answer.ranges == [None, f"bytes={sent}-"]
    assert stored_keys(cache) == {dist.key}
    assert partial_sizes(cache) == []


@pytest.mark.usefixtures("rights")
def test_the_complete_partial_file_of_a_killed_process_is_verified_and_stored(
    index: FakeIndex, cache: Path, log: Path
):
    dist = new_file(index, SIZE)
    # The response is chunked, and its last chunk is never sent.
    answer = index.answers[dist.path] = Gated(dist.data, b"")
    answer.open()
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(is_fetched, running.client, dist)
        until(lambda: partial_sizes(cache) == [SIZE])
        running.process.kill()
        assert not client.get()
    assert stored_keys(cache) == set()
    with embedded(cache, index.url, log) as running:
        assert is_fetched(running.client, dist)
    assert index.count(dist.path) == 1
    assert stored_keys(cache) == {dist.key}


@pytest.mark.usefixtures("rights")
@pytest.mark.parametrize(
    ("point", "is_stored"),
    [
        ("before fsync", False),
        ("during fsync", None),
        ("before rename", False),
        ("after rename", True),
    ],
)
def test_a_kill_while_a_file_is_stored_interrupts_only_the_response(
    index: FakeIndex, cache: Path, log: Path, point: str, is_stored: bool | None
):
    dist, port = new_file(index, SIZE), free_port()
    command = [sys.executable, "-c", DYING, point, "--bind", f"127.0.0.1:{port}"]
    command += ["--cache-dir", str(cache), "--upstream-base-url", index.url]
    with program(command, log, f"http://127.0.0.1:{port}") as running:
        assert not is_fetched(running.client, dist)
        running.process.wait(10)
    if is_stored is not None:
        assert stored_keys(cache) == ({dist.key} if is_stored else set())
        assert partial_sizes(cache) == ([] if is_stored else [SIZE])
    with embedded(cache, index.url, log) as running:
        assert is_fetched(running.client, dist)
    assert index.count(dist.path) == 1
    assert stored_keys(cache) == {dist.key}
    assert partial_sizes(cache) == []


@pytest.mark.usefixtures("rights")
def test_a_partial_file_without_new_requests_stays_for_a_day(
    index: FakeIndex, cache: Path, log: Path
):
    dist = new_file(index, SIZE)
    index.answers[dist.path] = Sending(dist.data, 100_000)
    with embedded(cache, index.url, log) as running:
        client = gevent.spawn(is_fetched, running.client, dist)
        until(lambda: partial_sizes(cache) == [100_000])
        running.process.kill()
        client.join()
    with embedded(cache, index.url, log):
        assert partial_sizes(cache) == [100_000]
    (partial,) = (cache / "+partial").iterdir()
    os.utime(partial, (0, 0))
    with embedded(cache, index.url, log) as running:
        assert running.client.head(dist.served).status == 200
        assert partial_sizes(cache) == []
