"""Each response tells how it came to be, and each decision is told in the log."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
from gevent import joinall, sleep, spawn
from gevent.event import Event

from tests.support.fakeindex import FakeIndex, reply, wheel
from tests.support.running import Answer, Client, Clock, file_path, serving

TTL = 900


@pytest.fixture
def demo(index: FakeIndex) -> FakeIndex:
    index.add(wheel("demo"))
    return index


def told(answer: Answer) -> tuple[int, str, str]:
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
        ("/root/pypi/+f/no/shelf/demo-1.0.tar.gz", 404),
    ],
)
def test_what_pytail_answers_by_itself_is_a_hit(pytail: Client, path: str, status: int):
    for method in ("GET", "HEAD"):
        assert told(pytail.request(method, path)) == (status, "HIT", "0")
    assert told(pytail.request("OPTIONS", path)) == (204, "HIT", "0")
    assert told(pytail.request("PUT", path)) == (405, "HIT", "0")


def test_a_head_and_a_304_tell_of_a_page_what_a_get_tells(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    assert told(pytail.head("/simple/demo/")) == (200, "MISS", "0")
    clock.now += 5
    etag = pytail.get("/simple/demo/").headers["ETag"]
    assert told(pytail.head("/simple/demo/")) == (200, "HIT", "5")
    assert told(pytail.get("/simple/demo/", If_None_Match=etag)) == (304, "HIT", "5")


def test_a_head_and_a_304_tell_whether_a_file_is_held(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    assert told(pytail.head(path)) == (200, "MISS", "0")
    etag = pytail.get(path).headers["ETag"]
    assert told(pytail.head(path)) == (200, "HIT", "0")
    assert told(pytail.get(path, If_None_Match=etag)) == (304, "HIT", "0")
    assert told(pytail.get(path, Range="bytes=9999999-")) == (416, "HIT", "0")


def test_the_age_of_a_file_is_since_it_came(
    tmp_path: Path, pytail: Client, demo: FakeIndex, clock: Clock
):
    path = file_path(pytail.json("demo")["files"][0])
    pytail.get(path)
    held = tmp_path / "cache" / "+files" / path[1:]
    os.utime(held, (clock.now - 77, clock.now - 77))
    for answer in (pytail.get(path), pytail.head(path)):
        assert told(answer) == (200, "HIT", "77")


def test_the_age_of_a_404_is_since_upstream_said_so(pytail: Client, index: FakeIndex, clock: Clock):
    assert told(pytail.get("/simple/nope/")) == (404, "MISS", "0")
    clock.now += 20
    assert told(pytail.get("/simple/nope/")) == (404, "HIT", "20")


def test_a_file_that_is_not_listed_tells_whether_upstream_was_asked(
    pytail: Client, demo: FakeIndex
):
    for word in ("MISS", "HIT"):
        answer = pytail.get("/root/pypi/+f/000/0000000000000/demo-2.0.tar.gz")
        assert told(answer) == (404, word, "0")


def test_trouble_is_a_miss_that_clients_share(pytail: Client, demo: FakeIndex):
    gate, trouble = Event(), reply(b"", "text/plain", "500 Oops")
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and trouble(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(50)]
    sleep(0.3)
    gate.set()
    joinall(clients, raise_error=True)
    words = sorted(told(client.value) for client in clients)
    assert words == [(502, "COALESCED", "0")] * 49 + [(502, "MISS", "0")]
    assert demo.page_count("demo") == 1  # item 114


def test_a_file_in_trouble_is_a_miss(pytail: Client, demo: FakeIndex):
    path = file_path(pytail.json("demo")["files"][0])
    demo.answers[demo.dists[0].path] = reply(b"", "text/plain", "404 Gone")
    assert told(pytail.get(path)) == (404, "MISS", "0")
    demo.answers[demo.dists[0].path] = reply(b"", "text/plain", "500 Oops")
    assert told(pytail.get(path)) == (502, "MISS", "0")


# How long clients may reuse a page


def reuse(answer: Answer) -> tuple[int, int]:
    """For how many seconds a client may that ignores Age, and one that subtracts it."""
    match = re.search(r"max-age=(\d+)", answer.headers["Cache-Control"])
    assert match is not None
    return int(match[1]), int(match[1]) - int(answer.headers["Age"])


@pytest.mark.parametrize("age", [0, 1, 299, 300, 450, 899, 899.5])
def test_no_client_reuses_a_page_for_longer_than_it_is_fresh(
    pytail: Client, demo: FakeIndex, clock: Clock, age: float
):
    pytail.get("/simple/demo/")
    clock.now += age
    answer = pytail.get("/simple/demo/")
    longest, subtracted = reuse(answer)
    assert longest == min(600, int(TTL - age))  # item 97
    assert subtracted <= TTL - age


def test_without_a_ttl_no_client_reuses_a_page(tmp_path: Path, demo: FakeIndex, clock: Clock):
    with serving(tmp_path, demo.url, clock, project_cache_ttl_secs=0.0) as pytail:
        assert reuse(pytail.get("/simple/demo/"))[0] == 0


def test_a_stale_page_is_not_reused_for_long(pytail: Client, demo: FakeIndex, clock: Clock):
    pytail.get("/simple/demo/")
    clock.now += TTL
    demo.stop()
    assert reuse(pytail.get("/simple/demo/"))[0] == 10  # item 97


def test_a_copy_of_unknown_age_goes_out_when_upstream_fails(
    pytail: Client, demo: FakeIndex, clock: Clock
):
    pytail.get("/simple/demo/")
    clock.now -= 5000
    demo.stop()
    assert told(pytail.get("/simple/demo/")) == (200, "STALE", "0")


# In the log


class Log:
    """The decisions told since it was asked last."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.DEBUG)

    def lines(self) -> list[tuple[str, str]]:
        """Level and text."""
        found = [
            (record.levelname, record.getMessage())
            for record in self._caplog.records
            if record.name == "pytail.cache" and "upstream took" in record.getMessage()
        ]
        self._caplog.clear()
        return found

    def line(self) -> tuple[str, str, str]:
        """Level, word and reason of the one decision; it has to be whole."""
        ((level, line),) = self.lines()
        match = re.fullmatch(r"demo: ([A-Z]+), (.+), upstream took \d+ ms", line)
        assert match is not None, line
        return level, match[1], match[2]


