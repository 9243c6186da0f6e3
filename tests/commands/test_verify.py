"""``pytail verify`` removes stored files that differ from their digest."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from tests.commands.conftest import Installation
from tests.support.fakeindex import Dist, FakeIndex, wheel

pytestmark = pytest.mark.process


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_intact_files_are_exit_code_0(installation: Installation, stored: list[Dist]):
    out = installation.run("verify")
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout == "2 files intact, 0 damaged and removed\n"


def test_a_damaged_file_is_named_and_removed_and_fetched_again(
    installation: Installation, index: FakeIndex, stored: list[Dist]
):
    damage(installation.path(stored[0]))
    out = installation.run("verify")
    assert out.returncode == 1
    assert out.stderr.startswith(f"{stored[0].key}: its digest begins with ")
    assert not installation.path(stored[0]).exists()
    installation.store(*stored)
    assert installation.json("verify") == {"right": 2, "unchecked": 0, "removed": [], "left": []}
    assert (index.count(stored[0].path), index.count(stored[1].path)) == (2, 1)


def test_a_truncated_file_is_removed(installation: Installation, stored: list[Dist]):
    os.truncate(installation.path(stored[0]), 10)
    assert installation.json("verify", code=1)["removed"] == [stored[0].key]


@pytest.mark.parametrize("size", [0, 1])
def test_a_wrong_size_on_the_page_is_no_damage(
    installation: Installation, index: FakeIndex, stored: list[Dist], size: int
):
    odd = wheel("odd", size=size)
    index.add(odd)
    installation.store(odd)
    assert installation.json("verify")["right"] == len(stored) + 1


def test_without_a_page_the_digits_of_the_directory_are_compared(
    installation: Installation, stored: list[Dist]
):
    installation.call("purge", "nothing")
    for file in installation.cache.glob("index.sqlite3*"):
        file.unlink()
    damage(installation.path(stored[0]))
    result = installation.json("verify", code=1)
    assert (result["right"], result["removed"]) == (1, [stored[0].key])


def test_core_metadata_is_compared_with_its_own_digest(
    installation: Installation, stored: list[Dist]
):
    key = f"{stored[0].key}.metadata"
    installation.client.get(f"/root/pypi/+f/{key}")
    path = installation.path(stored[0]).with_name(f"{stored[0].filename}.metadata")
    assert installation.json("verify")["right"] == 3
    damage(path)
    assert installation.json("verify", code=1)["removed"] == [key]


def test_a_file_without_digest_and_size_is_counted_apart(
    installation: Installation, index: FakeIndex
):
    dist = wheel("plain", hashes={})
    index.add(dist)
    (entry,) = installation.client.json("plain")["files"]
    assert installation.client.get(entry["url"].removeprefix("../..")).data == dist.data
    assert installation.json("verify") == {"right": 1, "unchecked": 0, "removed": [], "left": []}
    index.add(other := wheel("bare", hashes={}, size=None))
    (entry,) = installation.client.json("bare")["files"]
    assert installation.client.get(entry["url"].removeprefix("../..")).data == other.data
    assert installation.json("verify")["unchecked"] == 1


def test_a_damaged_file_that_is_being_sent_is_not_removed(
    installation: Installation, index: FakeIndex
):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    installation.store(dist)
    damage(installation.path(dist))
    with contextlib.closing(installation.client.open("GET", dist.served)) as slow:
        slow.getresponse()
        result = installation.run_json("verify", code=1)
    assert (result["left"], result["removed"]) == ([dist.key], [])


def test_verifying_a_file_does_not_count_as_use(installation: Installation, stored: list[Dist]):
    long_ago = time.time() - 100 * 86400
    path = installation.path(stored[0])
    os.utime(path, (long_ago, long_ago))
    assert installation.call("verify").returncode == 0
    assert path.stat().st_atime < time.time() - 99 * 86400


def test_a_terminal_shows_a_progress_bar(installation: Installation, stored: list[Dist]):
    out, shown = installation.run_on_terminal("verify")
    assert "verifying" in shown
    assert "100%" in shown
    assert out.stdout == "2 files intact, 0 damaged and removed\n"
