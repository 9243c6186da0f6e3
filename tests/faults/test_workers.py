"""Workers of one cache directory share a download, also when the downloading one is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path

import gevent
import pytest

from tests.support.fakeindex import FakeIndex
from tests.support.running import Program, under_gunicorn
from tests.support.sending import Sending, is_fetched, new_file, seeded
from tests.support.watching import partial_sizes, stored_keys, until

SIZE = 3_000_000
SENT = 1_000_000

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("worker", ["gevent", "pytail.gunicorn.Worker"]),
]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def four(tmp_path: Path, cache: Path, index: FakeIndex, worker: str) -> Iterator[Program]:
    log = tmp_path / "log"
    options = ("-k", worker, "-w", "4", "--timeout", "60")
    with under_gunicorn(cache, index.url, log, *options) as running:
        until(lambda: are_ready(running), 20)
        yield running
        # A worker without a signal handler yet would ignore the stop.
        until(lambda: are_ready(running), 20)


def are_ready(running: Program) -> bool:
    """Return whether four workers load pytail: each then has its lock file open."""
    found = pids(running)
    return len(found) == 4 and all(
        any(name.endswith(f"/{pid}.lock") for name in descriptors(pid)) for pid in found
    )


def pids(running: Program) -> list[int]:
    """Return the process ids of the workers."""
    pid = running.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def writer(cache: Path) -> int | None:
    """Return the process id that locks the only partial file exclusively, or None."""
    (partial,) = (cache / "+partial").iterdir()
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, access, pid, inode, *_ = line.split()
        if (kind, access) == ("FLOCK", "WRITE") and inode.endswith(f":{partial.stat().st_ino}"):
            return int(pid)
    return None


def server_of(connection: HTTPConnection, running: Program) -> int:
    """Return the process id of the worker that accepted `connection`."""
    here, there = connection.sock.getsockname()[1], connection.sock.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if local.endswith(f":{there:04X}") and remote.endswith(f":{here:04X}"):
            return next(pid for pid in pids(running) if f"socket:[{rest[6]}]" in descriptors(pid))
    raise AssertionError("no worker accepted the connection")


def descriptors(pid: int) -> set[str]:
    found = set()
    with suppress(FileNotFoundError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.add(str(descriptor.readlink()))
    return found


def rest_of(response: HTTPResponse) -> bytes | None:
    """Read and return the rest of `response`; None where it breaks off."""
    with suppress(OSError, HTTPException):
        return response.read()
    return None


def opened(
    stack: ExitStack, running: Program, path: str
) -> tuple[list[HTTPConnection], list[HTTPResponse]]:
    """Open 24 requests of `path`, and more until two workers have some of them."""

    def more(count: int) -> None:
        new = [running.client.open("GET", path) for _ in range(count)]
        connections.extend(stack.enter_context(closing(connection)) for connection in new)
        responses.extend(connection.getresponse() for connection in new)

    connections: list[HTTPConnection] = []
    responses: list[HTTPResponse] = []
    more(24)
    while len({server_of(connection, running) for connection in connections}) == 1:
        more(1)
    return connections, responses


@pytest.mark.usefixtures("rights")
def test_clients_of_all_workers_share_one_upstream_request_and_get_bytes_at_once(
    four: Program, index: FakeIndex, cache: Path
):
    dist = new_file(index, SIZE)
    answer = index.answers[dist.path] = Sending(dist.data, SENT)
    with ExitStack() as stack:
        _, responses = opened(stack, four, dist.served)
        assert {response.length for response in responses} == {SIZE}
        # Upstream has not sent the rest.
        assert {response.read(SENT - 1024) for response in responses} == {dist.data[: SENT - 1024]}
        answer.gate.set()
        rests = [gevent.spawn(rest_of, response) for response in responses]
        gevent.joinall(rests)
        assert {rest.value for rest in rests} == {dist.data[SENT - 1024 :]}
    assert answer.ranges == [None]
    assert stored_keys(cache) == {dist.key}


@pytest.mark.usefixtures("rights")
def test_another_worker_resumes_the_download_of_a_killed_one(
    four: Program, index: FakeIndex, cache: Path
):
    dist = new_file(index, SIZE)
    answer = index.answers[dist.path] = Sending(dist.data, SENT)
    with ExitStack() as stack:
        connections, responses = opened(stack, four, dist.served)
        until(lambda: partial_sizes(cache) == [SENT])
        dying = writer(cache)
        are_lost = [server_of(connection, four) == dying for connection in connections]
        os.kill(dying, signal.SIGKILL)
        until(lambda: writer(cache) not in (None, dying))
        answer.gate.set()
        bodies = [gevent.spawn(rest_of, response) for response in responses]
        gevent.joinall(bodies)
    assert [body.value for body in bodies] == [None if lost else dist.data for lost in are_lost]
    assert answer.ranges == [None, f"bytes={SENT}-"]
    assert stored_keys(cache) == {dist.key}
    assert partial_sizes(cache) == []


@pytest.mark.usefixtures("owner")
def test_kills_of_workers_at_random_moments_leave_nothing_wrong(
    four: Program, index: FakeIndex, cache: Path
):
    chance, dists = seeded(), [new_file(index, SIZE // 8, str(number)) for number in range(24)]
    index.answers |= {dist.path: Sending(dist.data, pause=0.01) for dist in dists}
    for number in range(12):
        wanted = dists[2 * number : 2 * number + 2]
        clients = [gevent.spawn(is_fetched, four.client, dist) for dist in wanted * 6]
        gevent.sleep(chance.uniform(0, 0.3))
        os.kill(chance.choice(pids(four)), signal.SIGKILL)
        gevent.joinall(clients, raise_error=True)
        stored_keys(cache)
    assert all(is_fetched(four.client, dist) for dist in dists)
    assert stored_keys(cache) == {dist.key for dist in dists}
    assert partial_sizes(cache) == []
