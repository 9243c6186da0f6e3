"""Runs the commands of ``docs/migrating.md`` on the directories of the other programs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.test_adopt import devpi, proxpi, write
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Client, clean_environ, serving

pytestmark = pytest.mark.process

DOCUMENT = (Path(__file__).parents[2] / "docs/migrating.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
SECTIONS = re.findall(r"^## (.*)$", DOCUMENT, re.MULTILINE)


@pytest.fixture
def dist(index: FakeIndex) -> Dist:
    found = wheel("demo")
    index.add(found)
    return found


def run(number: int, tmp_path: Path, index: FakeIndex) -> None:
    """Run block `number` of the document, with directories below `tmp_path`."""
    commands = BLOCKS[number]
    for shown in ("/srv", "/var/cache"):
        commands = commands.replace(shown, str(tmp_path))
    programs = Path(sys.executable).parent
    subprocess.run(
        ["bash", "-euc", commands],
        check=True,
        timeout=60,
        env=clean_environ(
            PATH=f"{programs}:{os.environ['PATH']}",
            PYTAIL_CACHE_DIR=str(tmp_path / "pytail"),
            PYTAIL_UPSTREAM_BASE_URL=index.url,
        ),
    )


def is_served_from_store(client: Client, index: FakeIndex, dist: Dist) -> bool:
    """Return whether `client` gets the file without a fetch from upstream."""
    assert client.get("/root/pypi/+simple/demo/").status == 200
    assert client.get(dist.served).data == dist.data
    return index.count(dist.path) == 0


def test_every_block_of_the_document_has_a_test():
    assert len(BLOCKS) == 4
    assert len(SECTIONS) == 4


@pytest.mark.parametrize(("number", "program", "layout"), [(0, "devpi", devpi), (2, "proxpi", proxpi)])  # fmt: skip
def test_files_are_adopted_while_the_server_runs(
    tmp_path: Path, index: FakeIndex, dist: Dist, number: int, program: str, layout
):
    write(layout(tmp_path / program, dist), dist.data)
    with serving(tmp_path / "pytail", index.url) as client:
        run(number, tmp_path, index)
        assert is_served_from_store(client, index, dist)


def test_files_of_devpi_can_be_moved(tmp_path: Path, index: FakeIndex, dist: Dist):
    write(devpi(tmp_path / "devpi", dist), dist.data)
    run(1, tmp_path, index)
    with serving(tmp_path / "pytail", index.url) as client:
        assert is_served_from_store(client, index, dist)


def test_the_directory_of_the_rust_program_can_be_used_in_place(
    tmp_path: Path, index: FakeIndex, dist: Dist
):
    cache = tmp_path / "pytail"
    write(devpi(cache, dist), dist.data)
    subprocess.run([sys.executable, "-c", RUST, str(cache / "index.sqlite3")], check=True)
    run(3, tmp_path, index)
    assert len(list(cache.glob("index.sqlite3.set-aside-*"))) == 1
    with serving(cache, index.url) as client:
        assert is_served_from_store(client, index, dist)


#: Creates a database with a table that pytail does not have.
RUST = """
import sqlite3, sys

connection = sqlite3.connect(sys.argv[1])
connection.execute("CREATE TABLE projects (name TEXT PRIMARY KEY)")
connection.commit()
connection.close()
"""
