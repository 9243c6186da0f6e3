"""An upstream of real wheels, and environments for real package managers."""

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
#: The ``pyproject.toml`` of a project that requires web-app.
PROJECT = f"""\
[project]
name = "mine"
version = "0"
requires-python = "=={PYTHON}.*"
dependencies = ["web-app"]
"""

#: The requirements of each package manager and server that the tests do not depend on.
REQUIREMENTS = {
    "devpi": ["devpi-server==6.*", "devpi-client"],
    "hatch": ["hatch==1.*"],
    # With newer versions of these two, this pdm fails before its first request.
    "pdm": ["pdm==2.26.9", "hishel<2", "unearth<0.18"],
    "pip-tools": ["pip-tools==7.*"],
    "pipenv": ["pipenv>=2026"],
    "poetry": ["poetry==2.*"],
    "proxpi": ["proxpi==1.*"],
    "pypiserver": ["pypiserver==2.*"],
    "simple-repository-server": ["simple-repository-server"],
}


class Machine:
    """A home directory for package managers, without configuration and caches."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.site = home / "site"
        home.mkdir()

    def run(self, *command: str, **environ: str) -> str:
        """Return the output of `command`. Asserts that it succeeds."""
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
        """Return the version of each project installed in `site`."""
        names = [path.name.removesuffix(".dist-info") for path in self.site.glob("*.dist-info")]
        pairs = (name.rsplit("-", 1) for name in names)
        return {project.replace("_", "-"): version for project, version in pairs}


@pytest.fixture
def machine(tmp_path: Path) -> Callable[[], Machine]:
    """Return a function that makes new machines."""
    counter = iter(range(100))
    return lambda: Machine(tmp_path / f"machine{next(counter)}")


@pytest.fixture
def world(index: FakeIndex) -> FakeIndex:
    """An upstream with the wheels of WORLD."""
    index.add(*WORLD)
    return index


@pytest.fixture(params=["pytail", "gunicorn"])
def start(
    request: Any, tmp_path: Path, world: FakeIndex
) -> Callable[[], contextlib.AbstractContextManager[Program]]:
    """Return a function that starts pytail on one cache directory: embedded, or under gunicorn."""
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
    """Return a function that installs a tool into a new environment, once, from a real index."""

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


def warm(cache: Path, upstream: str, lock: Path, *options: str) -> Any:
    """Run ``pytail warm`` for `lock` and return its JSON report. Asserts that it succeeds."""
    command = [sys.executable, "-m", "pytail", "--cache-dir", str(cache)]
    command += ["--upstream-base-url", upstream, *options, "warm", "--json", "-r", str(lock)]
    out = subprocess.run(
        command, capture_output=True, text=True, env=clean_environ(), timeout=60, check=False
    )
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)


@pytest.fixture(params=[pip_install, uv_install], ids=["pip", "uv"])
def install(request: Any) -> Callable[..., None]:
    """An installer: `pip_install` or `uv_install`."""
    return request.param
