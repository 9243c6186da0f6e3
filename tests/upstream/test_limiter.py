"""Concurrent fetches are bounded, and the others wait for a slot."""

from __future__ import annotations

import logging

import gevent
import pytest

from pytail.upstream import limiter
from pytail.upstream.limiter import Limiter, LimiterFull
from tests.support.watching import until


class Slots(Limiter):
    """Two slots, and the names of the fetches with and without one."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.served: list[str] = []
        self.unserved: list[str] = []
        super().__init__("page", 2, self.refused.append)

    def wait(self, name: str, client: str = "") -> gevent.Greenlet:
        """Return a waiting greenlet, which adds `name` to `served` or `unserved`."""

        def take() -> None:
            try:
                self.acquire(client)
            except LimiterFull:
                self.unserved.append(name)
            else:
                self.served.append(name)

        before = self.waiting
        greenlet = gevent.spawn(take)
        until(lambda: self.waiting > before)
        return greenlet


@pytest.fixture
def slots() -> Slots:
    """Two slots in use."""
    made = Slots()
    made.acquire()
    made.acquire()
    return made


def test_a_released_slot_is_free(slots: Slots):
    assert slots.in_progress == 2
    slots.release()
    slots.acquire()
    assert (slots.in_progress, slots.waiting) == (2, 0)


def test_the_newest_fetch_goes_first(slots: Slots):
    for name in "abc":
        slots.wait(name)
    for name in "cba":
        slots.release()
        until(lambda name=name: slots.served[-1:] == [name])
    assert (slots.in_progress, slots.waiting) == (2, 0)


def test_the_client_with_the_fewest_slots_goes_first(slots: Slots):
    others = slots.wait("other's", "192.0.2.1")
    for name in "abc":
        slots.wait(name)
    slots.release()
    until(others.ready)
    assert slots.served == ["other's"]
    slots.release()
    until(lambda: slots.served == ["other's", "c"])
    # Both clients have one slot now, so the longer waiting client goes first.
    slots.wait("later", "192.0.2.1")
    slots.release("192.0.2.1")
    until(lambda: slots.served[2:] == ["later"])


def test_a_fetch_waits_for_a_bounded_time(slots: Slots, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limiter, "PATIENCE", 0.01)
    with pytest.raises(LimiterFull):
        slots.acquire()
    assert (slots.waiting, slots.refused) == (0, ["page"])


def test_the_oldest_fetch_gets_no_slot_where_too_many_wait(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(limiter, "MOST_WAITING", 3)
    others = slots.wait("other's", "192.0.2.1")
    oldest, second = slots.wait("oldest"), slots.wait("second")
    third = gevent.spawn(slots.acquire)
    until(oldest.ready)
    assert slots.unserved == ["oldest"]
    assert (slots.waiting, slots.refused) == (3, ["page"])
    gevent.killall([others, second, third])
    assert slots.waiting == 0


def test_a_greenlet_killed_with_a_slot_gives_it_back(slots: Slots):
    first, last = slots.wait("first"), slots.wait("last")
    last.kill(block=False)
    slots.release()
    until(first.ready)
    assert slots.served == ["first"]
    assert (slots.in_progress, slots.waiting) == (2, 0)


def test_the_first_refused_fetch_and_the_end_of_waiting_are_logged(
    slots: Slots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(limiter, "PATIENCE", 0.001)
    for _ in range(3):
        with pytest.raises(LimiterFull):
            slots.acquire()
    slots.release()
    slots.acquire()
    first, second = [record.getMessage() for record in caplog.records]
    assert "all 2 slots are in use" in first
    assert "--max-page-fetches" in first
    assert "waits for a slot any more" in second
