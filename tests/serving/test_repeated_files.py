"""Files asked for again and again: sent without a look into the store, never without a look at the disk."""

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
from tests.support.running import Answer, Client, Clock


@pytest.fixture
def replies(monkeypatch: pytest.MonkeyPatch) -> Microcache:
    """Those of the server, for whom the second does not end."""
    made = Microcache()
    monkeypatch.setattr("pytail.server.server.Microcache", lambda: made)
    monkeypatch.setattr("pytail.server.microcache.time", Second())
    return made


@pytest.fixture
def dist(index: FakeIndex) -> Dist:
    index.add(made := wheel("demo", payload=os.urandom(100_000)))
    return made


class Asker:
    """Asks one server over one connection, always with the same bytes."""

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
def ask(replies: Microcache, pytail: Client, dist: Dist) -> Iterator[Asker]:
    """Asks for the file, which is held and being repeated."""
    pytail.get("/simple/demo/")
    pytail.get(dist.served)
    with contextlib.closing(Asker(pytail, dist)) as asker:
        answers = [asker() for _ in range(4)]
        assert len(replies) == 1
        assert {answer.data for answer in answers} == {dist.data}
        assert len({str(answer.headers) for answer in answers}) == 1
        assert answers[0].headers["x-cache"] == "HIT"
        yield asker


def held(tmp_path: Path, dist: Dist) -> Path:
    return tmp_path / "cache/+files/root/pypi/+f" / dist.key


def test_a_part_is_repeated_as_the_part_it_is(ask: Asker, replies: Microcache, dist: Dist):
    for _ in range(4):
        answer = ask(Range="bytes=100-199")
        assert answer.status == 206
        assert answer.data == dist.data[100:200]
    assert len(replies) == 2


def test_a_file_that_was_deleted_is_fetched_again(ask: Asker, tmp_path: Path, dist: Dist):
    held(tmp_path, dist).unlink()
    answer = ask()
    assert (answer.headers["x-cache"], answer.data) == ("MISS", dist.data)


@pytest.mark.parametrize("data", [b"", b"short", b"\0" * 200_000])
def test_a_file_that_was_changed_is_fetched_again(
    ask: Asker, tmp_path: Path, dist: Dist, data: bytes
):
    held(tmp_path, dist).write_bytes(data)
    answer = ask()
    assert (answer.headers["x-cache"], answer.data) == ("MISS", dist.data)


def test_a_file_of_a_quarantined_project_is_gone_at_once(
    ask: Asker, pytail: Client, index: FakeIndex, clock: Clock
):
    index.page_extra["demo"] = {"project-status": {"status": "quarantined"}}
    clock.now += 11
    pytail.get("/simple/demo/", Cache_Control="no-cache")
    assert ask().status == 404


def test_what_goes_out_is_counted(ask: Asker, pytail: Client, dist: Dist):
    def sent() -> int:
        return int(pytail.get("/+status").json()["sent_bytes"]["cache"])

    before = sent()
    for _ in range(3):
        ask()
    assert sent() - before == 3 * len(dist.data)


def test_one_who_asks_once_costs_no_copy(replies: Microcache, pytail: Client, dist: Dist):
    pytail.get("/simple/demo/")
    pytail.get(dist.served)
    with contextlib.closing(Asker(pytail, dist)) as asker:
        asker()
    assert len(replies) == 0
