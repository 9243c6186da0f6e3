"""A running pytail, and the commands as an operator runs them beside it, in processes of their own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fakeindex import Dist, FakeIndex, wheel
from tests.support.running import Client, clean_environ, serving


@dataclasses.dataclass
class Commands:
    """What runs on a cache directory."""

    cache: Path
    environ: dict[str, str]

    def run(
        self, *arguments: str, stdin: Any = subprocess.DEVNULL, stderr: Any = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pytail", *arguments],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=clean_environ(**self.environ),
            timeout=60,
            check=False,
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A command under way; what is left of it is killed at the end of the block."""
        with subprocess.Popen(
            [sys.executable, "-m", "pytail", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=clean_environ(**self.environ),
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def json(self, *arguments: str, code: int = 0) -> Any:
        out = self.run(*arguments, "--json")
        assert out.returncode == code, out.stderr
        return json.loads(out.stdout)

    def path(self, dist: Dist) -> Path:
        return self.cache / "+files/root/pypi/+f" / dist.key


@dataclasses.dataclass
class Beside(Commands):
    """A pytail that serves, and what runs beside it on the same cache directory."""

    client: Client

    def hold(self, *dists: Dist) -> None:
        """Have the server fetch `dists`."""
        for dist in dists:
            assert self.client.get(f"/simple/{dist.project}/").status == 200
            assert self.client.get(dist.served).data == dist.data

    def plant(self, dist: Dist, used: float) -> None:
        """Put `dist` on the disk, where the server has not looked yet, last used at `used`."""
        path = self.path(dist)
        path.parent.mkdir(parents=True)
        path.write_bytes(dist.data)
        os.utime(path, (used, used))


@pytest.fixture
def beside(tmp_path: Path, index: FakeIndex) -> Iterator[Beside]:
    cache = tmp_path / "cache"
    with serving(cache, index.url, cache_max_size=2**30) as client:
        environ = {
            "PYTAIL_CACHE_DIR": str(cache),
            "PYTAIL_UPSTREAM_BASE_URL": index.url,
            "PYTAIL_BIND": client.url.removeprefix("http://"),
        }
        yield Beside(cache, environ, client)


@pytest.fixture
def alone(tmp_path: Path, index: FakeIndex) -> Commands:
    """Commands on a cache directory that nothing has used."""
    cache = tmp_path / "cache"
    environ = {"PYTAIL_CACHE_DIR": str(cache), "PYTAIL_UPSTREAM_BASE_URL": index.url}
    return Commands(cache, environ)


@pytest.fixture
def held(beside: Beside, index: FakeIndex) -> list[Dist]:
    """A file of each of two projects, held."""
    dists = [wheel("demo"), wheel("other")]
    index.add(*dists)
    beside.hold(*dists)
    return dists
