"""Commands that root runs on the cache directory of another user, who owns all files afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import Commands
from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.rights import has_capabilities, plain_owner
from tests.support.running import embedded, serving

#: The owner of the cache directory, without an account.
OWNER = 12345

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not has_capabilities(), reason="only root acts as other users"),
]

#: The commands that write, each with its arguments.
WRITING = (
    ("adopt", "{wheels}"), ("gc",), ("purge", "known"), ("refresh", "known"), ("verify",),
    ("warm", "-r", "{requirements}"),
)  # fmt: skip
READING = (("status",), ("list",), ("list", "known"))


@pytest.fixture
def shared(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user may enter."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        shutil.copy(authority, directory)
        monkeypatch.setenv("SSL_CERT_FILE", f"{directory}/{authority.name}")
        yield Path(directory)


@pytest.fixture
def known(shared: Path, index: FakeIndex) -> Dist:
    """A wheel that is stored in a cache directory of `OWNER`."""
    dist = wheel("known")
    index.add(dist, wheel("new"))
    with serving(shared / "cache", index.url) as client:
        assert client.get("/simple/known/").status == 200
        assert client.get(dist.served).data == dist.data
    for path in (shared / "cache", *(shared / "cache").rglob("*")):
        os.chown(path, OWNER, OWNER)
    (shared / "wheels").mkdir()
    (shared / "wheels" / "new-1.0-py3-none-any.whl").write_bytes(index.dists[1].data)
    (shared / "requirements.txt").write_text("new\n")
    # As the file of root that it is.
    (shared / "requirements.txt").chmod(0o600)
    return dist


@pytest.fixture
def commands(shared: Path, index: FakeIndex) -> Commands:
    environ = {"PYTAIL_CACHE_DIR": str(shared / "cache"), "PYTAIL_UPSTREAM_BASE_URL": index.url}
    return Commands(shared / "cache", environ)


@pytest.fixture(scope="session")
def can_read_pytail() -> bool:
    """Whether `OWNER` can read the Python that runs the tests, and pytail."""
    command = [sys.executable, "-c", "import pytail.commands.main"]
    user = {"user": OWNER, "group": OWNER, "extra_groups": []}
    try:
        return subprocess.run(command, check=False, capture_output=True, **user).returncode == 0
    except PermissionError:
        return False


def owners(directory: Path) -> set[int]:
    return {path.lstat().st_uid for path in (directory, *directory.rglob("*"))}


def filled(arguments: tuple[str, ...], shared: Path) -> list[str]:
    values = {"wheels": shared / "wheels", "requirements": shared / "requirements.txt"}
    return [argument.format(**values) for argument in arguments]


@pytest.mark.parametrize("arguments", WRITING + READING, ids=" ".join)
def test_a_command_of_root_acts_as_the_owner_or_refuses(
    commands: Commands,
    shared: Path,
    known: Dist,
    arguments: tuple[str, ...],
    can_read_pytail: bool,
):
    out = commands.run(*filled(arguments, shared))
    assert owners(shared / "cache") == {OWNER}
    if can_read_pytail:
        assert out.returncode == 0, out.stderr
    else:
        assert out.returncode == 2
        assert f"belongs to the user {OWNER}" in out.stderr


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
def test_a_command_that_writes_refuses_where_root_may_not_change_its_user(
    commands: Commands, shared: Path, known: Dist, arguments: tuple[str, ...]
):
    out = without_capabilities(commands, *filled(arguments, shared))
    assert out.returncode == 2
    assert f"belongs to the user {OWNER}, and root cannot act as that user" in out.stderr
    assert owners(shared / "cache") == {OWNER}


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_command_that_reads_needs_no_right_to_write(
    commands: Commands, shared: Path, known: Dist, arguments: tuple[str, ...]
):
    out = without_capabilities(commands, *arguments)
    assert (out.returncode, out.stderr) == (0, "")
    assert "known" in out.stdout or "1 file" in out.stdout


def test_a_command_that_writes_refuses_a_directory_that_it_may_not_write(
    commands: Commands, shared: Path, known: Dist
):
    cache = shared / "cache"
    for path in (cache, *cache.rglob("*")):
        os.chown(path, 0, 0)
        path.chmod(path.stat().st_mode & ~0o222)
    for arguments in WRITING:
        out = without_capabilities(commands, *filled(arguments, shared))
        assert out.returncode == 2
        assert "cannot be written" in out.stderr


def test_warm_creates_a_missing_directory_as_the_owner_of_its_parent(
    commands: Commands, shared: Path, known: Dist, can_read_pytail: bool
):
    shutil.rmtree(shared / "cache")
    os.chown(shared, OWNER, OWNER)
    out = commands.run("warm", "known")
    assert out.returncode == (0 if can_read_pytail else 2)
    if can_read_pytail:
        assert owners(shared / "cache") == {OWNER}


def test_a_server_of_root_acts_as_the_owner_or_warns(
    shared: Path, index: FakeIndex, known: Dist, can_read_pytail: bool, tmp_path: Path
):
    log = tmp_path / "log"
    with embedded(shared / "cache", index.url, log) as running:
        new = index.dists[1]
        assert running.client.get("/simple/new/").status == 200
        assert running.client.get(new.served).data == new.data
    if can_read_pytail:
        assert owners(shared / "cache") == {OWNER}
        assert f"acting as {OWNER}" in log.read_text()
    else:
        assert f"of user {OWNER} as root" in log.read_text()


def without_capabilities(commands: Commands, *arguments: str) -> subprocess.CompletedProcess[str]:
    with plain_owner():
        return commands.run(*arguments)
