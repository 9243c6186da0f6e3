"""X-Cache, Age and Cache-Control of responses, and the log line of each decision on a page."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import pytest
from gevent import joinall, spawn
from gevent.event import Event

from tests.support.fakeindex import FakeIndex, reply, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving
from tests.support.watching import until, until_earlier_requests_wait

TTL = 900


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


def outcome(answer: Answer) -> tuple[int, str, str]:
    """Return the status and the values of X-Cache and Age."""
    return answer.status, answer.headers["X-Cache"], answer.headers["Age"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 302),
        ("/simple", 302),
        ("/simple/", 200),
        ("/simple/demo", 302),
        ("/simple/Demo/", 302),
        ("/simple/-demo/", 404),
        ("/nothing/here", 404),
        ("/root/pypi/+f/no/key/demo-1.0.tar.gz", 404),
    ],
)
def test_a_response_without_a_look_at_upstream_is_a_hit(pytail: Client, path: str, status: int):
    for method in ("GET", "HEAD"):
        assert outcome(pytail.request(method, path)) == (status, "HIT", "0")
    assert outcome(pytail.request("OPTIONS", path)) == (204, "HIT", "0")
    assert outcome(pytail.request("PUT", path)) == (405, "HIT", "0")


def test_head_and_304_of_a_page_have_the_outcome_of_a_get(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    assert outcome(pytail.head("/simple/demo/")) == (200, "MISS", "0")
    clock.now += 5
    etag = pytail.get("/simple/demo/").headers["ETag"]
    assert outcome(pytail.head("/simple/demo/")) == (200, "HIT", "5")
    assert outcome(pytail.get("/simple/demo/", If_None_Match=etag)) == (304, "HIT", "5")


def test_head_and_304_of_a_stored_file_are_hits(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    assert outcome(pytail.head(path)) == (200, "MISS", "0")
    etag = pytail.get(path).headers["ETag"]
    assert outcome(pytail.head(path)) == (200, "HIT", "0")
    assert outcome(pytail.get(path, If_None_Match=etag)) == (304, "HIT", "0")
    assert outcome(pytail.get(path, Range="bytes=9999999-")) == (416, "HIT", "0")


def test_the_age_of_a_file_counts_from_its_download(
    tmp_path: Path, pytail: Client, demo: FakeIndex, clock: Clock
):
    path = file_path(pytail.json("demo")["files"][0])
    pytail.get(path)
    stored = tmp_path / "cache" / "+files" / path[1:]
    os.utime(stored, (clock.now - 77, clock.now - 77))
    for answer in (pytail.get(path), pytail.head(path)):
        assert outcome(answer) == (200, "HIT", "77")


def test_the_age_of_a_404_counts_from_upstreams_response(
    pytail: Client, index: FakeIndex, clock: Clock
):
    assert outcome(pytail.get("/simple/nope/")) == (404, "MISS", "0")
    clock.now += 20
    assert outcome(pytail.get("/simple/nope/")) == (404, "HIT", "20")


def test_x_cache_of_an_unlisted_file_is_miss_and_then_hit(pytail: Client, demo: FakeIndex):
    for expected in ("MISS", "HIT"):
        answer = pytail.get("/root/pypi/+f/000/0000000000000/demo-2.0.tar.gz")
        assert outcome(answer) == (404, expected, "0")


def test_clients_share_an_error_of_upstream(pytail: Client, demo: FakeIndex):
    gate, error = Event(), reply(b"", "text/plain", "500 Oops")
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and error(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(50)]
    until_earlier_requests_wait(pytail)
    gate.set()
    joinall(clients, raise_error=True)
    outcomes = sorted(outcome(client.value) for client in clients)
    assert outcomes == [(502, "COALESCED", "0")] * 49 + [(502, "MISS", "0")]
    assert demo.page_count("demo") == 1  # item 114


def test_an_error_for_a_file_is_a_miss(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    demo.answers[demo.dists[0].path] = reply(b"", "text/plain", "404 Gone")
    assert outcome(pytail.get(path)) == (404, "MISS", "0")
    demo.answers[demo.dists[0].path] = reply(b"", "text/plain", "500 Oops")
    assert outcome(pytail.get(path)) == (502, "MISS", "0")


# Cache-Control


def reuse(answer: Answer) -> tuple[int, int]:
    """Return for how many seconds clients may reuse a page: those that ignore Age, and the others."""
    match = re.search(r"max-age=(\d+)", answer.headers["Cache-Control"])
    assert match is not None
    return int(match[1]), int(match[1]) - int(answer.headers["Age"])


@pytest.mark.parametrize("age", [0, 1, 299, 300, 450, 899, 899.5])
def test_clients_reuse_a_page_only_while_it_is_fresh(
    pytail: Client, demo: FakeIndex, clock: Clock, age: float
):
    pytail.get("/simple/demo/")
    clock.now += age
    answer = pytail.get("/simple/demo/")
    longest, subtracted = reuse(answer)
    assert longest == min(600, int(TTL - age))  # item 97
    assert subtracted <= TTL - age


def test_with_a_ttl_of_zero_clients_reuse_no_page(tmp_path: Path, demo: FakeIndex, clock: Clock):
    with serving(tmp_path, demo.url, clock, project_cache_ttl_secs=0.0) as pytail:
        assert reuse(pytail.get("/simple/demo/"))[0] == 0


def test_a_stale_page_is_reused_for_ten_seconds(pytail: Client, demo: FakeIndex, clock: Clock):
    pytail.get("/simple/demo/")
    clock.now += TTL
    demo.stop()
    assert reuse(pytail.get("/simple/demo/"))[0] == 10  # item 97


def test_a_page_of_unknown_age_is_served_when_upstream_fails(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    pytail.get("/simple/demo/")
    clock.now -= 5000
    demo.stop()
    assert outcome(pytail.get("/simple/demo/")) == (200, "STALE", "0")


# Log lines


class Log:
    """The lines about decisions on pages, since the last call of a method."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.DEBUG)

    def lines(self) -> list[tuple[str, str]]:
        """Return the level and the text of each."""
        found = [
            (record.levelname, record.getMessage())
            for record in self._caplog.records
            if record.name == "pytail.cache" and "upstream took" in record.getMessage()
        ]
        self._caplog.clear()
        return found

    def line(self) -> tuple[str, str, str]:
        """Return level, outcome and reason of the only one. Asserts its form."""
        ((level, line),) = self.lines()
        match = re.fullmatch(r"demo: ([A-Z]+), (.+), upstream took \d+ ms", line)
        assert match is not None, line
        return level, match[1], match[2]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_each_decision_on_a_page_is_one_line(
    pytail: Client, demo: FakeIndex, clock: Clock, log: Log
):
    def ask() -> tuple[str, str, str]:
        pytail.get("/simple/demo/")
        return log.line()

    assert ask() == ("INFO", "MISS", "0 s old, a new page of 1 files")
    clock.now += 10
    assert ask() == ("DEBUG", "HIT", "10 s old, fresh")
    clock.now += TTL
    assert ask() == ("INFO", "REVALIDATED", "0 s old, unchanged")
    clock.now += TTL
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    level, outcome, reason = ask()
    assert (level, outcome) == ("WARNING", "STALE")
    assert reason.startswith("900 s old, upstream http://")
    assert reason.endswith("answered with status 500")
    ask()
    ask()
    # The breaker is open: the lines repeat, so they are for debugging only.
    level, outcome, reason = ask()
    assert (level, outcome) == ("DEBUG", "STALE")
    assert "circuit breaker is open" in reason


