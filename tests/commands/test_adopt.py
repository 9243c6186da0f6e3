"""``pytail adopt`` copies the files of other programs, verified, in any layout.

The layouts are those of devpi-server 6.20.3 and proxpi 1.3.1 after a run against the fake index.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytail.model import File
from pytail.storage.store import Store
from tests.commands.conftest import Installation
from tests.support.fakeindex import Dist, FakeIndex, sdist, wheel

pytestmark = pytest.mark.process

Layout = Callable[[Path, Dist], Path]


def devpi(top: Path, dist: Dist) -> Path:
    """Return the path in the server directory of devpi, whose mirror is ``root/pypi``."""
    return top / "+files/root/pypi/+f" / dist.key


def devpi_by_url(top: Path, dist: Dist) -> Path:
    """Return the path that devpi uses where the page gives no digest."""
    directory = f"http_127.0.0.1_36983_packages_{dist.sha256[:8]}"
    return top / "+files/root/pypi/+e" / directory / dist.filename


def proxpi(top: Path, dist: Dist) -> Path:
    """Return the path in ``PROXPI_CACHE_DIR``: host and path of the URL."""
    return top / "127-0-0-1/packages" / dist.sha256[:8] / dist.filename


def flat(top: Path, dist: Dist) -> Path:
    """Return the path in a directory of ``pip download``."""
    return top / dist.filename


LAYOUTS = [devpi, devpi_by_url, proxpi, flat]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The directory of the other program."""
    return tmp_path / "source"


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def dists(index: FakeIndex) -> list[Dist]:
    """A wheel and an sdist that upstream lists."""
    found = [wheel("demo"), sdist("other")]
    index.add(*found)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adopted_files_are_served_without_a_fetch(
    installation: Installation, index: FakeIndex, source: Path, dists: list[Dist], layout: Layout
):
    written = [write(layout(source, dist), dist.data) for dist in dists]
    size = sum(len(dist.data) for dist in dists)
    result = installation.json("adopt", str(source))
    assert result == {"adopted": 2, "bytes": size, "held": 0, "others": 0, "left": {}}
    installation.store(*dists)
    for dist in dists:
        assert installation.client.get(dist.served).headers["X-Cache"] == "HIT"
        assert index.count(dist.path) == 0
    assert all(path.exists() for path in written)
    assert installation.json("verify")["right"] == 2


def test_the_url_of_a_lock_file_is_served_without_a_page(
    installation: Installation, index: FakeIndex, source: Path, dists: list[Dist]
):
    write(devpi(source, dists[0]), dists[0].data)
    assert installation.call("adopt", str(source)).returncode == 0
    index.stop()
    assert installation.client.get(dists[0].served).data == dists[0].data


def test_stored_files_are_counted_and_not_copied_again(
    installation: Installation, source: Path, dists: list[Dist]
):
    for dist in dists:
        write(proxpi(source, dist), dist.data)
    write(source / "notes.txt", b"")
    out = installation.run("adopt", str(source))
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout.startswith("2 files adopted, ")
    out = installation.run("adopt", str(source))
    assert (out.returncode, out.stderr) == (0, "")
    assert out.stdout == "0 files adopted, 0 B, 2 already stored, 1 not a wheel or sdist\n"


def test_a_file_that_differs_from_the_digest_in_its_path_is_named_and_not_adopted(
    installation: Installation, index: FakeIndex, source: Path, dists: list[Dist]
):
    good, bad = dists
    write(devpi(source, good), good.data)
    path = write(devpi(source, bad), bad.data[:-1])
    out = installation.run("adopt", str(source))
    assert out.returncode == 1
    assert out.stderr.startswith(f"{path}: the file is damaged: its sha256 begins with ")
    assert out.stdout.endswith(", 1 failed\n")
    installation.store(good, bad)
    assert (index.count(good.path), index.count(bad.path)) == (0, 1)


def test_a_file_with_other_content_than_upstream_has_is_never_served(
    installation: Installation, index: FakeIndex, source: Path, dists: list[Dist]
):
    write(proxpi(source, dists[0]), dists[0].data[:-1])
    assert installation.call("adopt", str(source)).returncode == 0
    installation.store(dists[0])
    assert index.count(dists[0].path) == 1


def test_files_that_are_no_distribution_are_not_adopted(installation: Installation, source: Path):
    write(source / "index.sqlite3", b"x")
    write(source / "archive.zip", b"x")
    write(source / "demo-1.0-py3-none-any.whl-tmp", b"x")
    os.mkfifo(source / "pipe-1.0.tar.gz")
    result = installation.json("adopt", str(source))
    assert (result["adopted"], result["others"]) == (0, 4)


def test_the_partial_file_of_a_killed_run_is_written_anew(
    installation: Installation, source: Path, dists: list[Dist]
):
    dist = dists[0]
    directory = dist.key.rpartition("/")[0]
    file = File(filename=dist.filename, url="", directory=directory)
    partial = Store(installation.cache).partial(file)
    partial.write(b"half")
    partial.close()
    write(proxpi(source, dist), dist.data)
    assert installation.json("adopt", str(source))["adopted"] == 1
    assert installation.path(dist).read_bytes() == dist.data


def test_adopting_a_file_evicts_no_other(
    installation: Installation, source: Path, dists: list[Dist]
):
    installation.store(dists[0])
    large = wheel("large", payload=os.urandom(3_000_000))
    write(flat(source, large), large.data)
    out = installation.call("adopt", str(source), "--cache-max-size", "2MB")
    assert out.returncode == 1
    assert "the file does not fit into --cache-max-size" in out.stderr
    assert installation.path(dists[0]).exists()


def test_a_terminal_shows_a_progress_bar(
    installation: Installation, source: Path, dists: list[Dist]
):
    write(flat(source, dists[0]), dists[0].data)
    out, shown = installation.run_on_terminal("adopt", str(source))
    assert "adopting" in shown
    assert "100%" in shown
    assert out.returncode == 0


def test_a_directory_of_devpi_can_be_the_cache_directory(
    installation: Installation, index: FakeIndex, dists: list[Dist]
):
    good, bad = dists
    write(devpi(installation.cache, good), good.data)
    write(devpi(installation.cache, bad), bad.data[:-1] + b"x")
    write(devpi_by_url(installation.cache, good), good.data)
    result = installation.json("verify", code=1)
    assert (result["right"], result["removed"]) == (1, [bad.key])
    installation.store(good, bad)
    assert (index.count(good.path), index.count(bad.path)) == (0, 1)
