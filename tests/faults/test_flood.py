"""Many requests at once: fetches wait for slots, and other clients get their responses soon.

A fetch that hangs has no slot. The tests of waiting for a slot let no fetch count as hanging.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.config.values import proxies
from pytail.upstream import limiter
from tests.support.fakeindex import JSON, FakeIndex, Gated, reply, wheel
from tests.support.running import Client, embedded, serving
from tests.support.watching import memory, timed, until

NAMES = 3000
#: Connections that request them at the same time.
FLOOD = 300


def fetches(client: Client, kind: str, state: str = "under_way") -> int:
    return client.get("/+status").json()["fetches"][kind][state]


@pytest.fixture
def no_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fetch hangs: each keeps its slot while it waits for upstream."""
    monkeypatch.setattr(limiter, "GRACE", 60)


@pytest.fixture
def small(no_hanging: None, tmp_path: Path, index: FakeIndex) -> Iterator[Client]:
    """A client of a pytail with two slots for files."""
    with serving(tmp_path / "cache", index.url, max_file_fetches=2) as client:
        yield client


def stalled(index: FakeIndex, client: Client, count: int) -> list[tuple[Gated, gevent.Greenlet]]:
    """Request `count` files, each of which upstream sends once its gate opens."""
    found = []
    for number in range(count):
        dist = wheel(f"slow{number}")
        index.add(dist)
        assert client.get(f"/simple/{dist.project}/").status == 200
        gate = index.answers[dist.path] = Gated(dist.data, size=len(dist.data))
        found.append((gate, gevent.spawn(client.get, dist.served)))
    return found


def test_files_beyond_the_slots_wait(small: Client, index: FakeIndex):
    slow = stalled(index, small, 4)
    until(lambda: sum(gate.asked.is_set() for gate, _ in slow) == 2)
    until(lambda: fetches(small, "file") == 2)
    until(lambda: fetches(small, "file", "waiting") == 2)
    assert sum(gate.asked.is_set() for gate, _ in slow) == 2
    for gate, _ in slow:
        gate.open()
    assert [asked.get(timeout=10).status for _, asked in slow] == [200] * 4
    until(lambda: fetches(small, "file") == 0)


def test_slow_files_delay_neither_pages_nor_core_metadata(small: Client, index: FakeIndex):
    slow = stalled(index, small, 3)
    until(lambda: sum(gate.asked.is_set() for gate, _ in slow) == 2)
    dist = wheel("demo")
    index.add(dist)
    assert small.get("/simple/demo/").status == 200
    assert small.get(f"{dist.served}.metadata").data == dist.metadata
    for gate, asked in slow:
        gate.open()
        asked.join(timeout=10)


