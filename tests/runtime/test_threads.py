"""Work in threads outside of the event loop."""

import contextlib
import gc
import os
import socket
import subprocess
import sys
import weakref

import gevent
import pytest
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from pytail.runtime.threads import give_way, off_loop, shorten_switch_interval, use_resolver_threads
from tests.support.watching import until

thread_id = get_original("_thread", "get_ident")


def test_work_runs_in_another_thread():
    assert off_loop(thread_id) != thread_id()


def test_work_for_a_pool_runs_in_that_pool_even_when_it_is_idle():
    pool = ThreadPool(1)
    own = pool.apply(thread_id)
    assert [off_loop(thread_id, pool) for _ in range(3)] == [own] * 3
    assert off_loop(thread_id) != own
    pool.kill()


def test_other_greenlets_run_while_a_thread_works():
    reader, writer = os.pipe()
    work = gevent.spawn(off_loop, lambda: os.read(reader, 1))
    # A blocked event loop would never run this greenlet.
    gevent.spawn(os.write, writer, b"!")
    assert work.get(timeout=5) == b"!"
    os.close(reader)
    os.close(writer)


def test_error_is_raised_to_the_caller_and_not_printed(capfd):
    with pytest.raises(ZeroDivisionError):
        off_loop(lambda: 1 // 0)
    assert capfd.readouterr().err == ""


def test_error_that_is_not_an_exception_is_raised_to_the_caller():
    def leave():
        raise gevent.GreenletExit

    with pytest.raises(gevent.GreenletExit):
        off_loop(leave)


def test_silent_name_server_blocks_only_lookups(monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr("_socket.getaddrinfo", lambda *_: os.read(reader, 1))
    use_resolver_threads()
    lookups = [gevent.spawn(socket.getaddrinfo, "index.example.org", 80) for _ in range(30)]
    gevent.sleep(0)
    with gevent.Timeout(5):
        assert off_loop(lambda: "done") == "done"
    os.write(writer, b"!" * 30)
    gevent.joinall(lookups, timeout=5)
    os.close(reader)
    os.close(writer)


def test_switch_interval_is_half_a_millisecond():
    before = sys.getswitchinterval()
    shorten_switch_interval()
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    sys.setswitchinterval(before)


def test_give_way_lets_other_greenlets_run():
    other = gevent.spawn(lambda: "ran")
    give_way()
    assert other.value == "ran"


ENDING = """
from gevent import monkey; monkey.patch_all()
import atexit
import gevent
from pytail.runtime.threads import off_loop

def work_on():
    while True:
        gevent.sleep(0.005)
        off_loop(lambda: None)

gevent.spawn(work_on)
atexit.register(gevent.sleep, 0.05)
"""


def test_work_during_the_interpreters_shutdown_is_dropped_without_an_error():
    command = [sys.executable, "-c", ENDING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_error_of_a_thread_needs_no_collector():
    class Failure(Exception):
        def __init__(self):
            failures.append(weakref.ref(self))

    def fail():
        raise Failure

    failures = []
    gc.disable()
    try:
        with contextlib.suppress(Failure):
            off_loop(fail)
        until(lambda: failures[0]() is None)
    finally:
        gc.enable()
