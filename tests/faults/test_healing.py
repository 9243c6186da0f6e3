"""An upstream that recovers: pages are fresh within one TTL, or within three seconds of a failure."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.upstream import circuit_breaker
from tests.support.fakeindex import JSON, FakeIndex, RawConnection, RawServer, reply, wheel
from tests.support.running import Client, Clock, serving
from tests.support.watching import timed, until

TTL = 900
#: Seconds of the longest pause of a circuit breaker, and some for a machine with other work.
SOON = circuit_breaker.LAST_PAUSE + 2


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


@pytest.fixture
def pytail(tmp_path: Path, demo: FakeIndex, clock: Clock) -> Iterator[Client]:
    """A client of a pytail with one stale page."""
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


def hang_for_ever(*_: Any) -> Any:
    Event().wait()


def request_stale(pytail: Client, times: int = circuit_breaker.FAILURES) -> None:
    for _ in range(times):
        assert pytail.get("/simple/demo/").headers["X-Cache"] == "STALE"


def seconds_until_fresh(pytail: Client) -> float:
    _, seconds = timed(lambda: until(lambda: versions(pytail) == ["1.0", "2.0"], 10))
    return seconds


def fail_for_seconds(pytail: Client, project: str = "demo", seconds: float = 6) -> None:
    """Request a page until the pauses of the circuit breakers have grown."""
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        answer = pytail.get(f"/simple/{project}/")
        assert (answer.status, answer.headers["X-Cache"]) == (200, "STALE")
        gevent.sleep(0.1)


def test_before_the_breaker_opens_the_next_page_is_fresh(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    request_stale(pytail, circuit_breaker.FAILURES - 1)
    recover(demo)
    assert versions(pytail) == ["1.0", "2.0"]


def test_a_page_is_fresh_soon_after_it_failed_for_long(pytail: Client, demo: FakeIndex):
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    fail_for_seconds(pytail)
    # With these pauses, upstream got few of the requests.
    assert demo.page_count("demo") < 12
    recover(demo)
    assert seconds_until_fresh(pytail) < SOON


def test_pages_are_fresh_soon_after_upstream_was_down_for_long(pytail: Client, demo: FakeIndex):
    demo.stop()
    fail_for_seconds(pytail)
    recover(demo)
    assert seconds_until_fresh(pytail) < SOON
    # One successful request has closed the circuit breaker of the host.
    assert pytail.get("/simple/other/").status == 404


@pytest.mark.parametrize("is_down", [True, False])
def test_a_page_that_always_fails_delays_no_other_after_a_recovery(
    pytail: Client, demo: FakeIndex, is_down: bool
):
    oops = reply(b"", "text/plain", "500 Oops")
    if is_down:
        demo.stop()
    else:
        names = ["demo", *(f"other{number}" for number in range(circuit_breaker.OBJECTS))]
        demo.answers |= {f"/simple/{name}/": oops for name in names}
        for name in names[1:]:
            assert pytail.get(f"/simple/{name}/").status in (502, 503)
    fail_for_seconds(pytail)
    recover(demo)
    demo.answers["/simple/broken/"] = oops

    def is_fresh() -> bool:
        # Always first, so that it is what takes each probe.
        assert pytail.get("/simple/broken/").status in (502, 503)
        return versions(pytail) == ["1.0", "2.0"]

    _, seconds = timed(lambda: until(is_fresh, 10))
    assert seconds < SOON


def test_pages_are_fresh_soon_after_upstream_closed_all_connections(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
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
        fail_for_seconds(pytail, seconds=2)
        is_dead.clear()
        demo.add(wheel("demo", "2.0"))
        assert seconds_until_fresh(pytail) < SOON


def test_a_hanging_request_does_not_delay_fresh_pages_for_ever(pytail: Client, demo: FakeIndex):
    hung = Event()

    def hang(*_: Any) -> Any:
        hung.wait()
        return [b""]

    demo.answers["/simple/demo/"] = hang
    # A client waits 2 s for a revalidation at most; a request to upstream ends after 1 s.
    request_stale(pytail)
    recover(demo)
    assert seconds_until_fresh(pytail) < SOON + 1
    hung.set()


def test_pages_are_fresh_soon_after_upstream_hung_and_lost_all_requests(
    tmp_path: Path, demo: FakeIndex, clock: Clock
):
    # With the timeout of 15 seconds, the lost requests hang on after the recovery.
    with serving(tmp_path, demo.url, clock, revalidate_wait_secs=0.2) as pytail:
        pytail.get("/simple/demo/")
        clock.now += TTL
        demo.answers["/simple/demo/"] = hang_for_ever
        fail_for_seconds(pytail, seconds=4)
        assert demo.page_count("demo") <= 4
        recover(demo)
        assert seconds_until_fresh(pytail) < SOON
        # This ends the lost requests.
        demo.stop()


@pytest.mark.parametrize("suffix", ["", ".metadata"])
def test_files_are_there_soon_after_their_host_hung_and_lost_all_requests(
    tmp_path: Path, demo: FakeIndex, suffix: str
):
    (dist,) = demo.dists
    with serving(tmp_path, demo.url, client_wait_secs=0.5) as pytail:
        pytail.get("/simple/demo/")
        demo.answers |= {dist.path: hang_for_ever, f"{dist.path}.metadata": hang_for_ever}
        for _ in range(6):
            assert pytail.get(dist.served + suffix).status == 503
        demo.answers.clear()
        data = dist.metadata if suffix else dist.data
        _, seconds = timed(lambda: until(lambda: pytail.get(dist.served + suffix).data == data, 10))
        assert seconds < SOON
        # This ends the lost requests.
        demo.stop()


def test_after_a_retry_after_the_page_is_fresh(pytail: Client, demo: FakeIndex):
    demo.add(wheel("other"))
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "429 Slow", Retry_After="3")
    request_stale(pytail, 5)
    assert demo.page_count("demo") == 2
    # Another page is not concerned, and a client cannot force the request.
    assert pytail.get("/simple/other/").status == 200
    assert pytail.get("/simple/demo/", Cache_Control="no-cache").headers["X-Cache"] == "STALE"
    recover(demo)
    assert demo.page_count("demo") == 2
    assert seconds_until_fresh(pytail) < 5


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
