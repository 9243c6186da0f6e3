"""uv installs from a cache that ``pytail warm`` filled from a lock file, without upstream."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import INSTALLED, Machine, uv_install, warm
from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import free_port, program

pytestmark = pytest.mark.clients

UV = [sys.executable, "-m", "uv", "--no-config"]
PROJECT = f"""\
[project]
name = "mine"
version = "0"
requires-python = ">={sys.version_info.major}.{sys.version_info.minor}"
dependencies = ["web-app", "only-there; sys_platform == 'win32'"]
[tool.uv]
package = false
"""


def sync(machine: Machine, lock: Path, root: str) -> None:
    (machine.home / "pyproject.toml").write_text(PROJECT)
    (machine.home / "uv.lock").write_text(lock.read_text())
    machine.run(*UV, "sync", "--frozen", "--python", sys.executable, UV_DEFAULT_INDEX=root)
    machine.site = next((machine.home / ".venv" / "lib").glob("python*/site-packages"))


def install(machine: Machine, lock: Path, root: str) -> None:
    uv_install(machine, root, "-r", str(lock))


@pytest.mark.parametrize(
    ("filename", "form", "use"),
    [
        ("uv.lock", None, sync),
        ("pylock.toml", "pylock.toml", install),
        ("requirements.txt", "requirements.txt", install),
    ],
)
def test_uv_installs_its_lock_from_a_warmed_cache_without_upstream(
    filename: str,
    form: str | None,
    use: Callable[[Machine, Path, str], None],
    machine: Callable[[], Machine],
    tmp_path: Path,
    world: FakeIndex,
):
    world.add(wheel("only-there", tag="py3-none-win_amd64"))
    port, locker = free_port(), machine()
    url, bind = f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"
    root = f"{url}/simple/"
    base = [sys.executable, "-m", "pytail", "--bind", bind, "--upstream-base-url", world.url]
    (locker.home / "pyproject.toml").write_text(PROJECT)
    with program([*base, "--cache-dir", str(tmp_path / "first")], tmp_path / "log", url):
        locker.run(*UV, "lock", "--python", sys.executable, UV_DEFAULT_INDEX=root)
        if form is not None:
            export = ["export", "-q", "--frozen", "--format", form, "-o", filename]
            locker.run(*UV, *export, UV_DEFAULT_INDEX=root)
    report = warm(tmp_path / "second", world.url, locker.home / filename, "--bind", bind)
    assert report["fetched"]["files"] == 2 * len(INSTALLED)
    assert any("only-there" in skipped["what"] for skipped in report["skipped"])
    world.stop()
    with program([*base, "--cache-dir", str(tmp_path / "second")], tmp_path / "log", url):
        client = machine()
        use(client, locker.home / filename, root)
        assert INSTALLED.items() <= client.installed().items()