@pytest.fixture
def told_in_log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def test_each_band_is_one_line(pytail: Client, demo: FakeIndex, clock: Clock, told_in_log: Log):
    def ask() -> tuple[str, str, str]:
        pytail.get("/simple/demo/")
        return told_in_log.line()

    assert ask() == ("INFO", "MISS", "0 s old, a new page of 1 files")
    clock.now += 10
    assert ask() == ("DEBUG", "HIT", "10 s old, fresh")
    clock.now += TTL
    assert ask() == ("INFO", "REVALIDATED", "0 s old, unchanged")
    clock.now += TTL
    demo.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Oops")
    level, word, reason = ask()
    assert (level, word) == ("WARNING", "STALE")
    assert reason.startswith("900 s old, upstream http://")
    assert reason.endswith("answered with status 500")
    ask()
    ask()
    # The breaker is open: as many lines as clients, and nothing new in them.
    level, word, reason = ask()
    assert (level, word) == ("DEBUG", "STALE")
    assert "circuit breaker is open" in reason


def test_a_missing_project_is_one_line(pytail: Client, index: FakeIndex, told_in_log: Log):
    for level, word in (("INFO", "MISS"), ("DEBUG", "HIT")):
        pytail.get("/simple/demo/")
        assert told_in_log.line() == (level, word, "0 s old, upstream has no such project")


def test_trouble_without_a_copy_is_one_line(pytail: Client, index: FakeIndex, told_in_log: Log):
    index.answers["/simple/demo/"] = reply(b"<p>Log in</p>", "text/html")
    pytail.get("/simple/demo/")
    level, word, reason = told_in_log.line()
    assert (level, word) == ("WARNING", "MISS")
    assert "lists no file" in reason


def test_each_client_of_one_request_is_one_line(pytail: Client, demo: FakeIndex, told_in_log: Log):
    gate = Event()
    demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
    clients = [spawn(pytail.get, "/simple/demo/") for _ in range(3)]
    sleep(0.2)
    gate.set()
    joinall(clients, raise_error=True)
    levels = sorted((level, line.split()[1]) for level, line in told_in_log.lines())
    assert levels == [("DEBUG", "COALESCED,")] * 2 + [("INFO", "MISS,")]


def test_what_comes_after_the_client_has_its_copy_is_one_line_more(
    tmp_path: Path, demo: FakeIndex, clock: Clock, told_in_log: Log
):
    gate = Event()
    with serving(tmp_path, demo.url, clock, revalidate_wait_secs=0.1) as pytail:
        pytail.get("/simple/demo/")
        told_in_log.lines()
        clock.now += TTL
        demo.answers["/simple/demo/"] = lambda *wsgi: gate.wait() and demo._answer(*wsgi)
        pytail.get("/simple/demo/")
        level, word, reason = told_in_log.line()
        assert (level, word) == ("WARNING", "STALE")
        assert "the request continues" in reason
        gate.set()
        lines: Any = []
        while not lines:
            sleep(0.01)
            lines = told_in_log.lines()
    ((level, line),) = lines
    assert (level, line.partition(", upstream")[0]) == (
        "INFO",
        "demo: REVALIDATED, late: unchanged",
    )
