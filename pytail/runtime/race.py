"""Runs calls side by side, each started later than the one before, and takes the first result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Generic, TypeVar

import gevent

from pytail.runtime.threads import outcome

Result = TypeVar("Result")


def first_result(
    calls: Iterable[Callable[[], Result]], delay: float, discard: Callable[[Result], None]
) -> Result:
    """Return the first result of `calls`, of which there is at least one.

    The next call starts `delay` seconds after the one before, or at once where one fails. Calls
    without a result by then are ended. `discard` gets a result that comes too late. Where all calls
    fail, the error of one of them is raised.
    """
    race = _Race(iter(calls), delay, discard)
    try:
        return race.result()
    finally:
        race.end()


class _Overtaken(BaseException):
    """Ends the first call, because another one has a result."""


class _NoCallsError(Exception):
    """There are no calls but the first one."""


class _Race(Generic[Result]):
    """Runs the first call in the present greenlet: mostly there is no other one, so none is made."""

    def __init__(
        self, calls: Iterator[Callable[[], Result]], delay: float, discard: Callable[[Result], None]
    ) -> None:
        self._calls, self._delay, self._discard = calls, delay, discard
        self._greenlet, self._overtaken = gevent.getcurrent(), _Overtaken()
        self._is_first_running = False
        #: The other calls; their value is that of `outcome`.
        self._others: gevent.Greenlet | None = None

    def result(self) -> Result:
        first, failure = next(self._calls), None
        try:
            with self._others_later():
                return first()
        except _Overtaken as overtaken:
            # A race within the call, or one around this one, is none of ours.
            if overtaken is not self._overtaken:
                raise
        except Exception as error:  # noqa: BLE001
            failure = error
        try:
            return self._result_of_others(failure)
        finally:
            # Else error and frame refer to each other.
            del failure

    def end(self) -> None:
        if self._others is not None:
            self._others.kill()
            _discard(self._others, self._discard)
            self._others = None

    @contextlib.contextmanager
    def _others_later(self) -> Iterator[None]:
        timer = gevent.get_hub().loop.timer(self._delay)
        timer.start(self._start_others)
        self._is_first_running = True
        try:
            yield
        finally:
            self._is_first_running = False
            timer.stop()
            timer.close()

    def _start_others(self) -> gevent.Greenlet:
        others = partial(_staggered, self._calls, self._delay, self._discard)
        self._others = gevent.spawn(outcome, others)
        # Called by the event loop, as `throw` requires.
        self._others.rawlink(self._overtake)
        return self._others

    def _overtake(self, others: gevent.Greenlet) -> None:
        if self._is_first_running and others.value[0] is None:
            self._greenlet.throw(self._overtaken)

    def _result_of_others(self, failure: Exception | None) -> Result:
        # Not `or`: a greenlet that has ended is false.
        others = self._start_others() if self._others is None else self._others
        error, result = others.get()
        if error is None:
            self._others = None
            return result  # type: ignore[no-any-return]
        raise failure if failure is not None and isinstance(error, _NoCallsError) else error


def _staggered(
    calls: Iterator[Callable[[], Result]], delay: float, discard: Callable[[Result], None]
) -> Result:
    """Do what `first_result` does, with a greenlet for each call. Raises _NoCallsError."""
    running: list[gevent.Greenlet] = []
    try:
        return _first(calls, delay, running)
    finally:
        gevent.killall(running)
        for greenlet in running:
            _discard(greenlet, discard)
        running.clear()


def _first(
    calls: Iterator[Callable[[], Result]], delay: float, running: list[gevent.Greenlet]
) -> Result:
    failure: BaseException = _NoCallsError()
    pause: float | None = delay
    while True:
        call = next(calls, None)
        if call is not None:
            running.append(gevent.spawn(outcome, call))
        elif running:
            pause = None
        else:
            try:
                raise failure
            finally:
                # Else error and frame refer to each other.
                del failure
        for ended in gevent.wait(running, pause, count=1):
            running.remove(ended)
            error, result = ended.value
            if error is None:
                return result  # type: ignore[no-any-return]
            failure = error


def _discard(greenlet: gevent.Greenlet, discard: Callable[[Result], None]) -> None:
    # A call that had no time to start has no outcome.
    if isinstance(greenlet.value, tuple) and greenlet.value[0] is None:
        discard(greenlet.value[1])
