"""Many at once: whoever asks for more than pytail fetches waits, and slows down nobody else."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import gevent
import pytest

from pytail.upstream import limiter
from tests.support.fakeindex import FakeIndex, Gated, reply, wheel
from tests.support.running import Answer, Client, Program, embedded, serving
from tests.support.watching import until

NAMES = 3000
#: Clients that ask for them at the same time.
FLOOD = 300


def under_way(client: Client, kind: str) -> int:
    return client.get("/+status").json()["fetches"][kind]["under_way"]


@pytest.fixture
def small(tmp_path: Path, index: FakeIndex) -> Iterator[Client]:
    """A pytail that fetches two files at the same time."""
    with serving(tmp_path / "cache", index.url, max_file_fetches=2) as client:
        yield client


def stalled(index: FakeIndex, client: Client, count: int) -> list[tuple[Gated, gevent.Greenlet]]:
    """Files that are asked for, and of which upstream sends nothing before their gates open."""
    found = []
    for number in range(count):
        dist = wheel(f"slow{number}")
        index.add(dist)
        assert client.get(f"/simple/{dist.project}/").status == 200
        gate = index.answers[dist.path] = Gated(dist.data, size=len(dist.data))
        found.append((gate, gevent.spawn(client.get, dist.served)))
    return found


def test_no_more_files_are_fetched_than_may_be(small: Client, index: FakeIndex):
    slow = stalled(index, small, 4)
    until(lambda: sum(gate.asked.is_set() for gate, _ in slow) == 2)
    until(lambda: under_way(small, "file") == 2)
    until(lambda: small.get("/+status").json()["fetches"]["file"]["waiting"] == 2)
    assert sum(gate.asked.is_set() for gate, _ in slow) == 2
    for gate, _ in slow:
        gate.open()
    assert [asked.get(timeout=10).status for _, asked in slow] == [200] * 4
    until(lambda: under_way(small, "file") == 0)


def test_slow_files_hold_up_neither_pages_nor_core_metadata(small: Client, index: FakeIndex):
    slow = stalled(index, small, 3)
    until(lambda: sum(gate.asked.is_set() for gate, _ in slow) == 2)
    dist = wheel("demo")
    index.add(dist)
    assert small.get("/simple/demo/").status == 200
    assert small.get(f"{dist.served}.metadata").data == dist.metadata
    for gate, asked in slow:
        gate.open()
        asked.join(timeout=10)


def test_whoever_gets_no_turn_is_told_when_to_come_back(
    small: Client, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limiter, "PATIENCE", 0.05)
    slow = stalled(index, small, 2)
    until(lambda: sum(gate.asked.is_set() for gate, _ in slow) == 2)
    dist = wheel("late")
    index.add(dist)
    assert small.get("/simple/late/").status == 200
    answer = small.get(dist.served)
    assert (answer.status, answer.headers["X-Cache"]) == (503, "MISS")
    assert int(answer.headers["Retry-After"]) > 0
    assert b"--max-file-fetches" in answer.data
    assert small.get("/+status").json()["fetches"]["file"]["turned_away"] == 1
    for gate, asked in slow:
        gate.open()
        asked.join(timeout=10)
    assert small.get(dist.served).data == dist.data


def test_what_we_have_a_copy_of_needs_no_turn_for_long(
    tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limiter, "PATIENCE", 0.05)
    index.add(wheel("demo"))
    settings: dict[str, Any] = {"max_page_fetches": 1, "project_cache_ttl_secs": 0}
    with serving(tmp_path / "cache", index.url, **settings) as client:
        assert client.get("/simple/demo/").status == 200
        gate = index.answers["/simple/slow/"] = Gated(b"")
        asked = gevent.spawn(client.get, "/simple/slow/")
        gate.asked.wait()
        assert client.get("/simple/demo/").headers["X-Cache"] == "STALE"
        gate.open()
        asked.join(timeout=10)


def test_pages_do_not_pile_up_before_a_catalog_that_is_slow(tmp_path: Path, index: FakeIndex):
    cache = tmp_path / "cache"
    with serving(cache, index.url, max_page_fetches=1) as client:
        # Another process has the lock for a while.
        with contextlib.closing(sqlite3.connect(cache / "index.sqlite3")) as writing:
            writing.execute("BEGIN IMMEDIATE")
            first = gevent.spawn(client.get, "/simple/first/")
            until(lambda: index.page_count("first") == 1)
            second = gevent.spawn(client.get, "/simple/second/")
            until(lambda: client.get("/+status").json()["fetches"]["page"]["waiting"] == 1)
            assert index.page_count("second") == 0
        assert [asked.get(timeout=10).status for asked in (first, second)] == [404, 404]


def test_a_wheel_whose_metadata_is_read_out_of_it_needs_no_second_turn(
    tmp_path: Path, index: FakeIndex
):
    dist = wheel("demo")
    dist.metadata = None
    index.add(dist)
    settings: dict[str, Any] = {
        "max_page_fetches": 1,
        "max_file_fetches": 1,
        "core_metadata_from_wheels": True,
    }
    with serving(tmp_path / "cache", index.url, **settings) as client:
        # Also its page is not known yet.
        assert client.get(f"{dist.served}.metadata").status == 200


#: Each over a connection that it keeps.
ASKING = """
from gevent import monkey

