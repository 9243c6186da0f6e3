"""What the tests share: a patched standard library, an upstream, a running pytail."""

# Before pytest's own plugins of the project load anything that holds a socket.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402

# How this machine reaches others is nothing to the tests, which reach loopback only.
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)
os.environ["NETRC"] = os.devnull

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

from tests.support.fakeindex import FakeIndex  # noqa: E402
from tests.support.running import Client, Clock, serving  # noqa: E402


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    """An upstream index, running."""
    with FakeIndex() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The time that pytail sees."""
    return Clock()


@pytest.fixture
def pytail(tmp_path: Path, index: FakeIndex, clock: Clock) -> Iterator[Client]:
    """A client of a pytail that follows `index`."""
    with serving(tmp_path / "cache", index.url, clock) as client:
        yield client


@pytest.fixture
def gunicorn_log(tmp_path: Path) -> Iterator[Path]:
    """Where gunicorn logs, looked through in the end."""
    log = tmp_path / "gunicorn.log"
    yield log
    assert "MonkeyPatchWarning" not in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 20 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine does not let the test mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
