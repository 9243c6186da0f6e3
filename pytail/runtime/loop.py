"""Measures how late the event loop runs, and logs the stacks that block it.

`StallReporter` finds the cause of a stall. A greenlet notes the time at short intervals. A separate
thread takes the stacks of all threads while such a note is overdue, and the most frequent stacks are
logged. Code that holds the GIL blocks that thread too: then the stacks are taken just after it.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import gevent
from gevent import monkey
from gevent.threadpool import ThreadPool

log = logging.getLogger("pytail.runtime")

#: Seconds between two beats.
INTERVAL = 0.5
#: Seconds for which a stall with the same stacks is not logged again, unless it is twice as long.
QUIET = 10.0
#: Stacks remembered for that.
_MAX_LOGGED = 1000
#: Seconds between two samples at least.
_MIN_INTERVAL = 0.001
#: Innermost calls of a stack that are logged.
_MAX_CALLS = 16
_PACKAGE = str(Path(__file__).parents[1])


class Heartbeat:
    """Calls functions at intervals, and reports how late the event loop runs them."""

    def __init__(self, observe: Callable[[float], None], *tasks: Callable[[], None]) -> None:
        """Call `tasks` now and every INTERVAL seconds, and `observe` with the delay in seconds.

        `tasks` must not wait.
        """
        self._observe, self._tasks = observe, tasks
        self.beat()
        self._greenlet = gevent.spawn(self._run)

    def beat(self) -> None:
        """Call the tasks now."""
        for task in self._tasks:
            task()

    def stop(self) -> None:
        """End the calls."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL
            gevent.sleep(INTERVAL)
            self._observe(time.monotonic() - due)
            self.beat()


class StallReporter:
    """Logs the stalls of this thread's event loop until `stop` is called."""

    def __init__(self, longest: float) -> None:
        """Log stalls of more than `longest` seconds."""
        self._longest, self._interval = longest, max(longest / 4, _MIN_INTERVAL)
        #: By stacks: when their stall was logged, and its seconds.
        self._logged: dict[str, tuple[float, float]] = {}
        #: Samples of the running stall: when each was due, and the stacks.
        self._samples: list[tuple[float, str]] = []
        self._noted, self._is_on = time.monotonic(), True
        # gevent's patched versions know greenlets only.
        self._sleep = monkey.get_original("time", "sleep")
        self._loop_thread = monkey.get_original("_thread", "get_ident")()
        self._threads = ThreadPool(1)
        self._sampling = self._threads.spawn(self._sample)
        self._noting = gevent.spawn(self._note)

    def stop(self) -> None:
        """End the greenlet and the thread."""
        self._is_on = False
        self._noting.kill()
        self._sampling.get()
        self._threads.kill()

    def _note(self) -> None:
        """Note the time at each interval, and log each stall one interval after its end."""
        stall = None
        while True:
            self._noted, computed = time.monotonic(), time.thread_time()
            gevent.sleep(self._interval)
            if stall is not None:
                # The sampling thread may have waited as well, and got its sample just now.
                self._report(*stall)
            now = time.monotonic()
            late, stall = now - self._noted - self._interval, None
            if late > self._longest:
                stall = (now, late, time.thread_time() - computed)
            elif self._samples:
                self._samples = []

    def _sample(self) -> None:
        """Take the stacks while the event loop is overdue with its note. Runs in a thread."""
        while self._is_on:
            due = time.monotonic()
            self._sleep(self._interval)
            if time.monotonic() - min(due, self._noted) > 2 * self._interval:
                self._samples.append((due, self._stacks()))

    def _report(self, ended: float, late: float, computed: float) -> None:
        samples = Counter(stacks for due, stacks in self._samples if due <= ended)
        self._samples = []
        (stacks, _), *_ = samples.most_common(1) or [("no stack was taken in time", 0)]
        logged_at, logged_late = self._logged.get(stacks, (-math.inf, 0.0))
        if ended - logged_at < QUIET and late < 2 * logged_late:
            return
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.clear()
        self._logged[stacks] = ended, late
        log.warning(
            "event loop blocked for %.0f ms, computing for %.0f ms: %s",
            late * 1000,
            computed * 1000,
            stacks,
        )

    def _stacks(self) -> str:
        """Return the stack of the loop's thread, and those of other threads that run pytail's code."""
        frames = sys._current_frames()  # noqa: SLF001
        stacks = [f"loop: {_stack(frames.pop(self._loop_thread))}"]
        frames.pop(monkey.get_original("_thread", "get_ident")())
        stacks += [f"thread: {_stack(frame)}" for frame in frames.values() if _is_ours(frame)]
        return "; ".join(stacks)


def _calls(frame: FrameType | None) -> list[FrameType]:
    """Return the frames of a stack, the innermost `frame` first."""
    calls = []
    while frame is not None:
        calls.append(frame)
        frame = frame.f_back
    return calls


def _is_ours(frame: FrameType) -> bool:
    return any(call.f_code.co_filename.startswith(_PACKAGE) for call in _calls(frame))


def _stack(frame: FrameType) -> str:
    # With the first line of each function, not the running one: the same cause has the same text.
    codes = [call.f_code for call in _calls(frame)[:_MAX_CALLS]]
    return " < ".join(
        f"{code.co_name} ({'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno})"
        for code in codes
    )
