"""An upstream that recovers: pages are fresh within one TTL or one interval of the breaker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gevent.event import Event

from pytail.upstream import circuit_breaker
from tests.support.fakeindex import JSON, FakeIndex, RawConnection, RawServer, reply, wheel
from tests.support.running import Client, Clock, serving
from tests.support.watching import timed, until

TTL = 900
#: Seconds that the circuit breaker stays open here, instead of its own 10.
INTERVAL = 0.3


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


@pytest.fixture
def pytail(
    tmp_path: Path, demo: FakeIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Client]:
    """A client of a pytail with one stale page."""
    monkeypatch.setattr(circuit_breaker, "INTERVAL", INTERVAL)
    with serving(tmp_path, demo.url, clock, request_timeout_secs=1.0) as client:
        client.get("/simple/demo/")
        clock.now += TTL
        yield client


def versions(pytail: Client) -> list[str]:
    return pytail.get("/simple/demo/", Accept=JSON).json()["versions"]


def recover(index: FakeIndex) -> None:
    index.answers.clear()
    index.start()
    index.add(wheel("demo", "2.0"))


def request_stale(pytail: Client, times: int = circuit_breaker.FAILURES) -> None:
    for _ in range(times):
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "STALE"


def seconds_until_fresh(pytail: Client) -> float:
    _, seconds = timed(lambda: until(lambda: versions(pytail) == ["1.0", "2.0"], 10))
    return seconds


def test_before_the_breaker_opens_the_next_page_is_fresh(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    request_stale(pytail, circuit_breaker.FAILURES - 1)
    recover(demo)
    assert versions(pytail) == ["1.0", "2.0"]


def test_pages_are_fresh_one_interval_after_the_breaker_opened(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    request_stale(pytail)
    recover(demo)
    assert versions(pytail) == ["1.0"]
    assert seconds_until_fresh(pytail) < INTERVAL + 2
    # One successful request has closed the breaker.
    assert pytail.get("/simple/other/").status == 404


def test_pages_are_fresh_within_one_interval_after_upstream_closed_all_connections(
    tmp_path: Path, demo: FakeIndex, clock: Clock, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(circuit_breaker, "INTERVAL", INTERVAL)
    is_dead = Event()

    def script(connection: RawConnection) -> None:
        # Once `is_dead` is set, each connection is closed without a response.
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
        request_stale(pytail)
        is_dead.clear()
        demo.add(wheel("demo", "2.0"))
        assert seconds_until_fresh(pytail) < INTERVAL + 2


def test_a_hanging_request_does_not_delay_fresh_pages_for_ever(pytail: Client, demo: FakeIndex):
    hung = Event()

    def hang(*_: Any) -> Any:
        hung.wait()
        return [b""]

    demo.answers["/simple/demo/"] = hang
    # A client waits 2 s for a revalidation at most; a request to upstream ends after 1 s.
    request_stale(pytail)
    recover(demo)
    assert seconds_until_fresh(pytail) < INTERVAL + 3
    hung.set()


def test_a_page_is_fresh_after_one_ttl(pytail: Client, demo: FakeIndex, clock: Clock):
    assert versions(pytail) == ["1.0"]
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "403 Forbidden")
    assert pytail.get("/simple/demo/").headers["X-Cache"] == "HIT"
    recover(demo)
    clock.now += TTL
    assert versions(pytail) == ["1.0", "2.0"]


def test_a_project_that_failed_once_is_served_at_once(pytail: Client, demo: FakeIndex):
    demo.add(wheel("new"))
    demo.answers["/simple/new/"] = reply(b"", "text/plain", "500 Oops")
    assert pytail.get("/simple/new/").status == 502
    demo.answers.clear()
    assert pytail.get("/simple/new/").status == 200
