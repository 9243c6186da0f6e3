"""So much is fetched at the same time, and the rest waits its turn."""

from __future__ import annotations

import logging

import gevent
import pytest

from pytail.upstream import limiter
from pytail.upstream.limiter import Limiter, LimiterFull
from tests.support.watching import until


class Turns(Limiter):
    """Two turns, and the names of those who have had one and those who were turned away."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.had: list[str] = []
        self.away: list[str] = []
        super().__init__("page", 2, self.refused.append)

    def wait(self, name: str, client: str = "") -> gevent.Greenlet:
        """One who waits by now, and notes it when it has its turn."""

        def take() -> None:
            try:
                self.acquire(client)
            except LimiterFull:
                self.away.append(name)
            else:
                self.had.append(name)

        before = self.waiting
        greenlet = gevent.spawn(take)
        until(lambda: self.waiting > before)
        return greenlet


@pytest.fixture
def turns() -> Turns:
    """Turns that are all taken."""
    made = Turns()
    made.acquire()
    made.acquire()
    return made


def test_a_turn_that_ends_is_free_for_the_next(turns: Turns):
    assert turns.in_progress == 2
    turns.release()
    turns.acquire()
    assert (turns.in_progress, turns.waiting) == (2, 0)


def test_the_newest_goes_first(turns: Turns):
    for name in "abc":
        turns.wait(name)
    for name in "cba":
        turns.release()
        until(lambda name=name: turns.had[-1:] == [name])
    assert (turns.in_progress, turns.waiting) == (2, 0)


def test_a_client_that_asks_for_much_waits_for_itself(turns: Turns):
    others = turns.wait("other's", "192.0.2.1")
    for name in "abc":
        turns.wait(name)
    turns.release()
    until(others.ready)
    assert turns.had == ["other's"]
    turns.release()
    until(lambda: turns.had == ["other's", "c"])
    # Now that both have one, whoever came first.
    turns.wait("later", "192.0.2.1")
    turns.release("192.0.2.1")
    until(lambda: turns.had[2:] == ["later"])


def test_nobody_waits_longer_than_clients_do(turns: Turns, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limiter, "PATIENCE", 0.01)
    with pytest.raises(LimiterFull):
        turns.acquire()
    assert (turns.waiting, turns.refused) == (0, ["page"])


def test_where_too_many_wait_the_one_that_has_for_longest_is_turned_away(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limiter, "MOST_WAITING", 3)
    others = turns.wait("other's", "192.0.2.1")
    oldest, second = turns.wait("oldest"), turns.wait("second")
    third = gevent.spawn(turns.acquire)
    until(oldest.ready)
    assert turns.away == ["oldest"]
    assert (turns.waiting, turns.refused) == (3, ["page"])
    gevent.killall([others, second, third])
    assert turns.waiting == 0


def test_one_that_is_killed_when_its_turn_has_come_gives_it_back(turns: Turns):
    first, last = turns.wait("first"), turns.wait("last")
    last.kill(block=False)
    turns.release()
    until(first.ready)
    assert turns.had == ["first"]
    assert (turns.in_progress, turns.waiting) == (2, 0)


def test_the_log_has_a_line_when_clients_are_turned_away_and_one_when_no_more(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(limiter, "PATIENCE", 0.001)
    for _ in range(3):
        with pytest.raises(LimiterFull):
            turns.acquire()
    turns.release()
    turns.acquire()
    first, second = [record.getMessage() for record in caplog.records]
    assert "2 fetches of a page are under way" in first
    assert "--max-page-fetches" in first
    assert "do not wait any more" in second
