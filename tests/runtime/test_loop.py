"""Where the event loop stood still."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent import monkey

from pytail.runtime import loop
from pytail.runtime.loop import StallReporter, _calls
from pytail.runtime.threads import give_way, off_loop
from tests.support.fakeindex import FakeIndex
from tests.support.running import serving
from tests.support.watching import until

really_sleep = monkey.get_original("time", "sleep")


def compute(seconds: float) -> None:
    """Keep the loop's thread busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def dawdle(seconds: float = 0.1) -> None:
    compute(seconds)


def dally() -> None:
    compute(0.1)


def block() -> None:
    really_sleep(0.15)


def hoard() -> int:
    """Keep the interpreter, as some functions in C do."""
    return sum(range(5_000_000))


def is_watched() -> bool:
    """Whether a thread looks for stalls."""
    stacks = (_calls(frame) for frame in sys._current_frames().values())
    return any(call.f_code is StallReporter._sample.__code__ for stack in stacks for call in stack)


class Lines(logging.Handler):
    """What the log tells."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@contextlib.contextmanager
def watched(longest: float) -> Iterator[list[str]]:
    """What is told of stalls above `longest` seconds, one line for each."""
    lines, watching = Lines(), StallReporter(longest)
    loop.log.addHandler(lines)
    try:
        yield lines.told
    finally:
        watching.stop()
        loop.log.removeHandler(lines)


@pytest.fixture
def told() -> Iterator[list[str]]:
    """What is told of stalls above 20 ms, one line for each."""
    with watched(0.02) as lines:
        gevent.sleep(0.05)
        yield lines


def computed(line: str) -> int:
    """The milliseconds that the loop's thread itself computed in a stall."""
    return int(line.partition("computing for ")[2].split()[0])


def telling(told: list[str], word: str) -> list[str]:
    return [line for line in told if f"{word} (" in line]


def test_a_greenlet_that_computes_is_told_by_name(told: list[str]):
    gevent.spawn(dawdle).join()
    until(lambda: telling(told, "dawdle"))
    (line,) = telling(told, "dawdle")
    assert line.startswith("event loop blocked for ")
    assert "loop: compute (runtime/test_loop.py:" in line
    assert computed(line) >= 90


def test_a_greenlet_that_blocks_is_told_to_have_computed_nothing(told: list[str]):
    gevent.spawn(block).join()
    until(lambda: telling(told, "block"))
    assert computed(telling(told, "block")[0]) < 90


def test_a_thread_that_keeps_the_interpreter_is_told(told: list[str]):
    # Whether it is still there to be seen when it lets go, chance decides.
    for _ in range(50):
        off_loop(hoard)
        gevent.sleep(0.02)
        if telling(told, "hoard"):
            break
    assert "thread: hoard (runtime/test_loop.py:" in telling(told, "hoard")[0]


def test_a_cause_is_told_once_in_a_while_and_another_at_once(told: list[str], monkeypatch):
    for work in (dawdle, dawdle, dawdle, dally):
        gevent.spawn(work).join()
        # Without a turn between them they would be one stall.
        gevent.sleep(0.02)
    until(lambda: telling(told, "dally"))
    assert len(telling(told, "dawdle")) == 1
    monkeypatch.setattr(loop, "QUIET", 0.0)
    gevent.spawn(dawdle).join()
    until(lambda: len(telling(told, "dawdle")) == 2)


def test_a_cause_is_told_at_once_where_it_takes_much_longer(told: list[str]):
    gevent.spawn(dawdle).join()
    gevent.sleep(0.02)
    gevent.spawn(dawdle, 0.5).join()
    until(lambda: len(telling(told, "dawdle")) == 2)
    assert computed(telling(told, "dawdle")[1]) >= 400


def test_greenlets_that_take_turns_are_no_stall_however_long_they_take():
    def work() -> None:
        for _ in range(60):
            compute(0.004)
            give_way()

    with watched(0.5) as told:
        gevent.joinall([gevent.spawn(work) for _ in range(3)], raise_error=True)
        gevent.sleep(0.2)
        assert told == []


def test_nothing_is_told_after_the_end_and_no_thread_stays(caplog: pytest.LogCaptureFixture):
    with watched(0.02):
        until(is_watched)
    gevent.spawn(dawdle).join()
    gevent.sleep(0.05)
    assert "dawdle" not in caplog.text
    assert not is_watched()


def test_nobody_looks_unless_told_to(tmp_path: Path, index: FakeIndex):
    with serving(tmp_path, index.url):
        assert not is_watched()


def test_the_log_has_it(tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture):
    with serving(tmp_path, index.url, stall_report_secs=0.02):
        until(is_watched)
        gevent.spawn(dawdle).join()
        until(lambda: "dawdle" in caplog.text)
    (record,) = [record for record in caplog.records if "dawdle" in record.getMessage()]
    assert (record.name, record.levelname) == ("pytail.runtime", "WARNING")
    assert not is_watched()
