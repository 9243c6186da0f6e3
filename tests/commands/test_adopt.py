"""Files of other programs are taken over, verified, however they are laid out.

The layouts are those that the real programs left behind when they were run against the fake index:
devpi-server 6.20.3, proxpi 1.3.1.
"""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytail.model import File
from pytail.storage.store import Store
from tests.commands.conftest import Beside
from tests.support.fakeindex import Dist, FakeIndex, sdist, wheel

pytestmark = pytest.mark.process

Layout = Callable[[Path, Dist], Path]


def devpi(top: Path, dist: Dist) -> Path:
    """The server directory of devpi, whose mirror is ``root/pypi``."""
    return top / "+files/root/pypi/+f" / dist.key


def devpi_by_url(top: Path, dist: Dist) -> Path:
    """devpi, where the page gives no digest."""
    where = f"http_127.0.0.1_36983_packages_{dist.sha256[:8]}"
    return top / "+files/root/pypi/+e" / where / dist.filename


def proxpi(top: Path, dist: Dist) -> Path:
    """``PROXPI_CACHE_DIR``: by host and path of the URL."""
    return top / "127-0-0-1/packages" / dist.sha256[:8] / dist.filename


def flat(top: Path, dist: Dist) -> Path:
    """What ``pip download`` leaves."""
    return top / dist.filename


LAYOUTS = [devpi, devpi_by_url, proxpi, flat]


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


def lay(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def dists(index: FakeIndex) -> list[Dist]:
    """A wheel and an sdist that upstream has."""
    found = [wheel("demo"), sdist("other")]
    index.add(*found)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_served_without_asking_upstream_for_them(
    beside: Beside, index: FakeIndex, theirs: Path, dists: list[Dist], layout: Layout
):
    laid = [lay(layout(theirs, dist), dist.data) for dist in dists]
    size = sum(len(dist.data) for dist in dists)
    told = beside.json("adopt", str(theirs))
    assert told == {"adopted": 2, "bytes": size, "held": 0, "others": 0, "left": {}}
    beside.hold(*dists)
    for dist in dists:
        assert beside.client.get(dist.served).headers["X-Cache"] == "HIT"
        assert index.count(dist.path) == 0
    assert all(path.exists() for path in laid)
    assert beside.json("verify")["right"] == 2


def test_the_url_of_a_lock_file_needs_no_page(
    beside: Beside, index: FakeIndex, theirs: Path, dists: list[Dist]
):
    lay(devpi(theirs, dists[0]), dists[0].data)
    beside.run("adopt", str(theirs))
    index.stop()
    assert beside.client.get(dists[0].served).data == dists[0].data


def test_what_is_held_is_skipped_and_people_are_told(
    beside: Beside, theirs: Path, dists: list[Dist]
):
    for dist in dists:
        lay(proxpi(theirs, dist), dist.data)
    lay(theirs / "notes.txt", b"")
    out = beside.run("adopt", str(theirs))
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.startswith("2 files adopted, ")
    out = beside.run("adopt", str(theirs))
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout == "0 files adopted, 0 B, 2 held already, 1 no wheel or sdist\n"


def test_a_damaged_file_of_a_digest_is_named_and_not_taken(
    beside: Beside, index: FakeIndex, theirs: Path, dists: list[Dist]
):
    good, bad = dists
    lay(devpi(theirs, good), good.data)
    path = lay(devpi(theirs, bad), bad.data[:-1])
    out = beside.run("adopt", str(theirs))
    assert out.returncode == 1
    assert out.stderr.startswith(f"{path}: it is damaged: its digest begins with ")
    assert out.stdout.endswith(", 1 not taken\n")
    beside.hold(good, bad)
    assert (index.count(good.path), index.count(bad.path)) == (0, 1)


def test_a_file_that_is_not_what_its_name_says_is_never_served(
    beside: Beside, index: FakeIndex, theirs: Path, dists: list[Dist]
):
    lay(proxpi(theirs, dists[0]), dists[0].data[:-1])
    beside.run("adopt", str(theirs))
    beside.hold(dists[0])
    assert index.count(dists[0].path) == 1


def test_what_is_no_distribution_is_left_alone(beside: Beside, theirs: Path):
    lay(theirs / "index.sqlite3", b"x")
    lay(theirs / "archive.zip", b"x")
    lay(theirs / "demo-1.0-py3-none-any.whl-tmp", b"x")
    os.mkfifo(theirs / "pipe-1.0.tar.gz")
    told = beside.json("adopt", str(theirs))
    assert (told["adopted"], told["others"]) == (0, 4)


def test_what_a_killed_run_left_is_begun_anew(beside: Beside, theirs: Path, dists: list[Dist]):
    dist = dists[0]
    shelf = dist.key.rpartition("/")[0]
    partial = Store(beside.cache).partial(File(filename=dist.filename, url="", directory=shelf))
    partial.write(b"half")
    partial.close()
    lay(proxpi(theirs, dist), dist.data)
    assert beside.json("adopt", str(theirs))["adopted"] == 1
    assert beside.path(dist).read_bytes() == dist.data


def test_no_file_is_removed_to_make_room(beside: Beside, theirs: Path, dists: list[Dist]):
    beside.hold(dists[0])
    large = wheel("large", payload=os.urandom(3_000_000))
    lay(flat(theirs, large), large.data)
    out = beside.run("adopt", str(theirs), "--cache-max-size", "2MB")
    assert out.returncode == 1
    assert "--cache-max-size leaves no room" in out.stderr
    assert beside.path(dists[0]).exists()


def test_a_directory_that_is_not_there_is_one_line_and_exit_code_2(beside: Beside, theirs: Path):
    for arguments in ([], [str(theirs)]):
        out = beside.run("adopt", *arguments)
        assert (out.returncode, out.stdout) == (2, "")
        assert len(out.stderr.splitlines()) == 1


def test_a_terminal_sees_a_progress_bar(beside: Beside, theirs: Path, dists: list[Dist]):
    lay(flat(theirs, dists[0]), dists[0].data)
    primary, terminal = pty.openpty()
    try:
        out: subprocess.CompletedProcess[str] = beside.run("adopt", str(theirs), stderr=terminal)
        shown = os.read(primary, 10_000).decode()
    finally:
        os.close(terminal)
        os.close(primary)
    assert "adopting" in shown
    assert "100%" in shown
    assert out.returncode == 0


def test_a_directory_of_devpi_can_be_used_in_place(
    beside: Beside, index: FakeIndex, dists: list[Dist]
):
    good, bad = dists
    lay(devpi(beside.cache, good), good.data)
    lay(devpi(beside.cache, bad), bad.data[:-1] + b"x")
    lay(devpi_by_url(beside.cache, good), good.data)
    told = beside.json("verify", code=1)
    assert (told["right"], told["removed"]) == (1, [bad.key])
    beside.hold(good, bad)
    assert (index.count(good.path), index.count(bad.path)) == (0, 1)
