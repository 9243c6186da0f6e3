"""``pytail refresh`` revalidates pages, and the running server answers with the result."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Installation
from tests.support.fakeindex import FakeIndex, reply, wheel

pytestmark = pytest.mark.process


def versions(installation: Installation) -> list[str]:
    return installation.client.json("demo")["versions"]


def test_the_running_server_has_the_new_page_at_once(installation: Installation, index: FakeIndex):
    index.add(wheel("demo"))
    assert versions(installation) == ["1.0"]
    index.add(wheel("demo", "2.0"))
    assert versions(installation) == ["1.0"]
    out = installation.run("refresh", "Demo")
    assert (out.returncode, out.stdout) == (0, "demo: a new page of 2 files\n")
    assert versions(installation) == ["1.0", "2.0"]
    assert index.page_count("demo") == 2


def test_an_unchanged_page_is_revalidated(installation: Installation, index: FakeIndex):
    index.add(wheel("demo"))
    versions(installation)
    assert installation.json("refresh", "demo")["demo"] == {
        "is_fresh": True,
        "outcome": "REVALIDATED",
        "reason": "unchanged",
    }
    assert "IF_NONE_MATCH" in index.seen[-1].headers


def test_one_failing_project_is_exit_code_1_and_the_others_are_refreshed(
    installation: Installation, index: FakeIndex
):
    index.add(wheel("demo"))
    versions(installation)
    index.answers["/simple/demo/"] = reply(b"", "text/plain", "500 Internal Server Error")
    index.add(wheel("other"))
    results = installation.json("refresh", "demo", "other", "nope", code=1)
    assert {name: result["is_fresh"] for name, result in results.items()} == {
        "demo": False,
        "other": True,
        "nope": False,
    }
    assert results["demo"]["outcome"] == "STALE"
    # The stale page is still served.
    assert versions(installation) == ["1.0"]


def test_a_project_that_upstream_removed_is_missing_at_the_server_too(
    installation: Installation, index: FakeIndex
):
    index.add(wheel("demo"))
    versions(installation)
    index.dists.clear()
    assert installation.call("refresh", "demo").returncode == 1
    assert installation.client.get("/simple/demo/").status == 404


def test_without_a_terminal_there_is_no_progress_bar(installation: Installation, index: FakeIndex):
    index.add(wheel("demo"))
    assert installation.run("refresh", "demo").stderr == ""
