"""``pytail purge`` removes the chosen files; files in use stay."""

from __future__ import annotations

import contextlib
import os
import time

import pytest

from tests.commands.conftest import Installation, pseudo_terminal
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.watching import until

pytestmark = pytest.mark.process


def test_purge_removes_the_files_of_a_project_and_forgets_its_page(
    installation: Installation, index: FakeIndex, stored: list[Dist]
):
    demo, other = stored
    result = installation.run_json("purge", "Demo")
    assert (result["files"], result["left"], result["forgotten"]) == (1, 0, 1)
    assert (installation.path(demo).exists(), installation.path(other).exists()) == (False, True)
    # The server fetches the page and the file again.
    installation.store(demo, other)
    assert (index.page_count("demo"), index.page_count("other")) == (2, 1)
    assert (index.count(demo.path), index.count(other.path)) == (2, 1)


def test_purge_removes_core_metadata_with_its_wheel(installation: Installation, stored: list[Dist]):
    installation.client.get(f"/root/pypi/+f/{stored[0].key}.metadata")
    assert installation.json("purge", "demo")["files"] == 2


def test_purge_by_age_goes_by_last_use(installation: Installation, stored: list[Dist]):
    ages = [(wheel("demo", "2.0"), 91), (wheel("demo", "3.0"), 89)]
    for dist, age in ages:
        installation.write_file(dist, time.time() - age * 86400)
    result = installation.json("purge", "--older-than", "90d")
    assert (result["files"], result["forgotten"]) == (1, 0)
    assert [installation.path(dist).exists() for dist, _ in ages] == [False, True]
    assert all(installation.path(dist).exists() for dist in stored)


def test_purge_of_all_removes_every_file_and_project(
    installation: Installation, stored: list[Dist]
):
    assert installation.json("purge", "--all", "--yes")["files"] == 2
    assert installation.json("list") == []
    assert installation.json("status")["projects"] == 0


def test_the_running_server_no_longer_counts_purged_files(
    installation: Installation, stored: list[Dist]
):
    def count() -> int | None:
        shown = installation.client.get("/+status").json()["held"]
        return None if shown is None else shown["files"]

    until(lambda: count() == 2, seconds=20)
    installation.run("purge", "--all")
    until(lambda: count() == 0, seconds=20)


def test_a_file_that_is_being_sent_is_not_removed_and_is_sent_whole(
    installation: Installation, index: FakeIndex
):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    installation.store(dist)
    with contextlib.closing(installation.client.open("GET", dist.served)) as slow:
        response = slow.getresponse()
        result = installation.run_json("purge", "demo", code=1)
        assert (result["files"], result["left"]) == (0, 1)
        assert response.read() == dist.data
    until(lambda: installation.json("purge", "demo")["files"] == 1)


@pytest.mark.parametrize(("typed", "code", "stays"), [("n", 1, True), ("y", 0, False)])
def test_purge_asks_on_a_terminal(
    installation: Installation, stored: list[Dist], typed: str, code: int, stays: bool
):
    with pseudo_terminal(f"{typed}\n") as (_, terminal):
        out = installation.run("purge", "demo", stdin=terminal)
    assert out.returncode == code
    assert out.stderr.startswith("Remove 1 file, ")
    assert "forget demo?" in out.stderr
    assert installation.path(stored[0]).exists() is stays


def test_purge_with_yes_does_not_ask(installation: Installation, stored: list[Dist]):
    with pseudo_terminal() as (_, terminal):
        out = installation.run("purge", "demo", "--yes", stdin=terminal)
    assert (out.returncode, out.stderr) == (0, "")
