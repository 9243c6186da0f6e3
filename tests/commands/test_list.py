"""What is held, by project and file."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, sdist, wheel

pytestmark = pytest.mark.process


def test_list_names_the_projects_of_which_files_are_held(beside: Beside, index: FakeIndex):
    dists = [wheel("demo"), wheel("demo", "2.0"), wheel("other")]
    index.add(*dists, wheel("unheld"))
    beside.hold(*dists)
    beside.client.get("/simple/unheld/")
    rows = {row["project"]: row["files"] for row in beside.json("list")}
    assert rows == {"demo": 2, "other": 1}
    first, _ = beside.run("list").stdout.splitlines()
    assert first.split()[-3:] == ["2", "files", "demo"]


def test_list_of_a_project_is_its_page_held_or_not(beside: Beside, index: FakeIndex):
    held, unheld = wheel("demo"), wheel("demo", "2.0")
    index.add(held, unheld)
    beside.hold(held)
    rows = beside.json("list", "Demo")
    assert [(row["filename"], row["held"], row["size"]) for row in rows] == [
        (held.filename, True, len(held.data)),
        (unheld.filename, False, len(unheld.data)),
    ]
    assert rows[0]["path"] == f"/root/pypi/+f/{held.key}"
    lines = beside.run("list", "demo").stdout.splitlines()
    assert [line.startswith("held") for line in lines] == [True, False]


def test_files_of_a_catalog_that_was_lost_have_their_project_by_name(
    beside: Beside, index: FakeIndex
):
    dist = sdist("de-mo")
    index.add(dist)
    beside.hold(dist)
    from_page = beside.json("list")
    for file in beside.cache.glob("index.sqlite3*"):
        file.unlink()
    assert beside.json("list") == from_page
    assert from_page[0]["project"] == "de-mo"


def test_core_metadata_is_its_wheels_project(beside: Beside, index: FakeIndex):
    dist = wheel("demo")
    index.add(dist)
    beside.hold(dist)
    assert beside.client.get(f"/root/pypi/+f/{dist.key}.metadata").status == 200
    assert [row["files"] for row in beside.json("list")] == [2]


def test_a_project_of_which_nothing_is_known_is_exit_code_1(beside: Beside):
    out = beside.run("list", "nope")
    assert (out.returncode, out.stderr) == (1, "nothing is known of nope\n")


def test_a_name_that_no_project_can_have_is_one_line_and_exit_code_2(beside: Beside):
    out = beside.run("list", "../nope")
    assert (out.returncode, len(out.stderr.splitlines())) == (2, 1)
