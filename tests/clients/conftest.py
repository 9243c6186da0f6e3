"""A small world of real wheels, and environments to install them into."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakeindex import FakeIndex, wheel
from tests.support.running import Program, clean_environ, embedded, under_gunicorn

WORLD = [
    wheel("web-app", "2.0", ["frame-work>=1.0,<2", "tools[fast]"]),
    wheel("web-app", "1.0", ["frame-work"]),
    wheel("frame-work", "1.5", ["base.lib!=1.1", "tools; python_version >= '3'"]),
    wheel("frame-work", "2.0", ["base.lib"]),
    wheel("tools", "3.1+local.1", ["base.lib; extra == 'fast'"]),
    wheel("base-lib", "1.0", payload=bytes(range(256)) * 4000),
    wheel("base-lib", "1.1"),
    wheel("base-lib", "1.2", **{"requires-python": ">=4"}),
    wheel("base-lib", "1.3", yanked="broken"),
]
INSTALLED = {"web-app": "2.0", "frame-work": "1.5", "tools": "3.1+local.1", "base-lib": "1.0"}

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: The ``pyproject.toml`` of a project that requires some of it.
PROJECT = f"""\
[project]
name = "mine"
version = "0"
requires-python = "=={PYTHON}.*"
dependencies = ["web-app"]
"""

#: What installs each package manager that is none of the tests' own.
REQUIREMENTS = {
    "hatch": ["hatch==1.*"],
    # With these two newer, this pdm stops before it asks any index.
    "pdm": ["pdm==2.26.9", "hishel<2", "unearth<0.18"],
    "pip-tools": ["pip-tools==7.*"],
    "pipenv": ["pipenv>=2026"],
    "poetry": ["poetry==2.*"],
}


class Machine:
    """A directory with an environment and nothing else: no configuration, no caches."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.site = home / "site"
        home.mkdir()

    def run(self, *command: str, **environ: str) -> str:
        """What `command` prints; it must succeed."""
        out = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=self.home,
            timeout=120,
            check=False,
            env=clean_environ(HOME=str(self.home)) | {"PIP_CONFIG_FILE": "/dev/null", **environ},
        )
        assert out.returncode == 0, f"{out.stdout}\n{out.stderr}"
        return out.stdout

    def installed(self) -> dict[str, str]:
        """Project to version, of what stands in `site`."""
        names = [path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info")]
        pairs = (name.rsplit("-", 1) for name in names)
        return {project.replace("_", "-"): version for project, version in pairs}


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[], Machine]:
    """Makes new machines."""
    counter = iter(range(100))
    return lambda: Machine(tmp_path / f"machine{next(counter)}")


@pytest.fixture
def world(index: FakeIndex) -> FakeIndex:
    """An upstream that has everything."""
    index.add(*WORLD)
    return index


@pytest.fixture(params=["pytail", "gunicorn"])
def start(
    request: Any, tmp_path: Path, world: FakeIndex
) -> Callable[[], contextlib.AbstractContextManager[Program]]:
    """Starts pytail, embedded or with two workers under gunicorn, on one cache directory."""
    cache, log = tmp_path / "cache", tmp_path / "log"

    @contextlib.contextmanager
    def starting() -> Iterator[Program]:
        if request.param == "pytail":
            running = embedded(cache, world.url, log)
        else:
            running = under_gunicorn(cache, world.url, log, "--workers", "2")
        with running as program:
            yield program

    return starting


@pytest.fixture(scope="session")
def tool_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Installs a tool into an environment of its own, once; this alone needs a registry."""

    @functools.cache
    def install(name: str) -> Path:
        home = tmp_path_factory.mktemp(name)
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        pip = [home / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
        return home / "bin"

    return install


def pip_install(machine: Machine, root: str, *arguments: str) -> None:
    """Install into `site` with the newest pip."""
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check"]
    options = ["--index-url", root, "--target", str(machine.site), "--only-binary", ":all:"]
    machine.run(*command, "install", *options, *arguments)


def uv_install(machine: Machine, root: str, *arguments: str) -> None:
    """Install into `site` with the newest uv."""
    options = ["--default-index", root, "--target", str(machine.site), "--python", sys.executable]
    command = [sys.executable, "-m", "uv", "--no-config", "pip", "install"]
    machine.run(*command, *options, *arguments)


def fetched_ahead(cache: Path, upstream: str, lock: Path, *options: str) -> Any:
    """What ``pytail warm`` tells of the files of `lock`; it must succeed."""
    command = [sys.executable, "-m", "pytail", "--cache-dir", str(cache)]
    command += ["--upstream-base-url", upstream, *options, "warm", "--json", "-r", str(lock)]
    out = subprocess.run(
        command, capture_output=True, text=True, env=clean_environ(), timeout=60, check=False
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


@pytest.fixture(params=[pip_install, uv_install], ids=["pip", "uv"])
def install(request: Any) -> Callable[..., None]:
    """An installer that resolves, downloads and installs."""
    return request.param
