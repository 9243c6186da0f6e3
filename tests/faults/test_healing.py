"""An upstream that heals: pages are fresh within one TTL or one interval of the breaker."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent import sleep
from gevent.event import Event

from pytail.upstream import circuit_breaker
from tests.support.fakeindex import JSON, FakeIndex, RawConnection, RawServer, reply, wheel
from tests.support.running import Client, Clock, serving

TTL = 900
#: Seconds, in place of the breaker's own.
INTERVAL = 0.3


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


@pytest.fixture
def pytail(
    tmp_path: Path, demo: FakeIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """One that holds a page which is old by now."""
    monkeypatch.setattr(circuit_breaker, "INTERVAL", INTERVAL)
    with serving(tmp_path, demo.url, clock, request_timeout_secs=1.0) as client:
        client.get("/simple/demo/")
        clock.now += TTL
        yield client


def versions(pytail: Client) -> list[str]:
    return pytail.get("/simple/demo/", Accept=JSON).json()["versions"]


def healed(index: FakeIndex) -> None:
    index.answers.clear()
    index.start()
    index.add(wheel("demo", "2.0"))


def trouble(pytail: Client, times: int = circuit_breaker.FAILURES) -> None:
    for _ in range(times):
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "STALE"


def seconds_until_fresh(pytail: Client) -> float:
    started = time.monotonic()
    while versions(pytail) != ["1.0", "2.0"]:
        assert time.monotonic() - started < 10
        sleep(0.01)
    return time.monotonic() - started


def test_before_the_breaker_opens_the_next_request_is_fresh(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    trouble(pytail, circuit_breaker.FAILURES - 1)
    healed(demo)
    assert versions(pytail) == ["1.0", "2.0"]


def test_an_open_breaker_costs_one_interval(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    trouble(pytail)
    healed(demo)
    assert versions(pytail) == ["1.0"]
    assert seconds_until_fresh(pytail) < INTERVAL + 2
    # One probe was enough, and the breaker is closed for all.
    assert pytail.get("/simple/other/").status == 404


def test_an_upstream_that_closed_every_connection_is_fresh_within_one_interval(
    tmp_path: Path, demo: FakeIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(circuit_breaker, "INTERVAL", INTERVAL)
    is_dead = Event()

    def script(connection: RawConnection) -> None:
        # A way to the index that can go dead without a word.
        while connection.request():
            if is_dead.is_set():
                return
            page = json.dumps(demo.page("demo")).encode()
            length = f"Content-Length: {len(page)}"
            connection.send("HTTP/1.1 200 OK", f"Content-Type: {JSON}", length, body=page)

    with RawServer(script) as front, serving(tmp_path, front.url, clock) as pytail:
        pytail.get("/simple/demo/")
        clock.now += TTL
        is_dead.set()
        trouble(pytail)
        is_dead.clear()
        demo.add(wheel("demo", "2.0"))
        assert seconds_until_fresh(pytail) < INTERVAL + 2


def test_a_request_that_hung_when_upstream_healed_holds_nothing_up_for_ever(
    pytail: Client, demo: FakeIndex
):
    hung = Event()

    def hang(*_: Any) -> Any:
        hung.wait()
        return [b""]

    demo.answers["/simple/demo/"] = hang
    # Each waits for its two seconds at most, and upstream is given up after one.
    trouble(pytail)
    healed(demo)
    assert seconds_until_fresh(pytail) < INTERVAL + 3
    hung.set()


def test_without_trouble_a_page_is_fresh_after_one_ttl(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    assert versions(pytail) == ["1.0"]
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "403 Forbidden")
    assert pytail.get("/simple/demo/").headers["X-Cache"] == "HIT"
    healed(demo)
    clock.now += TTL
    assert versions(pytail) == ["1.0", "2.0"]


def test_a_project_that_was_in_trouble_is_there_at_once(pytail: Client, demo: FakeIndex):
    demo.add(wheel("new"))
    demo.answers["/simple/new/"] = reply(b"", "text/plain", "500 Oops")
    assert pytail.get("/simple/new/").status == 502
    demo.answers.clear()
    assert pytail.get("/simple/new/").status == 200