def test_a_request_without_a_slot_gets_503_with_retry_after(
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
    assert fetches(small, "file", "turned_away") == 1
    for gate, asked in slow:
        gate.open()
        asked.join(timeout=10)
    assert small.get(dist.served).data == dist.data


@pytest.mark.usefixtures("no_hanging")
def test_a_client_behind_a_trusted_proxy_does_not_wait_for_another_one(
    tmp_path: Path, index: FakeIndex
):
    settings: dict[str, Any] = {"max_page_fetches": 1, "trusted_proxies": proxies("127.0.0.1")}
    with serving(tmp_path / "cache", index.url, **settings) as client:
        gates = {name: Gated(b"") for name in ("flood0", "flood1", "other")}
        index.answers |= {f"/simple/{name}/": gate for name, gate in gates.items()}

        def ask(name: str, address: str) -> gevent.Greenlet:
            waiting = fetches(client, "page", "waiting")
            asked = gevent.spawn(client.get, f"/simple/{name}/", X_Forwarded_For=address)
            until(
                lambda: gates[name].asked.is_set() or fetches(client, "page", "waiting") > waiting
            )
            return asked

        asked = [ask("flood0", "192.0.2.1"), ask("other", "192.0.2.2"), ask("flood1", "192.0.2.1")]
        gates["flood0"].open()
        # The newest fetch would be the next one, were all of one client.
        gates["other"].asked.wait()
        assert not gates["flood1"].asked.is_set()
        for gate in gates.values():
            gate.open()
        gevent.joinall(asked, timeout=10)


@pytest.mark.usefixtures("no_hanging")
def test_a_stale_page_is_served_where_no_slot_is_free_in_time(
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


class Hanging:
    """An upstream that sends nothing, or only the head, for what `hang` names."""

    def __init__(self, index: FakeIndex, sends_head: bool) -> None:
        self.asked = 0
        self._index, self._sends_head = index, sends_head

    def hang(self, *paths: str) -> None:
        self._index.answers |= dict.fromkeys(paths, self._answer)

    def _answer(self, _: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        self.asked += 1
        if self._sends_head:
            start_response("200 OK", [("Content-Type", JSON), ("Content-Length", "1000000")])
            # The first byte, since gevent sends the head with it.
            yield b"{"
        Event().wait()


@pytest.mark.parametrize("sends_head", [False, True])
@pytest.mark.parametrize("kind", ["page", "file"])
def test_a_hundred_requests_that_hang_delay_no_other(
    tmp_path: Path, index: FakeIndex, kind: str, sends_head: bool
):
    dists = [wheel(f"slow{number}") for number in range(100)]
    other, upstream = wheel("other"), Hanging(index, sends_head)
    index.add(*dists, other)
    with serving(tmp_path / "cache", index.url, client_wait_secs=5) as client:
        if kind == "page":
            paths = [f"/simple/{dist.project}/" for dist in dists]
            upstream.hang(*paths)
        else:
            paths = [dist.served for dist in dists]
            upstream.hang(*(dist.path for dist in dists))
        asked = [gevent.spawn(_give_up, client, path) for path in paths]
        until(lambda: upstream.asked > 50, 30)
        # All of them together have one client address: that of this process.
        for path in ("/simple/other/", other.served, f"{other.served}.metadata"):
            answer, seconds = timed(lambda path=path: client.get(path))
            assert answer.status == 200
            assert seconds < 2
        until(lambda: fetches(client, kind) == 100, 30)
        assert fetches(client, kind, "turned_away") == 0
        # This ends the connections.
        index.stop()
        gevent.joinall(asked, timeout=30)
        until(lambda: fetches(client, kind) == 0, 30)


def _give_up(client: Client, path: str) -> None:
    # The response fails in one way or the other: upstream never sent what it promised.
    with contextlib.suppress(HTTPException, OSError):
        client.get(path)


def test_a_page_waiting_for_the_catalog_keeps_its_slot(tmp_path: Path, index: FakeIndex):
    cache = tmp_path / "cache"
    with serving(cache, index.url, max_page_fetches=1) as client:
        # As if another process wrote to the catalog.
        with contextlib.closing(sqlite3.connect(cache / "index.sqlite3")) as writing:
            writing.execute("BEGIN IMMEDIATE")
            first = gevent.spawn(client.get, "/simple/first/")
            until(lambda: index.page_count("first") == 1)
            second = gevent.spawn(client.get, "/simple/second/")
            until(lambda: fetches(client, "page", "waiting") == 1)
            assert index.page_count("second") == 0
        assert [asked.get(timeout=10).status for asked in (first, second)] == [404, 404]


def test_core_metadata_read_from_a_wheel_takes_one_slot_at_a_time(tmp_path: Path, index: FakeIndex):
    dist = wheel("demo")
    dist.metadata = None
    index.add(dist)
    settings: dict[str, Any] = {
        "max_page_fetches": 1,
        "max_file_fetches": 1,
        "core_metadata_from_wheels": True,
    }
    with serving(tmp_path / "cache", index.url, **settings) as client:
        # pytail fetches the page first, then ranges of the wheel.
        assert client.get(f"{dist.served}.metadata").status == 200


#: The program of `flooding`; each greenlet uses one connection.
ASKING = """
from gevent import monkey

monkey.patch_all()

import collections, json, sys
from http.client import HTTPConnection, HTTPException
import gevent

url, flood, names = sys.argv[1].removeprefix("http://"), int(sys.argv[2]), int(sys.argv[3])
statuses = collections.Counter()


def request(numbers):
    connection = HTTPConnection(url, timeout=60, source_address=("127.0.0.2", 0))
    for number in numbers:
        connection.request("GET", f"/simple/made-up-{number}/")
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] += 1
    connection.close()


gevent.joinall([gevent.spawn(request, range(n, names, flood)) for n in range(flood)], raise_error=True)
print(json.dumps(statuses))
"""


class SlowMisses:
    """Answers each project named made-up-N with 404 after 0.1 s; `most` were under way at once."""

    def __init__(self, index: FakeIndex) -> None:
        self.now = self.most = 0
        index.answers = _MadeUp(index.answers, self._send)

    def _send(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.now += 1
        self.most = max(self.most, self.now)
        gevent.sleep(0.1)
        self.now -= 1
        return reply(b"no", "text/plain", "404 Not Found")(environ, start_response)


class _MadeUp(dict[str, Any]):
    """`known`, with `send` for each made-up name."""

    def __init__(self, known: dict[str, Any], send: Any) -> None:
        super().__init__(known)
        self._send = send

    def get(self, path: str, default: Any = None) -> Any:
        return self._send if "/made-up-" in path else super().get(path, default)


@pytest.mark.slow
def test_3000_made_up_names_and_500_idle_connections_do_not_slow_other_clients(
    tmp_path: Path, index: FakeIndex, monkeypatch: pytest.MonkeyPatch
):
    # The bounds are for operators, who do not run in development mode.
    monkeypatch.delenv("PYTHONDEVMODE", raising=False)
    dists = [wheel(f"real{number}") for number in range(20)]
    index.add(*dists)
    upstream = SlowMisses(index)
    with (
        embedded(tmp_path / "cache", index.url, tmp_path / "log") as running,
        contextlib.ExitStack() as stack,
    ):
        client = running.client
        assert client.get("/simple/real0/").status == 200
        for number in range(500):
            idle = stack.enter_context(contextlib.closing(_connection(client)))
            idle.send(b"" if number % 2 else b"GET / HTTP/1.1\r\nX: ")
        before = memory(running.process.pid)
        flood = stack.enter_context(flooding(client))
        until(lambda: upstream.now > 10, 20)
        took = []
        for dist in dists[1:]:
            # A hit, a page and a file, both not stored yet.
            for path in ("/simple/real0/", f"/simple/{dist.project}/", dist.served):
                answer, seconds = timed(lambda path=path: client.get(path))
                assert answer.status == 200
                took.append(seconds)
        is_flooded = flood.poll() is None
        statuses = json.loads(flood.communicate(timeout=120)[0])
        assert is_flooded, "the flood ended before the other requests"
        # The two slowest do not count: the machine may do other work.
        assert sorted(took)[-3] < 1
        assert sum(statuses.values()) == NAMES
        assert statuses.keys() <= {"404", "503"}
        # 32, and more where the machine is so busy that a response takes longer than 0.25 seconds.
        assert upstream.most <= 100
        assert memory(running.process.pid) - before < 60_000_000
        until(lambda: fetches(client, "page") == 0)


def _connection(client: Client) -> HTTPConnection:
    connection = HTTPConnection(client.url.removeprefix("http://"))
    connection.connect()
    return connection


@contextlib.contextmanager
def flooding(client: Client) -> Iterator[subprocess.Popen[str]]:
    """A process that requests all made-up names from 127.0.0.2.

    Its output is a JSON object: the number of responses by status.
    """
    command = [sys.executable, "-c", ASKING, client.url, str(FLOOD), str(NAMES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
