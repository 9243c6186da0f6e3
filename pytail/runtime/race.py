"""Runs calls side by side, each started later than the one before, and takes the first result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import gevent

from pytail.runtime.threads import outcome

Result = TypeVar("Result")


def first_result(
    calls: Iterable[Callable[[], Result]], delay: float, discard: Callable[[Result], None]
) -> Result:
    """Return the first result of `calls`, of which there is at least one.

    The next call starts `delay` seconds after the one before, or at once where one fails. Calls
    without a result by then are ended. `discard` gets a result that comes too late. Raises the
    last error where all calls fail.
    """
    running: list[gevent.Greenlet] = []
    try:
        return _first(iter(calls), delay, running)
    finally:
        gevent.killall(running)
        for greenlet in running:
            # A call that had no time to start has no outcome.
            if isinstance(greenlet.value, tuple) and greenlet.value[0] is None:
                discard(greenlet.value[1])
        running.clear()


def _first(
    calls: Iterator[Callable[[], Result]], delay: float, running: list[gevent.Greenlet]
) -> Result:
    failure: BaseException | None = None
    pause: float | None = delay
    while True:
        call = next(calls, None)
        if call is not None:
            running.append(gevent.spawn(outcome, call))
        elif running:
            pause = None
        elif failure is not None:
            try:
                raise failure
            finally:
                # Else error and frame refer to each other.
                del failure
        for ended in gevent.wait(running, pause, count=1):
            running.remove(ended)
            failure, result = ended.value
            if failure is None:
                return result  # type: ignore[no-any-return]
