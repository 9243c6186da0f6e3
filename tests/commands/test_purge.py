"""Held files go when an operator says so; what is in use stays."""

from __future__ import annotations

import contextlib
import os
import pty
import time

import gevent
import pytest

from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.watching import until

pytestmark = pytest.mark.process


def test_purge_removes_the_files_of_a_project_and_forgets_its_page(
    beside: Beside, index: FakeIndex, held
):
    demo, other = held
    told = beside.json("purge", "Demo")
    assert (told["files"], told["left"], told["forgotten"]) == (1, 0, 1)
    assert (beside.path(demo).exists(), beside.path(other).exists()) == (False, True)
    # To the server all of it is as if never asked for.
    beside.hold(demo, other)
    assert (index.page_count("demo"), index.page_count("other")) == (2, 1)
    assert (index.count(demo.path), index.count(other.path)) == (2, 1)


def test_purge_removes_core_metadata_with_its_wheel(beside: Beside, held):
    beside.client.get(f"/root/pypi/+f/{held[0].key}.metadata")
    assert beside.json("purge", "demo")["files"] == 2


def test_purge_of_long_ago_goes_by_last_use(beside: Beside, held):
    ages = [(wheel("demo", "2.0"), 91), (wheel("demo", "3.0"), 89)]
    for dist, age in ages:
        beside.plant(dist, time.time() - age * 86400)
    told = beside.json("purge", "--older-than", "90d")
    assert (told["files"], told["forgotten"]) == (1, 0)
    assert [beside.path(dist).exists() for dist, _ in ages] == [False, True]
    assert all(beside.path(dist).exists() for dist in held)


def test_purge_of_all_leaves_nothing(beside: Beside, held):
    assert beside.json("purge", "--all", "--yes")["files"] == 2
    assert beside.json("list") == []
    assert beside.json("status")["projects"] == 0


def test_purged_files_leave_the_servers_count(beside: Beside, held):
    def count() -> int | None:
        shown = beside.client.get("/+status").json()["held"]
        return None if shown is None else shown["files"]

    with gevent.Timeout(20):
        while count() != 2:
            gevent.sleep(0.1)
        beside.run("purge", "--all")
        while count() != 0:
            gevent.sleep(0.1)


def test_a_file_that_is_being_sent_stays_and_is_sent_whole(beside: Beside, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    beside.hold(dist)
    with contextlib.closing(beside.client.open("GET", dist.served)) as slow:
        response = slow.getresponse()
        told = beside.json("purge", "demo", code=1)
        assert (told["files"], told["left"]) == (0, 1)
        assert response.read() == dist.data
    until(lambda: beside.json("purge", "demo")["files"] == 1)


@pytest.mark.parametrize("options", [[], ["--all", "demo"], ["--all", "--older-than", "1d"]])
def test_purge_wants_to_know_one_thing(beside: Beside, held, options):
    out = beside.run("purge", *options)
    assert (out.returncode, len(out.stderr.splitlines())) == (2, 1)
    assert beside.path(held[0]).exists()


def test_an_age_that_is_none_is_one_line_and_exit_code_2(beside: Beside, held):
    out = beside.run("purge", "--older-than", "soon")
    assert out.returncode == 2
    assert "give a number of seconds" in out.stderr


@pytest.mark.parametrize(("answer", "code", "stays"), [("n", 1, True), ("y", 0, False)])
def test_purge_asks_on_a_terminal(beside: Beside, held, answer: str, code: int, stays: bool):
    primary, terminal = pty.openpty()
    try:
        os.write(primary, f"{answer}\n".encode())
        out = beside.run("purge", "demo", stdin=terminal)
    finally:
        os.close(terminal)
        os.close(primary)
    assert out.returncode == code
    assert out.stderr.startswith("Remove 1 file, ")
    assert "forget demo?" in out.stderr
    assert beside.path(held[0]).exists() is stays


def test_purge_does_not_ask_when_told_yes(beside: Beside, held):
    primary, terminal = pty.openpty()
    try:
        out = beside.run("purge", "demo", "--yes", stdin=terminal)
    finally:
        os.close(terminal)
        os.close(primary)
    assert (out.returncode, out.stderr) == (0, "")