def test_a_missing_project_is_one_line(pytail: Client, index: FakeIndex, log: Log):
    for level, expected in (("INFO", "MISS"), ("DEBUG", "HIT")):
        pytail.get("/simple/demo/")
        assert log.line() == (level, expected, "0 s old, upstream has no such project")


def test_an_error_without_a_stored_page_is_one_line(pytail: Client, index: FakeIndex, log: Log):
    index.answers["/simple/demo/"] = reply(b"<p>Log in</p>", "text/html")
    pytail.get("/simple/demo/")
    level, outcome, reason = log.line()
    assert (level, outcome) == ("WARNING", "MISS")
    assert "lists no file" in reason


def test_each_client_of_a_shared_request_is_one_line(pytail: Client, demo: FakeIndex, log: Log):
    gate = Event()
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(3)]
    until_earlier_requests_wait(pytail)
    log.lines()
    gate.set()
    joinall(clients, raise_error=True)
    levels = sorted((level, line.split()[1]) for level, line in log.lines())
    assert levels == [("DEBUG", "COALESCED,")] * 2 + [("INFO", "MISS,")]


def test_a_revalidation_that_ends_after_its_client_is_one_more_line(
    tmp_path: Path, demo: FakeIndex, clock: Clock, log: Log
):
    gate = Event()
    with serving(tmp_path, demo.url, clock, revalidate_wait_secs=0.1) as pytail:
        pytail.get("/simple/demo/")
        log.lines()
        clock.now += TTL
        demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
        pytail.get("/simple/demo/")
        level, outcome, reason = log.line()
        assert (level, outcome) == ("WARNING", "STALE")
        assert "the request continues" in reason
        gate.set()
        lines: list[tuple[str, str]] = []
        until(lambda: lines.extend(log.lines()) or lines)
    ((level, line),) = lines
    assert (level, line.partition(", upstream")[0]) == (
        "INFO",
        "demo: REVALIDATED, late: unchanged",
    )
