"""A cache directory that may not be written: it serves what it has and passes the rest through."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytail.errors import SettingError
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.rights import has_capabilities, plain_owner
from tests.support.running import Client, embedded, serving, under_gunicorn
from tests.support.watching import stored_names, until

#: A user other than root.
OTHER = 12345

LINE = "cannot write the cache directory"


def tree(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """Return owner, mode, size and time of the last change of each path below `directory`."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.stat()
        found[str(path)] = (status.st_uid, status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@contextlib.contextmanager
def by_mode(directory: Path) -> Iterator[None]:
    """Let the owner of `directory` not write below it."""
    modes = {path: path.stat().st_mode for path in (directory, *directory.rglob("*"))}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        with plain_owner():
            yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextlib.contextmanager
def by_owner(directory: Path) -> Iterator[None]:
    """Let `directory` belong to another user."""
    if not has_capabilities():
        pytest.skip("only root may change the owner of a file")
    for path in (directory, *directory.rglob("*")):
        os.chown(path, OTHER, OTHER)
    with plain_owner():
        yield


@contextlib.contextmanager
def by_mount(directory: Path) -> Iterator[None]:
    """Mount `directory` read-only."""
    bind = ["mount", "--bind", str(directory), str(directory)]
    if shutil.which("mount") is None or subprocess.run(bind, check=False).returncode != 0:
        pytest.skip("this machine does not let the test mount a directory")
    try:
        remount = ["mount", "-o", "remount,bind,ro", str(directory)]
        subprocess.run(remount, check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


ReadOnly = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture(params=[by_mode, by_owner, by_mount])
def read_only(request: pytest.FixtureRequest) -> ReadOnly:
    """A context manager that makes a directory read-only."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def known(index: FakeIndex, cache: Path) -> Dist:
    """A wheel that is stored, with its page in the catalog."""
    dist = wheel("known")
    index.add(dist, wheel("new"))
    with serving(cache, index.url) as pytail:
        assert pytail.get("/simple/known/").status == 200
        assert pytail.get(dist.served).data == dist.data
    return dist


def check(pytail: Client, known: Dist, new: Dist) -> None:
    for path in ("/simple/known/", known.served):
        answer = pytail.get(path)
        assert (answer.status, answer.headers["X-Cache"]) == (200, "HIT")
    for _ in range(2):
        assert pytail.get("/simple/new/").status == 200
        answer = pytail.get(new.served)
        assert (answer.data, answer.headers["X-Cache"]) == (new.data, "PASS")
        assert pytail.get(f"{new.served}.metadata").data == new.metadata
        assert pytail.get("/simple/none/").status == 404
    assert pytail.get("/+status").status == 200


def test_what_is_stored_is_served_and_the_rest_passes_through(
    index: FakeIndex,
    cache: Path,
    known: Dist,
    read_only: ReadOnly,
    caplog: pytest.LogCaptureFixture,
):
    before = tree(cache)
    with read_only(cache), serving(cache, index.url) as pytail:
        check(pytail, known, index.dists[1])
    assert index.count(known.path) == 1
    lines = [record.message for record in caplog.records if LINE in record.message]
    assert len(lines) == 1
    assert not [record for record in caplog.records if "catalog" in record.message]
    after = tree(cache)
    assert before.keys() == after.keys()
    assert {path: status[2:] for path, status in before.items()} == {
        path: status[2:] for path, status in after.items()
    }


@pytest.mark.parametrize("content", [None, b"", b"not a database" * 100])
def test_a_catalog_that_is_missing_or_damaged_is_empty(
    index: FakeIndex, cache: Path, known: Dist, content: bytes | None
):
    for path in cache.glob("index.sqlite3*"):
        path.unlink()
    if content is not None:
        (cache / "index.sqlite3").write_bytes(content)
    with by_mode(cache), serving(cache, index.url) as pytail:
        answer = pytail.get(known.served)
        assert (answer.data, answer.headers["X-Cache"]) == (known.data, "HIT")
        assert pytail.get("/simple/known/").status == 200


def test_a_catalog_next_to_a_log_of_writes_is_read(index: FakeIndex, cache: Path, known: Dist):
    with serving(cache, index.url) as writing:
        assert writing.get("/simple/new/").status == 200
        copy = shutil.copytree(cache, cache.with_name("copy"))
    assert (copy / "index.sqlite3-wal").stat().st_size > 0
    with by_mode(copy), serving(copy, index.url) as pytail:
        assert pytail.get("/simple/new/").headers["X-Cache"] == "HIT"


def test_a_catalog_of_another_user_in_a_directory_of_this_one_is_only_read(
    index: FakeIndex, cache: Path, known: Dist
):
    (cache / "index.sqlite3").chmod(0o444)
    with plain_owner(), serving(cache, index.url) as pytail:
        assert pytail.get("/simple/known/").headers["X-Cache"] == "HIT"
        new = index.dists[1]
        for outcome in ("MISS", "HIT"):
            assert pytail.get(new.served).headers["X-Cache"] == outcome
    assert stored_names(cache) >= {known.filename, new.filename}


def test_a_directory_that_cannot_be_read_or_created_is_an_error(
    index: FakeIndex, cache: Path, known: Dist
):
    cache.chmod(0)
    try:
        for directory in (cache, cache / "below"):
            with (
                plain_owner(),
                pytest.raises(SettingError, match="cannot be written"),
                serving(directory, index.url),
            ):
                pass
    finally:
        cache.chmod(0o755)


@pytest.mark.process
def test_the_programs_serve_a_directory_that_cannot_be_written(
    index: FakeIndex, cache: Path, known: Dist, tmp_path: Path
):
    log = tmp_path / "log"
    with by_mode(cache):
        with embedded(cache, index.url, log) as running:
            check(running.client, known, index.dists[1])
        assert log.read_text().count(LINE) == 1
        assert "Traceback" not in log.read_text()
        with under_gunicorn(cache, index.url, log, "-k", "pytail.gunicorn.Worker") as running:
            check(running.client, known, index.dists[1])
        assert "Traceback" not in log.read_text()


def test_a_directory_that_becomes_read_only_serves_what_it_has_and_stores_again_later(
    index: FakeIndex,
    cache: Path,
    known: Dist,
    read_only: ReadOnly,
    caplog: pytest.LogCaptureFixture,
):
    new = index.dists[1]
    with serving(cache, index.url) as pytail:
        with read_only(cache):
            check(pytail, known, new)
        assert "cannot store files, serving them without caching" in caplog.text
        assert pytail.get(new.served).data == new.data
        until(lambda: new.filename in stored_names(cache))
    # A record has its error, whose frames have a cursor of SQLite, which keeps the catalog open.
    caplog.clear()
