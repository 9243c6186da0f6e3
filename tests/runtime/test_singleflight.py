"""One caller works, the others wait and share the outcome."""

import gevent
import pytest
from gevent.event import Event

from pytail.runtime.singleflight import SingleFlight, StillRunning


class Work:
    """Work that begins, waits for `gate`, and returns or raises `outcome`."""

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
def flights():
    made = SingleFlight()
    yield made
    assert len(made) == 0


def test_many_callers_share_one_result(flights):
    work = Work(result := object())
    callers = [gevent.spawn(flights.run, "key", work) for _ in range(50)]
    work.begun.wait()
    work.gate.set()
    gevent.joinall(callers)
    assert {caller.value for caller in callers} == {result}
    assert work.runs == 1


def test_one_who_comes_late_gets_the_same_result(flights):
    work = Work("result")
    early = gevent.spawn(flights.run, "key", work)
    work.begun.wait()
    late = gevent.spawn(flights.run, "key", lambda: pytest.fail("worked twice"))
    gevent.idle()
    work.gate.set()
    assert (early.get(), late.get()) == ("result", "result")


@pytest.mark.parametrize("error", [ValueError("no"), gevent.Timeout(1), KeyboardInterrupt()])
def test_many_callers_share_one_error_whatever_its_kind(flights, error):
    work, caught = Work(error), []

    def call():
        with pytest.raises(type(error)) as raised:
            flights.run("key", work)
        caught.append(raised.value)

    callers = [gevent.spawn(call) for _ in range(5)]
    work.begun.wait()
    work.gate.set()
    gevent.joinall(callers, raise_error=True)
    assert caught == [error] * 5
    assert work.runs == 1


def test_work_outlives_the_caller_who_started_it(flights):
    work = Work("result")
    first = gevent.spawn(flights.run, "key", work)
    second = gevent.spawn(flights.run, "key", work)
    work.begun.wait()
    first.kill()
    work.gate.set()
    assert second.get() == "result"
    assert work.runs == 1


def test_a_caller_waits_no_longer_than_suits_it_and_the_work_goes_on(flights):
    work = Work("result")
    with pytest.raises(StillRunning):
        flights.run("key", work, patience=0.01)
    patient = gevent.spawn(flights.run, "key", work)
    gevent.idle()
    work.gate.set()
    assert patient.get() == "result"
    assert work.runs == 1


def test_other_keys_do_not_wait(flights):
    work = Work()
    waiting = gevent.spawn(flights.run, "slow", work)
    work.begun.wait()
    assert flights.run("quick", lambda: "result") == "result"
    work.gate.set()
    waiting.join()


def test_work_is_begun_anew_once_it_has_landed(flights):
    assert flights.run("key", lambda: 1) == 1
    assert flights.run("key", lambda: 2) == 2


def test_work_is_begun_anew_after_an_error(flights):
    with pytest.raises(ZeroDivisionError):
        flights.run("key", lambda: 1 // 0)
    assert flights.run("key", lambda: "result") == "result"


def test_a_key_is_known_only_while_its_work_runs(flights):
    work = Work()
    caller = gevent.spawn(flights.run, "key", work)
    work.begun.wait()
    assert len(flights) == 1
    work.gate.set()
    caller.join()
    assert len(flights) == 0
