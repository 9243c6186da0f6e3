"""Upstream is asked now, and the running server answers from what it said."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, reply, wheel

pytestmark = pytest.mark.process


def versions(beside: Beside) -> list[str]:
    return beside.client.json("demo")["versions"]


def test_the_running_server_has_the_new_page_at_once(beside: Beside, index: FakeIndex):
    index.add(wheel("demo"))
    assert versions(beside) == ["1.0"]
    index.add(wheel("demo", "2.0"))
    assert versions(beside) == ["1.0"]
    out = beside.run("refresh", "Demo")
    assert (out.returncode, out.stdout) == (0, "demo: a new page of 2 files\n")
    assert versions(beside) == ["1.0", "2.0"]
    assert index.page_count("demo") == 2


def test_a_page_that_is_the_same_is_confirmed(beside: Beside, index: FakeIndex):
    index.add(wheel("demo"))
    versions(beside)
    assert beside.json("refresh", "demo")["demo"] == {
        "is_fresh": True,
        "outcome": "REVALIDATED",
        "reason": "unchanged",
    }
    assert "IF_NONE_MATCH" in index.seen[-1].headers


def test_each_project_is_asked_for_and_trouble_with_one_is_exit_code_1(
    beside: Beside, index: FakeIndex
):
    index.add(wheel("demo"))
    versions(beside)
    index.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Internal Server Error")
    index.add(wheel("other"))
    told = beside.json("refresh", "demo", "other", "nope", code=1)
    assert {name: result["is_fresh"] for name, result in told.items()} == {
        "demo": False,
        "other": True,
        "nope": False,
    }
    assert told["demo"]["outcome"] == "STALE"
    # The copy stays.
    assert versions(beside) == ["1.0"]


def test_what_upstream_removed_is_gone_for_the_server_too(beside: Beside, index: FakeIndex):
    index.add(wheel("demo"))
    versions(beside)
    index.dists.clear()
    assert beside.run("refresh", "demo").returncode == 1
    assert beside.client.get("/simple/demo/").status == 404


def test_a_pipe_gets_no_progress_bar(beside: Beside, index: FakeIndex):
    index.add(wheel("demo"))
    assert beside.run("refresh", "demo").stderr == ""
