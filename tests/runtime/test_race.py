"""The first result of several calls counts, and nothing of the others remains."""

from __future__ import annotations

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
        except gevent.GreenletExit:
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
