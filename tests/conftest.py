"""Fixtures of all tests: a patched standard library, an upstream index, a running pytail."""

# First of all: modules that load later bind the patched names.
from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import shutil  # noqa: E402
import subprocess  # noqa: E402

# All tests but the clients' reach loopback only, without a proxy and without stored passwords.
for _name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
    os.environ.pop(_name, None)
    os.environ.pop(_name.upper(), None)
os.environ["NETRC"] = os.devnull

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import trustme  # noqa: E402

from tests.support import leftovers  # noqa: E402
from tests.support.fakeindex import FakeIndex  # noqa: E402
from tests.support.rights import RIGHTS, plain_owner  # noqa: E402
from tests.support.running import Client, Clock, serving  # noqa: E402


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PEM file with one authority, which has issued no certificate."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(autouse=True)
def _no_public_authorities(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, authority: Path
) -> None:
    """Trust one authority instead of the 144 of Debian, which each pytail loads in 50 ms."""
    # The clients' tests install programs from a real index.
    if request.node.get_closest_marker("clients") is None:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        monkeypatch.setenv("SSL_CERT_DIR", os.devnull)


@pytest.fixture
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """Assert in the end that this process has no more descriptors, locks, slots and greenlets."""
    with pytest.MonkeyPatch.context() as patch, leftovers.nothing_left(tmp_path, patch):
        yield


@pytest.fixture
def owner(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the test, and the programs that it starts, as a plain owner of its files."""
    if "small_disk" in request.fixturenames:
        # Mounting takes a capability.
        request.getfixturevalue("small_disk")
    with plain_owner():
        yield


@pytest.fixture(params=RIGHTS)
def rights(request: pytest.FixtureRequest) -> None:
    """Run the test with root's capabilities and as a plain owner; as it is where it has none."""
    if request.param == "owner":
        request.getfixturevalue("owner")


@pytest.fixture
def index() -> Iterator[FakeIndex]:
    """A running upstream index."""
    with FakeIndex() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """The clock of `pytail`."""
    return Clock()


@pytest.fixture
def pytail(tmp_path: Path, index: FakeIndex, clock: Clock) -> Iterator[Client]:
    """A client of a pytail in this process, which follows `index`."""
    with serving(tmp_path / "cache", index.url, clock) as client:
        yield client


@pytest.fixture
def gunicorn_log(tmp_path: Path) -> Iterator[Path]:
    """The path for gunicorn's log. Asserts in the end that the log has no traceback."""
    log = tmp_path / "gunicorn.log"
    yield log
    assert "MonkeyPatchWarning" not in log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The root of a file system of 20 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("this machine does not let the test mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
