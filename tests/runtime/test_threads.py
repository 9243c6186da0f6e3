"""Work off the hub."""

import os
import socket
import subprocess
import sys

import gevent
import pytest
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from pytail.runtime.threads import give_way, off_loop, shorten_switch_interval, use_resolver_threads

thread_id = get_original("_thread", "get_ident")


def test_work_runs_in_another_thread():
    assert off_loop(thread_id) != thread_id()


def test_work_for_a_pool_runs_in_that_pool_even_when_it_is_idle():
    lane = ThreadPool(1)
    own = lane.apply(thread_id)
    assert [off_loop(thread_id, lane) for _ in range(3)] == [own] * 3
    assert off_loop(thread_id) != own
    lane.kill()


def test_others_go_on_while_a_thread_works():
    reader, writer = os.pipe()
    work = gevent.spawn(off_loop, lambda: os.read(reader, 1))
    # Were the hub blocked, nobody could write.
    gevent.spawn(os.write, writer, b"!")
    assert work.get(timeout=5) == b"!"
    os.close(reader)
    os.close(writer)


def test_an_error_is_the_callers_and_is_not_printed(capfd):
    with pytest.raises(ZeroDivisionError):
        off_loop(lambda: 1 // 0)
    assert capfd.readouterr().err == ""


def test_an_error_that_is_no_exception_is_the_callers_too():
    def leave():
        raise gevent.GreenletExit

    with pytest.raises(gevent.GreenletExit):
        off_loop(leave)


def test_a_silent_name_server_holds_up_nothing_but_lookups(monkeypatch):
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


def test_a_thread_that_computes_hands_over_in_half_a_millisecond():
    before = sys.getswitchinterval()
    shorten_switch_interval()
    assert sys.getswitchinterval() == pytest.approx(0.0005)
    sys.setswitchinterval(before)


def test_whoever_takes_turns_lets_others_go_on():
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


def test_work_that_comes_while_the_process_ends_is_dropped_quietly():
    command = [sys.executable, "-c", ENDING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
