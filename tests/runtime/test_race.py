"""The first result of several calls counts, and nothing of the others remains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event

from pytail.runtime.race import first_result


class Call:
    """A call that waits for `gate`, if it has one, and returns or raises `outcome`."""

    def __init__(self, outcome: Any, *, waits: bool = False) -> None:
        self.outcome, self.begun, self.gate, self.is_ended = outcome, Event(), Event(), False
        if not waits:
            self.gate.set()

    def __call__(self) -> Any:
        self.begun.set()
        try:
            self.gate.wait()
        except BaseException:
            self.is_ended = True
            raise
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


def test_the_first_result_in_time_starts_no_other_call():
    first, second = Call("first"), Call("second")
    assert first_result([first, second], 60, pytest.fail) == "first"
    assert not second.begun.is_set()


def test_the_next_call_starts_at_once_where_one_fails():
    calls = [Call(OSError("one")), Call(OSError("two")), Call("three")]
    assert first_result(calls, 60, pytest.fail) == "three"


def test_the_next_call_starts_after_the_delay_and_the_other_one_is_ended():
    slow, second = Call("slow", waits=True), Call("second")
    assert first_result([slow, second], 0.01, pytest.fail) == "second"
    assert slow.is_ended


def test_a_slow_call_may_still_be_the_first():
    slow, never = Call("slow", waits=True), Call("never", waits=True)
    race = gevent.spawn(first_result, [slow, never], 0.01, pytest.fail)
    never.begun.wait()
    slow.gate.set()
    assert race.get() == "slow"
    assert never.is_ended


def test_a_slow_call_counts_after_all_others_failed():
    slow, failing = Call("slow", waits=True), Call(OSError("failing"))
    race = gevent.spawn(first_result, [slow, failing], 0.01, pytest.fail)
    failing.begun.wait()
    slow.gate.set()
    assert race.get() == "slow"


def test_the_last_error_is_raised_where_all_calls_fail():
    with pytest.raises(OSError, match="two"):
        first_result([Call(OSError("one")), Call(OSError("two"))], 60, pytest.fail)


def test_a_result_that_comes_too_late_is_discarded():
    discarded: list[str] = []
    first, second = Call("first", waits=True), Call("second", waits=True)
    race = gevent.spawn(first_result, [first, second], 0.01, discarded.append)
    second.begun.wait()
    first.gate.set()
    second.gate.set()
    assert {race.get(), *discarded} == {"first", "second"}


def test_all_calls_end_with_their_caller():
    calls = [Call("first", waits=True), Call("second", waits=True)]
    race = gevent.spawn(first_result, calls, 0.01, pytest.fail)
    calls[1].begun.wait()
    race.kill()
    assert [call.is_ended for call in calls] == [True, True]


def test_without_other_calls_the_error_of_the_only_one_is_raised():
    with pytest.raises(OSError, match="only"):
        first_result([Call(OSError("only"))], 60, pytest.fail)


def test_without_other_calls_a_slow_call_is_waited_for():
    only = Call("only", waits=True)
    race = gevent.spawn(first_result, [only], 0.01, pytest.fail)
    only.begun.wait()
    gevent.sleep(0.05)
    only.gate.set()
    assert race.get() == "only"


def test_the_other_calls_are_asked_for_when_they_are_needed():
    asked, slow = [], Call("slow", waits=True)

    def calls() -> Iterator[Call]:
        asked.append("first")
        yield slow
        asked.append("second")

    race = gevent.spawn(first_result, calls(), 0.01, pytest.fail)
    slow.begun.wait()
    assert asked == ["first"]
    slow.gate.set()
    assert race.get() == "slow"


def test_a_race_within_a_race_does_not_end_the_outer_one():
    hanging = Call("hanging", waits=True)
    inner = [Call("slow", waits=True), Call("fast")]
    outer = [lambda: first_result(inner, 0.01, pytest.fail), hanging]
    assert first_result(outer, 60, pytest.fail) == "fast"
    assert not hanging.begun.is_set()


def test_a_race_ends_with_the_one_around_it():
    inner = [Call("slow", waits=True), Call("slower", waits=True)]
    outer = [lambda: first_result(inner, 0.01, pytest.fail), inner[1].begun.wait]
    assert first_result(outer, 0.01, pytest.fail) is True
    assert [call.is_ended for call in inner] == [True, True]


def test_no_greenlet_remains():
    made: list[gevent.Greenlet] = []
    gevent.Greenlet.add_spawn_callback(made.append)
    try:
        first_result([Call("slow", waits=True), Call("fast"), Call("third")], 0.01, pytest.fail)
    finally:
        gevent.Greenlet.remove_spawn_callback(made.append)
    assert made
    assert all(greenlet.dead for greenlet in made)
