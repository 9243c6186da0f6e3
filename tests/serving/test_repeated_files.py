"""Repeated requests for a file: sent from the microcache while the file on disk is the same."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from pytail.server.microcache import Microcache
from tests.server.test_microcache import Second
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Answer, Client, Clock, stored_path


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Microcache:
    """The microcache of the server, in which no response expires."""
    made = Microcache()
    monkeypatch.setattr("pytail.server.server.Microcache", lambda: made)
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    return made


@pytest.fixture
def dist(index: FakeIndex) -> Dist:
    index.add(made := wheel("demo", payload=os.urandom(100_000)))
    return made


class Repeating:
    """Sends the same request for `dist` over one connection, again and again."""

    def __init__(self, client: Client, dist: Dist) -> None:
        self._connection = HTTPConnection(client.url.removeprefix("http://"), timeout=20)
        self._path = dist.served

    def __call__(self, **headers: str) -> Answer:
        self._connection.request("GET", self._path, headers=headers)
        response = self._connection.getresponse()
        answer = Answer(response.status, response.headers, response.read())
        del answer.headers["x-request-id"]
        return answer

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def ask(replies: Microcache, pytail: Client, dist: Dist) -> Iterator[Repeating]:
    """Requests the file, which is stored and in the microcache."""
    pytail.get("/simple/demo/")
    pytail.get(dist.served)
    with contextlib.closing(Repeating(pytail, dist)) as request:
        answers = [request() for _ in range(4)]
        assert len(replies) == 1
        assert {answer.data for answer in answers} == {dist.data}
        assert len({str(answer.headers) for answer in answers}) == 1
        assert answers[0].headers["x-cache"] == "HIT"
        yield request


def test_a_range_is_repeated_apart_from_the_file(ask: Repeating, replies: Microcache, dist: Dist):
    for _ in range(4):
        answer = ask(Range="bytes=100-199")
        assert answer.status == 206
        assert answer.data == dist.data[100:200]
    assert len(replies) == 2


def test_a_deleted_file_is_fetched_again(ask: Repeating, tmp_path: Path, dist: Dist):
    stored_path(tmp_path / "cache", dist).unlink()
    answer = ask()
    assert (answer.headers["x-cache"], answer.data) == ("MISS", dist.data)


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 200_000])
def test_a_changed_file_is_fetched_again(ask: Repeating, tmp_path: Path, dist: Dist, data: bytes):
    stored_path(tmp_path / "cache", dist).write_bytes(data)
    answer = ask()
    assert (answer.headers["x-cache"], answer.data) == ("MISS", dist.data)


def test_a_file_of_a_quarantined_project_is_404_at_once(
    ask: Repeating, pytail: Client, index: FakeIndex, clock: Clock
):
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 11
    pytail.get("/simple/demo/", Cache_Control="no-cache")
    assert ask().status == 404


def test_repeated_bytes_are_counted(ask: Repeating, pytail: Client, dist: Dist):
    def sent() -> int:
        return int(pytail.get("/+status").json()["sent_bytes"]["cache"])

    before = sent()
    for _ in range(3):
        ask()
    assert sent() - before == 3 * len(dist.data)


def test_a_single_request_is_not_in_the_microcache(replies: Microcache, pytail: Client, dist: Dist):
    pytail.get("/simple/demo/")
    pytail.get(dist.served)
    with contextlib.closing(Repeating(pytail, dist)) as request:
        request()
    assert len(replies) == 0
