"""Concurrent fetches are bounded, the others wait for a slot, and those that hang have none."""

from __future__ import annotations

import logging

import gevent
import pytest
from gevent.event import Event

from pytail.upstream import limiter
from pytail.upstream.limiter import Limiter, LimiterFull, Slot
from tests.support.watching import until


class Slots(Limiter):
    """Two slots, and the names of the fetches with and without one."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.served: list[str] = []
        self.unserved: list[str] = []
        super().__init__("page", 2, self.refused.append, most_hanging=8)

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
    assert "2 are in progress" in first
    assert "--max-page-fetches" in first
    assert "waits for a slot any more" in second


# Fetches that hang


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch hangs after a millisecond of waiting."""
    monkeypatch.setattr(limiter, "GRACE", 0.001)


def hang(slots: Slots, client: str = "") -> tuple[Slot, gevent.Greenlet]:
    """Return the slot of a fetch that hangs, and the greenlet that waits for upstream."""
    slot, before = Slot(slots, client), slots.hanging

    def wait() -> None:
        with slot.waiting():
            Event().wait()

    greenlet = gevent.spawn(wait)
    until(lambda: slots.hanging > before)
    return slot, greenlet


@pytest.fixture
def free(quick: None) -> Slots:
    """Two slots, none in use; a fetch hangs after a millisecond."""
    return Slots()


def test_a_fetch_that_hangs_lends_its_slot(free: Slots):
    hanging = [hang(free) for _ in range(4)]
    assert (free.in_progress, free.hanging, free.waiting) == (4, 4, 0)
    for slot, greenlet in hanging:
        greenlet.kill()
        slot.close()
    assert (free.in_progress, free.hanging) == (0, 0)


def test_a_fetch_that_gets_bytes_soon_keeps_its_slot(slots: Slots):
    slots.release()
    slot = Slot(slots)
    for _ in range(3):
        with slot.waiting():
            gevent.sleep(0)
        slot.take_back()
    assert (slots.in_progress, slots.hanging) == (2, 0)
    slot.close()
    slot.close()
    assert slots.in_progress == 1


def test_a_fetch_takes_its_slot_back_when_bytes_arrive(free: Slots):
    slot, greenlet = hang(free)
    greenlet.kill()
    others = [Slot(free), Slot(free)]
    working = gevent.spawn(slot.take_back)
    until(lambda: free._queues)
    # It waits for a slot, and is in progress all the same.
    assert (free.in_progress, free.waiting) == (3, 0)
    others[0].close()
    working.get(timeout=5)
    assert (free.in_progress, free.hanging) == (2, 0)
    slot.close()
    others[1].close()
    assert free.in_progress == 0


def test_a_fetch_that_takes_its_slot_back_waits_for_a_bounded_time(
    free: Slots, monkeypatch: pytest.MonkeyPatch
):
    slot, greenlet = hang(free)
    greenlet.kill()
    others = [Slot(free), Slot(free)]
    monkeypatch.setattr(limiter, "PATIENCE", 0.01)
    with pytest.raises(LimiterFull):
        slot.take_back()
    for each in (slot, *others):
        each.close()
    assert (free.in_progress, free.waiting, free.refused) == (0, 0, ["page"])


@pytest.mark.parametrize("ends", ["killed", "closed"])
def test_a_fetch_that_ends_while_it_takes_its_slot_back_leaves_none(free: Slots, ends: str):
    slot, greenlet = hang(free)
    greenlet.kill()
    others = [Slot(free), Slot(free)]
    working = gevent.spawn(slot.take_back)
    until(lambda: free._queues)
    if ends == "killed":
        working.kill()
    slot.close()
    for each in others:
        each.close()
    working.join()
    assert (free.in_progress, free.hanging, free.waiting) == (0, 0, 0)


def test_one_client_may_have_half_of_the_hanging_fetches(free: Slots):
    hanging = [hang(free, "flood") for _ in range(4)]
    with pytest.raises(LimiterFull):
        Slot(free, "flood")
    hanging.append(hang(free, "other"))
    for slot, greenlet in hanging:
        greenlet.kill()
        slot.close()
    assert free.refused == ["page"]


def test_refusals_of_a_client_with_too_many_hanging_fetches_are_logged_once(
    free: Slots, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    hanging = [hang(free, "flood") for _ in range(4)]
    for _ in range(3):
        with pytest.raises(LimiterFull):
            Slot(free, "flood")
        Slot(free, "other").close()
    assert len(caplog.records) == 1
    for slot, greenlet in hanging:
        greenlet.kill()
        slot.close()
    Slot(free, "other").close()
    assert len(caplog.records) == 2


def test_a_waiting_fetch_of_a_client_with_too_many_hanging_ones_gets_no_slot(free: Slots):
    hanging = [hang(free, "flood") for _ in range(3)]
    last, others = Slot(free, "flood"), Slot(free, "other")
    waiting = free.wait("late", "flood")
    hanging.append((last, gevent.spawn(_hang_for_ever, last)))
    waiting.join(timeout=5)
    assert (free.unserved, free.hanging) == (["late"], 4)
    for slot, greenlet in hanging:
        greenlet.kill()
        slot.close()
    others.close()
    assert (free.in_progress, free.waiting) == (0, 0)


def test_beyond_the_bound_a_fetch_that_hangs_keeps_its_slot(quick: None):
    slots = Limiter("page", 2, print, most_hanging=1)
    hanging = [Slot(slots, "a"), Slot(slots, "b")]
    greenlets = [gevent.spawn(_hang_for_ever, slot) for slot in hanging]
    until(lambda: slots.hanging == 1)
    gevent.sleep(0.01)
    assert (slots.in_progress, slots.hanging) == (2, 1)
    gevent.killall(greenlets)
    for slot in hanging:
        slot.close()
    assert slots.in_progress == 0


def _hang_for_ever(slot: Slot) -> None:
    with slot.waiting():
        Event().wait()
