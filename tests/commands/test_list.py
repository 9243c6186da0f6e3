"""``pytail list`` lists projects with stored files, and the files of one project."""

from __future__ import annotations

import pytest

from tests.commands.conftest import Installation
from tests.support.fakeindex import FakeIndex, sdist, wheel

pytestmark = pytest.mark.process


def test_list_names_the_projects_with_stored_files(installation: Installation, index: FakeIndex):
    dists = [wheel("demo"), wheel("demo", "2.0"), wheel("other")]
    index.add(*dists, wheel("unstored"))
    installation.store(*dists)
    installation.client.get("/simple/unstored/")
    rows = {row["project"]: row["files"] for row in installation.json("list")}
    assert rows == {"demo": 2, "other": 1}
    first, _ = installation.run("list").stdout.splitlines()
    assert first.split()[-3:] == ["2", "files", "demo"]


def test_list_of_a_project_shows_its_page_with_stored_and_other_files(
    installation: Installation, index: FakeIndex
):
    stored, unstored = wheel("demo"), wheel("demo", "2.0")
    index.add(stored, unstored)
    installation.store(stored)
    rows = installation.json("list", "Demo")
    assert [(row["filename"], row["held"], row["size"]) for row in rows] == [
        (stored.filename, True, len(stored.data)),
        (unstored.filename, False, len(unstored.data)),
    ]
    assert rows[0]["path"] == f"/root/pypi/+f/{stored.key}"
    lines = installation.run("list", "demo").stdout.splitlines()
    assert [line.startswith("stored") for line in lines] == [True, False]


def test_without_a_catalog_the_filename_gives_the_project(
    installation: Installation, index: FakeIndex
):
    dist = sdist("de-mo")
    index.add(dist)
    installation.store(dist)
    from_page = installation.json("list")
    for file in installation.cache.glob("index.sqlite3*"):
        file.unlink()
    assert installation.json("list") == from_page
    assert from_page[0]["project"] == "de-mo"


def test_core_metadata_counts_for_the_project_of_its_wheel(
    installation: Installation, index: FakeIndex
):
    dist = wheel("demo")
    index.add(dist)
    installation.store(dist)
    assert installation.client.get(f"/root/pypi/+f/{dist.key}.metadata").status == 200
    assert [row["files"] for row in installation.json("list")] == [2]


def test_an_unknown_project_is_exit_code_1(installation: Installation):
    out = installation.call("list", "nope")
    assert (out.returncode, out.stderr) == (1, "neither a page nor a file of nope is cached\n")
