"""Delays of the event loop, and the stacks that are logged for its stalls."""

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
from pytail.runtime.loop import Heartbeat, StallReporter, _calls
from pytail.runtime.threads import give_way, off_loop
from tests.support.fakeindex import FakeIndex
from tests.support.running import serving
from tests.support.watching import until

really_sleep = monkey.get_original("time", "sleep")


def compute(seconds: float) -> None:
    """Compute in the running thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def dawdle(seconds: float = 0.1) -> None:
    compute(seconds)


def linger() -> None:
    compute(0.1)


def block() -> None:
    really_sleep(0.15)


def hoard() -> int:
    """Hold the GIL, as some functions in C do."""
    return sum(range(5_000_000))


def is_sampling() -> bool:
    """Return whether a thread samples stacks."""
    stacks = (_calls(frame) for frame in sys._current_frames().values())
    return any(call.f_code is StallReporter._sample.__code__ for stack in stacks for call in stack)


class Lines(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextlib.contextmanager
def reporting(longest: float) -> Iterator[list[str]]:
    """Log stalls of more than `longest` seconds, and yield their messages."""
    lines, reporter = Lines(), StallReporter(longest)
    loop.log.addHandler(lines)
    try:
        yield lines.messages
    finally:
        reporter.stop()
        loop.log.removeHandler(lines)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """The messages for stalls of more than 20 ms."""
    with reporting(0.02) as lines:
        gevent.sleep(0.05)
        yield lines


def computed(line: str) -> int:
    """Return the milliseconds that the loop's thread computed in a stall."""
    return int(line.partition("computing for ")[2].split()[0])


def naming(messages: list[str], function: str) -> list[str]:
    """Return the messages with `function` in their stacks."""
    return [line for line in messages if f"{function} (" in line]


def test_greenlet_that_computes_is_logged_by_name(messages: list[str]):
    gevent.spawn(dawdle).join()
    until(lambda: naming(messages, "dawdle"))
    (line,) = naming(messages, "dawdle")
    assert line.startswith("event loop blocked for ")
    assert "loop: compute (runtime/test_loop.py:" in line
    assert computed(line) >= 90


def test_greenlet_that_blocks_is_logged_without_computing(messages: list[str]):
    gevent.spawn(block).join()
    until(lambda: naming(messages, "block"))
    assert computed(naming(messages, "block")[0]) < 90


def test_thread_that_holds_the_gil_is_logged(messages: list[str]):
    # The stack is taken just after the thread has released the GIL, so not each time.
    for _ in range(50):
        off_loop(hoard)
        gevent.sleep(0.02)
        if naming(messages, "hoard"):
            break
    assert "thread: hoard (runtime/test_loop.py:" in naming(messages, "hoard")[0]


def test_same_stacks_are_logged_once_in_a_while_and_others_at_once(
    messages: list[str], monkeypatch
):
    for work in (dawdle, dawdle, dawdle, linger):
        gevent.spawn(work).join()
        # Without a pause they would be one stall.
        gevent.sleep(0.02)
    until(lambda: naming(messages, "linger"))
    assert len(naming(messages, "dawdle")) == 1
    monkeypatch.setattr(loop, "QUIET", 0.0)
    gevent.spawn(dawdle).join()
    until(lambda: len(naming(messages, "dawdle")) == 2)


def test_same_stacks_are_logged_at_once_for_a_stall_twice_as_long(messages: list[str]):
    gevent.spawn(dawdle).join()
    gevent.sleep(0.02)
    gevent.spawn(dawdle, 0.5).join()
    until(lambda: len(naming(messages, "dawdle")) == 2)
    assert computed(naming(messages, "dawdle")[1]) >= 400


def test_greenlets_that_give_way_are_no_stall():
    def work() -> None:
        for _ in range(60):
            compute(0.004)
            give_way()

    with reporting(0.5) as messages:
        gevent.joinall([gevent.spawn(work) for _ in range(3)], raise_error=True)
        gevent.sleep(0.2)
        # A loaded machine can stop the whole process for as long, but then nothing is computed.
        assert [each for each in messages if computed(each) >= 400] == []


def test_nothing_is_logged_and_no_thread_runs_after_the_stop(caplog: pytest.LogCaptureFixture):
    with reporting(0.02):
        until(is_sampling)
    gevent.spawn(dawdle).join()
    gevent.sleep(0.05)
    assert "dawdle" not in caplog.text
    assert not is_sampling()


def test_no_thread_samples_stacks_by_default(tmp_path: Path, index: FakeIndex):
    with serving(tmp_path, index.url):
        assert not is_sampling()


def test_stall_is_a_warning_of_the_runtime_logger(
    tmp_path: Path, index: FakeIndex, caplog: pytest.LogCaptureFixture
):
    with serving(tmp_path, index.url, stall_report_secs=0.02):
        until(is_sampling)
        gevent.spawn(dawdle).join()
        until(lambda: "dawdle" in caplog.text)
    (record,) = [record for record in caplog.records if "dawdle" in record.getMessage()]
    assert (record.name, record.levelname) == ("pytail.runtime", "WARNING")
    assert not is_sampling()


def test_heartbeat_calls_its_tasks_at_once_and_at_intervals_until_it_stops():
    late, calls = [], []
    heartbeat = Heartbeat(late.append, lambda: calls.append(1))
    assert (len(calls), late) == (1, [])
    until(lambda: len(calls) == 2)
    heartbeat.stop()
    assert len(late) == 1
    assert 0 <= late[0] < 1


def test_heartbeat_reports_the_delay_of_a_blocked_loop():
    late: list[float] = []
    heartbeat = Heartbeat(late.append)
    gevent.sleep(0)
    really_sleep(0.9)
    until(lambda: late)
    heartbeat.stop()
    assert 0.3 < late[0] < 2
