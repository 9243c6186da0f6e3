"""pip and uv install a project with dependencies through pytail."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients.conftest import INSTALLED, WORLD, Machine
from tests.support.fakeindex import Dist, FakeIndex

pytestmark = pytest.mark.clients

NEEDED = {
    dist.project: dist for dist in WORLD if INSTALLED[dist.project] == dist.filename.split("-")[1]
}


def assert_each_was_requested_once(world: FakeIndex) -> None:
    requests = Counter(seen.path for seen in world.seen)
    assert set(requests.values()) == {1}, requests
    for project, dist in NEEDED.items():
        assert requests[f"/simple/{project}/"] == 1
        assert requests[dist.path.replace("%2B", "+")] == 1


def test_a_second_machine_installs_without_upstream(
    machine: Callable[[], Machine], world: FakeIndex, start: Any, install: Callable[..., None]
):
    with start() as running:
        for _ in range(2):
            client = machine()
            install(client, f"{running.client.url}/simple/", "web-app")
            assert client.installed() == INSTALLED
            assert_each_was_requested_once(world)
            # The second machine has empty caches too.
            world.stop()


def test_after_a_restart_the_urls_of_devpi_install_without_upstream(
    machine: Callable[[], Machine], world: FakeIndex, start: Any, install: Callable[..., None]
):
    with start() as running:
        install(machine(), f"{running.client.url}/simple", "web-app")
    world.stop()
    client = machine()
    with start() as running:
        install(client, f"{running.client.url}/root/pypi/+simple/", "web-app")
    assert client.installed() == INSTALLED


def requirements(root: str, dists: dict[str, Dist]) -> str:
    """Return a requirements file with URLs and hashes."""
    return "".join(
        f"{project} @ {root}/root/pypi/+f/{dist.key} --hash=sha256:{dist.sha256}\n"
        for project, dist in dists.items()
    )


def test_locked_urls_install_with_hashes_on_an_emptied_cache(
    machine: Callable[[], Machine],
    tmp_path: Path,
    world: FakeIndex,
    start: Any,
    install: Callable[..., None],
):
    with start() as running:
        install(machine(), f"{running.client.url}/simple/", "web-app")
    shutil.rmtree(tmp_path / "cache")
    world.seen.clear()
    client = machine()
    with start() as running:
        lock = client.home / "requirements.txt"
        lock.write_text(requirements(running.client.url, NEEDED))
        root = f"{running.client.url}/simple/"
        install(client, root, "--require-hashes", "--no-deps", "-r", str(lock))
    assert client.installed() == INSTALLED
    files = Counter(seen.path for seen in world.seen if seen.path.endswith(".whl"))
    assert set(files.values()) == {1}


def test_uv_lock_syncs_frozen_on_an_emptied_cache(
    machine: Callable[[], Machine], tmp_path: Path, world: FakeIndex, start: Any
):
    client = machine()
    uv = [sys.executable, "-m", "uv", "--no-config", "--no-python-downloads"]
    project = (
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.10"\n'
        'dependencies = ["web-app"]\n[tool.uv]\npackage = false\n'
    )
    (client.home / "pyproject.toml").write_text(project)
    with start() as running:
        root = f"{running.client.url}/simple/"
        client.run(*uv, "lock", "--python", sys.executable, "--default-index", root)
    port_of_the_lock = running.client.url
    shutil.rmtree(tmp_path / "cache")
    shutil.rmtree(client.home / ".cache", ignore_errors=True)
    with start() as running:
        lock = client.home / "uv.lock"
        lock.write_text(lock.read_text().replace(port_of_the_lock, running.client.url))
        client.run(*uv, "sync", "--frozen", "--python", sys.executable)
        client.site = next((client.home / ".venv" / "lib").glob("python*/site-packages"))
    assert client.installed() == INSTALLED
