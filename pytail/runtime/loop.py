"""Stalls of the event loop, told with the stack that caused them; for whoever looks for their cause.

The loop notes the time in short intervals. A thread that nothing in the loop holds up looks where
everyone is while such a note is overdue; what it sees most often is told. A thread that keeps the
interpreter to itself holds up both: with luck it is still there to be seen when it lets go.
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
#: Seconds for which a stall with the same cause is not told again, unless it takes twice as long.
QUIET = 10.0
#: Causes remembered for that.
_MOST_TOLD = 1000
#: Seconds between two looks at least.
_SHORTEST = 0.001
#: Calls of a stack that are told, the innermost.
_CALLS = 16
_OURS = str(Path(__file__).parents[1])


class Heartbeat:
    """Beats until it is stopped."""

    def __init__(self, was_late: Callable[[float], None], *looks: Callable[[], None]) -> None:
        """`was_late` is told how many seconds after its time each beat came; `looks` are quick."""
        self._was_late, self._looks = was_late, looks
        self.beat()
        self._greenlet = gevent.spawn(self._run)

    def beat(self) -> None:
        """Look now."""
        for look in self._looks:
            look()

    def stop(self) -> None:
        """Beat no more."""
        self._greenlet.kill()

    def _run(self) -> None:
        while True:
            due = time.monotonic() + INTERVAL
            gevent.sleep(INTERVAL)
            self._was_late(time.monotonic() - due)
            self.beat()


class StallReporter:
    """Watches the event loop of this thread until it is stopped."""

    def __init__(self, longest: float) -> None:
        """`longest` is how many seconds the loop may stand still before the log tells of it."""
        self._longest, self._interval = longest, max(longest / 4, _SHORTEST)
        #: By cause: when it was told, and how late it made the loop.
        self._told: dict[str, tuple[float, float]] = {}
        #: What was seen, and since when that look was due.
        self._seen: list[tuple[float, str]] = []
        self._noted, self._is_on = time.monotonic(), True
        # As gevent patches them, they know greenlets only.
        self._sleep = monkey.get_original("time", "sleep")
        self._hub = monkey.get_original("_thread", "get_ident")()
        self._threads = ThreadPool(1)
        self._looking = self._threads.spawn(self._look)
        self._noting = gevent.spawn(self._note)

    def stop(self) -> None:
        """Watch no more."""
        self._is_on = False
        self._noting.kill()
        self._looking.get()
        self._threads.kill()

    def _note(self) -> None:
        stall = None
        while True:
            self._noted, computed = time.monotonic(), time.thread_time()
            gevent.sleep(self._interval)
            if stall is not None:
                # Only now: whoever looks may have had to wait as well.
                self._report(*stall)
            now = time.monotonic()
            late, stall = now - self._noted - self._interval, None
            if late > self._longest:
                stall = (now, late, time.thread_time() - computed)
            elif self._seen:
                self._seen = []

    def _look(self) -> None:
        while self._is_on:
            due = time.monotonic()
            self._sleep(self._interval)
            if time.monotonic() - min(due, self._noted) > 2 * self._interval:
                self._seen.append((due, self._stacks()))

    def _report(self, ended: float, late: float, computed: float) -> None:
        looks = Counter(stacks for due, stacks in self._seen if due <= ended)
        self._seen = []
        (cause, _), *_ = looks.most_common(1) or [("nobody looked in time", 0)]
        told_at, told = self._told.get(cause, (-math.inf, 0.0))
        if ended - told_at < QUIET and late < 2 * told:
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[cause] = ended, late
        log.warning(
            "the event loop stood still for %.0f ms, computing for %.0f of them: %s",
            late * 1000,
            computed * 1000,
            cause,
        )

    def _stacks(self) -> str:
        """Where the loop's thread is, and all others that do something for us."""
        frames = sys._current_frames()  # noqa: SLF001
        told = [f"loop: {_stack(frames.pop(self._hub))}"]
        frames.pop(monkey.get_original("_thread", "get_ident")())
        told += [f"thread: {_stack(frame)}" for frame in frames.values() if _is_ours(frame)]
        return "; ".join(told)


def _calls(frame: FrameType | None) -> list[FrameType]:
    """The stack of `frame`, the innermost call first."""
    calls = []
    while frame is not None:
        calls.append(frame)
        frame = frame.f_back
    return calls


def _is_ours(frame: FrameType) -> bool:
    return any(call.f_code.co_filename.startswith(_OURS) for call in _calls(frame))


def _stack(frame: FrameType) -> str:
    # Where functions begin: the same cause has the same words.
    codes = [call.f_code for call in _calls(frame)[:_CALLS]]
    return " < ".join(
        f"{code.co_name} ({'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_firstlineno})"
        for code in codes
    )