monkey.patch_all()

import collections, json, sys
from http.client import HTTPConnection
import gevent

url, flood, names = sys.argv[1].removeprefix("http://"), int(sys.argv[2]), int(sys.argv[3])
statuses = collections.Counter()


def ask(numbers):
    connection = HTTPConnection(url, timeout=60, source_address=("127.0.0.2", 0))
    for number in numbers:
        connection.request("GET", f"/simple/made-up-{number}/")
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    connection.close()


gevent.joinall([gevent.spawn(ask, range(n, names, flood)) for n in range(flood)], raise_error=True)
print(json.dumps(statuses))
"""


class Upstream:
    """Says that it has no such project, a little later, and notes how many it is asked at once."""

    def __init__(self, index: FakeIndex) -> None:
        self.now = self.most = 0
        index.answers = _Any(index.answers, self._answer)

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.now += 1
        self.most = max(self.most, self.now)
        gevent.sleep(0.1)
        self.now -= 1
        return reply(b"no", "text/plain", "404 Not Found")(environ, start_response)


class _Any(dict[str, Any]):
    """Answers for each made-up name."""

    def __init__(self, known: dict[str, Any], answer: Any) -> None:
        super().__init__(known)
        self._answer = answer

    def get(self, path: str, default: Any = None) -> Any:
        return self._answer if "/made-up-" in path else super().get(path, default)


def resident(running: Program) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def timed(client: Client, path: str) -> tuple[float, Answer]:
    started = time.monotonic()
    answer = client.get(path)
    return time.monotonic() - started, answer


@pytest.mark.slow
def test_3000_made_up_names_and_500_idle_connections_slow_down_nobody_else(
    tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
):
    # How fast it is, is told of what operators run.
    monkeypatch.delenv("PYTHONDEVMODE", raising=False)
    dists = [wheel(f"real{number}") for number in range(20)]
    index.add(*dists)
    upstream = Upstream(index)
    with (
        embedded(tmp_path / "cache", index.url, tmp_path / "log") as running,
        contextlib.ExitStack() as stack,
    ):
        client = running.client
        assert client.get("/simple/real0/").status == 200
        for number in range(500):
            idle = stack.enter_context(contextlib.closing(_connection(client)))
            idle.send(b"" if number % 2 else b"GET / HTTP/1.1\r\nX: ")
        before = resident(running)
        flood = stack.enter_context(flooding(client))
        until(lambda: upstream.now > 10, 20)
        took = []
        for dist in dists[1:]:
            # A hit, a cold page, a cold file.
            for path in ("/simple/real0/", f"/simple/{dist.project}/", dist.served):
                seconds, answer = timed(client, path)
                assert answer.status == 200
                took.append(seconds)
        is_flooded = flood.poll() is None
        statuses = json.loads(flood.communicate(timeout=120)[0])
        assert is_flooded, "the flood was over before the others had been answered"
        # But for what a busy machine is late by itself.
        assert sorted(took)[-3] < 1
        assert sum(statuses.values()) == NAMES
        assert statuses.keys() <= {"404", "503"}
        assert upstream.most <= 32
        assert resident(running) - before < 60_000_000
        until(lambda: under_way(client, "page") == 0)


def _connection(client: Client) -> HTTPConnection:
    connection = HTTPConnection(client.url.removeprefix("http://"))
    connection.connect()
    return connection


@contextlib.contextmanager
def flooding(client: Client) -> Iterator[subprocess.Popen[str]]:
    """A process at an address of its own that asks for made-up names, and in the end tells how many answers had which status."""
    command = [sys.executable, "-c", ASKING, client.url, str(FLOOD), str(NAMES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
