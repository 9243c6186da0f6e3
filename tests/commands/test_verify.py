"""What is held is what its page said, or it goes."""

from __future__ import annotations

import contextlib
import os
import pty
import time

import pytest

from tests.commands.conftest import Beside
from tests.support.fakeindex import FakeIndex, wheel

pytestmark = pytest.mark.process


def damage(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_right_files_are_exit_code_0(beside: Beside, held):
    out = beside.run("verify")
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout == "2 files right, 0 wrong and removed\n"


def test_a_wrong_file_is_named_removed_and_fetched_again(beside: Beside, index: FakeIndex, held):
    damage(beside.path(held[0]))
    out = beside.run("verify")
    assert out.returncode == 1
    assert out.stderr.startswith(f"{held[0].key}: its digest begins with ")
    assert not beside.path(held[0]).exists()
    beside.hold(*held)
    assert beside.json("verify") == {"right": 2, "unchecked": 0, "removed": [], "left": []}
    assert (index.count(held[0].path), index.count(held[1].path)) == (2, 1)


def test_a_truncated_file_is_wrong(beside: Beside, held):
    os.truncate(beside.path(held[0]), 10)
    assert beside.json("verify", code=1)["removed"] == [held[0].key]


def test_without_a_page_the_digits_of_the_shelf_decide(beside: Beside, held):
    beside.run("purge", "nothing")
    for file in beside.cache.glob("index.sqlite3*"):
        file.unlink()
    damage(beside.path(held[0]))
    told = beside.json("verify", code=1)
    assert (told["right"], told["removed"]) == (1, [held[0].key])


def test_core_metadata_is_checked_by_the_digest_of_its_own(beside: Beside, held):
    location = f"{held[0].key}.metadata"
    beside.client.get(f"/root/pypi/+f/{location}")
    path = beside.path(held[0]).with_name(f"{held[0].filename}.metadata")
    assert beside.json("verify")["right"] == 3
    damage(path)
    assert beside.json("verify", code=1)["removed"] == [location]


def test_a_file_for_which_no_digest_is_known_is_counted_apart(beside: Beside, index: FakeIndex):
    dist = wheel("plain", hashes={})
    index.add(dist)
    (entry,) = beside.client.json("plain")["files"]
    assert beside.client.get(entry["url"].removeprefix("../..")).data == dist.data
    assert beside.json("verify") == {"right": 1, "unchecked": 0, "removed": [], "left": []}
    index.add(other := wheel("bare", hashes={}, size=None))
    (entry,) = beside.client.json("bare")["files"]
    assert beside.client.get(entry["url"].removeprefix("../..")).data == other.data
    assert beside.json("verify")["unchecked"] == 1


def test_a_wrong_file_that_is_being_sent_is_left_for_later(beside: Beside, index: FakeIndex):
    dist = wheel("demo", payload=os.urandom(30_000_000))
    index.add(dist)
    beside.hold(dist)
    damage(beside.path(dist))
    with contextlib.closing(beside.client.open("GET", dist.served)) as slow:
        slow.getresponse()
        told = beside.json("verify", code=1)
    assert (told["left"], told["removed"]) == ([dist.key], [])


def test_to_be_verified_is_not_to_be_used(beside: Beside, held):
    long_ago = time.time() - 100 * 86400
    path = beside.path(held[0])
    os.utime(path, (long_ago, long_ago))
    beside.run("verify")
    assert path.stat().st_atime < time.time() - 99 * 86400


def test_a_terminal_sees_a_progress_bar_and_a_pipe_does_not(beside: Beside, held):
    primary, terminal = pty.openpty()
    try:
        out = beside.run("verify", stderr=terminal)
        shown = os.read(primary, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(primary)
    assert "verifying" in shown
    assert "100%" in shown
    assert out.stdout == "2 files right, 0 wrong and removed\n"
