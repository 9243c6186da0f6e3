"""Callers with one key share the result or the error of one run."""

import gevent
import pytest
from gevent.event import Event

from pytail.runtime.singleflight import SingleFlight, StillRunning
from tests.support.watching import until


class Work:
    """Work that sets `begun`, waits for `gate`, and returns or raises `outcome`."""

    def __init__(self, outcome=None):
        self.outcome, self.runs = outcome, 0
        self.begun, self.gate = Event(), Event()

    def __call__(self):
        self.runs += 1
        self.begun.set()
        self.gate.wait()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def calls():
    made = SingleFlight()
    yield made
    assert len(made) == 0


def test_many_callers_share_one_result(calls):
    work = Work(result := object())
    callers = [gevent.spawn(calls.run, "key", work) for _ in range(50)]
    work.begun.wait()
    work.gate.set()
    gevent.joinall(callers)
    assert {caller.value for caller in callers} == {result}
    assert work.runs == 1


def test_later_caller_gets_the_same_result(calls):
    work = Work("result")
    early = gevent.spawn(calls.run, "key", work)
    work.begun.wait()
    late = gevent.spawn(calls.run, "key", lambda: pytest.fail("worked twice"))
    gevent.idle()
    work.gate.set()
    assert (early.get(), late.get()) == ("result", "result")


@pytest.mark.parametrize("error", [ValueError("no"), gevent.Timeout(1), KeyboardInterrupt()])
def test_many_callers_share_one_error_of_any_kind(calls, error):
    work, caught = Work(error), []

    def call():
        with pytest.raises(type(error)) as raised:
            calls.run("key", work)
        caught.append(raised.value)

    callers = [gevent.spawn(call) for _ in range(5)]
    work.begun.wait()
    work.gate.set()
    gevent.joinall(callers, raise_error=True)
    assert caught == [error] * 5
    assert work.runs == 1


def test_work_outlives_the_caller_that_started_it(calls):
    work = Work("result")
    first = gevent.spawn(calls.run, "key", work)
    second = gevent.spawn(calls.run, "key", work)
    work.begun.wait()
    first.kill()
    work.gate.set()
    assert second.get() == "result"
    assert work.runs == 1


def test_caller_waits_no_longer_than_its_patience_and_the_work_continues(calls):
    work = Work("result")
    with pytest.raises(StillRunning):
        calls.run("key", work, patience=0.01)
    patient = gevent.spawn(calls.run, "key", work)
    gevent.idle()
    work.gate.set()
    assert patient.get() == "result"
    assert work.runs == 1


def test_work_for_another_key_does_not_wait(calls):
    work = Work()
    waiting = gevent.spawn(calls.run, "slow", work)
    work.begun.wait()
    assert calls.run("quick", lambda: "result") == "result"
    work.gate.set()
    waiting.join()


def test_work_runs_again_after_its_end(calls):
    assert calls.run("key", lambda: 1) == 1
    assert calls.run("key", lambda: 2) == 2


def test_work_runs_again_after_an_error(calls):
    with pytest.raises(ZeroDivisionError):
        calls.run("key", lambda: 1 // 0)
    assert calls.run("key", lambda: "result") == "result"


def test_key_is_present_only_while_its_work_runs(calls):
    work = Work()
    caller = gevent.spawn(calls.run, "key", work)
    work.begun.wait()
    assert len(calls) == 1
    work.gate.set()
    caller.join()
    assert len(calls) == 0


def test_work_can_start_anew_beside_work_that_runs():
    calls: SingleFlight[str] = SingleFlight()
    gate = Event()

    def late() -> str:
        gate.wait()
        return "late"

    first = gevent.spawn(calls.run, "key", late)
    until(lambda: "key" in calls)
    assert calls.run("key", lambda: "soon", anew=True) == "soon"
    # The first call goes on for its own caller. No other caller joins it.
    assert "key" not in calls
    assert (calls.age("key"), calls.run("key", lambda: "later")) == (0, "later")
    gate.set()
    assert first.get(timeout=5) == "late"
    assert len(calls) == 0
